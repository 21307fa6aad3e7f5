"""What training asks of a collated batch (see `vlm.data.mixture.PackingCollator`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["count", "num_prompts", "record_names", "split_groups", "to_device"]


def num_prompts(batch: dict[str, Any]) -> int:
    return int(batch["segment_ids"].amax(1).clamp(min=0).sum())


def count(batch: dict[str, Any], stride: int) -> dict[str, int]:
    """Images, prompts, tokens without padding, and positions with it.

    Args:
        stride: pixels of an image token's side.
    """
    tokens = [
        (len(group), (group.shape[-2] // stride) * (group.shape[-1] // stride)) for group in batch["pixel_values"]
    ]
    images = sum(num for num, _ in tokens)
    return {
        "images": images,
        "prompts": num_prompts(batch),
        "target_tokens": int((batch["labels"] != -100).sum()),
        "target_positions": batch["labels"].numel(),
        "image_tokens": sum(num * each for num, each in tokens),
        "image_positions": images * max(each for _, each in tokens),
    }


def record_names(batches: Sequence[dict[str, Any]], chosen: Sequence[Sequence[bool]] | None = None) -> str:
    """Ids of the records in these batches, or of the chosen rows."""
    rows = [batch["record_ids"] for batch in batches]
    return ", ".join(
        name
        for index, names in enumerate(rows)
        for row, name in enumerate(names)
        if chosen is None or chosen[index][row]
    )


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    def move(value: Any) -> Any:
        if isinstance(value, list) and value and isinstance(value[0], Tensor):
            return [move(item) for item in value]
        return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value

    return {name: move(value) for name, value in batch.items()}


def split_groups(pixel_values: Sequence[Tensor], image_index: Sequence[Tensor], num: int) -> dict[str, list[Tensor]]:
    """The same pictures in `num` groups of equal shapes, at least as many as there are and at most one a picture."""
    groups = list(zip(pixel_values, image_index, strict=True))
    while len(groups) < num:
        largest = max(range(len(groups)), key=lambda index: len(groups[index][0]))
        pixels, places = groups[largest]
        groups[largest : largest + 1] = [(pixels[:1], places[:1]), (pixels[1:], places[1:])]
    return {"pixel_values": [pixels for pixels, _ in groups], "image_index": [places for _, places in groups]}
