"""A run that was killed or told to stop goes on as the unbroken one, under any engine and with any number of processes.

Losses agree to a relative 2e-3: the rounding of a dozen steps.
"""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.distributed.runs import (
    ALL,
    OPTIM,
    assert_same_losses,
    finish,
    kill,
    launch,
    rows,
    skip_without,
    train,
    wait_for_steps,
    write_config,
)
from vlm.checkpoint import list_checkpoints
from vlm.launch import PREEMPTED
from vlm.train import main

pytestmark = pytest.mark.distributed

slow = pytest.mark.slow
STEPS = {"num_steps": 12, "save_every": 3}
"""Of eight samples each; a pass over the eleven pictures ends in every other step."""


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, garments: Path) -> Path:
    return train(write_config(tmp_path_factory.mktemp("unbroken"), garments, **STEPS), num=1)


KILLED = {
    "cpu": (2, [("cpu", 2), ("cpu", 1)]),
    "zero1": (5, [("zero1", 2), ("zero3", 4)]),
    "zero2": (7, [("zero2", 2), ("zero2", 4)]),
    "zero3": (8, [("zero3", 2), ("zero2", 1)]),
    "fsdp2": (10, [("fsdp2", 2), ("cpu", 4)]),
}
"""Launch -> the step after which two processes of it are killed, and what goes on with how many processes.

The first is killed before its first checkpoint."""


@slow
@pytest.mark.parametrize("engine", ALL)
def test_a_killed_run_goes_on(engine: str, unbroken: Path, tmp_path: Path, garments: Path) -> None:
    """SIGKILL, then the same engine with other workers, and, from the same state, another number of processes."""
    killed_after, goes_on = KILLED[engine]
    skip_without(engine, *(name for name, _ in goes_on))
    process = launch(write_config(tmp_path / "killed", garments, **STEPS), "--data.num_workers=2", name=engine)
    run = tmp_path / "killed" / "run"
    wait_for_steps(run, killed_after, process)
    kill(process)
    finish(process)
    assert not (run / "final").exists(), "it was to be killed in the middle"
    for (name, num), workers in zip(goes_on, (1, 2), strict=True):
        config = write_config(tmp_path / f"{name}-{num}", garments, **STEPS)
        again = config.parent / "run"
        shutil.copytree(run, again)
        done = [path.name for path in list_checkpoints(again / "checkpoints")]
        # One process of an engine that splits nothing is this one.
        train(config, f"--data.num_workers={workers}", name=name, num=num)
        assert_same_losses(again, unbroken, rtol=2e-3)
        assert [path.name for path in list_checkpoints(again / "checkpoints")][: len(done)] == done
        assert (again / "final" / "model.safetensors").is_file()


def test_a_signal_stops_a_run_at_a_checkpoint_and_it_goes_on(tmp_path: Path, garments: Path) -> None:
    """Sent to all processes of the job, the loader's worker too, as Slurm does."""
    steps = {"num_steps": 60, "save_every": 0}
    config = write_config(tmp_path, garments, **steps)
    run = tmp_path / "run"
    process = launch(config, "--data.num_workers=1", name=None)
    wait_for_steps(run, 3, process)
    os.killpg(process.pid, signal.SIGTERM)
    status, out = finish(process)
    assert status == PREEMPTED, out[-3000:]
    assert rows(run)[-1]["step"] < 60
    assert main([str(config)]) == 0
    unbroken = train(write_config(tmp_path / "unbroken", garments, **steps), num=1)
    assert rows(run) == rows(unbroken)


@slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("engine", ALL)
def test_a_signal_to_the_launcher(engine: str, number: signal.Signals, tmp_path: Path, garments: Path) -> None:
    """The status is the one that launch/slurm puts back into the queue."""
    skip_without(engine)
    config = write_config(tmp_path, garments, num_steps=4000, save_every=0, optim={**OPTIM, "schedule": "cosine"})
    run = tmp_path / "run"
    process = launch(config, name=engine)
    wait_for_steps(run, 3, process)
    process.send_signal(number)
    status, out = finish(process)
    assert status == PREEMPTED, out[-3000:]
    [checkpoint] = list_checkpoints(run / "checkpoints")
    done = int(rows(run)[-1]["step"])
    assert checkpoint.name == f"step_{done:08d}"
    assert f"told to stop: saved at step {done}; start it again" in out
    assert not (run / "final").exists()
