"""Checkpoint families: what a model must be able to do for the API to speak through it.

A family is one file. It turns pictures into features once, answers any number of prompts about them,
and knows how its checkpoints lie on disk, and in which words its checkpoints are asked. Everything else (what may be
asked, typed results, calibration, batches) is the same for all of them.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from tasks.base import SpanScorer
from tasks.boxes import ImageSize
from tasks.grammar import Grammar
from vlm.generate import Decoding, Generated
from vlm.token_masks import Automaton

__all__ = [
    "FAMILIES",
    "Family",
    "Prompt",
    "TaskForm",
    "family_class",
    "imported",
    "load_family",
    "make_family",
    "task_form",
]

FAMILIES: Mapping[str, str] = {
    "onelook": "vlm.families.onelook:OneLook",
    "florence2": "vlm.families.florence2:Florence2",
    "t5gemma2": "vlm.families.t5gemma2:T5Gemma2",
}
"""`model_type` in a checkpoint's config.json -> module:class, imported when needed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """A prompt about image number `image` of the features, and what its answer may be made of."""

    image: int
    text: str
    automaton: Automaton | None
    decoding: Decoding


class TaskForm(Protocol):
    """How a family asks a task and reads what it says; every `tasks.base.Task` is one."""

    max_new_tokens: int

    def prompt(self, inputs: Mapping[str, Any], image_size: ImageSize) -> str: ...

    def grammar(self, inputs: Mapping[str, Any]) -> Grammar | None:
        """What the decoder may emit; None for anything, where `parse` copes with anything."""

    def parse(
        self,
        text: str,
        inputs: Mapping[str, Any],
        image_size: ImageSize,
        *,
        scorer: SpanScorer | None = None,
        truncated: bool = False,
    ) -> Any: ...


class Switch(Protocol):
    """What of a family is another while an adapter is in use, beside the weights that all adapters change."""

    def add(self, name: str, folder: Path, added_tokens: Tensor | None) -> None:
        """Read it of the adapter in a folder.

        Args:
            name: by which `use` is asked for it.
            added_tokens: N x D embeddings of tokens that the checkpoint lacks.

        Raises:
            ValueError: it does not fit the checkpoint.
        """

    def use(self, name: str | None) -> None:
        """From now on; None for what the checkpoint is without any."""


class Family(Protocol):
    """A model with its tokenizer and image processing."""

    model: Any
    """The torch module, for its parameters, device and config."""

    @property
    def tasks(self) -> Mapping[str, TaskForm]:
        """Those of `tasks.TASKS` that the checkpoint was trained for, each in the checkpoint's own words."""

    @classmethod
    def facts(cls, folder: Path, config: Mapping[str, Any], num_parameters: int) -> dict[str, Any]:
        """What `vlm info` tells of a checkpoint directory that is not loaded: its "tasks", and "memory_bytes" where
        that can be predicted. `config` is its config.json."""

    def __init__(self, model: Any, processor: Any) -> None: ...

    @classmethod
    def from_pretrained(cls, path: Path, *, device: torch.device, dtype: torch.dtype, **placing: Any) -> Family:
        """Load a checkpoint.

        Args:
            placing: `device_map` and `quantization_config` as transformers' from_pretrained takes them, where they
                were asked for (see `vlm.placing`); the weights then stay where they are put, whatever `device` is.

        Raises:
            ValueError: `path` is not a whole checkpoint of the family, or it cannot be placed so.
        """

    def save_pretrained(self, path: Path) -> None: ...

    def switch(self) -> Switch:
        """For the adapters of this model; asked for once, before there are any."""

    def encode_images(self, images: Sequence[Image.Image]) -> Any:
        """Look at the images. The result serves any number of `generate` and `score` calls."""

    def generate(self, features: Any, prompts: Sequence[Prompt]) -> list[Generated]: ...

    def score(self, features: Any, prompts: Sequence[tuple[int, str, Sequence[str]]]) -> list[list[float]]:
        """(image, prompt, candidates) -> log-probability of every candidate, not bound to a grammar."""


def load_family(path: Path, *, device: torch.device, dtype: torch.dtype, **placing: Any) -> Family:
    """The model in a checkpoint directory, by the `model_type` in its config.json.

    Raises:
        ValueError: no or unreadable config.json, a family that is not known, or an adapter that is to be placed.
    """
    from vlm.adapters import is_adapter, load_merged

    if is_adapter(path):
        if placing:
            raise ValueError(
                f"{path}: is an adapter, which is merged when loaded; device_map and 8 or 4 bit need a checkpoint: "
                "load it, save_pretrained, and load that"
            )
        # Then it is the checkpoint that it belongs to, with the adapter merged into it.
        return load_merged(path, device=device, dtype=dtype)
    if not (path / "config.json").is_file():
        raise ValueError(f"{path}: has no config.json, so it is not a checkpoint directory")
    try:
        family = family_class(read_config(path).get("model_type"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return family.from_pretrained(path, device=device, dtype=dtype, **placing)


def read_config(folder: Path) -> dict[str, Any]:
    """What is in a folder's config.json; nothing where there is none.

    Raises:
        ValueError: it is damaged.
    """
    file = folder / "config.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{file}: is damaged: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file}: is damaged: expected a JSON object, found {type(found).__name__}")
    return found


def make_family(model: Any, processor: Any) -> Family:
    """The family of a model in memory, for example one in training.

    Raises:
        ValueError: a model of no known family.
    """
    return family_class(model.config.model_type)(model, processor)


def task_form(family: Family, task: str) -> TaskForm:
    """Raises ValueError where the checkpoint was not trained for the task."""
    if task not in family.tasks:
        raise ValueError(
            f"this {family.model.config.model_type} checkpoint was not trained for task {task!r}, only for "
            f"{', '.join(family.tasks)}; take a checkpoint fine-tuned for it (one that lists {task!r} under "
            "vlm_tasks in its config.json), or vlm.load() for the embedded one"
        )
    return family.tasks[task]


def family_class(model_type: Any) -> type[Family]:
    """Raises ValueError for a family that is not known."""
    if model_type not in FAMILIES:
        raise ValueError(f"model_type {model_type!r} is not a known family; known: {', '.join(FAMILIES)}")
    family: type[Family] = imported(FAMILIES[model_type])
    return family


def imported(place: str) -> Any:
    """What is called so: "module:name"."""
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)
