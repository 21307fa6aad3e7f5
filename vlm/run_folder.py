"""The folder of a training run: its configuration, those of the runs before it, and a restart."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from vlm.config import TrainConfig

__all__ = ["as_yaml", "earlier_runs", "move_aside"]

_OF_A_RUN = ("checkpoints", "final", "metrics.jsonl", "tensorboard", "tokenizer", "train.yaml", "vision_tower.json")
"""What a run leaves in its output_dir."""


def move_aside(output: Path) -> None:
    """An earlier run's files go to `output`/previous, in place of what was there."""
    found = [output / name for name in _OF_A_RUN if (output / name).exists()]
    if found:
        shutil.rmtree(output / "previous", ignore_errors=True)
        (output / "previous").mkdir()
        for path in found:
            os.replace(path, output / "previous" / path.name)


def as_yaml(config: TrainConfig, earlier: Sequence[dict[str, Any]] = ()) -> str:
    plain = json.loads(json.dumps(asdict(config)))  # tuples become lists
    return yaml.safe_dump(plain | ({"earlier": list(earlier)} if earlier else {}), sort_keys=False)


def earlier_runs(model: str) -> list[dict[str, Any]]:
    """Configurations of the runs that made the checkpoint that a run starts from, oldest first."""
    file = Path(model) / "train.yaml"
    if not file.is_file():
        return []
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    return [*config.pop("earlier", []), config]
