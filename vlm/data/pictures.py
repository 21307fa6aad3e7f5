"""What a source of training gives: pictures with their records, by number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from PIL import Image

from tasks.base import Record
from vlm.images import open_image

__all__ = ["PhotoFiles", "Pictures"]


class Pictures(Sequence[tuple[Image.Image, Record]]):
    """Number -> (RGB image, its record), made when it is asked for. Item i is always the same, in any process that
    this is sent to.

    Attributes:
        records: of all pictures; where they are too many to hold, those of the first few, which a tokenizer is
            trained on.
        in_order: whether the order of the pictures is as good as any other, so that a pass needs no shuffling.
    """

    records: Sequence[Record]
    in_order: ClassVar[bool] = False

    def __len__(self) -> int:
        return len(self.records)

    def openable(self, index: int) -> Record:
        """The record, with an image that `vlm.images.open_image` opens."""
        return self.records[index]


class PhotoFiles(Pictures):
    """Records whose images are files."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.records = list(records)

    def __getitem__(self, index: int) -> tuple[Image.Image, Record]:  # type: ignore[override]
        record = self.records[index]
        return open_image(record.image), record
