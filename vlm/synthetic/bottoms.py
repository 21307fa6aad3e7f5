"""What covers the hips and legs: trousers, skirts, hosiery; and whole garments, which end there."""

from __future__ import annotations

from vlm.synthetic.body import ANKLE, HIP, KNEE, WAIST
from vlm.synthetic.cut import Cut, shade
from vlm.synthetic.paths import Path, Point, blend, outline, skia, tube
from vlm.synthetic.tops import HEMS, body_z, draw_upper, hem_level

__all__ = ["draw_bodysuit", "draw_dress", "draw_hosiery", "draw_jumpsuit", "draw_skirt", "draw_trousers"]

_LEGS = {
    "full": (91.5, 95.8),
    "cropped": (79.5, 87.5),
    "short": (54.5, 60.0),
    "above knee": (63.0, 67.5),
    "knee": (69.5, 74.5),
}
Z = 16.0


def _flare(cut: Cut) -> float:
    low, high = {"tight": (-0.02, 0.04), "regular": (0.08, 0.24), "loose": (0.26, 0.6)}[cut.of("fit")]
    if cut.body.sitting:
        high = (low + high) / 2
    return cut.within(low, high)


def draw_dress(cut: Cut) -> None:
    hem, flare = hem_level(cut), _flare(cut)
    path = draw_upper(cut, hem, flare=flare, fitted=cut.rng.random() < 0.75)
    if cut.rng.random() < 0.6:
        left, right = cut.body.edge(0, WAIST, 3), cut.body.edge(1, WAIST, 3)
        cut.seam([left, blend(left, right, 0.5), right], body_z(cut) + 0.3, path, width=0.7, alpha=0.5)


def draw_jumpsuit(cut: Cut) -> None:
    _trouser_legs(cut, 21.0, waist=WAIST + 1)
    before = len(cut.sketch.probes)
    draw_upper(cut, HIP + 1.5, fitted=True)
    # Its length is that of the legs, not of the trunk.
    cut.sketch.probes[before:] = [probe for probe in cut.sketch.probes[before:] if probe.attribute != "length"]


def draw_bodysuit(cut: Cut) -> None:
    z, body = body_z(cut), cut.body
    before = len(cut.sketch.probes)
    draw_upper(cut, HIP - 1.0, fitted=True)
    cut.sketch.probes[before:] = [probe for probe in cut.sketch.probes[before:] if probe.attribute != "length"]
    low = body.trunk(0, 53.2)
    left, right = body.edge(0, HIP - 1.5, 0.3), body.edge(1, HIP - 1.5, 0.3)
    brief = outline(
        [left, right],
        [right, blend(right, low, 0.6), (low[0] + 1.2, low[1])],
        [(low[0] - 1.2, low[1]), blend(left, low, 0.6), left],
    )
    cut.add(brief, z + 0.02, shadow=0.0)
    cut.sketch.probe(cut.owner, "length", brief, 0.4)


def draw_trousers(cut: Cut) -> None:
    waist = cut.within(38.0, 40.5) if cut.rng.random() < 0.45 else cut.within(41.5, 44.5)
    path = _trouser_legs(cut, Z, waist=waist)
    body = cut.body
    left, right = body.edge(0, waist + 2.2, 1), body.edge(1, waist + 2.2, 1)
    cut.seam([left, blend(left, right, 0.5), right], Z + 0.9, path, width=0.4)
    fly = body.trunk(0, waist + 2)
    bottom = body.trunk(0, min(waist + 9, 50.5))
    cut.spot(
        "closure",
        [
            (fly[0] - 1.6, fly[1] - 2),
            (fly[0] + 1.6, fly[1] - 2),
            (bottom[0] + 1.6, bottom[1]),
            (bottom[0] - 1.6, bottom[1]),
        ],
        0.5,
    )
    if cut.of("closure") == "buttoned":
        cut.buttons([(fly[0], fly[1] - 1.0)], Z + 1.0, path, 0.7)
        cut.seam([fly, bottom], Z + 0.9, path)
        cut.seam([(fly[0] + 1.3, fly[1]), (bottom[0] + 1.2, bottom[1] - 1.5), bottom], Z + 0.9, path, alpha=0.35)
    if cut.label in ("jeans", "trousers", "shorts"):
        thread = (
            (196, 142, 76)
            if cut.of("material") == "denim" and cut.rng.random() < 0.7
            else shade(cut.fabric.colours[0], -0.3)
        )
        for side in (0, 1):
            sign = 2 * side - 1
            a = body.trunk(sign * body.half(waist) * 0.5, waist + 2.3)
            b = body.trunk(sign * body.half(waist + 6) * 0.95, waist + 6)
            pocket = [a, blend(a, (a[0], b[1]), 0.8), b]
            cut.seam(pocket, Z + 0.9, path, alpha=0.5)
            cut.stitch([(x, y + 0.5) for x, y in pocket], Z + 0.9, path, thread)


def _trouser_legs(cut: Cut, z: float, *, waist: float) -> Path:
    """Hips and two legs; where the hems are decides the length. The path of all three."""
    body, rng, fit = cut.body, cut.rng, cut.of("fit")
    hem = cut.within(*_LEGS[cut.of("length")])
    low, high = {"tight": (0.1, 0.35), "regular": (0.6, 1.2), "loose": (1.6, 2.8)}[fit]
    ease = cut.within(low, high)
    shape = (
        rng.choice(["straight", "straight", "taper", "flare"])
        if fit != "tight"
        else rng.choice(["straight", "flare"])
        if rng.random() < 0.25
        else "straight"
    )
    if hem < 70:
        shape = "straight"
    second = cut.of("pattern") == "colour block"
    way = rng.choice(["one leg", "hems", "panel"]) if second else ""
    every = skia.Path()
    for side in (0, 1):
        levels = [level for level in (52.0, 58.0, 64.0, KNEE, 78.0, 85.0) if level < hem - 1.5] + [hem]
        points, widths = [], []
        for level in levels:
            point, half = body.leg(side, level)
            grow = ease + (0.5 * ease if level > KNEE and shape != "taper" else 0.0)
            if shape == "flare" and level > KNEE - 6:
                grow += (level - KNEE + 6) * 0.13
            if level > 88 and fit != "tight":
                grow += 0.5
            points.append(point)
            widths.append(2 * (half + grow))
        leg_z = z + (0.3 if side == body.front_leg else 0.0)
        tilt = -57.3 * (points[-1][0] - points[0][0]) / max(points[-1][1] - points[0][1], 1.0)
        path = cut.add(
            tube(points, widths), leg_z, axis=(points[0], points[-1]), angle=tilt, second=way == "one leg" and side == 1
        )
        every.addPath(path)
        tip, before = points[-1], points[-2]
        near = blend(before, tip, 0.55)
        cut.sketch.probe(cut.owner, "length", tube([near, tip], [widths[-1], widths[-1]], round_start=False), 0.35)
        if way == "hems":
            cut.add(
                tube([blend(points[-3:][0], tip, 0.4), tip], [widths[-2], widths[-1]], round_start=False),
                leg_z + 0.02,
                second=True,
                shadow=0,
            )
        sign = 2 * side - 1
        if way == "panel":
            edge = [(x + sign * w * 0.36, y) for (x, y), w in zip(points, widths, strict=True)]
            cut.add(tube(edge, [w * 0.28 for w in widths], round_start=False), leg_z + 0.02, second=True, shadow=0)
        cut.seam([(tip[0] - widths[-1] / 2, tip[1] - 1.0), (tip[0] + widths[-1] / 2, tip[1] - 1.0)], leg_z + 0.2, path)
        if hem > 75:
            for _ in range(rng.randint(2, 5)):
                level = rng.choice([KNEE, KNEE + 2, 86, 89, 90]) + rng.uniform(-2, 2)
                (x, y), half = body.leg(side, level)
                half += ease
                cut.fold(
                    [(x - half, y - rng.uniform(0, 1.6)), (x, y), (x + half, y + rng.uniform(-1.8, 1.8))],
                    leg_z + 0.15,
                    path,
                    0.9,
                )
            if cut.label == "trousers" and fit != "tight" and rng.random() < 0.5:  # the crease
                cut.sketch.mark(
                    outline(points, closed=False),
                    leg_z + 0.2,
                    shade(cut.fabric.colours[0], 0.3),
                    stroke=0.5,
                    blur=0.25,
                    alpha=0.5,
                    inside=path,
                )
        top, half = body.leg(side, 53)
        cut.fold(
            [(top[0] - sign * half, top[1] - 1), (top[0] + sign * half * 0.4, top[1] - 3.5)], leg_z + 0.15, path, 0.9
        )
        if cut.label == "jeans":
            (x, y), half = body.leg(side, 59)
            worn = outline([(x, y - 7), (x, y + 9)], closed=False)
            cut.sketch.mark(
                worn, leg_z + 0.1, (255, 255, 255), stroke=half, blur=1.6, alpha=rng.uniform(0.05, 0.28), inside=path
            )
            if rng.random() < 0.12:
                (x, y), half = body.leg(side, KNEE)
                cut.sketch.mark(
                    tube([(x - half * 0.6, y), (x + half * 0.6, y)], [1.4, 1.2]),
                    leg_z + 0.2,
                    (200, 196, 190),
                    blur=0.2,
                    inside=path,
                )
    bits = [level for level in (waist, 43.0, HIP, HIP + 4.5) if level >= waist]
    right = [body.edge(1, level, min(ease, 0.9) * (0.5 if level < 44 else 1.0)) for level in bits]
    left = [body.edge(0, level, min(ease, 0.9) * (0.5 if level < 44 else 1.0)) for level in bits]
    crotch = body.trunk(0, 53.0 + ease * 0.4)
    if body.sitting:
        crotch = body.trunk(0, 51.5)
    hips = outline([left[0], right[0]], right, [right[-1], crotch, left[-1]], left[::-1])
    cut.add(hips, z + 0.6, axis=(body.trunk(0, waist), body.trunk(0, 60)), shadow=0.0)
    cut.fold([body.trunk(-2.5, 49.5), crotch], z + 0.8, hips, 1.0)
    cut.fold([body.trunk(2.5, 49.5), crotch], z + 0.8, hips, 1.0)
    every.addPath(hips)
    return every


def draw_skirt(cut: Cut) -> None:
    body, rng = cut.body, cut.rng
    waist = cut.within(37.5, 39.5) if rng.random() < 0.65 else cut.within(41, 43.5)
    hem, flare = cut.within(*HEMS[cut.of("length")]), _flare(cut)
    ease = 0.3 if cut.of("fit") == "tight" else cut.within(0.4, 1.2)
    levels = [
        level for level in (waist, 42.0, HIP, 52.0, 58.0, 65.0, KNEE, 79.0, 86.0) if waist <= level < hem - 1.5
    ] + [hem]
    sides: list[list[Point]] = []
    for side in (0, 1):
        points = []
        for level in levels:
            x, y = body.edge(side, level, ease * (0.4 if level < 41 else 1.0), flare)
            if flare > 0.2 and waist < level <= HIP:
                x += (2 * side - 1) * (level - waist) * flare * 0.45
            points.append((x, y))
        sides.append(points)
    left, right = sides[0][-1], sides[1][-1]
    pleated = rng.random() < (0.5 if flare > 0.2 else 0.08)
    waves = rng.randint(5, 9)
    bottom = [right]
    for index in range(1, waves * 2):
        x, y = blend(right, left, index / (waves * 2))
        bottom.append(
            (x, y + 0.9 * (1 - abs(index / waves - 1)) + (0.45 if index % 2 else -0.35) * (1 if flare > 0.15 else 0.2))
        )
    path = outline([sides[0][0], sides[1][0]], sides[1], [*bottom, left], sides[0][::-1])
    axis = (body.trunk(0, waist), body.trunk(0, HIP + 20))
    cut.add(path, Z, axis=axis)
    if cut.of("pattern") == "colour block":
        at = left[1] - cut.within(0.2, 0.45) * (left[1] - sides[0][0][1])
        region = skia.Path()
        region.addRect(skia.Rect.MakeLTRB(min(left[0], sides[0][2][0]) - 9, at, right[0] + 9, right[1] + 9))
        band = skia.Op(path, region, skia.PathOp.kIntersect_PathOp)
        cut.add(band, Z + 0.05, second=True, axis=axis, shadow=0)
    folds = rng.randint(8, 12) if pleated else rng.randint(3, 5) + int(flare * 8)
    for index in range(folds):
        share = (index + 0.5) / folds if pleated else rng.uniform(0.05, 0.95)
        top = waist + 2 if pleated else rng.uniform(waist + 1, hem - 6)
        a = blend(body.edge(0, top, ease), body.edge(1, top, ease), share)
        b = blend(left, right, share)
        cut.fold([a, b], Z + 0.2, path, 1.2 if flare > 0.15 else 0.6)
    edge = [body.edge(side, waist + 1.8, ease) for side in (0, 1)]
    cut.seam([edge[0], blend(edge[0], edge[1], 0.5), edge[1]], Z + 0.3, path, width=0.5)
    cut.spot("length", [(left[0], left[1] - 2.4), (right[0], right[1] - 2.4), right, left], 0.3)
    closure = cut.of("closure")
    start, end = body.trunk(0, waist + 1), blend(left, right, 0.5)
    if closure == "buttoned":
        count = max(3, int((hem - waist) / 4.2))
        cut.seam([start, end], Z + 0.3, path)
        cut.buttons([blend(start, end, (index + 0.6) / (count + 0.4)) for index in range(count)], Z + 0.35, path, 0.6)
    elif closure == "zipped":
        cut.zip([start, end], Z + 0.3, path)
    elif closure == "wrapped":
        over = blend(left, right, cut.rng.choice([0.3, 0.7]))
        cut.seam([start, blend(start, over, 0.5), over], Z + 0.3, path, width=0.8, alpha=0.8)
    strip = [
        (start[0] - 1.4, start[1]),
        (start[0] + 1.4, start[1]),
        (end[0] + 1.4, end[1] - 1),
        (end[0] - 1.4, end[1] - 1),
    ]
    cut.spot("closure", strip, 0.4)


def draw_hosiery(cut: Cut) -> None:
    body = cut.body
    tights = cut.label == "tights"
    top = HIP + 1.5 if tights else cut.rng.choice([cut.within(86, 89.5), cut.within(81, 85), cut.within(73, 76)])
    if not tights and "boots" in cut.clothed:
        top = cut.within(73, 76)
    for side in (0, 1):
        z = 12.0 + (0.4 if side == body.front_leg else 0.0)
        levels = [level for level in (top, 60.0, 69.0, 75.0, 80.0, 88.0, ANKLE) if level >= top]
        leg = [body.leg(side, level) for level in levels]
        ankle, toe = leg[-1][0], body.toes[side]
        heel = (ankle[0] - (toe[0] - ankle[0]) * 0.12, ankle[1] + 2.4)
        grow = 0.15 if tights else 0.35
        second = cut.of("pattern") == "colour block"
        part = side
        path = tube([p for p, _ in leg], [2 * (w + grow) for _, w in leg], round_start=tights)
        cut.add(path, z, axis=(leg[0][0], leg[-1][0]), part=part if not tights else 0)
        foot = tube([blend(leg[-2][0], ankle, 0.7), heel, toe], [3.5, 4.1, 3.4], round_end=True)
        cut.add(foot, z + 0.01, shadow=0.0, second=second, part=part if not tights else 0)
        if second:
            (x, y), half = body.leg(side, top + 1)
            cut.add(
                tube([(x - half, y), (x + half, y)], [1.6, 1.6]),
                z + 0.02,
                second=True,
                part=part,
                inside=path,
                shadow=0,
            )
        if not tights:
            (x, y), half = leg[0]
            cut.seam([(x - half, y + 1.2), (x + half, y + 1.2)], z + 0.1, path)
    if tights and cut.flat:
        left, right = body.edge(0, 42, 0.2), body.edge(1, 42, 0.2)
        hip = outline([left, right], [body.edge(1, HIP + 4, 0.2), body.trunk(0, 53), body.edge(0, HIP + 4, 0.2)])
        cut.add(hip, 12.5, shadow=0)
