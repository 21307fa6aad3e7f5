"""The wardrobe's test: 2,000 pictures that no training sees, in three parts.

- general: 1,000 pictures as training has them, of another seed.
- unseen: 500 people, each in a combination of garment, pattern and colour that no training picture shows.
- matched: 500 people in the same garments and patterns, in colours that training may have shown.

What is lost from matched to unseen is what a combination's being new costs: the same garments, patterns, poses and
places, asked about in the same way, and asked about that one garment only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from vlm.synthetic.held_out import Combination, held_out
from vlm.synthetic.recolour import PAINTS
from vlm.synthetic.wardrobe import Cell, write_wardrobe

__all__ = ["PARTS", "SEED", "write_part"]

SEED = 900_001
"""Of no training: those count from 0."""
PARTS = {"general": 1000, "unseen": 500, "matched": 500}


def write_part(folder: str | os.PathLike[str], *, num: int | None = None, size: int = 256, processes: int = 2) -> int:
    """Draw the part that the folder is named for; pictures that are there are kept. The number newly drawn.

    Args:
        num: pictures; None for the part's own number.
        size: pixels of the longer side.

    Raises:
        ValueError: the folder is not named for a part.
        ImportError: the extra `synthetic` is not installed.
    """
    part = Path(folder).name
    if part not in PARTS:
        raise ValueError(f"{folder}: is no part of the wardrobe's test; name the folder {', '.join(PARTS)}")
    pairs = _pairs()
    cells: list[Cell] = [
        {"kind": "person", "garment": garment, "pattern": pattern, "colour": {"unseen": colour, "matched": other}[part]}
        for (garment, pattern, colour), other in (pairs if part != "general" else ())
    ]
    return write_wardrobe(
        folder,
        seed=SEED if part == "general" else SEED + 1,
        num=num or PARTS[part],
        size=size,
        plan=cells,
        processes=processes,
        split="validation",
        held_out=part == "unseen",
        target_only=part != "general",
    )


def _pairs() -> Iterator[tuple[Combination, str]]:
    """Each combination that is kept for tests, with a colour in which the same garment and pattern are not."""
    for place, (garment, pattern, colour) in enumerate(sorted(held_out())):
        allowed = [name for name in PAINTS if (garment, pattern, name) not in held_out()]
        if allowed:
            yield (garment, pattern, colour), allowed[place % len(allowed)]
