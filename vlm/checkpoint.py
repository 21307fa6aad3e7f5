"""Training checkpoints: written whole or not at all, the newest kept, resumed from one integer.

A checkpoint is a folder `step_00000500` with `model.safetensors`, `state.pt` (optimizer, weight average, step) and
the checksums of both. It is written under a temporary name and renamed, so a kill or a full disk in mid-save loses
nothing.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shutil
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vlm.atomic import replacing_folder, write_text

__all__ = [
    "Best",
    "DamagedCheckpointError",
    "list_checkpoints",
    "load_checkpoint",
    "load_newest",
    "require_same_groups",
    "save_checkpoint",
    "step_of",
    "untied",
]

_NAME = re.compile(r"step_(\d{8})")
_CHECKSUMS = "checksums.json"
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


def untied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without further names of the same tensor, which safetensors would not write."""
    seen: set[tuple[int, torch.Size]] = set()
    found = {}
    for name, value in weights.items():
        key = (value.data_ptr(), value.shape)
        if not value.numel() or not value.data_ptr() or key not in seen:
            found[name] = value
        seen.add(key)
    return found


def save_checkpoint(
    folder: str | Path,
    step: int,
    weights: Mapping[str, Tensor],
    state: dict[str, Any],
    *,
    keep: int,
    protected: frozenset[int] = frozenset(),
) -> Path:
    """Write `step`'s checkpoint, then remove older ones, but not the newest `keep` and the `protected` steps."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"step_{step:08d}"
    for unfinished in folder.glob(".step_*.tmp"):
        shutil.rmtree(unfinished)
    with replacing_folder(target, overwrite=True) as part:
        part.mkdir()
        save_file({name: value.contiguous() for name, value in weights.items()}, part / "model.safetensors")
        torch.save({**state, "step": step}, part / "state.pt")
        sums = {file.name: _checksum(file) for file in sorted(part.iterdir())}
        write_text(part / _CHECKSUMS, json.dumps(sums, indent=1) + "\n")
    # One of a later step is damaged, or the run would have gone on from it: it must not push this one out.
    so_far = [path for path in list_checkpoints(folder) if step_of(path) <= step]
    for old in so_far[:-keep]:
        if step_of(old) not in protected:
            shutil.rmtree(old)
    return target


def load_checkpoint(path: str | Path, model: nn.Module, names: Collection[str] | None = None) -> dict[str, Any]:
    """Load the weights into `model` and return the state.

    Args:
        names: the weights that it should have; None for all.

    Raises:
        DamagedCheckpointError: files are missing or cannot be read.
        ValueError: it is of another model.
    """
    path = Path(path)
    _check_whole(path)
    try:
        weights = load_file(path / "model.safetensors")
        state: dict[str, Any] = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
    except _DAMAGE as error:
        raise DamagedCheckpointError(f"{path} is not a whole checkpoint: {_first_line(error)}") from error
    own = {n: value for n, value in untied(model.state_dict()).items() if names is None or n in names}
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
            "adapter and all, another output_dir, or --restart"
        )
    model.load_state_dict(weights, strict=False)  # tied weights are told once
    return state


def load_newest(folder: str | Path, model: nn.Module, names: Collection[str] | None = None) -> dict[str, Any] | None:
    """Load the newest checkpoint that can be read; None where there is none at all. Damaged ones give a warning.

    Raises:
        ValueError: it is of another model, or every one is damaged.
    """
    found = list_checkpoints(folder)
    for path in reversed(found):
        try:
            return load_checkpoint(path, model, names)
        except DamagedCheckpointError as error:
            warnings.warn(f"{error}; trying the one before", stacklevel=2)
    if found:
        raise DamagedCheckpointError(
            f"none of the {len(found)} checkpoints in {folder} can be read; use another output_dir, or --restart"
        )
    return None


def require_same_groups(state: Mapping[str, Any], groups: Sequence[Sequence[str]], output: Path) -> None:
    """The optimizer's moments belong to weights by their place in its groups.

    Args:
        state: of a checkpoint.
        groups: names of the weights in each group of the optimizer that is to go on with it.
        output: of the run, for the message.

    Raises:
        ValueError: the checkpoint's groups were others.
    """
    before = state.get("trained")
    if before is None:  # version 0.1 did not name them
        sizes = [len(group["params"]) for group in state["optimizer"]["param_groups"]]
        same, changes = sizes == [len(names) for names in groups], []
    else:
        old, new = (set(itertools.chain.from_iterable(names)) for names in (before, groups))
        changes = [f"{name} was trained and is not" for name in sorted(old - new)]
        changes += [f"{name} was not trained and is" for name in sorted(new - old)]
        same = before == groups
    if not same:
        shown = "; ".join(changes[:2]) + (f"; and {len(changes) - 2} more" if len(changes) > 2 else "")
        raise ValueError(
            f"the run in {output} trained other weights, or put them into other groups{f' ({shown})' if shown else ''}"
            f"; set optim.modules as {output / 'train.yaml'} has it, use another output_dir, or --restart"
        )


def _checksum(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while block := content.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _check_whole(path: Path) -> None:
    """Compare the files with their checksums; checkpoints of version 0.1 have none.

    Raises:
        DamagedCheckpointError: a file is missing or another than was written.
    """
    try:
        sums = json.loads((path / _CHECKSUMS).read_text(encoding="utf-8"))
        changed = [name for name, expected in sums.items() if _checksum(path / name) != expected]
    except FileNotFoundError as error:
        if Path(str(error.filename)).name == _CHECKSUMS:
            return
        raise DamagedCheckpointError(f"{path} is not a whole checkpoint: {_first_line(error)}") from error
    except (OSError, ValueError, AttributeError) as error:
        raise DamagedCheckpointError(f"{path} is not a whole checkpoint: {_first_line(error)}") from error
    if changed:
        raise DamagedCheckpointError(
            f"{path} is not a whole checkpoint: {', '.join(changed)} has another checksum than when it was written"
        )


class Best:
    """Which checkpoint had the highest value of a metric so far; told in best.json beside the checkpoints.

    Attributes:
        step: of that checkpoint; None before there is one.
    """

    def __init__(self, folder: str | Path) -> None:
        self.file = Path(folder) / "best.json"
        found = json.loads(self.file.read_text(encoding="utf-8")) if self.file.is_file() else {}
        self.step: int | None = found.get("step")
        self.metric: str | None = found.get("metric")
        self.value = float(found.get("value", "-inf"))

    def take(self, step: int, metric: str, value: float) -> bool:
        """Whether `step` is the best; of a metric that was not asked for before, the first is."""
        if metric == self.metric and not value > self.value:
            return False
        self.step, self.metric, self.value = step, metric, value
        write_text(self.file, json.dumps({"step": step, "metric": metric, "value": value}) + "\n")
        return True


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
