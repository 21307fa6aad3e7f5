"""Wardrobe pictures that are drawn when training asks for them: no folder, and no end of them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from PIL import Image

from tasks.base import Record
from vlm.data.pictures import Pictures

__all__ = ["DrawnPictures"]

NUM_TEXTS = 400
"""Pictures whose texts a tokenizer is trained on: after some hundreds the wardrobe has used its words."""

Cell = Mapping[str, str | int]


class DrawnPictures(Pictures):
    """Item i is what the wardrobe draws for (seed, i), for training: without combinations that are kept for tests.

    The pictures are as `draw` gives them, lens and JPEG included; `python -m vlm.synthetic.wardrobe` encodes them once
    more to write them.

    Args:
        num: pictures a pass.
        seed: of the wardrobe; the run's own seed changes nothing.
        size: pixels of the longer side.
        plan: cells (see `wardrobe_scene.draw_scene`), taken in turn: picture i draws cell i modulo their number.

    Raises:
        ValueError: skia-python is missing, or a cell cannot be drawn or is kept for tests.
    """

    in_order = True  # neighbours have nothing in common but the plan's rounds, which should stay even

    def __init__(self, num: int, *, seed: int = 0, size: int = 256, plan: Sequence[Cell] | None = None) -> None:
        try:
            import vlm.synthetic.drawing  # noqa: F401  # here, and not first in a worker in the middle of a run
        except ImportError as error:
            raise ValueError(
                f"the reader wardrobe cannot draw: {error}; it needs the extra `synthetic`, or name a folder of "
                "pictures that are drawn already, with the reader jsonl"
            ) from error
        self.num, self.seed, self.size = num, seed, size
        self.plan = tuple(dict(cell) for cell in plan or ())
        _check(self.plan)
        self.records = _Texts(self)

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> tuple[Image.Image, Record]:  # type: ignore[override]
        from vlm.synthetic.drawing import draw  # needs skia-python, which only drawing does

        if not 0 <= index < self.num:
            raise IndexError(f"picture {index} of {self.num}")
        cell = self.plan[index % len(self.plan)] if self.plan else None
        picture = draw(self.seed, index, size=self.size, cell=cell)
        return picture.image, picture.record


class _Texts(Sequence[Record]):
    """Records of the first pictures, drawn only if they are asked for: a run that has a tokenizer never does."""

    def __init__(self, pictures: DrawnPictures) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return min(len(self.pictures), NUM_TEXTS)

    def __getitem__(self, index: int) -> Record:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        return self.pictures[index][1]


def _check(plan: Sequence[Cell]) -> None:
    """Each cell once, before the first step: a worker would meet a bad one hours later."""
    from vlm.synthetic.held_out import is_held_out
    from vlm.synthetic.wardrobe_scene import draw_scene

    for cell in {tuple(sorted(cell.items())): cell for cell in plan}.values():
        draw_scene(random.Random(0), cell)
        attributes = {name: (str(cell[name]),) for name in ("pattern", "colour") if name in cell}
        if is_held_out(str(cell.get("garment")), attributes):
            raise ValueError(
                f"the plan asks for {dict(cell)}, which is kept for tests (configs/coverage/held_out.yaml); drop it"
            )
