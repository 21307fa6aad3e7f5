"""Hats, glasses, scarves, jewellery, belts, gloves; bags are in `bags`."""

from __future__ import annotations

import math

from vlm.synthetic.body import HIP, SHOULDER
from vlm.synthetic.cut import Cut, shade
from vlm.synthetic.paths import Point, blend, circle, ellipse, outline, polygon, skia, smooth, tube
from vlm.synthetic.people import arm_z, hand_z

__all__ = ["draw_accessory"]


def draw_accessory(cut: Cut) -> None:
    _DRAW[cut.label](cut)


def _hat(cut: Cut) -> None:
    (x, y), (rx, ry) = cut.body.head, cut.body.head_radius
    style = cut.rng.choice(["fedora", "wide", "beanie", "bucket", "beret", "cloche"])
    if cut.of("material") in ("knit", "fur"):
        style = cut.rng.choice(["beanie", "beanie", "beret"]) if cut.of("material") == "knit" else "beanie"
    if cut.of("material") == "straw":
        style = cut.rng.choice(["fedora", "wide", "wide"])
    brow = y - ry * cut.within(0.35, 0.5)
    if style == "beanie":
        top = y - ry - cut.within(1.2, 3.2)
        crown = outline([(x - rx - 0.9, brow + 0.6), (x - rx - 0.7, y - ry * 0.85), (x, top), (x + rx + 0.7,
            y - ry * 0.85), (x + rx + 0.9, brow + 0.6)],
                        [(x, brow + 1.4), (x - rx - 0.9, brow + 0.6)])  # fmt: skip
        cut.add(crown, 58.0, axis=((x, top), (x, brow)))
        fold = tube(
            [(x - rx - 0.9, brow + 0.2), (x, brow + 0.8), (x + rx + 0.9, brow + 0.2)],
            [2.2, 2.4, 2.2],
            round_start=False,
        )
        cut.add(fold, 58.1, second=cut.of("pattern") == "colour block", shadow=0.5)
        if cut.rng.random() < 0.3:
            cut.add(circle((x, top - 0.8), 1.7), 58.2, second=cut.of("pattern") == "colour block")
        return
    if style == "beret":
        tilt = cut.rng.choice([-1, 1])
        puff = ellipse((x + tilt * 1.6, y - ry * 0.85), rx + 2.0, 2.9, tilt * 14)
        cut.add(puff, 58.0, axis=((x, y - ry - 2), (x, brow)), second=False)
        if cut.of("pattern") == "colour block":
            cut.add(tube([(x - rx, brow), (x + rx, brow)], [0.9, 0.9]), 58.1, second=True)
        return
    wide = {"fedora": 3.4, "wide": 6.5, "bucket": 2.0, "cloche": 1.2}[style] + cut.within(-0.4, 0.8)
    drop = 1.4 if style in ("bucket", "cloche") else 0.2
    brim = smooth([(x - rx - wide, brow + drop), (x, brow - 1.3), (x + rx + wide, brow + drop), (x, brow + 1.6)])
    top = y - ry - cut.within(1.6, 3.0)
    crown = outline([(x - rx - 0.5, brow + 0.3), (x - rx * 0.92, y - ry * 0.8), (x - rx * 0.6, top), (x,
        top + 0.6), (x + rx * 0.6, top),
                     (x + rx * 0.92, y - ry * 0.8), (x + rx + 0.5, brow + 0.3)], [(x, brow + 1.0), (x - rx - 0.5,
                     brow + 0.3)])  # fmt: skip
    cut.add(brim, 58.0, axis=((x, brow - 2), (x, brow + 2)), shadow=0.8)
    cut.add(crown, 58.1, axis=((x, top), (x, brow)))
    band = tube(
        [(x - rx - 0.5, brow - 0.5), (x, brow + 0.2), (x + rx + 0.5, brow - 0.5)], [1.3, 1.3, 1.3], round_start=False
    )
    if cut.of("pattern") == "colour block":
        cut.add(band, 58.2, second=True, shadow=0)
    else:
        cut.sketch.mark(band, 58.2, shade(cut.fabric.colours[0], -0.5), alpha=0.75)


def _cap(cut: Cut) -> None:
    (x, y), (rx, ry) = cut.body.head, cut.body.head_radius
    brow, top = y - ry * 0.42, y - ry - 0.9
    turn = cut.rng.choice([-1, 0, 1]) * cut.within(0.5, 1.2)
    dome = outline([(x - rx - 0.4, brow + 0.4), (x - rx * 0.8, y - ry * 0.85), (x, top), (x + rx * 0.8,
        y - ry * 0.85), (x + rx + 0.4, brow + 0.4)],
                   [(x, brow + 0.9), (x - rx - 0.4, brow + 0.4)])  # fmt: skip
    cut.add(dome, 58.0, axis=((x, top), (x, brow)))
    reach = x + turn * 3.4
    visor = smooth(
        [
            (x - rx * 0.95, brow + 0.3),
            (reach, brow - 0.3),
            (x + rx * 0.95, brow + 0.3),
            (reach + 2.2, brow + 2.1),
            (reach - 2.2, brow + 2.1),
        ]
    )
    cut.add(visor, 58.1, second=cut.of("pattern") == "colour block", shadow=0.8)
    for share in (-0.35, 0.35):
        cut.seam([(x + share * rx, brow), (x, top)], 58.2, dome, alpha=0.3)
    if cut.rng.random() < 0.5:
        cut.sketch.mark(ellipse((x + turn, y - ry * 0.72), 1.2, 0.9), 58.3, shade(cut.trim, 0.5), inside=dome)


def _glasses(cut: Cut) -> None:
    (x, y), (rx, ry) = cut.body.head, cut.body.head_radius
    dark = cut.label == "sunglasses"
    shape = cut.rng.choice(["round", "square", "cat", "aviator"])
    up = y + ry * 0.02
    size = cut.within(0.3, 0.42) * rx if dark else cut.within(0.28, 0.36) * rx
    frame = cut.fabric.colours[0]
    for sign in (-1, 1):
        cx = x + sign * rx * 0.44
        if shape == "square":
            lens = polygon(
                [
                    (cx - size, up - size * 0.7),
                    (cx + size, up - size * 0.7),
                    (cx + size * 0.9, up + size * 0.75),
                    (cx - size * 0.9, up + size * 0.75),
                ]
            )
        elif shape == "cat":
            lens = smooth(
                [
                    (cx - size, up),
                    (cx + sign * size * 1.1, up - size * 0.8),
                    (cx + size, up + size * 0.1),
                    (cx, up + size * 0.75),
                ]
            )
        elif shape == "aviator":
            lens = smooth(
                [
                    (cx - size, up - size * 0.5),
                    (cx + size, up - size * 0.5),
                    (cx + size * 0.7, up + size * 0.8),
                    (cx - size * 0.7, up + size * 0.8),
                ]
            )
        else:
            lens = ellipse((cx, up), size, size * 0.92)
        if dark:
            glass = (
                shade(frame, -0.4)
                if cut.rng.random() < 0.2
                else cut.rng.choice([(22, 22, 24), (22, 22, 24), (56, 40, 30)])
            )
            cut.add(lens, 56.0, colour=glass, plain=True, alpha=0.93)
            cut.sketch.mark(
                ellipse((cx - size * 0.3, up - size * 0.3), size * 0.4, size * 0.25),
                56.3,
                (255, 255, 255),
                blur=0.3,
                alpha=0.35,
                inside=lens,
            )
        else:
            cut.add(lens, 56.0, colour=(220, 228, 232), alpha=0.12, plain=True, shadow=0.0)
        cut.add(lens, 56.1, colour=frame, stroke=cut.within(0.45, 0.8), plain=True, shadow=0.2)
    bridge = outline([(x - rx * 0.18, up - 0.2), (x, up - 0.5), (x + rx * 0.18, up - 0.2)], closed=False)
    cut.add(bridge, 56.2, colour=frame, stroke=0.5, plain=True)
    for sign in (-1, 1):
        temple = outline([(x + sign * rx * 0.8, up - 0.3), (x + sign * rx * 1.02, up - 0.1)], closed=False)
        cut.add(temple, 56.2, colour=frame, stroke=0.5, plain=True)


def _scarf(cut: Cut) -> None:
    body = cut.body
    wide = cut.within(2.6, 4.6)
    left, mid, right = body.trunk(-5.2, SHOULDER - 1.6), body.trunk(0, SHOULDER + 1.6), body.trunk(5.2, SHOULDER - 1.6)
    loop = tube(
        [body.trunk(-3.4, SHOULDER - 4.2), left, mid, right, body.trunk(3.4, SHOULDER - 4.2)],
        [wide * 0.8, wide, wide * 1.2, wide, wide * 0.8],
    )
    style = cut.rng.choice(["two tails", "one tail", "loop", "loop low"])
    second = cut.of("pattern") == "colour block"
    if style != "loop":
        for sign in (-1, 1) if style == "two tails" else (cut.rng.choice([-1, 1]),):
            end = cut.within(36, 54)
            start, low = body.trunk(sign * 2.4, SHOULDER + 1), body.trunk(sign * cut.within(2.5, 4.5), min(end, HIP))
            low = (low[0], low[1] + max(0.0, end - HIP))
            tail = tube([start, blend(start, low, 0.5), low], [wide, wide * 1.05, wide * 1.1], round_start=False)
            cut.add(tail, 47.0, axis=(start, low), angle=cut.within(-4, 4))
            for share in (-0.25, 0.2):
                cut.fold([(start[0] + share * wide, start[1]), (low[0] + share * wide, low[1])], 47.1, tail)
            if second:
                near = blend(start, low, 0.7)
                cut.add(tube([near, low], [wide * 1.06, wide * 1.1], round_start=False), 47.05, second=True, shadow=0)
            if cut.rng.random() < 0.5:  # fringe
                for step in range(5):
                    fx = low[0] + (step - 2) * wide * 0.22
                    cut.add(outline([(fx, low[1] - 0.2), (fx + 0.1, low[1] + 1.6)], closed=False), 47.0, stroke=0.4)
    cut.add(loop, 47.5, axis=(left, right))
    if style == "loop low":
        cut.add(tube([left, body.trunk(0, SHOULDER + 5), right], [wide * 0.7, wide, wide * 0.7]), 47.4)
    for shift in (-0.9, 0.4):
        cut.fold(
            [(left[0], left[1] + shift), (mid[0], mid[1] + shift * 1.2), (right[0], right[1] + shift)], 47.6, loop, 1.4
        )


def _tie(cut: Cut) -> None:
    body = cut.body
    knot, low = body.trunk(0, SHOULDER + 0.6), body.trunk(cut.within(-0.5, 0.5), cut.within(39, 43))
    wide = cut.within(1.2, 1.9)
    blade = outline(
        [(knot[0] - 0.6, knot[1] + 1)],
        [(low[0] - wide, low[1] - 2)],
        [low],
        [(low[0] + wide, low[1] - 2)],
        [(knot[0] + 0.6, knot[1] + 1)],
    )
    cut.add(blade, 25.0, axis=(knot, low), angle=30 if cut.of("pattern") == "striped" else 0)
    cut.add(
        polygon(
            [
                (knot[0] - 1.1, knot[1] - 0.8),
                (knot[0] + 1.1, knot[1] - 0.8),
                (knot[0] + 0.6, knot[1] + 1.3),
                (knot[0] - 0.6, knot[1] + 1.3),
            ]
        ),
        25.1,
    )


def _bow_tie(cut: Cut) -> None:
    x, y = cut.body.trunk(0, SHOULDER + 0.2)
    wide, high = cut.within(2.6, 3.6), cut.within(1.0, 1.5)
    for sign in (-1, 1):
        wing = outline([(x, y - 0.4), (x + sign * wide, y - high)], [(x + sign * wide, y + high), (x, y + 0.4)])
        cut.add(wing, 25.2, axis=((x, y), (x + sign * wide, y)))
        cut.seam([(x, y), (x + sign * wide * 0.6, y + 0.2)], 25.3, wing)
    cut.add(ellipse((x, y), 0.7, 0.8), 25.4)


def _belt(cut: Cut) -> None:
    body = cut.body
    level = cut.within(38.2, 41.5)
    ease = 1.0
    left, right = body.edge(0, level, ease), body.edge(1, level, ease)
    wide = cut.within(1.1, 2.4)
    middle = (blend(left, right, 0.5)[0], blend(left, right, 0.5)[1] + 0.5)
    band = tube([left, middle, right], [wide, wide, wide], round_start=False)
    cut.add(band, 26.5, axis=(left, (left[0], left[1] + 1)), shadow=0.4)
    metal = cut.rng.choice([(206, 172, 96), (196, 196, 200), (120, 116, 110)])
    buckle = skia.Path()
    buckle.addRoundRect(skia.Rect.MakeXYWH(middle[0] - 1.1, middle[1] - wide * 0.6, 2.2, wide * 1.2), 0.3, 0.3)
    cut.add(buckle, 26.6, colour=metal, stroke=0.5, plain=True, shadow=0.4)


def _gloves(cut: Cut) -> None:
    body = cut.body
    start = cut.rng.choice([1.8, 1.8, 1.5])
    for side in (0, 1):
        z = hand_z(body, side) + 0.3
        wrist, hand = body.arms[side][2], body.hands[side]
        (a, half), (b, half_b) = body.arm(side, start), body.arm(side, 1.9)
        tip = blend(wrist, hand, 1.8)
        path = tube(
            [a, b, blend(wrist, hand, 0.8), tip],
            [2 * half + 0.7, 2 * half_b + 0.6, 3.9, 2.3],
            round_end=True,
            round_start=False,
        )
        cut.add(path, z, axis=(a, tip), part=side)
        sign = 1 - 2 * side
        thumb = tube([blend(wrist, hand, 0.4), (hand[0] + sign * 2.1, hand[1] - 0.3)], [1.7, 1.4], round_end=True)
        cut.add(thumb, z + 0.01, shadow=0.2, part=side)
        for share in (-0.3, 0.3):
            cut.seam([blend(wrist, hand, 1.0), (tip[0] + share * 1.6, tip[1])], z + 0.1, path, alpha=0.3)


def _necklace(cut: Cut) -> None:
    body = cut.body
    low = cut.rng.choice([cut.within(20.5, 22.5), cut.within(23, 27), cut.within(29, 36)])
    points: list[Point] = [
        body.trunk(u, SHOULDER - 2.2 + (low - SHOULDER + 2.2) * (1 - (abs(u) / 2.7) ** 2.2))
        for u in (-2.7, -2.1, -1.2, 0, 1.2, 2.1, 2.7)
    ]
    z = 26.0
    style = cut.rng.choice(["chain", "beads", "statement"])
    chain = outline(points, closed=False)
    cut.add(chain, z, stroke=0.4 if style != "statement" else 0.7, plain=True, shadow=0.3)
    if style == "beads":
        for index in range(17):
            cut.add(circle(_on(points, index / 16), cut.within(0.5, 0.7)), z + 0.1, plain=True, shadow=0.2)
    elif style == "statement":
        for index in range(9):
            spot = _on(points, 0.2 + 0.6 * index / 8)
            size = 0.6 + 0.9 * (1 - abs(index - 4) / 4)
            cut.add(ellipse((spot[0], spot[1] + size * 0.5), size * 0.7, size), z + 0.1, plain=True, shadow=0.3)
    else:
        end = points[3]
        cut.add(ellipse((end[0], end[1] + 0.9), 0.8, 1.0), z + 0.1, plain=True, shadow=0.3)


def _on(points: list[Point], share: float) -> Point:
    at = share * (len(points) - 1)
    index = min(int(at), len(points) - 2)
    return blend(points[index], points[index + 1], at - index)


def _band(cut: Cut, side: int, at: float, wide: float, grow: float) -> Point:
    """A ring around the arm; its middle."""
    body = cut.body
    (point, half), (further, _) = body.arm(side, at), body.arm(side, at + 0.1)
    angle = math.degrees(math.atan2(further[1] - point[1], further[0] - point[0])) - 90
    ring = skia.Path()
    ring.addRoundRect(
        skia.Rect.MakeLTRB(point[0] - half - grow, point[1] - wide / 2, point[0] + half + grow, point[1] + wide / 2),
        wide * 0.4,
        wide * 0.4,
    )
    ring.transform(skia.Matrix().setRotate(angle, *point))
    cut.add(ring, arm_z(body, side) + 2.6, axis=(point, further), shadow=0.3, plain=cut.of("pattern") == "solid")
    return point


def _bracelet(cut: Cut) -> None:
    side = cut.rng.randint(0, 1)
    at, wide = cut.within(1.78, 1.92), cut.within(0.7, 1.6)
    for index in range(cut.rng.choice([1, 1, 1, 2, 3])):
        _band(cut, side, at - index * 0.11, wide if index == 0 else 0.6, 0.35)


def _watch(cut: Cut) -> None:
    side = cut.rng.randint(0, 1)
    point = _band(cut, side, 1.86, cut.within(0.8, 1.2), 0.25)
    face = cut.rng.choice([(240, 238, 230), (30, 30, 34), (220, 200, 150)])
    z = arm_z(cut.body, side) + 2.7
    cut.add(circle(point, 1.15), z, plain=True)
    cut.sketch.mark(circle(point, 0.85), z + 0.01, face)
    hand = outline([point, (point[0] + 0.4, point[1] - 0.5)], closed=False)
    cut.sketch.mark(hand, z + 0.02, (90, 90, 90), stroke=0.2)


def _earrings(cut: Cut) -> None:
    (x, y), (rx, ry) = cut.body.head, cut.body.head_radius
    style, long = cut.rng.choice(["stud", "hoop", "drop"]), cut.within(1.4, 3.2)
    for side in (0, 1):
        sign = 2 * side - 1
        spot = (x + sign * (rx + 0.3 if not cut.flat else 2.2), y + ry * 0.32)
        if style == "stud":
            cut.add(circle(spot, 0.65), 57.0, plain=True, part=side)
        elif style == "hoop":
            cut.add(circle((spot[0], spot[1] + long * 0.5), long * 0.5), 57.0, stroke=0.45, plain=True, part=side)
        else:
            cut.add(tube([spot, (spot[0], spot[1] + long)], [0.5, 1.3], round_end=True), 57.0, plain=True, part=side)


def _ring(cut: Cut) -> None:
    side = cut.rng.randint(0, 1)
    hand, wrist = cut.body.hands[side], cut.body.arms[side][2]
    spot = blend(wrist, hand, 1.3)
    z = max(hand_z(cut.body, side), 43.4) + 0.4
    if cut.flat:
        cut.add(circle(spot, 0.9), z, stroke=0.35, plain=True)
    else:
        cut.add(ellipse(spot, 0.75, 0.4), z, plain=True)
    cut.add(
        circle((spot[0], spot[1] - (0.95 if cut.flat else 0.0)), 0.45),
        z + 0.1,
        colour=shade(cut.fabric.colours[0], 0.5),
        plain=True,
    )


_DRAW = {
    "hat": _hat, "cap": _cap, "glasses": _glasses, "sunglasses": _glasses, "scarf": _scarf, "tie": _tie,
    "bow tie": _bow_tie,
    "belt": _belt, "gloves": _gloves, "necklace": _necklace, "bracelet": _bracelet, "watch": _watch,
    "earrings": _earrings,
    "ring": _ring,
}  # fmt: skip
