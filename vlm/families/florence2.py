"""Florence-2 (arXiv 2311.06242) in transformers' native class: `florence-community/Florence-2-{base,large}[-ft]`.

An image goes through the vision tower once; its features stand before the tokens of every prompt about it, and all
prompts go through encoder and decoder together. A checkpoint that was fine-tuned on our own prompts lists those tasks
in its config.json (`"vlm_tasks": ["attributes", "vqa"]`) and is then asked in our words, bound to our grammars.
"""

# B images, I image tokens, R prompts, S prompt tokens, M image and prompt tokens, D width

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import Florence2ForConditionalGeneration, Florence2Processor

from tasks import TASKS
from vlm.families import Prompt, TaskForm
from vlm.families.florence2_tasks import NATIVE
from vlm.families.transformers_decoding import Memory, TransformersJob, decode, score_targets
from vlm.generate import Generated
from vlm.token_masks import TokenMasks

__all__ = ["Features", "Florence2", "checkpoint_tasks", "prompt_ids"]

MAX_SEQUENCES = 32
"""Most sequences (beams counted) that are decoded at a time: each holds some 24 MB of keys and values in the base
size. The weights are read once a step for all of them, and by then that costs less than their own memory does."""

NUM_IMAGES = {"cpu": 1}
"""Most images in the vision tower at a time. On a CPU more is not faster, and takes memory."""


@dataclass(frozen=True, slots=True)
class Features:
    """What the vision tower and the projector made of B images."""

    hidden_BID: Tensor


class Florence2:
    """A native Florence-2 and its processor. The model may be one in training: it is put into eval mode for each
    call, and back afterwards."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model: Any = model
        self.processor = processor
        self.tasks: Mapping[str, TaskForm] = checkpoint_tasks(getattr(model.config, "vlm_tasks", None))
        self._masks: TokenMasks | None = None

    # -- checkpoints ---------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, path: Path, *, device: torch.device, dtype: torch.dtype, **placing: Any) -> Florence2:
        if not any(path.glob("*.safetensors")):
            raise ValueError(f"{path}: has no .safetensors weights; pickled weights are not loaded")
        try:
            model, loading = Florence2ForConditionalGeneration.from_pretrained(
                str(path), dtype=dtype, use_safetensors=True, output_loading_info=True, local_files_only=True, **placing
            )
        except (OSError, SafetensorError, RuntimeError) as error:  # missing, damaged, or of other shapes
            raise ValueError(f"{path}: the weights cannot be read: {error}") from error
        # transformers only warns, and then answers with random weights.
        wrong = {kind: sorted(map(str, names)) for kind, names in loading.items() if names}
        if wrong:
            raise ValueError(f"{path}: the weights do not fit config.json: {wrong}")
        try:
            processor = Florence2Processor.from_pretrained(str(path), local_files_only=True)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"{path}: the processor cannot be read ({error}); a checkpoint has preprocessor_config.json, "
                "processor_config.json and tokenizer.json beside its weights"
            ) from error
        model = model if placing else model.to(device)
        return cls(model.eval(), processor)

    def save_pretrained(self, path: Path) -> None:
        self.model.save_pretrained(str(path))
        self.processor.save_pretrained(str(path))

    @classmethod
    def facts(cls, folder: Path, config: Mapping[str, Any], num_parameters: int) -> dict[str, Any]:
        from vlm.families.florence2_memory import predict_memory

        return {
            "tasks": list(checkpoint_tasks(config.get("vlm_tasks"))),
            "memory_bytes": predict_memory(folder, config, num_parameters),
        }

    @property
    def masks(self) -> TokenMasks:
        if self._masks is None:  # takes a moment, and only generation needs it
            self._masks = TokenMasks(self.processor.tokenizer, self.model.config.text_config.vocab_size)
        return self._masks

    # -- images --------------------------------------------------------------------------------------

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Image.Image]) -> Features:
        weight = next(self.model.parameters())
        at_once = NUM_IMAGES.get(weight.device.type, 8)
        parts = []
        with self._evaluating():
            for start in range(0, len(images), at_once):
                pixels = self.processor.image_processor(list(images[start : start + at_once]), return_tensors="pt")
                found = self.model.get_image_features(pixels["pixel_values"].to(weight.device, weight.dtype))
                parts.append(found.pooler_output)
        return Features(torch.cat(parts))

    # -- prompts -------------------------------------------------------------------------------------

    def generate(self, features: Features, prompts: Sequence[Prompt]) -> list[Generated]:
        groups: dict[Any, list[int]] = {}
        for index, prompt in enumerate(prompts):
            decoding = prompt.decoding
            beams = (decoding.length_penalty, self._limit(decoding.max_new_tokens)) if decoding.num_beams > 1 else None
            groups.setdefault((self._is_native(prompt.text), decoding.num_beams, beams), []).append(index)
        found: dict[int, Generated] = {}
        for (native, num_beams, _), indices in groups.items():
            at_once = max(1, MAX_SEQUENCES // num_beams)
            for start in range(0, len(indices), at_once):
                part = indices[start : start + at_once]
                found.update(zip(part, self._decode(features, [prompts[i] for i in part], native), strict=True))
        return [found[index] for index in range(len(prompts))]

    def _decode(self, features: Features, prompts: Sequence[Prompt], native: bool) -> list[Generated]:
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
        # In our words a repetition is no stutter ("colour: black; ... colour: black"), and may be the only way on.
        settings = {} if native else {"no_repeat_ngram_size": 0, "forced_bos_token_id": self._bos_id}
        with self._evaluating():
            return decode(self.model, self.masks, self._memory(features, list(rows)), jobs, settings)

    def score(self, features: Features, prompts: Sequence[tuple[int, str, Sequence[str]]]) -> list[list[float]]:
        tokenizer, eos_id = self.processor.tokenizer, self.masks.eos_id
        found: list[list[float]] = []
        for image, text, candidates in prompts:
            targets = [
                [self._bos_id, *tokenizer.encode(candidate, add_special_tokens=False), eos_id]
                for candidate in candidates
            ]
            scores: list[float] = []
            with self._evaluating():
                memory = self._memory(features, [(image, text)])
                for start in range(0, len(targets), MAX_SEQUENCES):
                    part = targets[start : start + MAX_SEQUENCES]
                    # The beginning of a sequence is given where it is forced, which is in generation, too.
                    forced = not self._is_native(text) or self.model.generation_config.forced_bos_token_id is not None
                    scores += score_targets(self.model, memory, [0] * len(part), part, int(forced))
            found.append(scores)
        return found

    @torch.inference_mode()
    def _memory(self, features: Features, asked: Sequence[tuple[int, str]]) -> Memory:
        """The encoder's outputs for (image, prompt) pairs, shorter ones padded."""
        model = self.model.model
        device = features.hidden_BID.device
        embed = model.get_input_embeddings()
        rows_MD = [
            torch.cat([features.hidden_BID[image], embed(torch.tensor(self.prompt_ids(text), device=device))])
            for image, text in asked
        ]
        mask_RM = pad_sequence([torch.ones(len(row), dtype=torch.long) for row in rows_MD], batch_first=True).to(device)
        hidden_RMD = model.language_model.encoder(
            inputs_embeds=pad_sequence(rows_MD, batch_first=True), attention_mask=mask_RM
        ).last_hidden_state
        return Memory(hidden_RMD, mask_RM)

    def prompt_ids(self, text: str) -> list[int]:
        """See the function of this name."""
        return prompt_ids(self.processor, text, self.model.config.text_config.max_position_embeddings)

    def _is_native(self, text: str) -> bool:
        tokens = (*self.processor.task_prompts_without_inputs, *self.processor.task_prompts_with_input)
        return text.startswith(tokens)

    @property
    def _bos_id(self) -> int:
        return int(self.processor.tokenizer.bos_token_id)

    def _limit(self, max_new_tokens: int) -> int:
        """No longer than the decoder has positions."""
        return min(max_new_tokens, self.model.config.text_config.max_position_embeddings - 1)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        if not self.model.training:  # walking through all modules takes milliseconds
            yield
            return
        self.model.eval()
        try:
            yield
        finally:
            self.model.train()


def prompt_ids(processor: Any, text: str, max_positions: int) -> list[int]:
    """Tokens of a prompt, as they stand behind the image's.

    Raises:
        ValueError: more tokens than the model has positions.
    """
    tokenizer = processor.tokenizer
    words = tokenizer.encode(_sentence(processor, text), add_special_tokens=False)
    ids = [int(tokenizer.bos_token_id), *words, tokenizer.eos_token_id]
    most = max_positions - processor.num_image_tokens
    if len(ids) > most:
        raise ValueError(f"the prompt has {len(ids)} tokens, at most {most}: {text[:60]!r}...")
    return ids


def _sentence(processor: Any, text: str) -> str:
    """What the processor says in place of the task token that a native prompt begins with."""
    for token, sentence in processor.task_prompts_without_inputs.items():
        if text == token:
            return str(sentence)
    for token, sentence in processor.task_prompts_with_input.items():
        if text.startswith(token):
            return str(sentence.format(input=text[len(token) :].strip()))
    return text


def checkpoint_tasks(own: Sequence[str] | None) -> Mapping[str, TaskForm]:
    """In Florence-2's words, and in ours what the checkpoint was fine-tuned for.

    Raises:
        ValueError: an unknown task among its own.
    """
    own = tuple(own or ())
    unknown = [name for name in own if name not in TASKS]
    if unknown:
        raise ValueError(f"vlm_tasks in config.json has {unknown[0]!r}; known: {', '.join(TASKS)}")
    return {name: TASKS[name] if name in own else NATIVE[name] for name in TASKS if name in own or name in NATIVE}
