"""Where a run's numbers go beside metrics.jsonl: TensorBoard, Weights & Biases, and all else that Accelerate knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers
from accelerate.utils import LoggerType

__all__ = ["check_trackers", "start_trackers"]

_PROJECT = "vlm"
_PACKAGES = {"comet_ml": "comet-ml"}
"""Where the package is not called as the tracker is."""


def check_trackers(names: Sequence[str]) -> None:
    """Whether Accelerate has them all.

    Raises:
        ValueError: one that it does not know, or that is not installed.
    """
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise ValueError(f"trackers: unknown tracker {name!r}; known: {', '.join(LOGGER_TYPE_TO_CLASS)}")
        if not _is_installed(name):
            package = _PACKAGES.get(name, name)
            raise ValueError(f"trackers: {name} is not installed; pip install {package}, or take it out of trackers")


def _is_installed(name: str) -> bool:
    """Those that were registered with Accelerate are no `LoggerType`, and here already."""
    return name not in LoggerType.list() or LoggerType(name) in get_available_trackers()


def start_trackers(
    accelerator: Accelerator, names: Sequence[str], output: Path, config: Mapping[str, Any], *, first_step: int
) -> list[str]:
    """Those of `names` that are installed, in the main process; `accelerator.log` writes to them from now on.

    Args:
        output: folder of the run. What is written to files goes there; elsewhere the run has the folder's name.
        config: of the run.
        first_step: where the run starts or goes on. What an interrupted run showed of later steps goes from
            TensorBoard: those are done again.
    """
    started = [name for name in names if _is_installed(name)]
    accelerator.log_with = [_make(name, output, first_step) for name in started]
    accelerator.init_trackers(_PROJECT)
    for tracker in accelerator.trackers:
        if tracker.name != "tensorboard":  # it would open a second run, of the configuration alone
            tracker.store_init_configuration(_flat(config))
    return started


def _make(name: str, output: Path, first_step: int) -> GeneralTracker:
    kind = LOGGER_TYPE_TO_CLASS[name]
    if name == "tensorboard":
        return kind(name, str(output), purge_step=first_step + 1)
    options = {"name": output.name} if name in ("wandb", "trackio") else {}
    return kind(_PROJECT, str(output), **options) if kind.requires_logging_directory else kind(_PROJECT, **options)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names, as on the command line; what trackers take are numbers, words and nothing."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
    return flat
