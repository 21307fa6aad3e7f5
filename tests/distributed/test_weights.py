"""What is trained under every engine: all weights, some of them, or an adapter beside them; and what comes out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import vlm
from tests.distributed.runs import (
    ENGINES,
    OPTIM,
    TWO_STEPS,
    assert_same_steps,
    skip_without,
    state_of,
    train,
    write_config,
)
from vlm.api import VLM
from vlm.build import build_model
from vlm.checkpoint import list_checkpoints
from vlm.train import parse_config

pytestmark = pytest.mark.distributed

slow = pytest.mark.slow
MODULES = {"tower": {"frozen": True}, "decoder": {"learning_rate_scale": 0.1}}


@pytest.mark.parametrize("engine", ["cpu", *(pytest.param(engine, marks=slow) for engine in ENGINES)])
def test_frozen_weights_stay_under_every_engine(engine: str, tmp_path: Path, garments: Path) -> None:
    """To the bit; the others go on as in one process."""
    skip_without(engine)
    steps = {**TWO_STEPS, "optim": {**OPTIM, "max_grad_norm": 1e3, "modules": MODULES}}
    alone = train(write_config(tmp_path / "alone", garments, **steps), num=1)
    config = write_config(tmp_path / "several", garments, **steps)
    several = train(config, name=engine)
    assert_same_steps(several, alone)
    before = build_model(parse_config([str(config)])[0]).state_dict()
    weights, state = state_of(several, -1)
    frozen = {name for name in weights if name.startswith("tower")}
    assert frozen == {name for name, value in weights.items() if torch.equal(value, before[name])}
    assert frozen.isdisjoint(name.removeprefix("shadow.") for name in state["average"])
    exported = load_file(several / "final" / "model.safetensors")
    assert all(torch.equal(exported[name], before[name].half()) for name in frozen)


KINDS = [("zero1", "lora"), ("zero2", "dora"), ("zero3", "lora"), ("zero3", "dora"), ("fsdp2", "dora")]


@pytest.mark.parametrize(("engine", "kind"), [("cpu", "dora"), *(pytest.param(*pair, marks=slow) for pair in KINDS)])
def test_an_adapter_under_every_engine(engine: str, kind: str, tmp_path: Path, garments: Path) -> None:
    """Its checkpoint has only what is trained, and the weights that it lies beside are exported as they were."""
    skip_without(engine)
    steps = {**TWO_STEPS, "adapter": {"kind": kind, "rank": 4, "also_trained": ["memory_norm"]}}
    alone = train(write_config(tmp_path / "alone", garments, **steps), num=1)
    config = write_config(tmp_path / "several", garments, **steps)
    several = train(config, name=engine)
    assert_same_steps(several, alone)
    weights, _ = state_of(several, -1)
    assert {name for name in weights if "lora_" not in name} == {"memory_norm.weight"}
    before = build_model(parse_config([str(config)])[0]).state_dict()
    exported = load_file(several / "final" / "model.safetensors")
    assert torch.equal(exported["tower.stem.conv.weight"], before["tower.stem.conv.weight"].half())
    name = "decoder_layers.0.mlp.down.weight"
    assert not torch.equal(exported[name], before[name].half())


@slow
@pytest.mark.parametrize(("engine", "kind"), [("cpu", "lora"), *KINDS])
def test_an_adapter_is_exported_as_one(engine: str, kind: str, tmp_path: Path, garments: Path, tiny: VLM) -> None:
    """And loads merged: the same weights as the run of one process exports merged."""
    skip_without(engine)
    tiny.save_pretrained(tmp_path / "base")
    adapter = {"kind": kind, "rank": 4, "also_trained": ["memory_norm"]}
    optim = {**OPTIM, "learning_rate": 1e-2}
    steps = {"num_steps": 3, "save_every": 0, "optim": optim, "model": str(tmp_path / "base")}
    alone = write_config(tmp_path / "alone", garments, **steps, adapter=adapter)
    merged = load_file(train(alone, num=1) / "final" / "model.safetensors")
    several = write_config(tmp_path / "several", garments, **steps, adapter={**adapter, "export": "adapter"})
    final = train(several, name=engine) / "final"
    assert (final / "adapter_model.safetensors").is_file() and not (final / "model.safetensors").exists()
    loaded = vlm.load(final)
    weights, before = loaded.family.model.state_dict(), load_file(tmp_path / "base" / "model.safetensors")
    for name, value in merged.items():
        # AdamW's first steps go by a gradient's sign, and the sign of one that is nearly 0 is up to rounding.
        far = (weights[name] - value.float()).abs() > 2e-3 * value.abs().max().clamp(min=0.1)
        assert far.float().mean() < 0.01, name
    changed = "decoder_layers.0.self_attention.query.weight"
    assert (weights[changed] - before[changed].float()).abs().max() > 1e-3
    assert loaded.caption(garments.parent / "11.png").text


@slow
@pytest.mark.parametrize(("before", "after"), [("zero2", "fsdp2"), ("fsdp2", "zero3"), ("zero3", "cpu")])
def test_an_adapter_goes_on_under_another_engine(before: str, after: str, tmp_path: Path, garments: Path) -> None:
    """With three groups, whose moments are told apart by their place."""
    skip_without(before, after)
    optim = {**OPTIM, "max_grad_norm": 1e3, "modules": {"decoder": {"learning_rate_scale": 0.1}}}
    steps = {**TWO_STEPS, "optim": optim, "adapter": {"rank": 4, "also_trained": ["memory_norm"]}}
    alone = train(write_config(tmp_path / "alone", garments, **steps), num=1)
    config = write_config(tmp_path / "several", garments, **steps)
    run = train(config, name=before)
    shutil.rmtree(list_checkpoints(run / "checkpoints")[-1])
    assert_same_steps(train(config, name=after), alone)
    assert len(state_of(run, -1)[1]["trained"]) == 3


@slow
@pytest.mark.parametrize("engine", ENGINES)
def test_a_checkpoint_is_trained_further(engine: str, tmp_path: Path, garments: Path, tiny: VLM) -> None:
    """Under ZeRO 3 transformers would load it in parts."""
    skip_without(engine)
    tiny.save_pretrained(tmp_path / "base")
    steps = {**TWO_STEPS, "model": str(tmp_path / "base")}
    alone = train(write_config(tmp_path / "alone", garments, **steps), num=1)
    assert_same_steps(train(write_config(tmp_path / "several", garments, **steps), name=engine), alone)
