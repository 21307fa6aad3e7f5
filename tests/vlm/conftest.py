"""A tiny model with random weights: enough to show that everything around the weights is right."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from huggingface_hub import constants
from PIL import Image, ImageDraw

from tasks.base import QA, ObjectLabel, Record, TextLabel
from tasks.boxes import Box
from tests.vlm.hub_server import HubServer, serve
from vlm.api import VLM
from vlm.data.records import write_jsonl
from vlm.model import OneLookConfig, OneLookModel
from vlm.processor import OneLookProcessor
from vlm.tokenizer import train_tokenizer


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """So small a model gains nothing by more, and on a busy machine they wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def fresh_accelerator() -> Iterator[None]:
    """Accelerate keeps its settings for the life of the process; here each test is a run of its own."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


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


USERS = {"hf_ann": "ann", "hf_bob": "bob"}
"""Of the Hub that tests talk to, by their tokens."""

COLOURS = {"red": (200, 40, 40), "green": (40, 160, 60), "blue": (40, 60, 200), "yellow": (230, 210, 60)}


@pytest.fixture(scope="session")
def garments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """records.jsonl of drawn pictures of which everything is known: a coat above trousers, each of one colour.

    Eleven are for training and three for validation.
    """
    folder = tmp_path_factory.mktemp("garments")
    records = []
    for number, (upper, lower) in enumerate(itertools.islice(itertools.product(COLOURS, COLOURS), 14)):
        width, height = (48, 64) if number % 3 else (64, 64)
        coat, trousers = Box(12, 8, width - 12, 32), Box(14, 34, width - 14, 60)
        image = Image.new("RGB", (width, height), (128, 128, 128))
        draw = ImageDraw.Draw(image)
        draw.rectangle(coat.xyxy, fill=COLOURS[upper])
        draw.rectangle(trousers.xyxy, fill=COLOURS[lower])
        image.save(folder / f"{number}.png")
        records.append(
            Record(
                id=f"drawn-{number}",
                image=str(folder / f"{number}.png"),
                image_size=(height, width),
                captions=(TextLabel(text=f"A {upper} coat and {lower} trousers."),),
                objects=(
                    ObjectLabel(label="coat", box=coat, attributes={"colour": (upper,), "sleeve": ("long",)}),
                    ObjectLabel(label="trousers", box=trousers, attributes={"colour": (lower,)}),
                ),
                qa=(QA(question="what is worn?", answer=f"a {upper} coat"),),
                objects_complete=True,
                boxes_complete=True,
                split="train" if number < 11 else "validation",
            )
        )
    write_jsonl(records, folder / "records.jsonl")
    return folder / "records.jsonl"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A server, and this process's Hub client turned to it, with a cache of its own and nobody logged in."""
    (tmp_path / "server").mkdir()
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with serve(tmp_path / "server", USERS) as server:
        for name, value in {
            "ENDPOINT": server.endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_TOKEN_PATH": str(tmp_path / "token"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DISABLE_PROGRESS_BARS": True,
        }.items():
            monkeypatch.setattr(constants, name, value)
        yield server
