"""T5Gemma 2 in transformers' native class: `google/t5gemma-2-{270m-270m,1b-1b,4b-4b}`.

An image goes through the vision tower and the projector once, which is most of the work. The encoder mixes image and
prompt tokens (its attention goes both ways, so what it makes of an image depends on the prompt), so it runs once a
prompt; all prompts go through encoder and decoder together.

The public checkpoints are pretrained only: they go on with a text, and their model card shows one such use with a
picture, "<start_of_image> in this image, there is". So out of the box this family captions, and nothing else is said
to work. What a checkpoint was fine-tuned for on our own prompts it lists in its config.json
(`"vlm_tasks": ["caption", "grounding"]`); its tokenizer then has our tokens, which `vlm train` adds
(`vlm.families.t5gemma2_training`), or `add_location_tokens`.
"""

# I image tokens, S tokens of image and prompt, R prompts, D width

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import Gemma3Processor, T5Gemma2ForConditionalGeneration

from vlm.families import Switch
from vlm.families.t5gemma2_tasks import NATIVE
from vlm.families.t5gemma2_tokens import TableRows, missing_tokens
from vlm.families.transformers_decoding import Memory
from vlm.families.transformers_family import Features, Speech, SpeechSwitch, TransformersFamily

__all__ = ["Features", "T5Gemma2", "encode_prompts", "prompt_ids", "target_ids"]


class T5Gemma2(TransformersFamily):
    """A native T5Gemma 2 and its processor.

    Raises:
        ValueError: the checkpoint lists tasks of ours that are unknown, or that its tokenizer lacks tokens for.
    """

    model_class = T5Gemma2ForConditionalGeneration
    processor_class = Gemma3Processor
    native = NATIVE
    processor_files = "processor_config.json or preprocessor_config.json, and tokenizer.json,"

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__(model, processor)
        require_tokens(self.speech)

    @classmethod
    def facts(cls, folder: Path, config: Mapping[str, Any], num_parameters: int) -> dict[str, Any]:
        from vlm.families.t5gemma2_memory import predict_memory

        facts = super().facts(folder, config, num_parameters)
        return facts | {"memory_bytes": predict_memory(folder, config, num_parameters)}

    @classmethod
    def read_processor(cls, path: Path) -> Any:
        if not (path / "tokenizer.json").is_file():  # transformers would make an empty tokenizer
            raise ValueError(f"{path}: has no tokenizer.json; copy the one that the checkpoint was published with")
        return super().read_processor(path)

    def switch(self) -> Switch:
        return TokenSwitch(self)

    @property
    def vocab_size(self) -> int:
        return int(self.model.config.decoder.vocab_size)

    @property
    def softcap(self) -> float | None:
        found: float | None = self.model.config.decoder.final_logit_softcapping
        return found

    @staticmethod
    def pixels(processor: Any, images: Sequence[Image.Image]) -> Any:
        # The tower's picture is the whole photo, as the prompt has one place for it.
        rgb = [image.convert("RGB") for image in images]
        return processor.image_processor(rgb, return_tensors="pt", do_pan_and_scan=False)

    def _target_ids(self, text: str) -> list[int]:
        return target_ids(self.processor.tokenizer, text)

    @torch.inference_mode()
    def _memory(self, features: Features, asked: Sequence[tuple[int, str]]) -> Memory:
        """The encoder's outputs for (image, prompt) pairs, shorter ones padded on the right: positions count from
        the left, so that padding changes nothing."""
        embed = self.model.get_encoder().get_input_embeddings()
        pad_id = self.model.config.decoder.pad_token_id
        return encode_prompts(self.model, embed, *self._asked(features, asked, pad_id))

    def prompt_ids(self, text: str) -> list[int]:
        """See the function of this name."""
        return prompt_ids(self.processor, text, self.model.config.encoder.text_config.max_position_embeddings)


class TokenSwitch(SpeechSwitch):
    """With an adapter's own tokens, which are in the model's table while it is in use."""

    def __init__(self, family: T5Gemma2) -> None:
        super().__init__(family)
        self.table: TableRows | None = None
        self.tokens: dict[str | None, tuple[int, Tensor]] = {}

    def add(self, name: str, folder: Path, added_tokens: Tensor | None) -> None:
        processor = self.speeches[None].processor
        if added_tokens is not None:
            num_known = len(processor.tokenizer)
            processor = _with_tokens(folder, processor, added_tokens)
            self.table = self.table or TableRows(self.family.model)
            self.tokens[name] = num_known, added_tokens
        speech = self.speech_of(folder, processor)
        require_tokens(speech)
        self.speeches[name] = speech

    def use(self, name: str | None) -> None:
        super().use(name)
        if name in self.tokens:
            assert self.table is not None
            self.table.show(*self.tokens[name])
        elif self.table is not None:
            self.table.hide()


def _with_tokens(folder: Path, processor: Any, added_tokens: Tensor) -> Any:
    """The adapter's own processor. Raises ValueError where it is not the checkpoint's with so many tokens behind."""
    found = T5Gemma2.read_processor(folder)
    old, new = processor.tokenizer.get_vocab(), found.tokenizer.get_vocab()
    if len(new) != len(old) + len(added_tokens) or any(new.get(token) != number for token, number in old.items()):
        raise ValueError(
            f"{folder}: the adapter has embeddings of {len(added_tokens)} new tokens, but its tokenizer is not the "
            "checkpoint's with as many tokens behind; put back the one that was exported with the adapter"
        )
    return found


def require_tokens(speech: Speech) -> None:
    """Raises ValueError where there are tasks of ours, and the tokenizer lacks tokens for them."""
    own = tuple(speech.vlm_tasks or ())
    missing = missing_tokens(speech.processor.tokenizer, own) if own else []
    if missing:
        raise ValueError(
            f"vlm_tasks in config.json lists {', '.join(own)}, but the tokenizer has no "
            f"{missing[0]} and {len(missing) - 1} more tokens; call add_location_tokens(model, processor) before "
            "fine-tuning, and save the processor with the model"
        )


def encode_prompts(
    model: Any, embed: Callable[[Tensor], Tensor], features_RID: Tensor, input_ids_RS: Tensor, mask_RS: Tensor
) -> Memory:
    """The encoder's outputs for prompts, each with the features of its picture in their place.

    Args:
        model: a T5Gemma2ForConditionalGeneration.
        embed: gives the tokens' embeddings.
        mask_RS: 1 for a prompt's tokens, 0 for padding.
    """
    embeds_RSD = embed(input_ids_RS)
    places_RS1 = (input_ids_RS == model.config.image_token_index)[..., None]
    embeds_RSD = embeds_RSD.masked_scatter(places_RS1, features_RID.to(embeds_RSD))
    return Memory(model.get_encoder()(inputs_embeds=embeds_RSD, attention_mask=mask_RS).last_hidden_state, mask_RS)


def prompt_ids(processor: Any, text: str, max_positions: int) -> list[int]:
    """Tokens of the image's place and of a prompt behind it, as the processor has them.

    Raises:
        ValueError: more tokens than the model has positions, or a second image's place among them.
    """
    tokenizer = processor.tokenizer
    ids: list[int] = tokenizer.encode(processor.full_image_sequence + text)
    if len(ids) > max_positions:
        raise ValueError(f"the prompt has {len(ids)} tokens with its image, at most {max_positions}: {text[:60]!r}...")
    if ids.count(tokenizer.image_token_id) != processor.image_seq_length:
        raise ValueError(
            f"the prompt has the image's own token in it: {text[:60]!r}; leave {tokenizer.image_token} out"
        )
    return ids


def target_ids(tokenizer: Any, text: str) -> list[int]:
    """Tokens of an answer, the end among them."""
    return [*tokenizer.encode(text, add_special_tokens=False), int(tokenizer.eos_token_id)]
