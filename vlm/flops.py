"""Arithmetic of a training step, counted from its shapes, and what devices can do at most.

Counted are the products of matrices and the convolutions, two operations for a multiplication and an addition; all
else is small beside them. Padding is counted where it is computed: its share is logged beside. Backward passes cost
twice the forward pass, as is usual (arXiv 2204.02311, appendix B); what activation checkpointing computes again is
not the model's and not counted.
"""

# B batch (rows), G images of a group, I image tokens, S prompt tokens of a row, T target tokens of a row, M = I + S
# memory tokens, N labelled target tokens, R regions, L queries, K keys, D width, V vocabulary

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from vlm.model import OneLookConfig, OneLookModel
from vlm.model.layers import NUM_FREQUENCIES

__all__ = ["PEAK_FLOPS", "forward_flops", "peak_flops_of", "training_flops"]

PEAK_FLOPS: dict[str, dict[str, float]] = {
    "H200 NVL": {"bf16": 835e12, "fp16": 835e12, "no": 60e12},
    "H200": {"bf16": 989e12, "fp16": 989e12, "no": 67e12},
    "H100 NVL": {"bf16": 835e12, "fp16": 835e12, "no": 60e12},
    "H100 PCIe": {"bf16": 756e12, "fp16": 756e12, "no": 51e12},
    "H100": {"bf16": 989e12, "fp16": 989e12, "no": 67e12},
    "A100": {"bf16": 312e12, "fp16": 312e12, "no": 19.5e12},
    "A10": {"bf16": 125e12, "fp16": 125e12, "no": 31.2e12},
    "L40S": {"bf16": 362e12, "fp16": 362e12, "no": 91.6e12},
    "L4": {"bf16": 121e12, "fp16": 121e12, "no": 30.3e12},
    "T4": {"fp16": 65e12, "no": 8.1e12},
}
"""Words of a GPU's name -> precision -> operations a second, dense, as NVIDIA's data sheets give them; the first that
fits counts. "no" is float32 without TF32, which PyTorch does not use unless it is told to."""


def peak_flops_of(device: torch.device, precision: str) -> float | None:
    """Operations a second of a device at most; None where it is not known.

    Args:
        precision: "no", "bf16" or "fp16".
    """
    return _named_peak(torch.cuda.get_device_name(device), precision) if device.type == "cuda" else None


def _named_peak(name: str, precision: str) -> float | None:
    for words, peaks in PEAK_FLOPS.items():
        # Whole words, in this order: an A10G is no A10.
        if re.search(r"\b" + r"\b.*\b".join(words.split()) + r"\b", name):
            return peaks.get(precision)
    return None


def training_flops(model: OneLookModel, batch: Mapping[str, Any]) -> int:
    """Of the forward and backward pass over a collated batch; 0, for not known, where some weights are not trained, or
    a vision encoder of another shape than ours looks at the pictures."""
    if model.config.vision_config is not None or not all(parameter.requires_grad for parameter in model.parameters()):
        return 0
    return 3 * forward_flops(model.config, batch)


def forward_flops(config: OneLookConfig, batch: Mapping[str, Any]) -> int:
    """Of `OneLookModel.forward` with labels.

    Args:
        batch: as `vlm.data.mixture.PackingCollator` gives it; only shapes and the number of labels are looked at.
    """
    width = config.hidden_size
    (rows, prompts), targets = batch["input_ids"].shape, batch["labels"].shape[1]
    labels = int((batch["labels"] != -100).sum())
    groups = [(len(pixels), *pixels.shape[-2:]) for pixels in batch["pixel_values"]]
    longest = max(height * width // config.stride**2 for _, height, width in groups)
    total = sum(_image_flops(config, *group) for group in groups)

    memory = longest + prompts
    total += config.num_joint_layers * _layer(config, rows, prompts, memory)
    decoder_layer = _layer(config, rows, targets, targets)
    # Queries and output of the targets, keys and values of the memory.
    decoder_layer += 4 * rows * width**2 * (targets + memory) + _attention(config, rows, targets, memory)
    total += config.num_decoder_layers * decoder_layer
    total += 2 * labels * width * config.vocab_size
    # The embedding with its locations is put together for prompts, for targets and for logits.
    total += 3 * 2 * config.num_locations * 2 * NUM_FREQUENCIES * width

    if config.region_classes and batch.get("region_rows") is not None:
        regions = len(batch["region_rows"])
        total += 2 * regions * width * (batch["region_weights"].shape[1] + sum(config.region_classes))
    if config.map_weight and batch.get("map_inside") is not None:
        total += 2 * rows * longest * width * config.region_classes[0]
    return total


def _image_flops(config: OneLookConfig, images: int, height: int, width: int) -> int:
    """Tower and layers of G pictures of one shape."""

    def convolution(inside: int, outside: int, size: int) -> int:
        return 2 * images * height * width * inside * outside * size**2

    height, width = height // 2, width // 2
    channels = config.stem_width
    total = convolution(3, channels, 3)
    for outside, depth in zip(config.stage_widths, config.stage_depths, strict=True):
        height, width = height // 2, width // 2
        for _ in range(depth):
            total += convolution(channels, outside, 3) + convolution(outside, outside, 3)
            total += convolution(channels, outside, 1) if channels != outside else 0
            channels = outside
    tokens = height * width
    total += 2 * images * tokens * channels * config.hidden_size
    total += 2 * tokens * 4 * NUM_FREQUENCIES * config.hidden_size
    return total + (config.num_image_layers + config.num_joint_layers) * _layer(config, images, tokens, tokens)


def _layer(config: OneLookConfig, rows: int, queries: int, keys: int) -> int:
    """L queries look at K keys, of which they give L themselves, and go through the MLP."""
    width = config.hidden_size
    hidden = max(32, round(width * config.mlp_ratio * 2 / 3 / 32) * 32)
    weights = 4 * width**2 + 3 * width * hidden
    return 2 * rows * queries * weights + _attention(config, rows, queries, keys)


def _attention(config: OneLookConfig, rows: int, queries: int, keys: int) -> int:
    """Scores and sums over values."""
    return 4 * rows * queries * keys * config.hidden_size
