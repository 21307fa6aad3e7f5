"""Pieces: what a picture is built from, in painter's order, and who each of them belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from vlm.synthetic.paths import Path, Point

__all__ = ["HAIR", "OTHER", "SKIN", "Colour", "Piece", "Probe", "Sketch"]

Colour = tuple[int, int, int]
SKIN, HAIR, OTHER = 250, 251, 252
"""Owners that are no garments; garments are 1, 2, ..."""


# Not frozen, which would take three times as long to make, over a hundred times a picture.
@dataclass(kw_only=True, slots=True, eq=False)
class Piece:
    """A painted shape. Nobody changes it.

    Attributes:
        owner: whose pixels they are in the id mask, or 0 for marks that change no ownership.
        colour: None paints the owner's cloth.
        second: paints the owner's second colour instead of its first.
        angle: degrees that the cloth's pattern is turned.
        axis: across this line light goes from one side to the other; None for flat light.
        stroke: width of a line; 0 fills the path.
        blur: softness of the edge, in units.
        inside: painted only inside this path.
        alpha: of the paint; ownership knows no alpha.
        shadow: how dark a shadow it throws on what lies below, 0..1.
        plain: without the garment's texture and folds (skin).
        part: 1 for the second of a pair (the shoe on image right).
    """

    path: Path
    z: float
    owner: int
    colour: Colour | None = None
    second: bool = False
    angle: float = 0.0
    axis: tuple[Point, Point] | None = None
    stroke: float = 0.0
    blur: float = 0.0
    inside: Path | None = None
    alpha: float = 1.0
    shadow: float = 0.3
    plain: bool = False
    part: int = 0


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Where an attribute of a garment shows.

    Attributes:
        path: the place. Only what the garment shows there counts as seen; with `skin`, also the bare body and the bare
            background.
        share: how much of the place must be seen.
        own: the place is cut down to the garment's own shape first.
    """

    owner: int
    attribute: str
    path: Path
    share: float
    own: bool = True
    skin: bool = False


@dataclass
class Sketch:
    """Pieces and probes as they come.

    Attributes:
        reach: units between the body and the outermost cloth so far; what goes over it must be wider.
    """

    pieces: list[Piece] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    reach: float = 0.0

    def add(self, path: Path, z: float, owner: int, **look: object) -> None:
        self.pieces.append(Piece(path=path, z=z, owner=owner, **look))  # type: ignore[arg-type]

    def mark(self, path: Path, z: float, colour: Colour, **look: object) -> None:
        """Paint that belongs to whatever lies below."""
        self.pieces.append(Piece(path=path, z=z, owner=0, colour=colour, **look))  # type: ignore[arg-type]

    def probe(
        self, owner: int, attribute: str, path: Path, share: float, *, own: bool = True, skin: bool = False
    ) -> None:
        self.probes.append(Probe(owner=owner, attribute=attribute, path=path, share=share, own=own, skin=skin))

    def ordered(self) -> Sequence[Piece]:
        return sorted(self.pieces, key=lambda piece: piece.z)
