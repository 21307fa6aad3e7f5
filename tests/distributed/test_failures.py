"""One of several processes fails: all end within a minute, and one message names it, the step and its samples."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from tests.distributed.runs import (
    ALL,
    OPTIM,
    accelerate,
    finish,
    launch,
    rows,
    skip_without,
    state_of,
    wait_for_steps,
    workers_of,
    write_config,
)
from vlm.checkpoint import list_checkpoints

pytestmark = pytest.mark.distributed

slow = pytest.mark.slow


@slow
@pytest.mark.parametrize(("rank", "engine"), [(0, "cpu"), *((1, engine) for engine in ALL)])
def test_a_killed_process_ends_all(rank: int, engine: str, tmp_path: Path, garments: Path) -> None:
    skip_without(engine)
    config = write_config(tmp_path, garments, num_steps=100_000, save_every=0)
    process = launch(config, name=engine)
    wait_for_steps(tmp_path / "run", 3, process)
    workers = workers_of(process)
    assert len(workers) == 2
    os.kill(workers[rank], signal.SIGKILL)
    start = time.monotonic()
    status, out = finish(process, timeout=300)
    assert time.monotonic() - start < 60
    assert status == 128 + signal.SIGKILL
    [message] = re.findall(r"^vlm: process \d was lost.*$", out, re.MULTILINE)
    told = rf"vlm: process {rank} was lost in step \d+, .* of process {rank}: drawn-\d+, .* \(positions \d+ to \d+\)"
    assert re.match(told, message), message


@slow
@pytest.mark.parametrize("engine", ["cpu", "zero2", "zero3", "fsdp2"])
def test_a_broken_picture_ends_all(engine: str, tmp_path: Path, garments: Path) -> None:
    """An exception of the loader, in a worker of one process."""
    skip_without(engine)
    lines = [json.loads(line) for line in garments.read_text(encoding="utf-8").splitlines()]
    for row in lines:
        row["image"] = str(garments.parent / row["image"])
    lines[0]["image"] = str(tmp_path / "missing.png")
    records = tmp_path / "records.jsonl"
    records.write_text("".join(json.dumps(row) + "\n" for row in lines), encoding="utf-8")
    config = write_config(tmp_path, records, num_steps=100, save_every=0)
    start = time.monotonic()
    status, out = finish(launch(config, "--data.num_workers=1", name=engine))
    assert time.monotonic() - start < 120, "the start included"
    assert status == 1
    [message] = re.findall(r"^vlm: process \d failed in step \d+: .*$", out, re.MULTILINE)
    assert "missing.png" in out
    [samples] = re.findall(r"^its samples: (.*)$", out, re.MULTILINE)
    assert "drawn-0" in samples.replace(",", " ").split(), message


def poison(config: Path, kind: str, rank: int, *steps: int, engine: str) -> subprocess.Popen[str]:
    """Two processes, one of which goes wrong in these steps (from 0)."""
    words = ["--num_processes", "2", "-m", "tests.distributed.poisoned", str(config)]
    where = {"POISON_RANK": str(rank), "POISON_STEPS": ",".join(map(str, steps))}
    return accelerate(engine, *words, POISON=kind, **where)


@slow
@pytest.mark.parametrize(("rank", "engine"), [(0, "cpu"), *((1, engine) for engine in ALL)])
def test_a_loss_of_one_process_that_is_not_finite(rank: int, engine: str, tmp_path: Path, garments: Path) -> None:
    """Told once, with the record that is to blame."""
    skip_without(engine)
    config = write_config(tmp_path, garments, num_steps=9, save_every=1)
    start = time.monotonic()
    status, out = finish(poison(config, "loss", rank, 3, engine=engine))
    assert status != 0 and time.monotonic() - start < 120, "the start included"
    [records] = re.findall(r"^.*the loss of step 4 is not finite; the records: (.*)$", out, re.MULTILINE)
    assert re.match(rf"drawn-\d+ \(process {rank}\)\. Look at", records), records
    assert [path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")][-1] == "step_00000003"


@slow
@pytest.mark.parametrize("engine", ALL)
def test_a_gradient_of_one_process_that_is_not_finite(engine: str, tmp_path: Path, garments: Path) -> None:
    """Left out by all processes, and counted; weights and moments stay, and later steps are as ever."""
    skip_without(engine)
    config = write_config(tmp_path, garments, num_steps=4, save_every=1, max_skipped_steps=1)
    status, out = finish(poison(config, "gradient", 1, 1, engine=engine))
    assert status == 0, out[-3000:]
    assert [row.get("skipped_steps", 0) for row in rows(tmp_path / "run")] == [0, 1, 1, 1]
    (before, state), (after, later) = state_of(tmp_path / "run", 0), state_of(tmp_path / "run", 1)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    for index, values in state["optimizer"]["state"].items():
        assert all(torch.equal(later["optimizer"]["state"][index][key], value) for key, value in values.items())
    assert all(torch.equal(later["average"][name], value) for name, value in state["average"].items() if "." in name)
    last, _ = state_of(tmp_path / "run", -1)
    assert any(not torch.equal(last[name], value) for name, value in after.items())
    assert all(value.isfinite().all() for value in last.values())


@slow
@pytest.mark.parametrize("engine", ["cpu", "zero2", "fsdp2"])
def test_too_many_gradients_that_are_not_finite(engine: str, tmp_path: Path, garments: Path) -> None:
    skip_without(engine)
    config = write_config(tmp_path, garments, num_steps=9, save_every=1, max_skipped_steps=1)
    status, out = finish(poison(config, "gradient", 1, 1, 2, engine=engine))
    assert status != 0
    [told] = re.findall(r"^.*the gradient of step 3 is not finite \((?:nan|inf)\); its records: (.*)$", out, re.M)
    assert "(process 1)" in told


@slow
def test_a_loss_that_is_not_finite_is_told_once(tmp_path: Path, garments: Path) -> None:
    config = write_config(tmp_path, garments, num_steps=9, save_every=0, optim={**OPTIM, "learning_rate": 1e30})
    status, out = finish(launch(config))
    assert status == 1
    [records] = re.findall(r"^vlm: the loss of step 2 is not finite; the records: (.*)$", out, re.MULTILINE)
    assert "(process 0)" in records or "(process 1)" in records
