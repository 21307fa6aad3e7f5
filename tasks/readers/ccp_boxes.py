"""Boxes of the ccp garments, out of the pixel masks: `python -m tasks.readers.ccp_boxes [DATA_ROOT]`.

Masks are slow to read and are never in the repository, so the boxes are derived once and kept beside our
annotations; `tasks.readers.ccp` reads only those.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from tasks.readers.ccp import BOXES
from tasks.readers.raw import annotations_root, data_root, read_rows

__all__ = ["derive_boxes", "item_boxes", "regions"]

SPECK_OF_IMAGE = 0.0005
"""Regions below this share of the image are specks of a careless outline ..."""
SPECK_OF_LARGEST = 0.05
"""... and so are those below this share of the label's largest region."""
KEPT_OF_SMALL = 0.25
"""An earring is smaller than a speck: where the largest region is small itself, this share of it is enough."""

Region = tuple[int, int, int, int]


def regions(mask: NDArray[np.bool_]) -> list[tuple[int, Region]]:
    """(pixels, x1 y1 x2 y2) of the connected regions of an HxW mask, largest first, without specks."""
    numbered, count = ndimage.label(mask, structure=np.ones((3, 3), dtype=int))
    if not count:
        return []
    sizes = np.bincount(numbered.ravel())[1:]
    largest = int(sizes.max())
    least = max(SPECK_OF_LARGEST * largest, min(SPECK_OF_IMAGE * mask.size, KEPT_OF_SMALL * largest))
    found = []
    for size, (rows, columns) in zip(sizes, ndimage.find_objects(numbered), strict=True):
        if size >= least:
            # The box ends after its last pixel.
            found.append((int(size), (columns.start, rows.start, columns.stop, rows.stop)))
    return sorted(found, key=lambda region: (-region[0], region[1]))


def item_boxes(
    label_map: NDArray[np.uint8], items: Sequence[Mapping[str, Any]], labels: Sequence[str]
) -> list[tuple[Region | None, list[Region]]]:
    """(box, parts) of each item, joined by `src`; (None, []) where the mask has nothing for it.

    All regions of a label are one garment: a pair of shoes, or a coat that an arm divides. Where several items
    share a label, each gets one region, the largest the first.
    """
    found: list[tuple[Region | None, list[Region]]] = []
    sources = [item["src"] for item in items]
    for index, source in enumerate(sources):
        parts = [] if source is None else [box for _, box in regions(label_map == labels.index(source))]
        if source is not None and sources.count(source) > 1:
            nth = sources[:index].count(source)
            parts = parts[nth : nth + 1]
        found.append((_union(parts), parts))
    return found


def _union(boxes: Sequence[Region]) -> Region | None:
    if not boxes:
        return None
    x1, y1, x2, y2 = zip(*boxes, strict=True)
    return (min(x1), min(y1), max(x2), max(y2))


def derive_boxes(root: Path | None = None, annotations: Path | None = None) -> Iterator[dict[str, Any]]:
    """One row for each masked photo: {"id", "items": [{"item", "src", "box", "parts"}]}, in the order of `items`."""
    source = data_root(root) / "ccp"
    ours = annotations_root(annotations) / "ccp"
    labels = (ours / "labels.txt").read_text(encoding="utf-8").split()
    masked = {row["id"] for _, row in read_rows(ours / "index.jsonl") if row["mask"]}
    for _, row in read_rows(ours / "annotations.jsonl"):
        if row["id"] not in masked:
            continue
        with Image.open(source / "masks" / f"{row['id']}.png") as image:
            boxes = item_boxes(np.asarray(image), row["items"], labels)
        yield {
            "id": row["id"],
            "items": [
                {"item": item["item"], "src": item["src"], "box": box, "parts": parts}
                for item, (box, parts) in zip(row["items"], boxes, strict=True)
            ],
        }


def main(arguments: Sequence[str]) -> None:
    target = annotations_root(None) / BOXES
    part = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    rows = derive_boxes(Path(arguments[0]) if arguments else None)
    part.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    os.replace(part, target)
    print(target)


if __name__ == "__main__":
    main(sys.argv[1:])
