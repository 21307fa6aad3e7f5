"""Tiny vision encoders with drawn weights, saved as the Hub has them: the whole checkpoint with its image processor."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, CLIPImageProcessorPil, Siglip2ImageProcessorPil, SiglipImageProcessorPil

__all__ = ["IMAGE_PROCESSORS", "SHAPES", "save_tower"]

_SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
_TEXT = {**_SMALL, "vocab_size": 64, "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 2}
_DINO = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "drop_path_rate": 0.0}

SHAPES: Mapping[str, dict[str, Any]] = {
    # As google/siglip2-base-patch16-224 and openai/clip-vit-base-patch16 have them: with a half for text.
    "siglip": {"vision_config": {**_SMALL, "image_size": 32, "patch_size": 8}, "text_config": _TEXT},
    "siglip2": {"vision_config": {**_SMALL, "num_patches": 16, "patch_size": 8}, "text_config": _TEXT},
    "clip": {
        "vision_config": {**_SMALL, "image_size": 32, "patch_size": 8},
        "text_config": _TEXT,
        "projection_dim": 16,
    },
    "dinov2": {**_DINO, "image_size": 42, "patch_size": 14},
    "dinov3_vit": {**_DINO, "intermediate_size": 48, "image_size": 32, "patch_size": 8, "num_register_tokens": 4},
    "efficientnet_lite": {"width": 0.25, "depth": 0.5},
}
"""model_type -> what its configuration is made of."""

IMAGE_PROCESSORS: Mapping[str, Callable[[], Any]] = {
    "siglip": lambda: SiglipImageProcessorPil(size={"height": 32, "width": 32}),
    "siglip2": lambda: Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16),
    "clip": lambda: CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
}

_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def save_tower(model_type: str, folder: Path, **changes: Any) -> torch.nn.Module:
    """Writes a checkpoint into a new folder; returns what AutoModel made of it."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = AutoModel.from_config(AutoConfig.for_model(model_type, **SHAPES[model_type] | changes)).eval()
        for parameter in model.parameters():  # no bias, no mask token is left at 0
            parameter.data.add_(0.02 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    if model_type in IMAGE_PROCESSORS:
        IMAGE_PROCESSORS[model_type]().save_pretrained(folder)
    else:  # their image processors need torchvision, which is not needed for what they tell
        told = {"do_normalize": True, "do_rescale": True, "rescale_factor": 1 / 255, **_IMAGENET}
        (folder / "preprocessor_config.json").write_text(json.dumps(told), encoding="utf-8")
    return model
