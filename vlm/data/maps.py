"""Where every garment is, as a map over the image tokens: a dense lesson for the image layers in training.

Boxes reach the image layers only as four tokens at the end of the decoder. Here every token is told which garments'
boxes it lies in; where a garment is known to be there but not where, some token at least should show it.
"""

# I image tokens, G garments of the ontology

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from tasks.base import Record
from tasks.boxes import Box, ImageSize
from tasks.ontology import default_ontology

__all__ = ["GarmentMap", "garment_map", "token_share"]


@dataclass(frozen=True, kw_only=True)
class GarmentMap:
    """What each image token should and should not show.

    Attributes:
        inside_IG, outside_IG: weights of the two sides of a garment's loss, each adding up to 1 over the tokens (so
            that an earring counts as much as a coat), or all 0 where that side is unknown.
        somewhere_G: 1 where the garment is worn but its place is not known.
    """

    inside_IG: Tensor
    outside_IG: Tensor
    somewhere_G: Tensor


@lru_cache(maxsize=1)
def _index() -> Mapping[str, int]:
    return {name: index for index, name in enumerate(default_ontology().garments)}


def garment_map(record: Record, grid: tuple[int, int]) -> GarmentMap:
    """The map of a record over a grid of (rows, columns) image tokens."""
    rows, columns = grid
    tokens, garments = rows * columns, len(_index())
    inside = np.zeros((tokens, garments), dtype=np.float32)
    outside = np.zeros_like(inside)
    somewhere = np.zeros(garments, dtype=np.float32)
    if record.objects_complete:
        outside[:] = 1 / tokens
    for name in {item.label for item in record.objects}:
        boxes = [item.box for item in record.objects if item.label == name]
        index = _index()[name]
        outside[:, index] = 0
        if any(box is None or box.area <= 0 for box in boxes):
            somewhere[index] = 1
            continue
        share = np.max([token_share(box, record.image_size, grid) for box in boxes if box is not None], axis=0)
        inside[:, index] = share / share.sum()
        # A box as large as the picture leaves nothing but rounding outside.
        if (rest := np.clip(1 - share - 1e-6, 0, None)).sum() > 0:
            outside[:, index] = rest / rest.sum()
    return GarmentMap(
        inside_IG=torch.from_numpy(inside),
        outside_IG=torch.from_numpy(outside),
        somewhere_G=torch.from_numpy(somewhere),
    )


def token_share(box: Box, image_size: ImageSize, grid: tuple[int, int]) -> np.ndarray:
    """I shares: how much of each token lies in the box."""
    height, width = image_size
    down = _overlaps(box.y1 / height, box.y2 / height, grid[0]) * grid[0]
    across = _overlaps(box.x1 / width, box.x2 / width, grid[1]) * grid[1]
    return np.clip(np.outer(down, across), 0, 1).ravel()


def _overlaps(start: float, end: float, cells: int) -> np.ndarray:
    """Length of [start, end] inside each of the cells that divide [0, 1]."""
    edges = np.linspace(0.0, 1.0, cells + 1)
    return np.clip(np.minimum(end, edges[1:]) - np.maximum(start, edges[:-1]), 1e-9, None)
