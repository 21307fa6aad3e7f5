"""The project's own family: the one-look encoder-decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from tasks import TASKS
from vlm.families import Prompt, Switch, TaskForm, read_config
from vlm.families.pretrained import evaluating, load_weights
from vlm.generate import Generated, Job, generate, score_candidates
from vlm.model import ImageFeatures, OneLookModel
from vlm.placing import one_device
from vlm.processor import OneLookProcessor
from vlm.token_masks import TokenMasks

__all__ = ["OneLook"]

_READ_NOT_CALLED = ("tokens", r".*self_attention")
"""Parts whose weights decoding reads itself, so that they have to be numbers as they are."""
MAX_PROMPT_TOKENS = 512
"""Attention over prompts grows with their length squared; training never comes near this."""


class OneLook:
    """A `OneLookModel` and its processor. The model may be one in training: it is put into eval mode for
    each call, and back afterwards."""

    def __init__(self, model: OneLookModel, processor: OneLookProcessor) -> None:
        self.model: Any = model
        self.processor = processor
        self._masks: TokenMasks | None = None

    @classmethod
    def from_pretrained(cls, path: Path, *, device: torch.device, dtype: torch.dtype, **placing: Any) -> OneLook:
        if placing:
            placing["device_map"] = {"": one_device(placing["device_map"], device)}
            if "quantization_config" in placing:
                placing["quantization_config"].llm_int8_skip_modules = list(_READ_NOT_CALLED)
        model = load_weights(OneLookModel, path, device=device, dtype=dtype, placing=placing)
        return cls(model, OneLookProcessor.from_pretrained(path, model.config))

    @property
    def tasks(self) -> Mapping[str, TaskForm]:
        return TASKS

    @classmethod
    def facts(cls, folder: Path, config: Mapping[str, Any], num_parameters: int) -> dict[str, Any]:
        return {"tasks": list(TASKS)}

    def save_pretrained(self, path: Path) -> None:
        self.model.save_pretrained(str(path))
        self.processor.save_pretrained(path)

    def switch(self) -> Switch:
        return BudgetSwitch(self)

    @property
    def masks(self) -> TokenMasks:
        if self._masks is None:  # takes a moment, and only generation needs it
            self._masks = TokenMasks(self.processor.tokenizer, self.model.config.vocab_size)
        return self._masks

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Image.Image]) -> ImageFeatures:
        batch = self.processor.collate_images(images)
        weight = next(self.model.parameters())
        with evaluating(self.model):
            return self.model.encode_images(
                [group.to(weight.device, weight.dtype) for group in batch["pixel_values"]],
                [index.to(weight.device) for index in batch["image_index"]],
            )

    def generate(self, features: ImageFeatures, prompts: Sequence[Prompt]) -> list[Generated]:
        jobs = [
            Job(
                image=prompt.image,
                prompt_ids=self._prompt_ids(prompt.text),
                automaton=prompt.automaton,
                decoding=prompt.decoding,
            )
            for prompt in prompts
        ]
        with evaluating(self.model):
            return generate(self.model, self.masks, features, jobs)

    def score(self, features: ImageFeatures, prompts: Sequence[tuple[int, str, Sequence[str]]]) -> list[list[float]]:
        encode = self.processor.encode_target
        encoded = [
            (image, self._prompt_ids(prompt), [encode(candidate) for candidate in candidates])
            for image, prompt, candidates in prompts
        ]
        with evaluating(self.model):
            return score_candidates(self.model, features, encoded)

    def _prompt_ids(self, text: str) -> list[int]:
        ids = self.processor.encode_prompt(text)
        if len(ids) > MAX_PROMPT_TOKENS:
            raise ValueError(f"the prompt has {len(ids)} tokens, at most {MAX_PROMPT_TOKENS}: {text[:60]!r}...")
        return ids


class BudgetSwitch:
    """In what size pictures are looked at: an adapter may have been trained at another than its checkpoint.

    Args:
        family: with the checkpoint's own patch budget.
    """

    def __init__(self, family: OneLook) -> None:
        self.family = family
        self.budgets: dict[str | None, int] = {None: family.model.config.patch_budget}

    def add(self, name: str, folder: Path, added_tokens: Tensor | None) -> None:
        """See `vlm.families.Switch`."""
        if added_tokens is not None:
            raise ValueError(f"{folder}: the adapter has new tokens, which a checkpoint of this family does not take")
        self.budgets[name] = read_config(folder).get("patch_budget", self.budgets[None])

    def use(self, name: str | None) -> None:
        """See `vlm.families.Switch`."""
        self.family.processor.patch_budget = self.family.model.config.patch_budget = self.budgets[name]
