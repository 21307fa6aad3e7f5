"""Bags, clutches and backpacks: in the hand, over the shoulder, across the chest, on the back."""

from __future__ import annotations

from vlm.synthetic.body import HIP, SHOULDER
from vlm.synthetic.cut import Cut, shade
from vlm.synthetic.paths import Path, Point, blend, circle, outline, skia, smooth, tube

__all__ = ["draw_bag"]

_METALS = ((206, 172, 96), (196, 196, 200), (90, 88, 86))


def draw_bag(cut: Cut) -> None:
    if cut.label == "clutch":
        _clutch(cut)
    elif cut.label == "backpack":
        _backpack(cut)
    else:
        _handbag(cut)


def _box(x: float, y: float, wide: float, high: float, taper: float, corner: float) -> Path:
    """A bag's front, `taper` wider (above 0) at the bottom."""
    top, low = wide / 2 - taper, wide / 2 + taper
    return outline(
        [(x - top + corner, y), (x + top - corner, y)],
        [(x + top, y + corner * 0.6), (x + low, y + high - corner)],
        [
            (x + low - corner * 0.4, y + high - corner * 0.2),
            (x, y + high + 0.3),
            (x - low + corner * 0.4, y + high - corner * 0.2),
        ],
        [(x - low, y + high - corner), (x - top, y + corner * 0.6)],
    )


def _front(cut: Cut, x: float, y: float, wide: float, high: float, z: float) -> Path:
    path = cut.add(
        _box(x, y, wide, high, cut.within(-0.4, 1.2), cut.within(0.5, 2.2)), z, axis=((x, y), (x, y + high)), shadow=0.5
    )
    metal = cut.rng.choice(_METALS)
    style = cut.rng.choice(["flap", "zip", "open", "panel"])
    if style == "flap":
        at = y + high * cut.within(0.4, 0.65)
        cut.seam([(x - wide / 2, at), (x, at + 1.2), (x + wide / 2, at)], z + 0.1, path, width=0.6, alpha=0.7)
        cut.sketch.mark(circle((x, at + 0.6), 0.7), z + 0.2, metal, inside=path)
    elif style == "zip":
        cut.sketch.mark(
            outline([(x - wide / 2, y + 1.2), (x + wide / 2, y + 1.2)], closed=False),
            z + 0.1,
            metal,
            stroke=0.4,
            inside=path,
        )
    elif style == "panel":
        cut.seam([(x - wide * 0.28, y), (x - wide * 0.3, y + high)], z + 0.1, path)
        cut.seam([(x + wide * 0.28, y), (x + wide * 0.3, y + high)], z + 0.1, path)
    if cut.of("pattern") == "colour block":
        region = skia.Path()
        region.addRect(skia.Rect.MakeXYWH(x - wide, y + high * cut.within(0.45, 0.65), wide * 2, high))
        cut.add(skia.Op(path, region, skia.PathOp.kIntersect_PathOp), z + 0.05, second=True, shadow=0)
    for _ in range(2):
        fx = x + cut.within(-0.4, 0.4) * wide
        cut.fold([(fx, y + 0.5), (fx + cut.within(-1, 1), y + high * 0.8)], z + 0.1, path, 0.8)
    return path


def _strap(cut: Cut, points: list[Point], z: float, width: float) -> None:
    cut.add(outline(points, closed=False), z, stroke=width, shadow=0.3)


def _handbag(cut: Cut) -> None:
    body, rng = cut.body, cut.rng
    wide, high = cut.within(7, 15), cut.within(6, 12)
    way = rng.choice(["hand", "hand", "shoulder", "across", "elbow"])
    side = rng.randint(0, 1)
    free = [
        s
        for s in (0, 1)
        if not body.in_pocket[s] and not body.arms_behind[s] and body.hands[s][1] > body.trunk(0, 40)[1]
    ]
    if way in ("hand", "elbow"):
        if not free and not cut.flat:
            way = "across"
        elif free:
            side = rng.choice(free)
    sign = 2 * side - 1
    thin = cut.within(0.6, 1.2)
    if cut.flat or way == "hand":
        hand = body.hands[side]
        top = hand[1] + cut.within(2.0, 5.5)
        x = hand[0] + sign * cut.within(-0.5, 1.5)
        for shift in (0.0, 1.0):
            _strap(
                cut,
                [
                    (x - wide * 0.25 + shift, top + 0.6),
                    (hand[0] - 0.6, hand[1] + 0.8),
                    (hand[0] + 0.6, hand[1] + 0.8),
                    (x + wide * 0.25 + shift, top + 0.6),
                ],
                42.4,
                thin,
            )
        _front(cut, x, top, wide, high, 42.5)
        return
    if way == "elbow":
        elbow = blend(body.arms[side][1], body.arms[side][2], 0.3)
        top = elbow[1] + cut.within(3, 5)
        x = elbow[0] + sign * 1.0
        _strap(
            cut, [(x - wide * 0.25, top + 0.5), (elbow[0], elbow[1] - 1.0), (x + wide * 0.25, top + 0.5)], 44.0, thin
        )
        _front(cut, x, top, wide, high, 44.1)
        return
    hip = body.edge(side, HIP, 1.5)
    x, top = hip[0] + sign * cut.within(-2, 2.5), hip[1] - cut.within(-2, 6)
    if way == "across":
        wide *= 0.85
        start = body.trunk(-sign * 5.5, SHOULDER - 1.0)
        _strap(cut, [start, blend(start, (x, top), 0.5), (x - sign * wide * 0.3, top + 0.5)], 38.0, thin)
        z = 38.5 if rng.random() < 0.4 else 44.0
    else:
        start = body.trunk(sign * body.build.shoulder * 0.72, SHOULDER - 1.2)
        _strap(
            cut,
            [
                start,
                (blend(start, (x, top), 0.5)[0] + sign * 1.2, (start[1] + top) / 2),
                (x - sign * wide * 0.2, top + 0.5),
            ],
            43.0,
            thin,
        )
        z = 43.1
    _front(cut, x, top, wide, high, z)


def _clutch(cut: Cut) -> None:
    body, rng = cut.body, cut.rng
    free = [s for s in (0, 1) if not body.in_pocket[s] and not body.arms_behind[s]] or [rng.randint(0, 1)]
    side = rng.choice(free)
    hand = body.hands[side]
    wide, high = cut.within(8, 12.5), cut.within(4.2, 7)
    z = 43.2
    if body.in_pocket[side] or body.arms_behind[side]:
        z = 42.0
    path = _front(cut, hand[0] + cut.within(-2.5, 2.5), hand[1] - high * cut.within(0.1, 0.5), wide, high, z)
    if rng.random() < 0.3:
        _strap(cut, [hand, (hand[0] + 1.6, hand[1] + 4), (hand[0] - 0.4, hand[1] + 1)], z - 0.1, 0.5)
    cut.sketch.mark(path, z + 0.2, (255, 255, 255), stroke=0.3, alpha=0.2, inside=path)


def _backpack(cut: Cut) -> None:
    body = cut.body
    if cut.flat:
        x, y = body.trunk(0, 24)
        wide, high = cut.within(16, 20), cut.within(21, 26)
        for sign in (-1, 1):
            _strap(
                cut,
                [(x + sign * 4, y + 1), (x + sign * (wide / 2 + 2), y + 8), (x + sign * wide * 0.4, y + high)],
                20.0,
                1.8,
            )
        _front(cut, x, y, wide, high, 21.0)
        pocket = smooth(
            [
                (x - wide * 0.32, y + high * 0.55),
                (x + wide * 0.32, y + high * 0.55),
                (x + wide * 0.34, y + high * 0.92),
                (x - wide * 0.34, y + high * 0.92),
            ]
        )
        cut.add(pocket, 21.5, second=cut.of("pattern") == "colour block", shadow=0.5)
        cut.add(tube([(x - 1.6, y), (x, y - 1.8), (x + 1.6, y)], [0.8, 0.8, 0.8]), 20.5)
        return
    wide = body.build.shoulder + cut.within(0.8, 3.0)
    pack = smooth(
        [
            body.trunk(-wide, 22),
            body.trunk(-wide * 0.6, 17.6),
            body.trunk(wide * 0.6, 17.6),
            body.trunk(wide, 22),
            body.trunk(wide, 40),
            body.trunk(wide * 0.7, 44),
            body.trunk(-wide * 0.7, 44),
            body.trunk(-wide, 40),
        ]
    )
    cut.add(pack, 4.0, axis=(body.trunk(0, 20), body.trunk(0, 44)))
    thick = cut.within(1.6, 2.6)
    for sign in (-1, 1):
        inner = body.build.shoulder * 0.58
        points = [
            body.trunk(sign * inner, SHOULDER - 2.0),
            body.trunk(sign * (inner + 0.8), 26),
            body.trunk(sign * (inner + 1.6), 34),
            body.trunk(sign * (body.half(38) + 0.8), 39),
        ]
        path = tube(points, [thick, thick, thick * 0.8, thick * 0.6], round_start=False)
        cut.add(path, 38.4, axis=(points[0], points[-1]), second=cut.of("pattern") == "colour block")
        cut.sketch.mark(circle(points[2], 0.6), 38.5, shade(cut.fabric.colours[0], -0.5))
