"""What covers the trunk: tops, coats, dresses' upper halves, capes."""

from __future__ import annotations

from vlm.synthetic.body import ARMPIT, CHEST, HIP, KNEE, SHOULDER, WAIST
from vlm.synthetic.cut import Cut, shade
from vlm.synthetic.necks import Neck, draw_neck, neck_of
from vlm.synthetic.paths import Path, Point, blend, outline, skia, tube
from vlm.synthetic.people import arm_z
from vlm.synthetic.prints import draw_block, draw_graphic

__all__ = ["HEMS", "draw_cape", "draw_upper", "ease_of", "hem_level"]

HEMS = {
    "cropped": (34.5, 40.5), "hip": (46.0, 52.5), "thigh": (55.5, 61.0), "mini": (57.5, 62.5), "above knee": (64.0,
    68.5),
    "knee": (70.0, 74.5), "midi": (78.0, 85.5), "maxi": (89.0, 94.5),
}  # fmt: skip
_SLEEVES = {"short": (0.5, 0.72), "elbow": (0.92, 1.08), "three-quarter": (1.35, 1.62), "long": (1.93, 2.12)}
_ORDER = {"top": 0, "whole": 0, "mid": 1, "outer": 2}


def hem_level(cut: Cut) -> float:
    return cut.within(*HEMS[cut.of("length")])


def ease_of(cut: Cut) -> float:
    """Units between the body and the cloth: more than of all that is worn below it."""
    low, high = {"tight": (0.15, 0.45), "regular": (0.7, 1.5), "loose": (2.1, 3.8)}[cut.of("fit")]
    order = _ORDER.get(cut.slot, 0)
    ease = cut.within(low, high) + 0.8 * order
    if order:
        ease = max(ease, cut.sketch.reach + 0.6)
    cut.sketch.reach = ease
    return ease


def body_z(cut: Cut) -> float:
    if cut.fabric.worn.tucked:
        return 14.0
    return 22.0 + 5.0 * _ORDER.get(cut.slot, 0)


def draw_upper(cut: Cut, hem: float, *, flare: float = 0.0, fitted: bool = False) -> Path:
    """Trunk, sleeves, neckline and closure of a garment that ends at a level; the trunk's path."""
    ease, z, body = ease_of(cut), body_z(cut), cut.body
    neck = neck_of(cut, ease)
    over = cut.slot in ("mid", "outer")
    straight = over or (cut.of("fit") != "tight" and not fitted)
    sides = [_side(cut, side, hem, ease, flare, straight, neck) for side in (0, 1)]
    whole = outline(neck.curve, sides[1], _hem_curve(cut, sides[0][-1], sides[1][-1]), sides[0][::-1])
    closure = cut.of("closure")
    axis = (body.trunk(0, SHOULDER), body.trunk(0, max(HIP, 60)))
    angle = (body.spine[0][0] - body.spine[1][0]) * 1.2
    second = cut.of("pattern") == "colour block"
    way = cut.rng.choice(["sleeves", "hem", "half", "yoke"]) if second else ""
    if way == "sleeves" and cut.of("sleeve") in ("sleeveless", "strapless"):
        way = "hem"
    if closure == "open":
        path = _open(cut, neck, sides, z, axis, angle, hem)
    else:
        path = cut.add(whole, z, axis=axis, angle=angle)
    if second and way != "sleeves":
        draw_block(cut, path, z, way, hem, axis)
    _folds(cut, path, z, hem, flare)
    if cut.of("pattern") == "graphic":
        draw_graphic(cut, path, z)
    _sleeves(cut, ease, second=way == "sleeves")
    draw_neck(cut, neck, z, path, hem)
    _closure(cut, neck, path, z, hem, sides)
    left, right = ((side[-1][0], side[-1][1] - 2.4) for side in sides)
    cut.spot("length", [left, right, sides[1][-1], sides[0][-1]], 0.3)
    if cut.label in ("sweater", "cardigan", "sweatshirt") or (cut.label == "jacket" and cut.of("length") != "thigh"):
        cut.seam([left, blend(left, right, 0.5), right], z + 0.3, path, width=0.5)
    return path


def _hem_curve(cut: Cut, left: Point, right: Point) -> list[Point]:
    dip = cut.within(0.3, 1.3)
    points = [right]
    for share in (0.75, 0.5, 0.25):
        x, y = blend(left, right, share)
        points.append((x, y + dip * (1 - abs(share - 0.5)) + cut.within(-0.25, 0.25)))
    return [*points, left]


def _side(cut: Cut, side: int, hem: float, ease: float, flare: float, straight: bool, neck: Neck) -> list[Point]:
    """From the neckline's end over the shoulder and down to the hem."""
    body, sign = cut.body, 2 * side - 1
    points = [neck.curve[-1] if side else neck.curve[0]]
    shoulder = body.build.shoulder
    sleeve = cut.of("sleeve")
    if neck.bare:  # no shoulders: straight from the top edge to the armpit
        points.append(body.trunk(sign * (body.half(ARMPIT) + ease * 0.6), ARMPIT - 1.0))
    elif sleeve == "sleeveless":
        strap = (
            max(neck.width + cut.within(1.2, 2.2), shoulder * cut.within(0.72, 1.0))
            if cut.label != "tank top"
            else neck.width + 2.1
        )
        points += [body.trunk(sign * strap, SHOULDER - 1.0), body.trunk(sign * (strap - 0.5), SHOULDER + 3)]
        points.append(body.trunk(sign * (body.half(ARMPIT) + ease * 0.7), ARMPIT))
    else:
        pad = ease * 0.4 + (0.8 if cut.label in ("blazer", "coat") else 0.0)
        points += [
            body.trunk(sign * (shoulder - 0.6 + pad), SHOULDER - 0.4),
            body.trunk(sign * (shoulder + pad * 0.6), ARMPIT - 3),
        ]
        points.append(body.trunk(sign * (body.half(ARMPIT) + ease), ARMPIT + 0.5))
    levels = [level for level in (30.0, WAIST, 43.0, HIP + 2, 56.0, 64.0, KNEE, 80.0, 87.0) if level < hem - 1.2]
    for level in [*levels, hem]:
        x, y = body.edge(side, level, ease, flare)
        if straight and level <= HIP + 2:
            # Loose cloth hangs from the chest and does not follow the waist.
            wide = body.trunk(sign * (max(body.half(CHEST), body.half(level)) + ease), level)[0]
            hang = 0.9 if cut.of("fit") == "loose" or cut.slot in ("mid", "outer") else 0.45
            x = x + (wide - x) * hang
        points.append((x + cut.within(-0.2, 0.2), y))
    return points


def _open(
    cut: Cut, neck: Neck, sides: list[list[Point]], z: float, axis: tuple[Point, Point], angle: float, hem: float
) -> Path:
    """Two fronts that show what is below, and the lining behind the legs."""
    top, low = cut.within(1.0, 2.6), cut.within(1.5, 5.2)
    body = cut.body
    lining = outline([sides[0][-4], sides[1][-4]], sides[1][-3:], sides[0][-3:][::-1])
    if hem > HIP:
        cut.add(lining, 6.0, colour=shade(cut.fabric.colours[0], -0.45), plain=True)
    both = skia.Path()
    middle = len(neck.curve) // 2
    for side in (0, 1):
        sign = 2 * side - 1
        rim = neck.curve[: middle + 1] if side == 0 else neck.curve[middle:][::-1]
        bottom = sides[side][-1]
        end = body.edge(1 - side, hem, 0)[0]
        middle_x = (bottom[0] + end) / 2
        inner = [
            body.trunk(sign * top, max(neck.depth, SHOULDER + 5)), body.trunk(sign * (top * 0.7 + low * 0.3), WAIST),
            (middle_x + sign * low * (0.4 if hem < WAIST + 4 else 1.0), bottom[1] + 0.4),
        ]  # fmt: skip
        rim = [rim[0], *([] if len(rim) < 4 else [rim[1]])]
        panel = outline([*rim, *inner], [inner[-1], bottom], sides[side][::-1])
        cut.add(panel, z + 0.01 * side, axis=axis, angle=angle + sign * 1.5)
        cut.seam(inner, z + 0.3, None, width=0.5, alpha=0.5)
        both.addPath(panel)
        strip = [*inner, *((x + sign * 1.8, y) for x, y in inner[::-1])]
        cut.spot("closure", strip, 0.3)
    return both


def _folds(cut: Cut, path: Path, z: float, hem: float, flare: float) -> None:
    body, rng = cut.body, cut.rng
    soft = {"leather": 1.4, "silk": 1.5, "chiffon": 1.2, "denim": 0.9, "fur": 0.15, "sequin": 0.3}.get(
        cut.of("material"), 1.0
    )
    if cut.of("fit") == "tight":
        soft *= 0.7
    for _ in range(rng.randint(3, 5)):
        sign = rng.choice([-1, 1])
        start = rng.uniform(ARMPIT, min(hem, 44))
        across = rng.uniform(0.2, 0.8)
        a = body.trunk(sign * body.half(start) * 0.98, start)
        b = body.trunk(sign * body.half(start) * (1 - across), start + rng.uniform(0.5, 6))
        mid = blend(a, b, 0.5)
        cut.fold([a, (mid[0], mid[1] + rng.uniform(-0.8, 1.2)), b], z + 0.2, path, soft)
    if hem > 52:
        for index in range(rng.randint(3, 7) if flare < 0.25 else rng.randint(6, 10)):
            share = rng.uniform(0.06, 0.94)
            top = rng.uniform(WAIST + 2, max(WAIST + 3, hem - 14))
            a = blend(body.edge(0, top), body.edge(1, top), share)
            b = blend(body.edge(0, hem, 1, flare), body.edge(1, hem, 1, flare), share + (share - 0.5) * 0.1)
            cut.fold([a, blend(a, (b[0], a[1]), 0.4), b] if index % 2 else [a, b], z + 0.2, path, soft)


def _sleeves(cut: Cut, ease: float, *, second: bool) -> None:
    sleeve = cut.of("sleeve")
    body, rng = cut.body, cut.rng
    order = _ORDER.get(cut.slot, 0)
    if sleeve in ("sleeveless", "strapless"):
        for side in (0, 1):
            (x, y), half = body.arm(side, 0.06)
            spot = [(x - half, y - 1.6), (x + half, y - 1.6), (x + half, y + 2.4), (x - half, y + 2.4)]
            cut.spot("sleeve", spot, 0.4, own=False, skin=True)
        return
    end = rng.uniform(*_SLEEVES[sleeve])
    shape = (
        rng.choice(["straight"] * 4 + ["bell", "puff"])
        if cut.label in ("blouse", "dress", "top", "kurta") and not cut.covered
        else "straight"
    )
    loose = ease * 0.62 + 0.35
    for side in (0, 1):
        start = 0.22 if cut.of("neckline") == "off-shoulder" else 0.0
        spots = [at for at in (start, 0.25, 0.5, 0.9, 1.1, 1.5, 1.8) if start <= at < end - 0.12] + [end]
        points, widths = [], []
        for at in spots:
            point, half = body.arm(side, at)
            grow = loose * (1.0 if at < end - 0.2 or cut.of("fit") == "loose" else 0.85)
            if shape == "bell":
                grow += 2.2 * (at / end) ** 2
            elif shape == "puff":
                grow += 1.6 * (1 - abs(2 * at / end - 1)) - 0.4 * (at == end)
            points.append(point)
            widths.append(2 * (half + grow))
        if start == 0.0:
            inward = body.trunk((2 * side - 1) * body.build.shoulder * 0.62, SHOULDER + 1.2)
            points[0] = blend(points[0], inward, 0.12)
            widths[0] *= 0.86
        z = arm_z(body, side) + 0.5 + 0.6 * order
        if body.arms_behind[side]:
            z = 8.1 + 0.1 * order
        dx, dy = points[-1][0] - points[0][0], points[-1][1] - points[0][1]
        lean = -57.3 * dx / (abs(dy) + abs(dx) + 0.01)
        path = cut.add(tube(points, widths), z, axis=(points[0], points[-1]), angle=lean, second=second, shadow=0.16)
        tip, before = points[-1], points[-2]
        close = blend(before, tip, 0.2 if end > 1.2 else 0.4)
        band = tube([close, tip], [widths[-2] * 0.98, widths[-1]], round_start=False)
        cut.sketch.probe(cut.owner, "sleeve", band, 0.35)
        cuff = blend(before, tip, 0.72)
        half_x, half_y = (tip[1] - before[1]), -(tip[0] - before[0])
        norm = (half_x**2 + half_y**2) ** 0.5 or 1.0
        reach = widths[-1] / 2 / norm
        cut.seam([(cuff[0] + half_x * reach, cuff[1] + half_y * reach), (cuff[0] - half_x * reach,
            cuff[1] - half_y * reach)],
                 z + 0.05, path)  # fmt: skip
        if end > 0.9:
            elbow = body.arm(side, 1.0)[0]
            for _ in range(rng.randint(2, 4)):
                y = elbow[1] + rng.uniform(-2.5, 2.5)
                w = widths[len(widths) // 2] / 2
                cut.fold([(elbow[0] - w, y), (elbow[0], y + rng.uniform(-1, 1)), (elbow[0] + w, y + rng.uniform(-2,
                    2))],
                         z + 0.05, path, 0.9)  # fmt: skip
        elif shape != "straight" or cut.of("fit") == "loose":
            cut.fold([blend(points[0], tip, 0.3), tip], z + 0.05, path)
    if cut.of("neckline") != "off-shoulder":
        for side in (0, 1):  # the seam around the shoulder
            sign = 2 * side - 1
            reach = body.build.shoulder
            cut.seam([body.trunk(sign * (reach - 0.8), SHOULDER), body.trunk(sign * (reach - 1.6), ARMPIT - 2),
                      body.trunk(sign * body.half(ARMPIT), ARMPIT + 1)], body_z(cut) + 0.25, None,
                          alpha=0.3)  # fmt: skip


def _closure(cut: Cut, neck: Neck, path: Path, z: float, hem: float, sides: list[list[Point]]) -> None:
    closure, body = cut.of("closure"), cut.body
    if closure == "open":
        return
    top = neck.depth + 0.4
    low = hem - 1.0
    if cut.label in ("polo shirt", "sweatshirt", "kurta") and cut.of("closure") == "buttoned":
        low = top + cut.within(6, 9)
    if cut.label == "jumpsuit" or cut.label == "bodysuit":
        low = 46.0
    bottom_x = (sides[0][-1][0] + sides[1][-1][0]) / 2

    def at(level: float) -> Point:
        if level <= HIP:
            return body.trunk(0.0, level)
        y = sides[0][-1][1] - (hem - level)
        share = (level - HIP) / max(hem - HIP, 1)
        return (body.trunk(0, HIP)[0] * (1 - share) + bottom_x * share, y)

    line = [at(top + (low - top) * share) for share in (0.0, 0.33, 0.66, 1.0)]
    strip = [*((x - 1.3, y) for x, y in line), *((x + 1.3, y) for x, y in line[::-1])]
    cut.spot("closure", strip, 0.35)
    if closure == "buttoned":
        cut.seam([(x + 0.9, y) for x, y in line], z + 0.3, path, width=0.4, alpha=0.5)
        big = cut.label in ("coat", "blazer", "jacket", "cape")
        gap = cut.within(4.5, 7.0) if big else cut.within(3.4, 4.8)
        if cut.of("neckline") == "lapel":
            gap = cut.within(3.5, 5)
            low = min(low, top + cut.within(6, 16))
        if cut.label == "polo shirt":
            gap = 2.6
        count = max(2, int((low - top) / gap) + 1)
        spots = [at(top + 0.8 + gap * index) for index in range(count) if top + 0.8 + gap * index <= low]
        radius = cut.within(0.65, 0.95) if big else cut.within(0.4, 0.6)
        if big and cut.rng.random() < 0.35:  # double-breasted
            shift = cut.within(2.0, 2.8)
            cut.buttons([(x + s * shift, y) for x, y in spots for s in (-1, 1)], z + 0.35, path, radius)
        else:
            cut.buttons(spots, z + 0.35, path, radius)
    elif closure == "zipped":
        cut.zip(line, z + 0.3, path)
    elif closure == "wrapped":
        sign = cut.rng.choice([-1, 1])
        waist = body.trunk(sign * body.half(WAIST) * 0.8, WAIST)
        over = [neck.curve[0] if sign > 0 else neck.curve[-1], body.trunk(0, max(neck.depth, 28)), waist, at(low)]
        cut.seam(over[:3], z + 0.3, path, width=0.6, alpha=0.7)
        cut.seam([waist, (at(low)[0] + sign * 2.5, at(low)[1])], z + 0.3, path, width=0.6, alpha=0.7)
        left, right = body.edge(0, WAIST, 1.2), body.edge(1, WAIST, 1.2)
        sash = tube([left, blend(left, right, 0.5), right], [1.7, 1.9, 1.7], round_start=False)
        cut.add(sash, z + 0.4, shadow=0.5)
        for drop in (-0.8, 1.0):
            tail = tube([waist, (waist[0] + drop, waist[1] + cut.within(6, 11))], [1.1, 1.5], round_start=False)
            cut.add(tail, z + 0.41)
        cut.spot("closure", [left, right, (right[0], right[1] + 2), (left[0], left[1] + 2)], 0.4)


def draw_cape(cut: Cut, hem: float) -> Path:
    """Cloth that hangs from the shoulders over the arms."""
    body, z = cut.body, 43.6
    neck = neck_of(cut, 1.0)
    wide = cut.within(0.08, 0.22)
    sides = []
    for side in (0, 1):
        sign = 2 * side - 1
        rim = neck.curve[-1] if side else neck.curve[0]
        elbow = body.arms[side][1]
        points = [rim, body.trunk(sign * (body.build.shoulder + 0.8), SHOULDER + 0.2)]
        reach = max(body.build.shoulder + 4.5, sign * (elbow[0] - body.trunk(0, 34)[0]) + 2.4 if hem > 36 else 0)
        for level in [level for level in (28.0, 36.0, 46.0, 60.0, 75.0) if level < hem - 2] + [hem]:
            x = body.trunk(0, min(level, HIP))[0] + sign * (
                min(reach, 7 + (level - 19) * 0.5 + body.build.shoulder * 0.5) + wide * max(0, level - 36)
            )
            points.append((x, level + body.spine[1][1] - HIP if level > HIP else body.trunk(0, level)[1]))
        sides.append(points)
    if cut.of("closure") == "open":
        path = _open(cut, neck, sides, z, (sides[0][0], (sides[0][0][0], 60)), 0.0, hem)
    else:
        whole = outline(neck.curve, sides[1], _hem_curve(cut, sides[0][-1], sides[1][-1]), sides[0][::-1])
        path = cut.add(whole, z, axis=(body.trunk(0, SHOULDER), body.trunk(0, 60)))
    for _ in range(8):
        share = cut.within(0.08, 0.92)
        a, b = blend(sides[0][1], sides[1][1], share), blend(sides[0][-1], sides[1][-1], share)
        cut.fold([blend(a, b, cut.within(0.1, 0.5)), b], z + 0.2, path, 1.1)
    if cut.of("pattern") == "colour block":
        draw_block(cut, path, z, cut.rng.choice(["hem", "yoke", "half"]), hem, (sides[0][0], sides[0][-1]))
    if cut.of("pattern") == "graphic":
        draw_graphic(cut, path, z)
    draw_neck(cut, neck, z, path, hem)
    _closure(cut, neck, path, z, hem, sides)
    for side in (0, 1):
        (x, y), half = body.arm(side, 0.1)
        cut.spot("sleeve", [(x - half, y), (x + half, y), (x + half, y + 6), (x - half, y + 6)], 0.4)
    left, right = sides[0][-1], sides[1][-1]
    cut.spot("length", [(left[0], left[1] - 2.5), (right[0], right[1] - 2.5), right, left], 0.3)
    return path
