"""Necklines and what stands around them: collars, lapels, hoods."""

from __future__ import annotations

from dataclasses import dataclass

from vlm.synthetic.body import ARMPIT, SHOULDER
from vlm.synthetic.cut import Cut, shade
from vlm.synthetic.paths import Path, Point, ellipse, outline, polygon, tube

__all__ = ["Neck", "draw_neck", "neck_of"]


@dataclass(frozen=True, kw_only=True)
class Neck:
    """A neckline.

    Attributes:
        curve: the cloth's edge from image left to image right.
        width: half width at the shoulders, in units.
        depth: level of its lowest point.
        bare: it leaves the shoulders bare.
    """

    curve: list[Point]
    width: float
    depth: float
    bare: bool = False


def neck_of(cut: Cut, ease: float) -> Neck:
    """The neckline of a garment."""
    body, kind = cut.body, cut.of("neckline")
    top = SHOULDER - 2.1
    strap = cut.of("sleeve") == "strapless"
    if kind == "off-shoulder" or strap:
        level = cut.within(24.0, 25.5) if strap else cut.within(21.3, 23.6)
        reach = body.half(ARMPIT) + 0.4 if strap else body.build.shoulder + 1.2
        dip = cut.within(0.2, 1.6)
        curve = [body.trunk(u * reach, level + dip * (1 - u * u)) for u in (-1, -0.5, 0, 0.5, 1)]
        return Neck(curve=curve, width=reach, depth=level + dip, bare=True)
    if kind == "halter":
        low = cut.within(20.5, 24)
        curve = [(-2.3, SHOULDER - 3.2), (-1.6, low - 2), (0, low), (1.6, low - 2), (2.3, SHOULDER - 3.2)]
        return Neck(curve=[body.trunk(u, v) for u, v in curve], width=2.3, depth=low, bare=True)
    if kind in ("v-neck", "lapel"):
        wide = cut.within(3.0, 3.9)
        low = cut.within(24.5, 30) if kind == "v-neck" else cut.within(28, 36)
        if kind == "v-neck" and cut.slot in ("outer", "mid"):
            low = cut.within(27, 34)
        if cut.of("closure") == "wrapped":
            low = cut.within(26, 31)
        points = [(-wide, top), (-wide * 0.72, top + 2.4), (0, low), (wide * 0.72, top + 2.4), (wide, top)]
        if kind == "v-neck":
            points = [
                (-wide, top),
                (-wide * 0.55, (top + low) / 2),
                (0, low),
                (wide * 0.55, (top + low) / 2),
                (wide, top),
            ]
    elif kind == "square":
        wide, low = cut.within(4.6, 6.0), cut.within(23, 26)
        points = [(-wide, top + 0.9), (-wide * 0.97, low), (0, low + 0.1), (wide * 0.97, low), (wide, top + 0.9)]
    elif kind in ("scoop", "cowl"):
        wide, low = cut.within(4.2, 5.8), cut.within(22.8, 26.5)
        points = [(-wide, top + 0.4), (-wide * 0.8, low - 2.2), (0, low), (wide * 0.8, low - 2.2), (wide, top + 0.4)]
    elif kind == "turtleneck":
        wide, low = 2.9, SHOULDER - 0.6
        points = [(-wide, top), (-wide * 0.7, low), (0, low + 0.4), (wide * 0.7, low), (wide, top)]
    else:  # crew, collared, hooded
        wide = cut.within(2.9, 3.7)
        low = SHOULDER + (cut.within(-0.3, 1.2) if kind == "crew" else cut.within(0.2, 3.6))
        points = [
            (-wide, top),
            (-wide * 0.72, (top + low * 2) / 3),
            (0, low),
            (wide * 0.72, (top + low * 2) / 3),
            (wide, top),
        ]
    return Neck(curve=[body.trunk(u, v) for u, v in points], width=wide, depth=low)


def draw_neck(cut: Cut, neck: Neck, z: float, inside: Path, hem: float) -> None:
    """Collar, lapels, hood or edge, and where the neckline shows."""
    body, kind, rng = cut.body, cut.of("neckline"), cut.rng
    curve = neck.curve
    collar_z = max(z, 22.0) + 0.6
    if z > 40:
        collar_z = z + 0.4
    top = SHOULDER - 2.4
    second = cut.of("pattern") == "colour block" and rng.random() < 0.3
    if cut.flat and kind not in ("halter", "off-shoulder") and not neck.bare:
        # The inside of the back, which a wearer's neck would hide.
        back = outline(curve, [curve[-1], body.trunk(0, SHOULDER - 1.2), curve[0]])
        cut.add(back, z - 0.5, colour=shade(cut.fabric.colours[0], -0.35), plain=True, shadow=0.0)
    band = [*((x, y - 1.0) for x, y in curve), *((x, y + 1.7) for x, y in curve[::-1])]
    if kind in ("crew", "scoop", "v-neck", "square"):
        cut.spot("neckline", band, 0.55, own=False, skin=True)
        if cut.of("closure") != "open":
            cut.seam([(x * 1.0, y + 0.9) for x, y in curve], z + 0.3, inside, width=0.4, alpha=0.5)
        return
    if kind in ("off-shoulder", "halter"):
        cut.spot("neckline", band, 0.5, own=False, skin=True)
        cut.seam([(x, y + 0.8) for x, y in curve], z + 0.3, inside, width=0.4)
        return
    if kind == "cowl":
        for step in range(4):
            drop = 1.2 + step * 1.7
            arc = [
                curve[0],
                (curve[1][0], curve[1][1] + drop),
                (curve[2][0], curve[2][1] + drop * 1.3),
                (curve[3][0], curve[3][1] + drop),
                curve[4],
            ]
            cut.fold(arc, z + 0.3, inside, 1.6)
        cut.spot("neckline", band, 0.5, own=False, skin=True)
        return
    if kind == "turtleneck":
        (x, y), (_, ry) = body.head, body.head_radius
        high = y + ry * cut.within(0.72, 0.95)
        wide = cut.within(2.5, 3.2) + (0.8 if cut.slot == "outer" else 0.0)
        low = body.trunk(0, SHOULDER - 0.2)
        path = tube(
            [(body.neck[0], high), body.neck, low], [2 * wide * 0.94, 2 * wide, 2 * wide * 1.15], round_start=False
        )
        cut.add(path, collar_z, axis=((x, high), low), second=second)
        cut.seam(
            [
                (low[0] - wide, (high + low[1]) / 2),
                (low[0], (high + low[1]) / 2 + 0.6),
                (low[0] + wide, (high + low[1]) / 2),
            ],
            collar_z + 0.1,
            path,
        )
        cut.sketch.probe(cut.owner, "neckline", path, 0.4)
        return
    if kind == "collared":
        spread = cut.within(0.9, 2.0) + (0.9 if cut.slot == "outer" else 0.0)
        for sign in (-1, 1):
            flap = [(sign * neck.width * 0.75, top - 0.9), (sign * (neck.width + 1.0), top + 0.9),
                    (sign * (neck.width * 0.55 + spread), SHOULDER + 2.2 + spread), (sign * 0.15,
                    neck.depth)]  # fmt: skip
            path = outline([body.trunk(*flap[0]), body.trunk(*flap[1])], [body.trunk(*flap[2])], [body.trunk(*flap[3])])
            cut.add(path, collar_z + 0.01 * sign, axis=None, angle=sign * 30, second=second, shadow=0.5)
            cut.sketch.probe(cut.owner, "neckline", path, 0.4)
        if cut.flat:
            stand = tube(
                [body.trunk(-neck.width, top), body.trunk(0, top - 0.8), body.trunk(neck.width, top)], [1.6, 1.9, 1.6]
            )
            cut.add(stand, z - 0.4, shadow=0.0)
        return
    if kind == "lapel":
        end = neck.depth
        for sign in (-1, 1):
            wide = cut.within(2.6, 4.2)
            gap = cut.within(0.8, 2.0) if cut.of("closure") == "open" else 0.2
            points = [(sign * neck.width * 0.72, top - 0.6), (sign * (neck.width + 1.2), top + 1.0),
                (sign * (neck.width + wide * 0.7), top + 6.0),
                      (sign * (neck.width + wide * 0.3), top + 6.6), (sign * (neck.width + wide),
                      top + 7.6)]  # fmt: skip
            placed = [body.trunk(*point) for point in points]
            tip = body.trunk(sign * gap, end)
            edge = body.trunk(sign * neck.width * 0.55, (top + end) / 2)
            path = outline(placed[:2], placed[2:], [placed[-1], tip], [tip, edge, placed[0]])
            cut.add(path, collar_z + 0.01 * sign, angle=sign * 12, second=second, shadow=0.6)
            cut.seam([placed[3], body.trunk(sign * neck.width * 0.6, top + 4.5)], collar_z + 0.1, path)
            cut.sketch.probe(cut.owner, "neckline", path, 0.35)
        return
    hood_z = 7.0 if not cut.flat else z - 0.3
    centre = body.trunk(0, SHOULDER - 3.2)
    hood = ellipse((centre[0], centre[1] - (1.5 if cut.flat else 0)), cut.within(6.0, 7.2), cut.within(4.2, 5.2))
    cut.add(hood, hood_z, colour=None, axis=(centre, (centre[0], centre[1] + 8)))
    cut.sketch.mark(
        ellipse((centre[0], centre[1] - 0.6), 3.9, 2.8),
        hood_z + 0.1,
        shade(cut.fabric.colours[0], -0.6),
        blur=0.8,
        alpha=0.8,
        inside=hood,
    )
    for sign in (-1, 1):
        rim = tube([body.trunk(sign * 4.6, top - 1.4), body.trunk(sign * 3.6, SHOULDER + 1.4),
            body.trunk(sign * 0.4, neck.depth + 1.6)],
                   [3.4, 3.0, 1.2], round_start=True)  # fmt: skip
        cut.add(rim, collar_z, second=second, shadow=0.5)
        cut.sketch.probe(cut.owner, "neckline", rim, 0.35)
        if cut.label in ("hoodie", "sweatshirt", "jacket") and rng.random() < 0.7:
            cord = polygon(
                [
                    body.trunk(sign * 1.6, SHOULDER + 3),
                    body.trunk(sign * 1.3, SHOULDER + 3),
                    body.trunk(sign * 1.5, SHOULDER + 10),
                    body.trunk(sign * 1.9, SHOULDER + 10),
                ]
            )
            light = shade(cut.fabric.colours[0], 0.6 if sum(cut.fabric.colours[0]) < 380 else -0.5)
            cut.sketch.mark(cord, collar_z + 0.2, light)
