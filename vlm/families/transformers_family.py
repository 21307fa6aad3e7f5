"""What Florence-2 and T5Gemma 2 have in common: an encoder-decoder of transformers that looks at an image once.

The vision tower's features are kept for an image; the encoder runs once a prompt over them, and all prompts are
decoded together. A checkpoint that was fine-tuned on our own prompts lists those tasks in its config.json
(`"vlm_tasks": ["attributes", "vqa"]`) and is then asked in our words, bound to our grammars.
"""

# B images, I image tokens, D width

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tasks import TASKS
from vlm.families import Prompt, Switch, TaskForm, read_config
from vlm.families.pretrained import evaluating, load_weights
from vlm.families.transformers_decoding import Memory, TransformersJob, decode, score_targets
from vlm.generate import Generated
from vlm.token_masks import TokenMasks

__all__ = ["Features", "Speech", "SpeechSwitch", "TransformersFamily", "checkpoint_tasks"]

MAX_SEQUENCES = 32
"""Most sequences (beams counted) that are decoded at a time: each holds some 24 MB of keys and values in the size of
Florence-2-base. The weights are read once a step for all of them, and by then that costs less than their own memory
does."""

NUM_IMAGES = {"cpu": 1}
"""Most images in the vision tower at a time. On a CPU more is not faster, and takes memory."""

Own = TypeVar("Own", bound="TransformersFamily")


@dataclass(frozen=True, slots=True)
class Features:
    """What the vision tower and the projector made of B images."""

    hidden_BID: Tensor


@dataclass(slots=True)
class Speech:
    """In which words and tokens a model is asked.

    Attributes:
        processor: with the tokenizer.
        vlm_tasks: of config.json.
        tasks: all that it can be asked.
        masks: made when they are needed.
    """

    processor: Any
    vlm_tasks: Sequence[str] | None
    tasks: Mapping[str, TaskForm]
    masks: TokenMasks | None = None


def checkpoint_tasks(native: Mapping[str, TaskForm], own: Sequence[str] | None) -> Mapping[str, TaskForm]:
    """In the words that the family was trained with, and in ours what the checkpoint was fine-tuned for.

    Args:
        native: what every checkpoint of the family was trained for.
        own: `vlm_tasks` of its config.json.

    Raises:
        ValueError: an unknown task among its own.
    """
    own = tuple(own or ())
    unknown = [name for name in own if name not in TASKS]
    if unknown:
        raise ValueError(f"vlm_tasks in config.json has {unknown[0]!r}; known: {', '.join(TASKS)}")
    return {name: TASKS[name] if name in own else native[name] for name in TASKS if name in own or name in native}


class TransformersFamily(abc.ABC):
    """A model and its processor. The model may be one in training: it is put into eval mode for each call, and back
    afterwards.

    Raises:
        ValueError: the checkpoint lists tasks of ours that are not known.
    """

    model_class: ClassVar[Any]
    processor_class: ClassVar[Any]
    native: ClassVar[Mapping[str, TaskForm]]
    """Tasks that every checkpoint of the family was trained for, in its own words."""
    processor_files: ClassVar[str]
    """What a checkpoint has for its processor."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model: Any = model
        own = getattr(model.config, "vlm_tasks", None)
        self.speech = Speech(processor, own, checkpoint_tasks(self.native, own))

    # -- what a family says ---------------------------------------------------------------------------

    @property
    @abc.abstractmethod
    def vocab_size(self) -> int:
        """Width of the logits."""

    @staticmethod
    @abc.abstractmethod
    def pixels(processor: Any, images: Sequence[Image.Image]) -> Any:
        """What the processor makes of images, `pixel_values` in it."""

    @abc.abstractmethod
    def prompt_ids(self, text: str) -> list[int]:
        """Tokens of a prompt. Raises ValueError where it cannot be asked."""

    @abc.abstractmethod
    def _memory(self, features: Features, asked: Sequence[tuple[int, str]]) -> Memory:
        """The encoder's outputs for (image, prompt) pairs, shorter ones padded."""

    @abc.abstractmethod
    def _target_ids(self, text: str) -> list[int]:
        """Tokens of an answer, the end among them."""

    def _num_given(self, prompt: str) -> int:
        """How many of an answer's first tokens are given, so that there is no choice in them."""
        return 0

    def _settings(self, prompt: str) -> dict[str, Any]:
        """Of transformers' GenerationConfig, in place of the checkpoint's own."""
        return {}

    def _limit(self, max_new_tokens: int) -> int:
        """As many as the decoder can say, at most."""
        return max_new_tokens

    @property
    def softcap(self) -> float | None:
        """Of the logits, where the model has one."""
        return None

    # -- in which words ------------------------------------------------------------------------------

    @property
    def processor(self) -> Any:
        return self.speech.processor

    @property
    def tasks(self) -> Mapping[str, TaskForm]:
        return self.speech.tasks

    @property
    def masks(self) -> TokenMasks:
        if self.speech.masks is None:  # takes a moment, and only generation needs it
            self.speech.masks = TokenMasks(self.processor.tokenizer, self.vocab_size)
        return self.speech.masks

    def switch(self) -> Switch:
        return SpeechSwitch(self)

    # -- checkpoints ---------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls: type[Own], path: Path, *, device: torch.device, dtype: torch.dtype, **placing: Any) -> Own:
        model = load_weights(cls.model_class, path, device=device, dtype=dtype, placing=placing)
        processor = cls.read_processor(path)
        try:
            return cls(model, processor)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def read_processor(cls, path: Path) -> Any:
        """Raises ValueError where it is not whole."""
        try:
            return cls.processor_class.from_pretrained(str(path), local_files_only=True)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"{path}: the processor cannot be read ({error}); a checkpoint has {cls.processor_files} beside its "
                "weights"
            ) from error

    def save_pretrained(self, path: Path) -> None:
        self.model.save_pretrained(str(path))
        self.processor.save_pretrained(str(path))

    @classmethod
    def facts(cls, folder: Path, config: Mapping[str, Any], num_parameters: int) -> dict[str, Any]:
        return {"tasks": list(checkpoint_tasks(cls.native, config.get("vlm_tasks")))}

    # -- images and prompts --------------------------------------------------------------------------

    def _asked(
        self, features: Features, asked: Sequence[tuple[int, str]], pad_id: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of (image, prompt) pairs the image's features, R x I x D, and the prompt's tokens, shorter ones padded on the
        right, R x S, with their mask."""
        device = features.hidden_BID.device
        rows_S = [torch.tensor(self.prompt_ids(text), device=device) for _, text in asked]
        return (
            features.hidden_BID[[image for image, _ in asked]],
            pad_sequence(rows_S, batch_first=True, padding_value=pad_id),
            pad_sequence([torch.ones_like(row) for row in rows_S], batch_first=True),
        )

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Image.Image]) -> Features:
        weight = next(self.model.parameters())
        at_once = NUM_IMAGES.get(weight.device.type, 8)
        parts = []
        with evaluating(self.model):
            for start in range(0, len(images), at_once):
                pixels = self.pixels(self.processor, images[start : start + at_once])
                found = self.model.get_image_features(pixels["pixel_values"].to(weight.device, weight.dtype))
                parts.append(found.pooler_output)
        return Features(torch.cat(parts))

    def generate(self, features: Features, prompts: Sequence[Prompt]) -> list[Generated]:
        groups: dict[Any, list[int]] = {}  # of prompts that can be decoded together
        for index, prompt in enumerate(prompts):
            decoding = prompt.decoding
            beams = (decoding.length_penalty, self._limit(decoding.max_new_tokens)) if decoding.num_beams > 1 else None
            settings = tuple(self._settings(prompt.text).items())
            groups.setdefault((settings, decoding.num_beams, beams), []).append(index)
        found: dict[int, Generated] = {}
        for (settings, num_beams, _), indices in groups.items():
            at_once = max(1, MAX_SEQUENCES // num_beams)
            for start in range(0, len(indices), at_once):
                part = indices[start : start + at_once]
                said = self._decode(features, [prompts[i] for i in part], dict(settings))
                found.update(zip(part, said, strict=True))
        return [found[index] for index in range(len(prompts))]

    def _decode(self, features: Features, prompts: Sequence[Prompt], settings: dict[str, Any]) -> list[Generated]:
        rows = {asked: row for row, asked in enumerate(dict.fromkeys((p.image, p.text) for p in prompts))}
        jobs = [
            TransformersJob(
                row=rows[prompt.image, prompt.text],
                automaton=prompt.automaton,
                decoding=replace(
                    prompt.decoding,
                    max_new_tokens=self._limit(prompt.decoding.max_new_tokens),
                    location_window=None,  # the locations were trained one by one, as any other token
                ),
            )
            for prompt in prompts
        ]
        with evaluating(self.model):
            return decode(self.model, self.masks, self._memory(features, list(rows)), jobs, settings)

    def score(self, features: Features, prompts: Sequence[tuple[int, str, Sequence[str]]]) -> list[list[float]]:
        found: list[list[float]] = []
        for image, text, candidates in prompts:
            targets = [self._target_ids(candidate) for candidate in candidates]
            scores: list[float] = []
            with evaluating(self.model):
                memory = self._memory(features, [(image, text)])
                for start in range(0, len(targets), MAX_SEQUENCES):
                    part = targets[start : start + MAX_SEQUENCES]
                    scores += score_targets(
                        self.model, memory, [0] * len(part), part, self._num_given(text), self.softcap
                    )
            found.append(scores)
        return found


class SpeechSwitch:
    """The words of a checkpoint and of the adapters beside it: an adapter is asked for the tasks that its config.json
    lists as `vlm_tasks`, too.

    Args:
        family: with the checkpoint's own words.
    """

    def __init__(self, family: TransformersFamily) -> None:
        self.family = family
        self.speeches: dict[str | None, Speech] = {None: family.speech}

    def add(self, name: str, folder: Path, added_tokens: Tensor | None) -> None:
        """See `vlm.families.Switch`."""
        if added_tokens is not None:
            raise ValueError(f"{folder}: the adapter has new tokens, which a checkpoint of this family does not take")
        self.speeches[name] = self.speech_of(folder, self.family.processor)

    def speech_of(self, folder: Path, processor: Any) -> Speech:
        """Raises ValueError where the adapter's config.json lists an unknown task."""
        own = read_config(folder).get("vlm_tasks", self.speeches[None].vlm_tasks)
        return Speech(processor, own, checkpoint_tasks(self.family.native, own))

    def use(self, name: str | None) -> None:
        """See `vlm.families.Switch`."""
        self.family.speech = self.speeches[name]
        if getattr(self.family.model.config, "vlm_tasks", None) != self.family.speech.vlm_tasks:
            self.family.model.config.vlm_tasks = self.family.speech.vlm_tasks
