"""Accelerate's trackers, one of our own among them: it is registered as any other that people write."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate import tracking

from vlm.trackers import check_trackers
from vlm.train import main

TINY = Path(__file__).parents[2] / "configs" / "model" / "tiny.yaml"


pytestmark = pytest.mark.usefixtures("fresh_accelerator")


class FileTracker(tracking.GeneralTracker):
    """Writes what it is told into a file of the run's folder."""

    name = "file"
    requires_logging_directory = True

    def __init__(self, run_name: str, logging_dir: str) -> None:
        super().__init__()
        self.file = Path(logging_dir) / f"{run_name}.jsonl"

    @property
    def tracker(self) -> Path:
        return self.file

    def _write(self, values: dict[str, Any]) -> None:
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self._write(values)

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self._write({"step": step, **values})


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, FileTracker.name, FileTracker)


def write_config(folder: Path, records: Path, **values: Any) -> Path:
    config = {
        "output_dir": str(folder / "run"),
        "model": str(TINY),
        "num_steps": 2,
        "batch_size": 4,
        "mixed_precision": "no",
        "cpu": True,
        "log_every": 1,
        "data": {
            "num_workers": 0,
            "stages": [{"patch_budget": 12, "prompts_per_image": 3, "max_target_tokens": 40}],
            "sources": {"drawn": {"reader": "jsonl", "path": str(records)}},
        },
        **values,
    }
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    return file


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_a_tracker_is_told_what_the_file_is(registered: None, tmp_path: Path, garments: Path) -> None:
    config = write_config(tmp_path, garments, trackers=["file", "file"], optim={"warmup_steps": 7})
    assert main([str(config)]) == 0
    first, *rest = lines(tmp_path / "run" / "vlm.jsonl")
    assert first["optim.warmup_steps"] == 7 and first["cpu"] is True
    assert first["data.sources.drawn.reader"] == "jsonl"
    assert rest == lines(tmp_path / "run" / "metrics.jsonl"), "once, though it is named twice"
    assert not (tmp_path / "run" / "tensorboard").exists(), "it is not named"


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="needs TensorBoard")
def test_several_trackers(registered: None, tmp_path: Path, garments: Path) -> None:
    config = write_config(tmp_path, garments, trackers=["tensorboard", "file"], tensorboard=False)
    assert main([str(config)]) == 0
    assert len(lines(tmp_path / "run" / "vlm.jsonl")) == 3
    assert [path.name.startswith("events") for path in (tmp_path / "run" / "tensorboard").iterdir()] == [True]


def test_weights_and_biases(tmp_path: Path, garments: Path) -> None:
    """The real one, offline: what it would send holds every number of the file. As a command: its own process writes
    on until this one ends."""
    pytest.importorskip("wandb")
    file = write_config(tmp_path, garments, trackers=["wandb"])
    offline = {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}
    done = subprocess.run(
        [sys.executable, "-m", "vlm", "train", str(file)],
        env=os.environ | offline,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    [file] = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    sent, told = file.read_bytes(), lines(tmp_path / "run" / "metrics.jsonl")
    assert len(told) == 2
    for row in told:
        for name, number in row.items():
            assert name.encode() in sent, name
            spelt = json.dumps(int(number) if number == int(number) else number)
            assert spelt.encode() in sent, f"{name} of step {row['step']}"


def test_an_unknown_tracker_is_an_error_at_once(tmp_path: Path, garments: Path) -> None:
    config = write_config(tmp_path, garments, trackers=["tensorbord"])
    with pytest.raises(ValueError, match=r"unknown tracker 'tensorbord'; known: .*tensorboard.*wandb"):
        main([str(config)])
    assert not (tmp_path / "run").exists()


def test_a_missing_tracker_is_an_error_with_the_fix() -> None:
    missing = [name for name in ("wandb", "trackio", "aim", "comet_ml") if importlib.util.find_spec(name) is None]
    if not missing:
        pytest.skip("all of them are installed")
    package = missing[0].replace("_", "-")
    with pytest.raises(ValueError, match=f"{missing[0]} is not installed; pip install {package}, or take it out"):
        check_trackers(["tensorboard", missing[0]])
