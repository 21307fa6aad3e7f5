"""`vlm train` in processes of its own, through the files in launch/, and what such a run leaves behind."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from vlm.checkpoint import list_checkpoints
from vlm.data.regions import region_sizes
from vlm.run_log import MEASURED
from vlm.train import main

ROOT = Path(__file__).parents[2]
TINY = ROOT / "configs" / "model" / "tiny.yaml"
ENGINES = ("zero1", "zero2", "zero3", "fsdp2")
"""Launches that put weights, gradients or moments in parts."""
ALL = ("cpu", *ENGINES)
SHARED = {
    "batch_size": 8,
    "mixed_precision": "no",
    "cpu": True,
    "log_every": 1,
    "tensorboard": False,
    "keep_checkpoints": 9,
}
STAGE = {"patch_budget": 12, "prompts_per_image": 3, "max_target_tokens": 40}
ONE_PROMPT = {**STAGE, "prompts_per_image": 1}
OPTIM = {"learning_rate": 3e-3, "warmup_steps": 0, "ema_decay": 0.9}
TWO_STEPS = {"num_steps": 2, "save_every": 1, "optim": {**OPTIM, "max_grad_norm": 1e3}}


def write_config(folder: Path, records: Path, *, stage: dict[str, int] = STAGE, **values: Any) -> Path:
    """With region labels. The pictures have two shapes: processes see different numbers of each."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = yaml.safe_load(TINY.read_text(encoding="utf-8")) | {"region_classes": list(region_sizes())}
    (folder / "model.yaml").write_text(yaml.safe_dump(shape), encoding="utf-8")
    config = {
        **SHARED,
        "output_dir": str(folder / "run"),
        "model": str(folder / "model.yaml"),
        "data": {
            "num_workers": 0,
            "stages": [stage],
            "sources": {"drawn": {"reader": "jsonl", "path": str(records)}},
        },
        "optim": OPTIM,
        **values,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder / "config.yaml"


# -- processes -----------------------------------------------------------------------------------------


def start(command: list[str], **environment: str) -> subprocess.Popen[str]:
    """Python with these words, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def launch(config: Path, *overrides: str, name: str | None = "cpu", num: int = 2) -> subprocess.Popen[str]:
    """`vlm train --launch NAME` in `num` processes; no name: without --launch."""
    command = ["-m", "vlm", "train", str(config), *overrides]
    if name is not None:
        command += ["--launch", name, "--num-processes", str(num)]
    return start(command)


def accelerate(file: str, *words: str, **environment: str) -> subprocess.Popen[str]:
    """Accelerate's own command with a file of launch/: `accelerate launch --config_file FILE -m ...`."""
    own = "from accelerate.commands.accelerate_cli import main; main()"
    return start(["-c", own, "launch", "--config_file", f"launch/{file}.yaml", *words], **environment)


def finish(process: subprocess.Popen[str], timeout: float = 900) -> tuple[int, str]:
    """Exit status and what was printed."""
    try:
        out, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        kill(process)
        pytest.fail(f"still running after {timeout} s:\n{process.communicate()[0][-3000:]}")
    return process.returncode, out


def kill(process: subprocess.Popen[str]) -> None:
    """The launcher and its processes, which have sessions of their own."""
    for pid in (*workers_of(process), process.pid):
        os.kill(pid, signal.SIGKILL)


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """Process ids of the ranks, in their order."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"\nPPid:\t{process.pid}\n" in (folder / "status").read_text():
                environ = (folder / "environ").read_bytes().split(b"\0")
                rank = next((word[5:] for word in environ if word.startswith(b"RANK=")), None)
                if rank is not None:
                    found[int(rank)] = int(folder.name)
        except OSError:  # it has ended meanwhile
            continue
    return [found[rank] for rank in sorted(found)]


def wait_for_steps(run: Path, steps: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 900
    while not (run / "metrics.jsonl").is_file() or len((run / "metrics.jsonl").read_text().splitlines()) < steps:
        if process.poll() is not None:
            pytest.fail(f"ended with {process.returncode} before step {steps}:\n{finish(process)[1][-3000:]}")
        assert time.monotonic() < deadline
        time.sleep(0.02)


def train(config: Path, *overrides: str, name: str = "cpu", num: int = 2) -> Path:
    """Train to the end; returns the run's folder. One process of "cpu" is this one."""
    if num == 1 and name == "cpu":
        AcceleratorState._reset_state(reset_partial_state=True)
        assert main([str(config), *overrides]) == 0
    else:
        status, out = finish(launch(config, *overrides, name=name, num=num))
        assert status == 0, out[-4000:]
    return Path(yaml.safe_load(config.read_text(encoding="utf-8"))["output_dir"])


def skip_without(*engines: str) -> None:
    if any(engine.startswith("zero") for engine in engines) and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed")


# -- what a run leaves ---------------------------------------------------------------------------------


def rows(run: Path) -> list[dict[str, float]]:
    """What was logged, without what was measured."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in MEASURED} for line in lines]


def assert_same_losses(found: Path, expected: Path, *, rtol: float = 1e-5) -> None:
    ours, theirs = rows(found), rows(expected)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for row, other in zip(ours, theirs, strict=True):
        # A count: it is the same to the last token if the samples are.
        assert row["tokens"] == other["tokens"], f"step {row['step']}"
        # A norm over parts is put together in another order.
        assert row.pop("grad_norm") == pytest.approx(other.pop("grad_norm"), rel=10 * rtol), f"step {row['step']}"
        assert row == pytest.approx(other, rel=rtol), f"step {row['step']}"


def state_of(run: Path, index: int) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Weights and state of the run's first or last checkpoint."""
    checkpoint = list_checkpoints(run / "checkpoints")[index]
    return load_file(checkpoint / "model.safetensors"), torch.load(checkpoint / "state.pt", weights_only=True)


def gradients(run: Path) -> dict[int, torch.Tensor]:
    """Of the first step: its share of AdamW's first moment. `max_grad_norm` is out of reach: nothing is clipped."""
    _, state = state_of(run, 0)
    return {index: values["exp_avg"] / (1 - 0.9) for index, values in state["optimizer"]["state"].items()}


def assert_same_steps(found: Path, expected: Path) -> None:
    """Losses and gradients of two steps, and the checkpoint after them, which has no trace of the engine."""
    assert_same_losses(found, expected)
    ours, theirs = gradients(found), gradients(expected)
    assert ours.keys() == theirs.keys() and len(ours) > 50
    for index, value in theirs.items():
        largest = float(value.abs().max())
        assert float((ours[index] - value).abs().max()) <= 1e-4 * largest + 1e-9, f"parameter {index}"
    (weights, state), (other_weights, other_state) = state_of(found, -1), state_of(expected, -1)
    averages, other_averages = state["average"], other_state["average"]
    assert weights.keys() == other_weights.keys() and averages.keys() == other_averages.keys()
    for one, other in ((weights, other_weights), (averages, other_averages)):
        for name in one.keys() - {"num_updates"}:
            # AdamW's first steps go by a gradient's sign, and the sign of one that is nearly 0 is up to rounding.
            far = (one[name] - other[name]).abs() > 1e-5
            assert one[name].shape == other[name].shape and far.float().mean() < 0.01, name
    assert state["optimizer"]["param_groups"] == other_state["optimizer"]["param_groups"]
    for index, values in other_state["optimizer"]["state"].items():
        ours = state["optimizer"]["state"][index]
        assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in values.items()}
        assert float(ours["step"]) == float(values["step"]) == 2
