"""A tiny model with random weights: enough to show that everything around the weights is right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from vlm.api import VLM
from vlm.model import OneLookConfig, OneLookModel
from vlm.processor import OneLookProcessor
from vlm.tokenizer import train_tokenizer

TINY = Path(__file__).parents[2] / "configs" / "model" / "tiny.yaml"
TEXTS = (
    "a woman in a tan coat, black trousers and brown ankle boots",
    "what colour are the boots? what is on her head? how long are the sleeves?",
    "colour: tan, brown; pattern: solid; sleeve: not visible; neckline: v-neck; crêpe, 裙子",
)


@pytest.fixture(scope="session")
def tiny_model() -> OneLookModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = OneLookModel(OneLookConfig(**yaml.safe_load(TINY.read_text()))).eval()
    with torch.no_grad():
        model.tokens.embedding.weight.mul_(8.0)  # decided, not near-uniform: no ties between tokens
    return model


@pytest.fixture(scope="session")
def tiny_processor(tiny_model: OneLookModel) -> OneLookProcessor:
    return OneLookProcessor(train_tokenizer(TEXTS, vocab_size=tiny_model.config.vocab_size), tiny_model.config)


@pytest.fixture(scope="session")
def tiny(tiny_model: OneLookModel, tiny_processor: OneLookProcessor) -> VLM:
    return VLM(tiny_model, tiny_processor)


@pytest.fixture(scope="session")
def photos() -> list[Image.Image]:
    """Four pictures of different contents and shapes (two share one)."""
    rng = np.random.default_rng(0)
    sizes = [(60, 40), (40, 60), (48, 48), (60, 40)]
    coarse = [rng.integers(0, 256, (6, 4, 3), dtype=np.uint8) for _ in sizes]
    return [
        Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)
        for pixels, (height, width) in zip(coarse, sizes, strict=True)
    ]
