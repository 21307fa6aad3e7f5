"""Shoes and boots: one for each foot, seen as the foot points."""

from __future__ import annotations

import math

from vlm.synthetic.body import ANKLE, KNEE
from vlm.synthetic.cut import Cut, shade
from vlm.synthetic.paths import Path, Point, blend, ellipse, outline, polygon, skia, tube
from vlm.synthetic.pieces import Colour

__all__ = ["HEELED", "draw_footwear"]

HEELED = ("heels",)
_SHAFTS = {"ankle": (84.0, 89.0), "knee-high": (73.5, 77.5), "over-the-knee": (62.0, 68.0)}
_SOLES: dict[str, tuple[Colour, ...]] = {
    "sneakers": ((240, 240, 236), (240, 240, 236), (40, 40, 42), (200, 180, 150)),
    "sandals": ((150, 110, 74), (60, 46, 40), (200, 170, 130)),
}


def draw_footwear(cut: Cut) -> None:
    style = cut.rng.random()
    shaft = cut.within(*_SHAFTS[cut.of("length")]) if cut.label == "boots" else 0.0
    over = 13.0
    if cut.label == "boots" and (shaft < 80 or cut.rng.random() < 0.3):
        over = 19.5 if not {"trousers", "jumpsuit"} & cut.clothed or cut.rng.random() < 0.3 else 13.0
    sole = cut.rng.choice(_SOLES.get(cut.label, ((34, 30, 28), (34, 30, 28), (120, 84, 56), (230, 226, 220))))
    heel = (
        cut.within(2.2, 4.2)
        if cut.label in HEELED
        else cut.rng.choice([0.0, 0.0, 1.4, 2.6])
        if cut.label in ("boots", "sandals")
        else 0.3
    )
    for side in (0, 1):
        _shoe(cut, side, over + (0.7 if side == cut.body.front_leg else 0.0), shaft, sole, heel, style)


def _shoe(cut: Cut, side: int, z: float, shaft: float, sole: Colour, heel_height: float, style: float) -> None:
    body, rng = cut.body, cut.rng
    ankle, toe = body.legs[side][2], body.toes[side]
    dx, dy = toe[0] - ankle[0], toe[1] - ankle[1]
    sideways = min(1.0, abs(dx) / 4.0)
    reach = math.hypot(dx, dy) or 1.0
    ux, uy = dx / reach, dy / reach
    tip = (toe[0] + ux * 1.5, toe[1] + uy * 0.7)
    back = (ankle[0] - ux * 1.5 * sideways, ankle[1] + 2.0)
    mid = blend(ankle, toe, 0.55)
    grow = 1.0 + 0.12 * (cut.label in ("sneakers", "boots", "lace-up shoes"))
    toe_wide = {"sneakers": 4.3, "boots": 4.0, "heels": 2.8, "flats": 3.4, "sandals": 3.8}.get(cut.label, 3.9)
    material_axis = (ankle, tip)
    label = cut.label
    floor = tip[1] + 0.9
    # The sole, and the heel that stands on the ground behind it.
    base: list[Point] = [(back[0], back[1] + 1.6), (mid[0], mid[1] + 1.9 + 0.4 * sideways), (tip[0], tip[1] + 0.5)]
    thick = {"sneakers": 1.5, "boots": 1.2, "sandals": 1.0, "lace-up shoes": 1.0}.get(label, 0.7)
    if label in ("sandals", "boots", "shoes") and style > 0.8:
        thick += 1.2
    cut.add(tube(base, [3.2, 3.6, toe_wide * 0.85], round_end=True) if sideways < 0.4 else tube(base, [thick,
        thick, thick], round_end=True),
            z - 0.1, colour=sole, part=side, shadow=0.5, plain=True)  # fmt: skip
    if heel_height > 1:
        slim = 0.8 if label == "heels" and style < 0.6 else 2.0
        stem = (ankle[0] - ux * 2.2 * sideways - (0 if sideways > 0.3 else 0.2), ankle[1] + 2.6)
        ground = (stem[0] + 0.2, max(floor, stem[1] + heel_height * 0.8))
        cut.add(
            tube([stem, ground], [slim * 1.9, slim], round_start=False),
            z - 0.15,
            part=side,
            second=cut.of("pattern") == "colour block",
        )
    if label == "sandals":
        _straps(cut, side, z, ankle, toe, tip, style, toe_wide)
        return
    low = label in ("heels", "flats") or (label == "shoes" and style < 0.4)
    if low:  # the instep stays bare
        front = blend(ankle, toe, 0.52)
        cover = tube(
            [front, blend(front, tip, 0.5), tip],
            [3.7 * grow, 3.6 * grow, toe_wide * 0.72],
            round_end=True,
            round_start=False,
        )
        cut.add(cover, z, axis=material_axis, part=side)
        quarter = tube(
            [(ankle[0] - ux * 1.0, ankle[1] + 1.4), blend(back, mid, 0.5), front],
            [2.6, 1.8, 1.6] if sideways > 0.35 else [4.0, 4.2, 3.9],
        )
        if sideways > 0.35:
            cut.add(quarter, z + 0.01, part=side, shadow=0.1)
        else:
            for sign in (-1, 1):
                rim = tube(
                    [(ankle[0] + sign * 1.5, ankle[1] + 1.6), (front[0] + sign * 1.7, front[1] + 0.4)], [0.9, 1.1]
                )
                cut.add(rim, z + 0.01, part=side, shadow=0.1)
        if label == "flats" and style < 0.4:
            cut.sketch.mark(ellipse(blend(front, tip, 0.35), 0.9, 0.5), z + 0.1, cut.dark)
        if label == "heels" and 0.6 < style < 0.85:
            strap = outline(
                [(ankle[0] - 1.8, ankle[1] + 0.2), (ankle[0], ankle[1] + 0.7), (ankle[0] + 1.8, ankle[1] + 0.2)],
                closed=False,
            )
            cut.add(strap, z + 0.02, stroke=0.7, part=side)
        return
    collar = shaft or {"sneakers": 90.5 if style < 0.7 else 87.0, "loafers": 92.0, "lace-up shoes": 91.2}.get(
        label, 91.5
    )
    levels = [
        level for level in (collar, 70.0, KNEE, 76.0, 81.0, 87.0, 90.5) if level >= collar and level < ANKLE - 0.6
    ]
    leg = [body.leg(side, level) for level in levels]
    loose = 0.5 if label == "boots" else 0.35
    if shaft and rng.random() < 0.4:
        loose += 0.7
    points = [p for p, _ in leg] + [blend(ankle, back, 0.5), mid, tip]
    widths = [2 * (w + loose) for _, w in leg] + [4.4 * grow, 4.3 * grow, toe_wide * 0.9]
    path = tube(points, widths, round_start=False, round_end=True)
    cut.add(path, z, axis=(points[0], points[-1]), part=side)
    if label == "boots":
        top, half = leg[0] if leg else (ankle, 2.0)
        cut.sketch.probe(
            cut.owner,
            "length",
            tube([top, body.leg(side, min(collar + 3.5, ANKLE))[0]], [2 * half + 1, 2 * half + 1], round_start=False),
            0.4,
        )
        cut.seam([(top[0] - half - 1, top[1] + 1), (top[0] + half + 1, top[1] + 1)], z + 0.1, path)
        for _ in range(2 + (collar < 80) * 2):
            (x, y), half = body.leg(side, rng.uniform(max(collar, 78), 91))
            cut.fold([(x - half, y), (x, y + 0.6), (x + half, y - 0.8)], z + 0.1, path, 0.9)
    _uppers(cut, side, z, path, ankle, mid, tip, style, sole)


def _uppers(
    cut: Cut, side: int, z: float, path: Path, ankle: Point, mid: Point, tip: Point, style: float, sole: Colour
) -> None:
    """Laces, straps, toe caps and stripes."""
    label, rng = cut.label, cut.rng
    second = cut.of("pattern") == "colour block"
    if label == "sneakers" or label == "lace-up shoes" or (label == "boots" and style < 0.35):
        ground = cut.fabric.colours[0]
        lace = (
            (235, 235, 232)
            if label == "sneakers" and sum(ground) < 600
            else shade(ground, 0.35 if sum(ground) < 200 else -0.5)
        )
        start = (ankle[0], ankle[1] - (5.0 if label == "boots" else 0.8))
        count = 6 if label == "boots" else 4
        for index in range(count):
            x, y = blend(start, blend(mid, tip, 0.15), index / count)
            line = outline([(x - 1.2, y + 0.25), (x + 1.2, y - 0.1)], closed=False)
            cut.sketch.mark(line, z + 0.2, lace, stroke=0.42, inside=path)
    if label == "sneakers":
        cap = ellipse(tip, 2.2, 1.2)
        cut.sketch.mark(
            cap, z + 0.15, sole if style < 0.4 else shade(cut.fabric.colours[0], 0.15), alpha=0.8, inside=path
        )
        if second:
            patch = ellipse((ankle[0], ankle[1] + 1.2), 2.4, 2.2)
            inner = skia.Op(path, patch, skia.PathOp.kIntersect_PathOp)
            cut.add(inner, z + 0.1, second=True, part=side, shadow=0)
            front = skia.Op(path, ellipse(tip, 2.6, 1.8), skia.PathOp.kIntersect_PathOp)
            cut.add(front, z + 0.16, second=True, part=side, shadow=0)
    elif second:
        front = skia.Op(path, ellipse(tip, 3.0, 2.4), skia.PathOp.kIntersect_PathOp)
        cut.add(front, z + 0.1, second=True, part=side, shadow=0)
    if label == "loafers":
        bar = blend(ankle, tip, 0.5)
        cut.sketch.mark(
            tube([(bar[0] - 2, bar[1]), (bar[0] + 2, bar[1])], [1.0, 1.0]), z + 0.2, cut.dark, alpha=0.7, inside=path
        )
        if style < 0.4:
            metal: Colour = rng.choice([(206, 170, 90), (190, 190, 194)])
            cut.sketch.mark(
                tube([(bar[0] - 1, bar[1]), (bar[0] + 1, bar[1])], [0.5, 0.5]), z + 0.25, metal, inside=path
            )
        cut.seam(
            [(bar[0] - 1.8, bar[1] + 0.8), (tip[0], tip[1] - 0.6), (bar[0] + 1.8, bar[1] + 0.8)],
            z + 0.2,
            path,
            alpha=0.6,
        )
    if label == "lace-up shoes":
        cut.seam(
            [(tip[0] - 2, tip[1] - 1.2), (tip[0], tip[1] - 1.6), (tip[0] + 2, tip[1] - 1.2)], z + 0.2, path, alpha=0.7
        )
    shine = ellipse((tip[0] - 0.6, tip[1] - 0.6), 0.9, 0.5)
    cut.sketch.mark(shine, z + 0.3, (255, 255, 255), blur=0.4, alpha=0.1 + 0.5 * cut.fabric.gloss, inside=path)


def _straps(cut: Cut, side: int, z: float, ankle: Point, toe: Point, tip: Point, style: float, wide: float) -> None:
    front, half = blend(ankle, toe, 0.75), wide / 2 + 0.2
    across = tube(
        [(front[0] - half, front[1] + 0.3), (front[0], front[1] - 0.4), (front[0] + half, front[1] + 0.3)],
        [1.2, 1.4, 1.2],
    )
    cut.add(across, z + 0.05, part=side, second=cut.of("pattern") == "colour block")
    if style < 0.65:
        ring = outline(
            [(ankle[0] - 1.9, ankle[1] - 0.2), (ankle[0], ankle[1] + 0.6), (ankle[0] + 1.9, ankle[1] - 0.2)],
            closed=False,
        )
        cut.add(ring, z + 0.06, stroke=0.9, part=side)
        cut.add(outline([(ankle[0], ankle[1] + 0.4), front], closed=False), z + 0.04, stroke=0.7, part=side)
    if style < 0.3:
        middle = blend(ankle, toe, 0.4)
        cut.add(
            outline([(middle[0] - 2, middle[1] + 0.6), (middle[0] + 2, middle[1])], closed=False),
            z + 0.05,
            stroke=0.9,
            part=side,
        )
    elif style > 0.65:
        second = blend(ankle, toe, 0.5)
        cut.add(
            tube([(second[0] - half, second[1] + 0.3), (second[0] + half, second[1] + 0.3)], [1.3, 1.3]),
            z + 0.05,
            part=side,
        )
    toe_end = polygon(
        [
            (tip[0] - 1.2, tip[1] - 0.2),
            (tip[0] + 1.2, tip[1] - 0.2),
            (tip[0] + 1.0, tip[1] + 0.5),
            (tip[0] - 1.0, tip[1] + 0.5),
        ]
    )
    cut.add(toe_end, z - 0.12, colour=cut.dark, part=side, shadow=0)
