"""How a garment is cut: its place on a body, and the marks that all garments share."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from vlm.synthetic.body import Body
from vlm.synthetic.fabric import Fabric
from vlm.synthetic.paths import Path, Point, circle, outline, polygon
from vlm.synthetic.pieces import Colour, Sketch

__all__ = ["Cut", "shade"]


def shade(colour: Colour, by: float) -> Colour:
    """Lighter (above 0) or darker."""
    goal = 255 if by > 0 else 0
    return tuple(round(c + (goal - c) * abs(by)) for c in colour)  # type: ignore[return-value]


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A garment about to be drawn.

    Attributes:
        owner: its number in the id mask.
        flat: laid out, on a hanger or without a wearer.
        clothed: labels of all that is worn.
        covered: something is worn over it, under which it has no room for puffed sleeves.
    """

    sketch: Sketch
    body: Body
    fabric: Fabric
    owner: int
    rng: random.Random
    flat: bool = False
    clothed: frozenset[str] = frozenset()
    covered: bool = False

    @property
    def label(self) -> str:
        return self.fabric.worn.label

    @property
    def slot(self) -> str:
        return self.fabric.worn.slot

    def of(self, name: str) -> str:
        return self.fabric.worn.attributes.get(name, ("",))[0]

    def within(self, low: float, high: float) -> float:
        return self.rng.uniform(low, high)

    @property
    def dark(self) -> Colour:
        return shade(self.fabric.colours[0], -0.5)

    @property
    def trim(self) -> Colour:
        """For buttons, zips and seams."""
        return self.fabric.colours[1]

    def add(self, path: Path, z: float, **look: object) -> Path:
        self.sketch.add(path, z, self.owner, **look)
        return path

    def seam(
        self, points: Sequence[Point], z: float, inside: Path | None, *, width: float = 0.35, alpha: float = 0.45
    ) -> None:
        """A dark line with its light edge: where cloth is sewn, folded or ends."""
        path = outline(points, closed=False)
        self.sketch.mark(
            path, z, shade(self.fabric.colours[0], -0.65), stroke=width, blur=0.12, alpha=alpha, inside=inside
        )
        lit = outline([(x + 0.3, y + 0.3) for x, y in points], closed=False)
        light = shade(self.fabric.colours[0], 0.5)
        self.sketch.mark(lit, z, light, stroke=width * 0.8, blur=0.2, alpha=alpha * 0.4, inside=inside)

    def stitch(self, points: Sequence[Point], z: float, inside: Path, colour: Colour) -> None:
        self.sketch.mark(outline(points, closed=False), z, colour, stroke=0.28, alpha=0.6, inside=inside)

    def fold(self, points: Sequence[Point], z: float, inside: Path, strength: float = 1.0) -> None:
        """A soft valley and its ridge."""
        path = outline(points, closed=False)
        wide = self.within(0.8, 2.2)
        self.sketch.mark(
            path, z, (0, 0, 0), stroke=wide, blur=wide * 0.55, alpha=min(0.5, 0.26 * strength), inside=inside
        )
        off = wide * 0.9
        ridge = outline([(x - off, y - off * 0.4) for x, y in points], closed=False)
        light = 0.05 + 0.16 * strength
        self.sketch.mark(
            ridge, z, (255, 255, 255), stroke=wide * 0.7, blur=wide * 0.5, alpha=min(0.3, light * 0.6), inside=inside
        )

    def buttons(self, points: Sequence[Point], z: float, inside: Path | None, radius: float = 0.55) -> None:
        ground = self.fabric.colours[0]
        other = self.trim if self.trim != ground else shade(ground, -0.55 if sum(ground) > 300 else 0.55)
        for x, y in points:
            self.sketch.mark(
                circle((x + 0.15, y + 0.2), radius * 1.1), z, (0, 0, 0), blur=0.2, alpha=0.35, inside=inside
            )
            self.sketch.mark(circle((x, y), radius), z, other, inside=inside)

    def zip(self, points: Sequence[Point], z: float, inside: Path | None) -> None:
        path = outline(points, closed=False)
        self.sketch.mark(path, z, shade(self.fabric.colours[0], -0.6), stroke=1.5, alpha=0.55, inside=inside)
        metal = self.rng.choice([(190, 190, 195), (200, 170, 100), (60, 60, 64), (150, 150, 152)])
        self.sketch.mark(path, z, metal, stroke=0.65, inside=inside)

    def spot(
        self, attribute: str, points: Sequence[Point], share: float, *, own: bool = True, skin: bool = False
    ) -> None:
        """A place where an attribute shows, as a polygon."""
        self.sketch.probe(self.owner, attribute, polygon(points), share, own=own, skin=skin)
