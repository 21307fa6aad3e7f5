"""How much memory a Florence-2 takes to describe one photo, from its configuration alone; see `vlm.families.memory`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm.families.memory import FLOAT, NUM_PROMPTS, converting

__all__ = ["predict_memory"]

LIBRARIES = 460 * 2**20
"""Python, torch, transformers and a vocabulary of fifty thousand words, measured on Linux."""

TOWER_COPIES = 7
"""Hidden states as wide as a stage that are alive at once: four of the MLP's middle, and what goes in and out."""
ENCODER_COPIES = 10
"""Likewise in an encoder layer: the middle, queries, keys, values, and what goes in and out."""


def predict_memory(folder: Path, config: Mapping[str, Any], num_parameters: int) -> int:
    """Bytes. What config.json and the processor's configuration leave out is as in Florence-2-base.

    Raises:
        ValueError: values of other kinds than a Florence-2 has.
    """
    vision, text = config.get("vision_config") or {}, config.get("text_config") or {}
    try:
        strides = list(vision.get("patch_stride", (4, 2, 2, 2)))
        width = int(vision.get("embed_dim", (128, 256, 512, 1024))[0])
        side = _image_side(folder)
        tower = (side // strides[0]) ** 2 * width * FLOAT * TOWER_COPIES
        stride = 1
        for factor in strides:
            stride *= factor
        tokens = (side // stride) ** 2 + 1
        hidden, layers = text.get("d_model", 768), text.get("decoder_layers", 6)
        cached = 2 * layers  # keys and values of the cross-attention
        decoding = NUM_PROMPTS * tokens * hidden * FLOAT * (cached + ENCODER_COPIES)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(f"{folder}: its configuration is not a Florence-2's: {error!r}") from error
    weights = num_parameters * FLOAT
    return LIBRARIES + weights + max(tower, decoding, converting(folder, weights))


def _image_side(folder: Path) -> int:
    """Of the square that photos are resized to."""
    for name in ("processor_config.json", "preprocessor_config.json"):
        file = folder / name
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        size = found.get("image_processor", found).get("size")
        if size:
            return int(size["height"])
    return 768
