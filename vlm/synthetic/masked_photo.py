"""ccp's training photos with their masks, decoded once and kept small in memory."""

# H height, W width

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tasks.base import ObjectLabel, Record
from tasks.boxes import Box
from tasks.ontology import default_ontology
from tasks.readers import ccp
from tasks.readers.ccp_boxes import item_boxes
from tasks.readers.raw import annotations_root, data_root, read_rows

__all__ = ["MaskedPhoto", "boxed", "masked_photos", "open_masked", "photo_labels"]

BACKGROUND = "null"
_CLOTHES = ("upper", "whole", "lower")
_LEAST_SHARE = 0.001
"""A jacket of fewer pixels than this share of the photo is a slip of the mask's author, not a jacket."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskedPhoto:
    """A photo, its label map and what is known of it.

    Attributes:
        record: boxes, sizes and texts belong to `pixels`.
        pixels: HxWx3 bytes.
        label_map: HxW indices into `labels`; 0 is background.
        sources: for every object of the record the label of its region; None where the mask does not have it.
        labels: names of the label map's values.

    Raises:
        ValueError: the parts do not fit together.
    """

    record: Record
    pixels: NDArray[np.uint8]
    label_map: NDArray[np.uint8]
    sources: tuple[str | None, ...]
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.pixels.shape[:2] != self.label_map.shape or self.record.image_size != self.label_map.shape:
            raise ValueError(
                f"photo {self.record.id}: pixels are {self.pixels.shape[:2]}, the mask {self.label_map.shape} and the "
                f"record {self.record.image_size}; expected the same height and width"
            )
        if len(self.sources) != len(self.record.objects):
            raise ValueError(
                f"photo {self.record.id}: {len(self.sources)} sources for {len(self.record.objects)} objects; "
                "give one for each, None where the mask has nothing"
            )
        unknown = [source for source in self.sources if source is not None and source not in self.labels]
        if unknown:
            raise ValueError(f"photo {self.record.id}: unknown mask label {unknown[0]!r}; add it to `labels`")

    @cached_property
    def person(self) -> NDArray[np.bool_]:
        """HxW, everything that is not background."""
        return np.asarray(self.label_map != 0)

    def region(self, index: int) -> NDArray[np.bool_]:
        """HxW, the mask label of the object at `index`; empty where there is none."""
        source = self.sources[index]
        if source is None:
            return np.zeros(self.label_map.shape, dtype=bool)
        return np.asarray(self.label_map == self.labels.index(source))


def boxed(
    objects: Sequence[ObjectLabel],
    sources: Sequence[str | None],
    label_map: NDArray[np.uint8],
    labels: Sequence[str],
) -> list[ObjectLabel]:
    """The objects with box and parts as the label map has them now; None and () where it has nothing."""
    found = item_boxes(label_map, [{"src": source} for source in sources], labels)
    return [
        replace(
            item,
            box=None if box is None else Box(*box),
            parts=tuple(Box(*part) for part in parts) if len(parts) > 1 else (),
        )
        for item, (box, parts) in zip(objects, found, strict=True)
    ]


def photo_labels(annotations: Path | None = None) -> tuple[str, ...]:
    """Names of the values of ccp's masks."""
    return tuple((annotations_root(annotations) / "ccp" / "labels.txt").read_text(encoding="utf-8").split())


def masked_photos(
    root: Path | None = None, *, split: str = "train", size: int | None = None, annotations: Path | None = None
) -> list[tuple[Record, tuple[str | None, ...], Path]]:
    """(record, sources, mask file) of the split's photos with masks, in the order of the annotations.

    Raises:
        FileNotFoundError: photos, masks or annotations are not where they are expected.
    """
    ours = annotations_root(annotations) / "ccp"
    folder = data_root(root) / "ccp" / "masks"
    with_mask = {row["id"] for _, row in read_rows(ours / "index.jsonl") if row["mask"]}
    sources = {
        row["id"]: tuple(item["src"] for item in row["items"]) for _, row in read_rows(ours / "annotations.jsonl")
    }
    found = []
    for record in ccp.read(root, annotations):
        if record.split != split or record.id not in with_mask:
            continue
        path = folder / f"{record.id}.png"
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: no such file; expected ccp's masks there. Set VLM_DATA to the data's folder"
            )
        # Where the reader does not trust a region, nobody should.
        known = zip(sources[record.id], record.objects, strict=True)
        found.append((record, tuple(source if item.box is not None else None for source, item in known), path))
    return found


def open_masked(
    record: Record, sources: Sequence[str | None], mask: Path, labels: tuple[str, ...], size: int | None = None
) -> MaskedPhoto:
    """The photo, its longer side reduced to `size` pixels; boxes come from the reduced mask.

    Regions that are too small to be the garment they are called lose their box.
    """
    with Image.open(record.image) as image, Image.open(mask) as label_image:
        picture = image.convert("RGB")
        label_map = label_image.copy()
    if size is not None and size < max(picture.size):
        factor = size / max(picture.size)
        wanted = (max(1, math.floor(picture.width * factor + 0.5)), max(1, math.floor(picture.height * factor + 0.5)))
        picture = picture.resize(wanted, Image.Resampling.LANCZOS)
        label_map = label_map.resize(wanted, Image.Resampling.NEAREST)
    values = np.asarray(label_map)
    areas = np.bincount(values.ravel(), minlength=len(labels))
    ontology = default_ontology()
    kept = tuple(
        None
        if source is not None
        and ontology.kind_of(item.label) in _CLOTHES
        and areas[labels.index(source)] < _LEAST_SHARE * values.size
        else source
        for source, item in zip(sources, record.objects, strict=True)
    )
    objects = tuple(boxed(record.objects, kept, values, labels))
    small = replace(
        record,
        image_size=values.shape,
        objects=objects,
        boxes_complete=bool(objects) and all(item.box is not None for item in objects),
    )
    return MaskedPhoto(record=small, pixels=np.asarray(picture), label_map=values, sources=kept, labels=labels)
