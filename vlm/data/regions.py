"""What is known of regions of a picture, as classes: a second, direct lesson for the image layers in training.

The tasks teach the image layers only through the decoder, a word at a time, and from scratch on few photos that is
slow: after 1,800 steps without these labels a model still called every garment a t-shirt. Here every garment whose
place is known (its box, or the whole picture where it is alone) gives all of its labels at once.
"""

# I image tokens, A kinds of label

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from tasks.base import ObjectLabel, Record
from tasks.boxes import Box, ImageSize
from tasks.ontology import default_ontology
from tasks.readers.clothing import CLOTHING_CLASSES, CLOTHING_QUESTION
from vlm.data.maps import token_share

__all__ = ["UNKNOWN", "Region", "region_classes", "region_sizes", "regions_of"]

UNKNOWN = -100


@dataclass(frozen=True, kw_only=True)
class Region:
    """A part of a picture and what it shows.

    Attributes:
        weights: I floats that add up to 1: how much of the region lies in each image token.
        labels: A class indices in the order of `region_classes`, UNKNOWN where nothing is known.
    """

    weights: Tensor
    labels: Tensor


@lru_cache(maxsize=1)
def region_classes() -> Mapping[str, tuple[str, ...]]:
    """Kind of label -> its classes."""
    ontology = default_ontology()
    return {"garment": tuple(ontology.garments), "class": CLOTHING_CLASSES, **ontology.values}


def region_sizes() -> list[int]:
    """Number of classes of every kind, as `OneLookConfig.region_classes` wants them."""
    return [len(words) for words in region_classes().values()]


def regions_of(record: Record, grid: tuple[int, int]) -> list[Region]:
    """The regions of a record over a grid of (rows, columns) image tokens."""
    alone = len(record.objects) == 1
    whole = Box(0, 0, record.image_size[1], record.image_size[0])
    classes = [item.answer for item in record.qa if item.question == CLOTHING_QUESTION]
    found = []
    for item in record.objects:
        box = item.box or (whole if alone else None)
        if box is not None and box.area > 0:
            labels = _labels(item, classes[0] if alone and classes else None)
            found.append(Region(weights=_weights(box, record.image_size, grid), labels=labels))
    if not record.objects and classes:
        found.append(Region(weights=_weights(whole, record.image_size, grid), labels=_labels(None, classes[0])))
    return found


def _labels(item: ObjectLabel | None, clothing_class: str | None) -> Tensor:
    values = {} if item is None else {name: words[0] for name, words in item.attributes.items() if words}
    if item is not None:
        values["garment"] = item.label
    if clothing_class is not None:
        values["class"] = clothing_class
    return torch.tensor(
        [
            words.index(values[kind]) if values.get(kind) in words else UNKNOWN
            for kind, words in region_classes().items()
        ]
    )


def _weights(box: Box, image_size: ImageSize, grid: tuple[int, int]) -> Tensor:
    share = token_share(box, image_size, grid)
    return torch.from_numpy((share / share.sum()).astype(np.float32))
