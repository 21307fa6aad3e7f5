"""Training checkpoints: written whole or not at all, the newest kept, resumed from one integer.

A checkpoint is a folder `step_00000500` with `model.safetensors` and `state.pt` (optimizer, weight average,
step). It is written under a temporary name and renamed, so a kill in mid-save loses nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import warnings
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

__all__ = ["DamagedCheckpointError", "list_checkpoints", "load_checkpoint", "load_newest", "save_checkpoint", "step_of"]

_NAME = re.compile(r"step_(\d{8})")
_DAMAGE = (OSError, EOFError, RuntimeError, SafetensorError, UnpicklingError)
"""What the two loaders raise on files that are missing, cut off or overwritten."""


class DamagedCheckpointError(ValueError):
    """Its files are missing or cannot be read."""


def list_checkpoints(folder: str | Path) -> list[Path]:
    """Oldest first. Those that were never finished have another name and are not among them."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


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
    """Write `step`'s checkpoint, then remove older ones, but not the newest `keep` and the `protected` steps."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"step_{step:08d}"
    temporary = folder / f".step_{step:08d}.tmp"
    for unfinished in folder.glob(".step_*.tmp"):
        shutil.rmtree(unfinished)
    temporary.mkdir()
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, temporary / "model.safetensors")
    torch.save({**state, "step": step}, temporary / "state.pt")
    if target.exists():
        shutil.rmtree(target)
    os.replace(temporary, target)
    # One of a later step is damaged, or the run would have gone on from it: it must not push this one out.
    so_far = [path for path in list_checkpoints(folder) if step_of(path) <= step]
    for old in so_far[:-keep]:
        if step_of(old) not in protected:
            shutil.rmtree(old)
    return target


def load_checkpoint(path: str | Path, model: nn.Module) -> dict[str, Any]:
    """Load the weights into `model` and return the state.

    Raises:
        DamagedCheckpointError: files are missing or cannot be read.
        ValueError: it is of another model.
    """
    path = Path(path)
    try:
        weights = load_file(path / "model.safetensors")
        state: dict[str, Any] = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
    except _DAMAGE as error:
        raise DamagedCheckpointError(f"{path} is not a whole checkpoint: {_first_line(error)}") from error
    own = model.state_dict()
    wrong = [f"{name} is missing" for name in own if name not in weights]
    wrong += [f"{name} is unknown" for name in weights if name not in own]
    wrong += [
        f"{name} is {list(value.shape)}, not {list(own[name].shape)}"
        for name, value in weights.items()
        if name in own and value.shape != own[name].shape
    ]
    if wrong:
        shown = "; ".join(wrong[:3]) + (f"; and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        raise ValueError(
            f"{path} is of another model ({shown}); use the model configuration that it was trained with, "
            "another output_dir, or --restart"
        )
    model.load_state_dict(weights)
    return state


def load_newest(folder: str | Path, model: nn.Module) -> dict[str, Any] | None:
    """Load the newest checkpoint that can be read; None where there is none at all. Damaged ones give a warning.

    Raises:
        ValueError: it is of another model, or every one is damaged.
    """
    found = list_checkpoints(folder)
    for path in reversed(found):
        try:
            return load_checkpoint(path, model)
        except DamagedCheckpointError as error:
            warnings.warn(f"{error}; trying the one before", stacklevel=2)
    if found:
        raise DamagedCheckpointError(
            f"none of the {len(found)} checkpoints in {folder} can be read; use another output_dir, or --restart"
        )
    return None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
