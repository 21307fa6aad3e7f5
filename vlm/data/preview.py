"""`vlm data preview`: records on one sheet, with boxes, labels and texts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from tasks.base import ObjectLabel, Record
from vlm.data.records import read_records
from vlm.draw import PALETTE, draw_labels, text_panel
from vlm.images import open_image
from vlm.photos import save_image

__all__ = ["draw_record", "preview", "sheet"]

CELL_WIDTH = 520
CELL_HEIGHT = 760
COLUMNS = 4


def preview(path: str | os.PathLike[str], output: str | os.PathLike[str], num: int = 12) -> int:
    """Draw `num` records of a file or folder, spread over it by a hash of their ids; the number drawn.

    Raises:
        ValueError: a row or an image is broken, `num` is below 1, or `output` is no image file.
    """
    if num < 1:
        raise ValueError(f"num is {num}; expected at least 1 record")
    target = Path(output)
    if target.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ValueError(f"{target}: cannot write {target.suffix or 'a file without suffix'}; name it *.png or *.jpg")
    records = sorted(read_records(path), key=lambda record: hashlib.sha256(record.id.encode()).digest())[:num]
    if not records:
        raise ValueError(f"{path}: no records in it; write a row a photo")
    save_image(sheet(records), target)
    return len(records)


def sheet(records: Iterable[Record]) -> Image.Image:
    """The records in rows of COLUMNS."""
    cells = [draw_record(record) for record in records]
    columns = min(COLUMNS, len(cells))
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    page = Image.new("RGB", (columns * CELL_WIDTH, sum(heights)), "white")
    y = 0
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            page.paste(cell, (column * CELL_WIDTH, y))
        y += height
    return page


def draw_record(record: Record) -> Image.Image:
    """The photo with boxes above all that the record says, CELL_WIDTH wide.

    Raises:
        ValueError: the image cannot be read.
    """
    image = open_image(record.image)
    boxed = [item for item in record.objects if item.box is not None]
    labels = [(item.label, item.box) for item in boxed if item.box is not None]
    photo = draw_labels(image, labels, [item.parts for item in boxed])
    photo.thumbnail((CELL_WIDTH, CELL_HEIGHT))
    lines: list[tuple[str, tuple[int, int, int] | None]] = [(_heading(record), None)]
    lines += [(f"{caption.detail}: {caption.text}", None) for caption in record.captions]
    lines += [(_line(item), PALETTE[index % len(PALETTE)]) for index, item in enumerate(boxed)]
    lines += [(_line(item), None) for item in record.objects if item.box is None]
    lines += [(f"{qa.question} {qa.answer}", None) for qa in record.qa]
    text = text_panel(lines, width=CELL_WIDTH, size=14)
    cell = Image.new("RGB", (CELL_WIDTH, photo.height + text.height), "white")
    cell.paste(photo, ((CELL_WIDTH - photo.width) // 2, 0))
    cell.paste(text, (0, photo.height))
    return cell


def _heading(record: Record) -> str:
    complete = [
        name for name, value in (("objects", record.objects_complete), ("boxes", record.boxes_complete)) if value
    ]
    return f"{record.id} ({record.split}{', complete: ' + ' and '.join(complete) if complete else ''})"


def _line(item: ObjectLabel) -> str:
    told = "; ".join(f"{name} {', '.join(values)}" for name, values in item.attributes.items())
    words = [item.label if item.box is not None else f"{item.label} (no box)", told, ", ".join(item.phrases)]
    return ": ".join(word for word in words if word)
