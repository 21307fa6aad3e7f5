"""Shapes fit together, survive the disk, and every configuration has the size that its file promises."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModel

import vlm  # noqa: F401 - registers the model
from vlm.imagenet_tower import VARIANTS
from vlm.model import OneLookConfig, OneLookModel
from vlm.tokenizer import NUM_IMAGE_CODES, SPECIAL_TOKENS
from vlm.towers import plain_tower

CONFIGS = sorted((Path(__file__).parents[3] / "configs" / "model").glob("*.yaml"))
LIMITS = {
    "tiny": (0, 2e6),
    "embedded": (10e6, 24e6),
    "small": (5e6, 24e6),
    "base": (75e6, 105e6),
    "large": (300e6, 400e6),
}


def read(path: Path) -> OneLookConfig:
    """With the vision tower that is written when it is asked for (`vlm.imagenet_tower`), without its weights."""
    fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    if fields.pop("vision_tower", None):
        width, depth = VARIANTS[2]
        tower = plain_tower({"model_type": "efficientnet_lite", "width": width, "depth": depth}, {})
        fields |= {"vision_config": tower.vision_config, "vision_input": tower.vision_input}
    return OneLookConfig(**fields)


def count(path: Path) -> int:
    with torch.device("meta"):
        model = OneLookModel(read(path))
    return sum(p.numel() for p in model.parameters())


def test_there_is_a_file_for_every_size() -> None:
    assert {path.stem for path in CONFIGS} == LIMITS.keys()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_sizes(path: Path) -> None:
    """The number of parameters is what the file's second line says."""
    number = count(path)
    low, high = LIMITS[path.stem]
    assert low < number < high
    line = path.read_text(encoding="utf-8").splitlines()[1]
    found = re.search(r"(about|under) (\d+) M parameters", line, re.IGNORECASE)
    assert found, line
    said = int(found[2]) * 1e6
    assert number < said if found[1].lower() == "under" else abs(number - said) < max(0.02 * said, 0.5e6)


def test_the_embedded_checkpoint_fits_its_file() -> None:
    """Two bytes a parameter and a little for names: at most 48 MB."""
    [embedded] = [path for path in CONFIGS if path.stem == "embedded"]
    assert 2 * count(embedded) + 64_000 < 48e6


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_locations_are_where_the_tokenizer_puts_them(path: Path) -> None:
    config = read(path)
    assert config.first_location_id == config.vocab_size - NUM_IMAGE_CODES - config.num_locations
    assert config.first_location_id >= len(SPECIAL_TOKENS) + 256


def test_derived_numbers() -> None:
    config = OneLookConfig(hidden_size=192, head_dim=32, stage_widths=(8, 16), stage_depths=(1, 1))
    assert config.stride == 8
    assert config.num_attention_heads == 6
    assert config.num_hidden_layers == config.num_decoder_layers
    assert config.decoder_start_token_id == config.bos_token_id
    assert config.is_encoder_decoder
    assert config.tie_word_embeddings


def test_survives_the_disk(tmp_path: Path) -> None:
    config = OneLookConfig(
        stage_widths=(16, 32), stage_depths=(2, 1), hidden_size=64, head_dim=16, location_sigma=3.0, patch_budget=50
    )
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, OneLookConfig)
    assert loaded.to_dict() == {**config.to_dict(), "_name_or_path": str(tmp_path)}
    assert (loaded.stage_widths, loaded.stage_depths, loaded.location_sigma) == ([16, 32], [2, 1], 3.0)


def test_auto_classes_know_the_model() -> None:
    config = AutoConfig.for_model("onelook", hidden_size=64, head_dim=16, stage_widths=[8], stage_depths=[1])
    assert isinstance(config, OneLookConfig)
    with torch.device("meta"):
        assert isinstance(AutoModel.from_config(config), OneLookModel)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ({"hidden_size": 100}, "hidden_size 100 must be a multiple of head_dim 64"),
        ({"head_dim": 6, "hidden_size": 12}, "head_dim a multiple of 4"),
        ({"stage_widths": (8, 16)}, "must have the same length"),
        ({"stage_widths": (), "stage_depths": ()}, "must have the same length"),
        ({"vocab_size": 2000, "first_location_id": 1500}, "leaves no room for 1000 locations"),
        ({"first_location_id": -1}, "leaves no room"),
    ],
)
def test_wrong_shapes(shape: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        OneLookConfig(**shape)
