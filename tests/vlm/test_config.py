"""Configurations say what is wrong with them, and YAML and dotted overrides become them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from tasks import TASKS
from vlm.config import (
    AdapterConfig,
    AugmentConfig,
    DataConfig,
    ModuleConfig,
    OptimConfig,
    SourceConfig,
    StageConfig,
    TrainConfig,
)
from vlm.train import parse_config

ONE = {"mine": SourceConfig(reader="jsonl")}


def data(**values: Any) -> DataConfig:
    return DataConfig(**{"sources": ONE, **values})


def train(**values: Any) -> TrainConfig:
    return TrainConfig(**{"output_dir": "out", "model": "model.yaml", "data": data(), **values})


TASK_NAMES = ", ".join(TASKS)


@pytest.mark.parametrize(
    ("make", "values", "message"),
    [
        (
            SourceConfig,
            {"reader": "coco"},
            "unknown reader 'coco'; known: ccp, clothing, products, jsonl, shards, wardrobe",
        ),
        (SourceConfig, {"reader": "ccp", "weight": -1}, "source ccp: weight is -1; expected 0 or more"),
        (
            SourceConfig,
            {"reader": "shards"},
            "source shards: path is missing; name the folder that `vlm data shards` wrote",
        ),
        (
            SourceConfig,
            {"reader": "jsonl", "size": 96, "plan": "plan.jsonl"},
            "source jsonl: size, plan can be set for the reader wardrobe only; drop them",
        ),
        (
            SourceConfig,
            {"reader": "ccp", "repeat_rare": 0},
            "source ccp: repeat_rare is 0; expected a share in (0, 1]",
        ),
        (
            SourceConfig,
            {"reader": "ccp", "balance_values": 1.5},
            "source ccp: balance_values is 1.5; expected a power in (0, 1]",
        ),
        (
            data,
            {"stages": [StageConfig(sources={"yours": 1.0})]},
            "stages[0].sources is {'yours': 1.0}; expected weights, at least one above 0, of: mine",
        ),
        (
            data,
            {"stages": [StageConfig(sources={"mine": 0.0})]},
            "stages[0].sources is {'mine': 0.0}; expected weights, at least one above 0, of: mine",
        ),
        (data, {"temperature": 0.0}, "data.temperature is 0.0; expected a number above 0, or null"),
        (SourceConfig, {"reader": "wardrobe", "num": 0}, "source wardrobe: num is 0; expected at least 1"),
        (SourceConfig, {"reader": "wardrobe", "size": 63}, "source wardrobe: size is 63; expected at least 64"),
        (
            SourceConfig,
            {"reader": "wardrobe", "path": "x"},
            "source wardrobe: path is 'x', but its pictures are drawn; drop it",
        ),
        (
            SourceConfig,
            {"reader": "wardrobe", "split": "validation"},
            "source wardrobe: split is 'validation', but it is drawn for training only; write such pictures with "
            "`python -m vlm.synthetic.wardrobe FOLDER --split validation` and use the reader jsonl",
        ),
        (AugmentConfig, {"flip": 1.5}, "augment.flip is 1.5; expected a probability in [0, 1]"),
        (AugmentConfig, {"crop": -0.1}, "augment.crop is -0.1; expected a probability in [0, 1]"),
        (AugmentConfig, {"erase": 2}, "augment.erase is 2; expected a probability in [0, 1]"),
        (AugmentConfig, {"min_crop": 0}, "augment.min_crop is 0; expected a share in (0, 1]"),
        (AugmentConfig, {"min_crop_unboxed": 1.1}, "augment.min_crop_unboxed is 1.1; expected a share in (0, 1]"),
        (AugmentConfig, {"brightness": 1}, "augment.brightness is 1; expected [0, 1)"),
        (AugmentConfig, {"rotate": -5}, "augment.rotate is -5; expected degrees in [0, 180]"),
        (StageConfig, {"until": 0}, "stage.until is 0; expected a share in (0, 1]"),
        (StageConfig, {"patch_budget": 0}, "stage.patch_budget is 0; expected at least 1"),
        (StageConfig, {"prompts_per_image": 0}, "stage.prompts_per_image is 0; expected at least 1"),
        (StageConfig, {"max_target_tokens": 0}, "stage.max_target_tokens is 0; expected at least 1"),
        (
            StageConfig,
            {"task_weights": {"vqa": 1, "chat": 1}},
            f"stage.task_weights names unknown tasks: chat; known: {TASK_NAMES}",
        ),
        (
            StageConfig,
            {"task_weights": {}},
            "stage.task_weights is {}; expected weights of 0 or more, at least one above 0",
        ),
        (
            StageConfig,
            {"task_weights": {"vqa": 0}},
            "stage.task_weights is {'vqa': 0}; expected weights of 0 or more, at least one above 0",
        ),
        (
            StageConfig,
            {"task_weights": {"vqa": 1, "caption": -1}},
            "stage.task_weights is {'vqa': 1, 'caption': -1}; expected weights of 0 or more, at least one above 0",
        ),
        (data, {"sources": {}}, "data.sources is empty; name at least one source"),
        (
            data,
            {"sources": {"mine": SourceConfig(reader="jsonl", weight=0)}},
            "every source has weight 0; raise at least one",
        ),
        (data, {"stages": ()}, "stages end at []; expected rising shares that end at 1.0"),
        (
            data,
            {"stages": [StageConfig(until=0.5)]},
            "stages end at [0.5]; expected rising shares that end at 1.0",
        ),
        (
            data,
            {"stages": [StageConfig(until=0.7), StageConfig(until=0.4), StageConfig()]},
            "stages end at [0.7, 0.4, 1.0]; expected rising shares that end at 1.0",
        ),
        (
            data,
            {"stages": [StageConfig(), StageConfig()]},
            "stages end at [1.0, 1.0]; expected rising shares that end at 1.0",
        ),
        (data, {"num_workers": -1}, "data.num_workers is -1; expected 0 or more"),
        (OptimConfig, {"learning_rate": 0}, "optim.learning_rate is 0; expected more than 0"),
        (OptimConfig, {"learning_rate": float("nan")}, "optim.learning_rate is nan; expected more than 0"),
        (
            ModuleConfig,
            {"learning_rate_scale": 0},
            "learning_rate_scale is 0; expected more than 0; `frozen: true` leaves weights as they are",
        ),
        (AdapterConfig, {"kind": "ia3"}, "adapter.kind is 'ia3'; expected one of lora, dora, qlora"),
        (AdapterConfig, {"rank": 0}, "adapter.rank is 0; expected at least 1"),
        (AdapterConfig, {"alpha": 0}, "adapter.alpha is 0; expected more than 0"),
        (AdapterConfig, {"dropout": 1}, "adapter.dropout is 1; expected [0, 1)"),
        (AdapterConfig, {"targets": []}, "adapter.targets is empty; name at least one, or null for all that suit"),
        (AdapterConfig, {"export": "both"}, "adapter.export is 'both'; expected merged or adapter"),
        (
            train,
            {"adapter": AdapterConfig(export="adapter"), "shape": {"map_weight": 1}},
            "adapter.export is 'adapter', but `shape` changes the model that it would belong to; "
            "export it merged, or drop `shape`",
        ),
        (
            train,
            {"compile": True, "activation_checkpointing": True},
            "compile and activation_checkpointing are both true, but a compiled layer chooses itself what it computes "
            "again; choose one",
        ),
        (OptimConfig, {"schedule": "step"}, "optim.schedule is 'step'; expected cosine or wsd"),
        (OptimConfig, {"ema_decay": 1}, "optim.ema_decay is 1; expected [0, 1)"),
        (OptimConfig, {"decay_fraction": 1.5}, "optim.decay_fraction is 1.5; expected [0, 1]"),
        (OptimConfig, {"weight_decay": -0.1}, "optim.weight_decay is -0.1; expected 0 or more"),
        (OptimConfig, {"beta1": 1}, "optim.beta1 is 1; expected [0, 1)"),
        (OptimConfig, {"beta2": -0.5}, "optim.beta2 is -0.5; expected [0, 1)"),
        (OptimConfig, {"warmup_steps": -1}, "optim.warmup_steps is -1; expected 0 or more"),
        (OptimConfig, {"min_ratio": 2}, "optim.min_ratio is 2; expected [0, 1]"),
        (OptimConfig, {"max_grad_norm": 0}, "optim.max_grad_norm is 0; expected more than 0"),
        (train, {"num_steps": 0}, "num_steps is 0; expected at least 1"),
        (train, {"batch_size": 0}, "batch_size is 0; expected at least 1"),
        (train, {"micro_batch_size": 0}, "micro_batch_size is 0; expected at least 1 or null"),
        (train, {"peak_flops": 0.0}, "peak_flops is 0.0; expected operations a second, more than 0, or null"),
        (train, {"mixed_precision": "fp8"}, "mixed_precision is 'fp8'; expected auto, no, bf16 or fp16"),
        (
            train,
            {"task_loss_weights": {"captions": 2.0, "vqa": 1.0, "chat": 1.0}},
            f"task_loss_weights names unknown tasks: captions, chat; known: {TASK_NAMES}",
        ),
        (train, {"task_loss_weights": {"vqa": -1}}, "task_loss_weights.vqa is -1; expected 0 or more"),
        (train, {"log_every": 0}, "log_every is 0; expected at least 1"),
        (train, {"eval_records": 0}, "eval_records is 0; expected at least 1"),
        (train, {"keep_checkpoints": 0}, "keep_checkpoints is 0; expected at least 1"),
        (train, {"eval_every": -1}, "eval_every is -1; expected 0 or more"),
        (train, {"save_every": -1}, "save_every is -1; expected 0 or more"),
    ],
)
def test_what_is_wrong_is_said(make: Callable[..., object], values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make(**values)


def test_limits_themselves_are_allowed() -> None:
    AugmentConfig(flip=0, crop=1, erase=1, min_crop=1, min_crop_unboxed=1, brightness=0, rotate=0)
    OptimConfig(weight_decay=0, warmup_steps=0, decay_fraction=1, min_ratio=1, ema_decay=0, beta1=0)
    train(save_every=0, eval_every=0, micro_batch_size=1, task_loss_weights={"vqa": 0})


def test_only_the_wardrobe_has_a_number_of_pictures() -> None:
    drawn, read = SourceConfig(reader="wardrobe", size=96), SourceConfig(reader="ccp")
    assert (drawn.num, drawn.seed, drawn.size, drawn.plan) == (100_000, 0, 96, None)
    assert (read.num, read.seed, read.size, read.plan) == (None, None, None, None)


def test_every_task_is_drawn_by_default() -> None:
    assert StageConfig().task_weights == dict.fromkeys(TASKS, 1.0)


def test_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        train().num_steps = 3  # type: ignore[misc]


def test_stages_by_step_and_position() -> None:
    first, second = StageConfig(until=0.25, patch_budget=9), StageConfig(patch_budget=20)
    config = train(data=data(stages=[first, second]), num_steps=10, batch_size=4)
    assert [config.stage_at(step) for step in range(10)] == [first] * 3 + [second] * 7
    assert config.stage_at(10) is second  # what a loader prefetches beyond the end
    assert [config.stage_of(position) for position in (0, 11, 12, 39)] == [first, first, second, second]


# -- YAML and overrides --------------------------------------------------------------------------------

YAML = """\
output_dir: runs/mine
model: configs/model/tiny.yaml
data:
  stages:
    - {until: 0.5, patch_budget: 12, task_weights: {vqa: 2}}
    - {until: 1.0}
  sources:
    mine: {reader: jsonl, path: records.jsonl}
optim: {schedule: cosine}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "mine.yaml"
    file.write_text(YAML, encoding="utf-8")
    return file


def test_yaml_and_overrides(file: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config, resume = parse_config([str(file), "--optim.learning_rate=3e-4", "--data.augment.flip", "0"])
    assert resume
    assert config == TrainConfig(
        output_dir="runs/mine",
        model="configs/model/tiny.yaml",
        data=DataConfig(
            sources={"mine": SourceConfig(reader="jsonl", path="records.jsonl")},
            stages=(StageConfig(until=0.5, patch_budget=12, task_weights={"vqa": 2.0}), StageConfig()),
            augment=AugmentConfig(flip=0.0),
        ),
        optim=OptimConfig(schedule="cosine", learning_rate=3e-4),
    )


def test_the_file_may_be_named_with_a_flag(file: Path) -> None:
    config, resume = parse_config(["--config", str(file), "--restart", "--num_steps=7"])
    assert (config.num_steps, resume) == (7, False)


def test_checks_reach_the_command_line(file: Path) -> None:
    with pytest.raises(ValueError, match=f"task_loss_weights names unknown tasks: chat; known: {TASK_NAMES}"):
        parse_config([str(file), "--task_loss_weights={chat: 2}"])
    file.write_text(YAML.replace("vqa: 2", "vgq: 2"), encoding="utf-8")
    with pytest.raises(ValueError, match=f"stage.task_weights names unknown tasks: vgq; known: {TASK_NAMES}"):
        parse_config([str(file)])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--optim.learning_rat=1"], "unrecognized arguments: --optim.learning_rat=1"),
        (["--num_steps=many"], "num_steps"),
    ],
)
def test_wrong_usage_exits_with_2(
    arguments: list[str], said: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse_config([str(file), *arguments])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_an_unknown_field_in_the_file_is_named(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(YAML + "batchsize: 3\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        parse_config([str(file)])
    assert "batchsize" in capsys.readouterr().err


def test_fields_of_a_shape_keep_their_types(file: Path) -> None:
    file.write_text(YAML + "shape: {hidden_size: 128, stage_widths: [32, 64], map_weight: 0.5}\n", encoding="utf-8")
    shape = parse_config([str(file)])[0].shape
    assert repr(shape) == "{'hidden_size': 128, 'stage_widths': [32, 64], 'map_weight': 0.5}"
