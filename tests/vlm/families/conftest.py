"""A Florence-2 and a T5Gemma 2 of random weights, saved as the public ones are; the first loaded both by us and by
transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoProcessor, Florence2ForConditionalGeneration, Florence2Processor

import vlm
from benchmarks import random_t5gemma2
from benchmarks.random_florence2 import write_checkpoint
from vlm.api import VLM


@pytest.fixture(scope="session")
def florence2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("florence2") / "checkpoint")


@pytest.fixture(scope="session")
def plain_florence2(tmp_path_factory: pytest.TempPathFactory, florence2_folder: Path) -> Path:
    """Without dropout, whose masks are another process's own."""
    folder = tmp_path_factory.mktemp("florence2-plain") / "checkpoint"
    shutil.copytree(florence2_folder, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["text_config"] |= {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
    config["vision_config"] |= {"drop_path_rate": 0.0}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def t5gemma2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_t5gemma2.write_checkpoint(tmp_path_factory.mktemp("t5gemma2") / "checkpoint")


@pytest.fixture(scope="session")
def florence2(florence2_folder: Path) -> VLM:
    return vlm.load(florence2_folder)


@pytest.fixture(scope="session")
def reference(florence2_folder: Path) -> tuple[Florence2ForConditionalGeneration, Florence2Processor]:
    """transformers' own model and processor of the same checkpoint."""
    model = Florence2ForConditionalGeneration.from_pretrained(florence2_folder).eval()
    return model, AutoProcessor.from_pretrained(florence2_folder)
