"""Several processes are one run: the same losses and gradients, whatever the engine and however the batch is split.

Real processes, started through the files in launch/, over gloo. All is float32, so that what is left is the order of
sums: losses agree to a relative 1e-5, gradients to 1e-4 of a tensor's largest value and of their norm.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import vlm
from tests.distributed.runs import (
    ENGINES,
    ONE_PROMPT,
    OPTIM,
    ROOT,
    STAGE,
    TWO_STEPS,
    assert_same_steps,
    finish,
    launch,
    rows,
    skip_without,
    state_of,
    train,
    write_config,
)
from vlm.batches import to_device
from vlm.build import build_model
from vlm.data.mixture import PackingCollator
from vlm.data.shards import SUFFIXES, write_shards
from vlm.model import OneLookModel
from vlm.train import Trainer, parse_config

pytestmark = pytest.mark.distributed

GOLDEN = ROOT / "tests" / "golden" / "tiny_50_steps.json"
slow = pytest.mark.slow


def assert_measured_together(run: Path, alone: Path) -> None:
    """What is logged of two processes is of both: as many tokens an image as one process sees."""
    for ours, theirs in zip(*(map(json.loads, (r / "metrics.jsonl").open()) for r in (run, alone)), strict=True):
        for name in ("prompts", "target_tokens", "image_tokens"):
            per_image = ours[f"{name}_per_s"] / ours["images_per_s"]
            assert per_image == pytest.approx(theirs[f"{name}_per_s"] / theirs["images_per_s"]), name
        # Each process pads to its own longest row.
        assert 0 <= ours["target_padding"] <= theirs["target_padding"] + 1e-9


def with_average(config: Path, run: Path) -> OneLookModel:
    """The model of the run's last checkpoint with the averaged weights, put together by hand."""
    model = build_model(parse_config([str(config)])[0])
    weights, state = state_of(run, -1)
    averages = {name.removeprefix("shadow."): value for name, value in state["average"].items() if "shadow" in name}
    model.load_state_dict({**weights, **averages})
    return model.eval()


def assert_export_is_the_average(config: Path, run: Path) -> None:
    """To the bit in half precision; loaded again, its outputs are those of the training weights."""
    model = with_average(config, run)
    exported = load_file(run / "final" / "model.safetensors")
    expected = model.state_dict()
    assert exported.keys() == expected.keys()
    assert all(torch.equal(value, expected[name].half()) for name, value in exported.items())
    trainer = Trainer(parse_config([str(config)])[0])
    batch = to_device(PackingCollator(trainer.processor)([trainer.dataset()[0], trainer.dataset()[1]]), "cpu")
    loaded = vlm.load(run / "final", dtype="float32").family.model
    with torch.no_grad():
        ours, theirs = (m(**batch, return_logits=True).logits for m in (loaded, model))
    # What half precision of the weights leaves of it.
    assert (ours - theirs).abs().max() < 0.01 * theirs.abs().max()


@pytest.mark.parametrize("stage", [STAGE, ONE_PROMPT], ids=["packed", "one prompt a row"])
def test_accumulation_is_the_whole_batch(
    stage: dict[str, int], whole: Callable[..., Path], tmp_path: Path, garments: Path
) -> None:
    config = write_config(tmp_path, garments, stage=stage, **TWO_STEPS)
    assert_same_steps(train(config, "--micro_batch_size=4", num=1), whole(stage))


def test_two_processes_are_one(whole: Callable[..., Path], tmp_path: Path, garments: Path) -> None:
    config = write_config(tmp_path, garments, **TWO_STEPS)
    status, out = finish(launch(config))
    assert status == 0, out[-4000:]
    assert_same_steps(tmp_path / "run", whole())
    assert_measured_together(tmp_path / "run", whole())
    assert out.count("exported to") == 1 and out.count("step 2/2") == 1, "one of them logs"
    assert_export_is_the_average(config, tmp_path / "run")


@slow
@pytest.mark.parametrize(
    ("stage", "micro"), [(ONE_PROMPT, 4), (STAGE, 2), (STAGE, 3), (ONE_PROMPT, 2)], ids=lambda value: str(value)[-4:]
)
def test_two_processes_that_accumulate(
    stage: dict[str, int], micro: int, whole: Callable[..., Path], tmp_path: Path, garments: Path
) -> None:
    config = write_config(tmp_path, garments, stage=stage, micro_batch_size=micro, **TWO_STEPS)
    assert_same_steps(train(config), whole(stage))


@slow
@pytest.mark.parametrize(
    ("stage", "micro"), [(STAGE, 4), (STAGE, 2), (ONE_PROMPT, 4)], ids=["2 x 4", "2 x 2 x 2", "one prompt a row"]
)
@pytest.mark.parametrize("engine", ENGINES)
def test_engines_that_shard(
    engine: str, stage: dict[str, int], micro: int, whole: Callable[..., Path], tmp_path: Path, garments: Path
) -> None:
    """The export too: weights that lie in parts are put together for it."""
    skip_without(engine)
    config = write_config(tmp_path, garments, stage=stage, micro_batch_size=micro, **TWO_STEPS)
    run = train(config, name=engine)
    assert_same_steps(run, whole(stage))
    assert_export_is_the_average(config, run)


@slow
@pytest.mark.parametrize("format", SUFFIXES)
@pytest.mark.parametrize("num_workers", [1, 2])
def test_shards_are_split_over_processes_and_workers(
    format: str, num_workers: int, whole: Callable[..., Path], tmp_path: Path, garments: Path
) -> None:
    """The samples are those of one process that reads the pictures from their folder."""
    write_shards(garments, tmp_path / "shards", format=format, shard_size=0.024)
    assert len(list((tmp_path / "shards").iterdir())) > 2
    sources = {"drawn": {"reader": "shards", "path": str(tmp_path / "shards")}}
    data = {"num_workers": num_workers, "stages": [STAGE], "sources": sources}
    # Records in shards stand in another order: their own tokenizer would be another.
    tokenizer = str(whole() / "tokenizer")
    config = write_config(tmp_path, garments, **TWO_STEPS, data=data, tokenizer=tokenizer)
    assert_same_steps(train(config), whole())


@slow
@pytest.mark.parametrize("engine", ["one process", "cpu", "zero2", "zero3", "fsdp2"])
def test_bf16_is_near(engine: str, whole: Callable[..., Path], tmp_path: Path, garments: Path) -> None:
    """Autocast alone: weights, moments and what is exported stay in float32."""
    skip_without(engine)
    config = write_config(tmp_path, garments, **{**TWO_STEPS, "mixed_precision": "bf16"})
    run = train(config, num=1) if engine == "one process" else train(config, name=engine)
    for row, other in zip(rows(run), rows(whole()), strict=True):
        assert row["tokens"] == other["tokens"]
        assert row["loss"] == pytest.approx(other["loss"], rel=0.02) and row["loss"] != other["loss"]
    weights, state = state_of(run, -1)
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert {value.dtype for values in state["optimizer"]["state"].values() for value in values.values()} == {
        torch.float32
    }


@slow
@pytest.mark.parametrize("engine", ["zero3", "fsdp2"])
def test_activation_checkpointing_where_weights_are_split(
    engine: str, whole: Callable[..., Path], tmp_path: Path, garments: Path
) -> None:
    """A layer that is computed again needs its weights put together again."""
    skip_without(engine)
    config = write_config(tmp_path, garments, activation_checkpointing=True, **TWO_STEPS)
    assert_same_steps(train(config, name=engine), whole())


@pytest.mark.parametrize("engine", ["cpu", *(pytest.param(engine, marks=slow) for engine in ENGINES)])
def test_validation_is_spread_and_the_same(engine: str, tmp_path: Path, garments: Path) -> None:
    """Three records over two processes: none twice, none left out. The weights hardly move, so answers are the same."""
    skip_without(engine)
    values = {
        "num_steps": 1,
        "save_every": 0,
        "eval_every": 1,
        "eval_records": 3,
        "optim": {**OPTIM, "learning_rate": 1e-9},
    }
    alone = rows(train(write_config(tmp_path / "alone", garments, **values), num=1))[-1]
    spread = rows(train(write_config(tmp_path / "spread", garments, **values), name=engine))[-1]
    names = [name for name in alone if name.startswith("validation/")]
    assert len(names) > 5
    assert {name: spread.get(name) for name in names} == {name: alone[name] for name in names}


@pytest.mark.parametrize("engine", ["one process", "cpu", *(pytest.param(engine, marks=slow) for engine in ENGINES)])
def test_the_golden_curve(engine: str, tmp_path: Path, garments: Path) -> None:
    """50 steps as they were when the file was written. `VLM_WRITE_GOLDEN=1` writes it anew; docs/log.md says why."""
    skip_without(engine)
    config = write_config(tmp_path, garments, num_steps=50, save_every=0)
    run = train(config, num=1) if engine == "one process" else train(config, name=engine)
    found = [round(row["loss"], 5) for row in rows(run)]
    if os.environ.get("VLM_WRITE_GOLDEN") and engine == "one process":
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps({"loss": found}, indent=1) + "\n", encoding="utf-8")
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))["loss"]
    assert len(golden) == 50 and golden[-1] < 0.5 * golden[0]
    # Rounding differs between machines and grows with the steps.
    assert found[:10] == pytest.approx(golden[:10], rel=1e-3)
    assert found == pytest.approx(golden, rel=0.05)
