"""T5Gemma 2 in transformers' native class: `google/t5gemma-2-{270m-270m,1b-1b,4b-4b}`.

An image goes through the vision tower and the projector once, which is most of the work. The encoder mixes image and
prompt tokens (its attention goes both ways, so what it makes of an image depends on the prompt), so it runs once a
prompt; all prompts go through encoder and decoder together.

The public checkpoints are pretrained only: they go on with a text, and their model card shows one such use with a
picture, "<start_of_image> in this image, there is". So out of the box this family captions, and nothing else is said
to work. What a checkpoint was fine-tuned for on our own prompts it lists in its config.json
(`"vlm_tasks": ["caption", "grounding"]`); its tokenizer must then have our tokens, see `add_location_tokens`.
"""

# B images, I image tokens, S tokens of image and prompt, R prompts, D width

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import Gemma3Processor, T5Gemma2ForConditionalGeneration

from tasks import TASKS
from vlm.families import Prompt, TaskForm
from vlm.families.t5gemma2_tasks import NATIVE
from vlm.families.t5gemma2_tokens import missing_tokens
from vlm.families.transformers_decoding import Memory, TransformersJob, decode, evaluating, score_targets
from vlm.generate import Generated
from vlm.token_masks import TokenMasks

__all__ = ["Features", "T5Gemma2"]

MAX_SEQUENCES = 32
"""Most sequences (beams counted) that are decoded at a time."""

NUM_IMAGES = {"cpu": 1}
"""Most images in the vision tower at a time. On a CPU more is not faster, and takes memory."""


@dataclass(frozen=True, slots=True)
class Features:
    """What the vision tower and the projector made of B images."""

    hidden_BID: Tensor


class T5Gemma2:
    """A native T5Gemma 2 and its processor. The model may be one in training: it is put into eval mode for each
    call, and back afterwards.

    Raises:
        ValueError: the checkpoint lists tasks of ours that are unknown, or that its tokenizer lacks tokens for.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model: Any = model
        self.processor = processor
        own = getattr(model.config, "vlm_tasks", None)
        self.tasks: Mapping[str, TaskForm] = _tasks(own)
        missing = missing_tokens(processor.tokenizer) if own else []
        if missing:
            raise ValueError(
                f"vlm_tasks in config.json lists {', '.join(own)}, but the tokenizer has no {missing[0]} and "
                f"{len(missing) - 1} more tokens; call add_location_tokens(model, processor) before fine-tuning, and "
                "save the processor with the model"
            )
        self._masks: TokenMasks | None = None

    # -- checkpoints ---------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, path: Path, *, device: torch.device, dtype: torch.dtype, **placing: Any) -> T5Gemma2:
        if not any(path.glob("*.safetensors")):
            raise ValueError(f"{path}: has no .safetensors weights; pickled weights are not loaded")
        if not (path / "tokenizer.json").is_file():  # transformers would make an empty tokenizer
            raise ValueError(f"{path}: has no tokenizer.json; copy the one that the checkpoint was published with")
        try:
            model, loading = T5Gemma2ForConditionalGeneration.from_pretrained(
                str(path), dtype=dtype, use_safetensors=True, output_loading_info=True, local_files_only=True, **placing
            )
        except (OSError, SafetensorError, RuntimeError) as error:  # missing, damaged, or of other shapes
            raise ValueError(f"{path}: the weights cannot be read: {error}") from error
        # transformers only warns, and then answers with random weights.
        wrong = {kind: sorted(map(str, names)) for kind, names in loading.items() if names}
        if wrong:
            raise ValueError(f"{path}: the weights do not fit config.json: {wrong}")
        try:
            processor = Gemma3Processor.from_pretrained(str(path), local_files_only=True)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"{path}: the processor cannot be read ({error}); a checkpoint has processor_config.json or "
                "preprocessor_config.json, and tokenizer.json, beside its weights"
            ) from error
        try:
            return cls((model if placing else model.to(device)).eval(), processor)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def save_pretrained(self, path: Path) -> None:
        self.model.save_pretrained(str(path))
        self.processor.save_pretrained(str(path))

    @classmethod
    def facts(cls, folder: Path, config: Mapping[str, Any], num_parameters: int) -> dict[str, Any]:
        return {"tasks": list(_tasks(config.get("vlm_tasks")))}

    @property
    def masks(self) -> TokenMasks:
        if self._masks is None:  # takes a moment, and only generation needs it
            self._masks = TokenMasks(self.processor.tokenizer, self.model.config.decoder.vocab_size)
        return self._masks

    # -- images --------------------------------------------------------------------------------------

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Image.Image]) -> Features:
        weight = next(self.model.parameters())
        at_once = NUM_IMAGES.get(weight.device.type, 8)
        parts = []
        with evaluating(self.model):
            for start in range(0, len(images), at_once):
                pixels = self.processor.image_processor(
                    # The tower's picture is the whole photo, as the prompt has one place for it.
                    [image.convert("RGB") for image in images[start : start + at_once]],
                    return_tensors="pt",
                    do_pan_and_scan=False,
                )
                found = self.model.get_image_features(pixels["pixel_values"].to(weight.device, weight.dtype))
                parts.append(found.pooler_output)
        return Features(torch.cat(parts))

    # -- prompts -------------------------------------------------------------------------------------

    def generate(self, features: Features, prompts: Sequence[Prompt]) -> list[Generated]:
        groups: dict[Any, list[int]] = {}
        for index, prompt in enumerate(prompts):
            decoding = prompt.decoding
            beams = (decoding.length_penalty, decoding.max_new_tokens) if decoding.num_beams > 1 else None
            groups.setdefault((decoding.num_beams, beams), []).append(index)
        found: dict[int, Generated] = {}
        for (num_beams, _), indices in groups.items():
            at_once = max(1, MAX_SEQUENCES // num_beams)
            for start in range(0, len(indices), at_once):
                part = indices[start : start + at_once]
                found.update(zip(part, self._decode(features, [prompts[i] for i in part]), strict=True))
        return [found[index] for index in range(len(prompts))]

    def _decode(self, features: Features, prompts: Sequence[Prompt]) -> list[Generated]:
        rows = {asked: row for row, asked in enumerate(dict.fromkeys((p.image, p.text) for p in prompts))}
        jobs = [
            TransformersJob(
                row=rows[prompt.image, prompt.text],
                automaton=prompt.automaton,
                decoding=replace(prompt.decoding, location_window=None),  # trained one by one, as any other token
            )
            for prompt in prompts
        ]
        with evaluating(self.model):
            return decode(self.model, self.masks, self._memory(features, list(rows)), jobs, {})

    def score(self, features: Features, prompts: Sequence[tuple[int, str, Sequence[str]]]) -> list[list[float]]:
        tokenizer, eos_id = self.processor.tokenizer, self.masks.eos_id
        softcap = self.model.config.decoder.final_logit_softcapping
        found: list[list[float]] = []
        for image, text, candidates in prompts:
            targets = [[*tokenizer.encode(one, add_special_tokens=False), eos_id] for one in candidates]
            scores: list[float] = []
            with evaluating(self.model):
                memory = self._memory(features, [(image, text)])
                for start in range(0, len(targets), MAX_SEQUENCES):
                    part = targets[start : start + MAX_SEQUENCES]
                    scores += score_targets(self.model, memory, [0] * len(part), part, 0, softcap)
            found.append(scores)
        return found

    @torch.inference_mode()
    def _memory(self, features: Features, asked: Sequence[tuple[int, str]]) -> Memory:
        """The encoder's outputs for (image, prompt) pairs, shorter ones padded on the right: positions count from
        the left, so that padding changes nothing."""
        encoder = self.model.get_encoder()
        device = features.hidden_BID.device
        rows_S = [torch.tensor(self.prompt_ids(text), device=device) for _, text in asked]
        ids_RS = pad_sequence(rows_S, batch_first=True, padding_value=self.model.config.decoder.pad_token_id)
        mask_RS = pad_sequence([torch.ones_like(row) for row in rows_S], batch_first=True)
        embeds_RSD = encoder.get_input_embeddings()(ids_RS)
        images_RID = features.hidden_BID[[image for image, _ in asked]].to(embeds_RSD)
        places_RS1 = (ids_RS == self.processor.tokenizer.image_token_id)[..., None]
        embeds_RSD = embeds_RSD.masked_scatter(places_RS1, images_RID)
        hidden_RSD = encoder(inputs_embeds=embeds_RSD, attention_mask=mask_RS).last_hidden_state
        return Memory(hidden_RSD, mask_RS)

    def prompt_ids(self, text: str) -> list[int]:
        """Tokens of the image's place and of a prompt behind it, as the processor has them.

        Raises:
            ValueError: more tokens than the model has positions, or a second image's place among them.
        """
        tokenizer = self.processor.tokenizer
        ids: list[int] = tokenizer.encode(self.processor.full_image_sequence + text)
        most = self.model.config.encoder.text_config.max_position_embeddings
        if len(ids) > most:
            raise ValueError(f"the prompt has {len(ids)} tokens with its image, at most {most}: {text[:60]!r}...")
        if ids.count(tokenizer.image_token_id) != self.processor.image_seq_length:
            raise ValueError(
                f"the prompt has the image's own token in it: {text[:60]!r}; leave {tokenizer.image_token} out"
            )
        return ids


def _tasks(own: Sequence[str] | None) -> Mapping[str, TaskForm]:
    """In the words of the pretrained checkpoint, and in ours what it was fine-tuned for.

    Raises:
        ValueError: an unknown task among its own.
    """
    own = tuple(own or ())
    unknown = [name for name in own if name not in TASKS]
    if unknown:
        raise ValueError(f"vlm_tasks in config.json has {unknown[0]!r}; known: {', '.join(TASKS)}")
    return {name: TASKS[name] if name in own else NATIVE[name] for name in TASKS if name in own or name in NATIVE}
