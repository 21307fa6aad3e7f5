"""Training checkpoints: written whole or not at all, the newest kept, resumed from one integer.

A checkpoint is a folder `step_00000500` with `model.safetensors` and `state.pt` (optimizer, weight average,
step, random state). It is written under a temporary name and renamed, so a kill in mid-save loses nothing.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

_NAME = re.compile(r"step_(\d{8})")


def list_checkpoints(folder: str | Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name) and (path / "state.pt").is_file()]
    return sorted(found)


def step_of(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path} is not a checkpoint folder; expected a name like step_00000500")
    return int(match.group(1))


def save_checkpoint(
    folder: str | Path,
    step: int,
    model: nn.Module,
    state: dict[str, Any],
    *,
    keep: int,
    protected: frozenset[int] = frozenset(),
) -> Path:
    """Write `step`'s checkpoint, then remove all but the newest `keep` and the `protected` steps."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"step_{step:08d}"
    temporary = folder / f".step_{step:08d}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, temporary / "model.safetensors")
    torch.save({**state, "step": step}, temporary / "state.pt")
    if target.exists():
        shutil.rmtree(target)
    os.replace(temporary, target)
    for old in list_checkpoints(folder)[:-keep]:
        if step_of(old) not in protected:
            shutil.rmtree(old)
    return target


def load_checkpoint(path: str | Path, model: nn.Module) -> dict[str, Any]:
    """Load the weights into `model` and return the state.

    Raises:
        ValueError: files are missing or of another model.
    """
    path = Path(path)
    try:
        weights = load_file(path / "model.safetensors")
        state: dict[str, Any] = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ValueError(f"{path} is not a whole checkpoint: {error}; point to another or start afresh") from error
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if missing or unexpected:
        raise ValueError(
            f"{path} is of another model: missing {sorted(missing)[:3]}, unexpected {sorted(unexpected)[:3]}; "
            "use the model configuration that it was trained with"
        )
    return state
