"""The arithmetic that is counted from shapes is what PyTorch does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vlm.config import SourceConfig, StageConfig
from vlm.data.mixture import MixtureDataset, PackingCollator
from vlm.data.pictures import PhotoFiles
from vlm.data.records import read_records
from vlm.data.regions import region_sizes
from vlm.flops import _named_peak, forward_flops, peak_flops_of, training_flops
from vlm.model import OneLookConfig, OneLookModel
from vlm.processor import OneLookProcessor

TINY = Path(__file__).parents[2] / "configs" / "model" / "tiny.yaml"


def model_and_batch(records: Path, tokenizer: Any, **shape: Any) -> tuple[OneLookModel, dict[str, Any]]:
    """Five packed rows whose pictures have two shapes."""
    config = OneLookConfig(**yaml.safe_load(TINY.read_text(encoding="utf-8")) | shape)
    processor = OneLookProcessor(tokenizer, config)
    stage = StageConfig(patch_budget=12, prompts_per_image=3, max_target_tokens=40)
    pictures = {"drawn": PhotoFiles(record for record in read_records(records) if record.split == "train")}
    sources = {"drawn": SourceConfig(reader="jsonl", path=str(records))}
    dataset = MixtureDataset(pictures, sources, processor, lambda _: stage, None, seed=0, num_positions=5)
    batch = PackingCollator(processor)([dataset[position] for position in range(5)])
    assert len(batch["pixel_values"]) == 2 and (batch["labels"] == -100).any()
    return OneLookModel(config), batch


def counted(model: OneLookModel, batch: dict[str, Any], *, backward: bool) -> int:
    """By PyTorch. Its counter does not know the CPU's own attention kernel: products of matrices take its place."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        loss = model(**batch).loss_sum
        if backward:
            loss.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"num_image_layers": 2, "num_joint_layers": 3, "num_decoder_layers": 1, "mlp_ratio": 3.0},
        {"stem_width": 32, "stage_widths": [32, 32, 96], "stage_depths": [2, 1, 3], "hidden_size": 96},
        {"region_classes": list(region_sizes()), "map_weight": 0.5},
    ],
    ids=["tiny", "other depths", "other widths", "heads"],
)
def test_forward_is_counted_to_the_last_one(
    shape: dict[str, Any], garments: Path, tiny_processor: OneLookProcessor
) -> None:
    model, batch = model_and_batch(garments, tiny_processor.tokenizer, **shape)
    assert forward_flops(model.config, batch) == counted(model, batch, backward=False)


def test_a_step_is_three_times_as_much(garments: Path, tiny_processor: OneLookProcessor) -> None:
    model, batch = model_and_batch(garments, tiny_processor.tokenizer)
    found = training_flops(model, batch)
    assert found == 3 * forward_flops(model.config, batch)
    # A little less is computed: nobody asks for the gradient of the pictures.
    assert 0.97 * found < counted(model, batch, backward=True) <= found


def test_a_step_in_which_not_all_is_trained_is_not_counted(garments: Path, tiny_processor: OneLookProcessor) -> None:
    model, batch = model_and_batch(garments, tiny_processor.tokenizer)
    model.tower.requires_grad_(False)
    assert training_flops(model, batch) == 0


@pytest.mark.parametrize(
    ("name", "precision", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989e12),
        ("NVIDIA H100 PCIe", "bf16", 756e12),
        ("NVIDIA H100 NVL", "fp16", 835e12),
        ("NVIDIA H200", "bf16", 989e12),
        ("NVIDIA A100-SXM4-80GB", "bf16", 312e12),
        ("NVIDIA A100-SXM4-80GB", "no", 19.5e12),
        ("NVIDIA L4", "bf16", 121e12),
        ("NVIDIA L40S", "bf16", 362e12),
        ("NVIDIA L40", "bf16", None),
        ("NVIDIA A10G", "bf16", None),
        ("Tesla T4", "bf16", None),
        ("Tesla T4", "fp16", 65e12),
        ("NVIDIA GeForce GTX 1080", "no", None),
    ],
)
def test_known_gpus(name: str, precision: str, peak: float | None) -> None:
    assert _named_peak(name, precision) == peak


def test_nothing_is_made_up_for_a_cpu() -> None:
    assert peak_flops_of(torch.device("cpu"), "bf16") is None
