"""Florence-2 (arXiv 2311.06242) in transformers' native class: `florence-community/Florence-2-{base,large}[-ft]`.

An image goes through the vision tower once; its features stand before the tokens of every prompt about it.
"""

# I image tokens, R prompts, S prompt tokens, M = I + S memory tokens, D width

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import Florence2ForConditionalGeneration, Florence2Processor

from vlm.families.florence2_tasks import NATIVE
from vlm.families.transformers_decoding import Memory
from vlm.families.transformers_family import Features, TransformersFamily

__all__ = ["Features", "Florence2", "encode_prompts", "prompt_ids", "target_ids"]

NUM_PROMPTS = {"cpu": 1}
"""Most prompts in the encoder at a time. On a CPU one alone fills it; more only pad each other, and the buffers of many
are large ones, which the system hands out anew, page by page, in every layer."""


class Florence2(TransformersFamily):
    """A native Florence-2 and its processor."""

    model_class = Florence2ForConditionalGeneration
    processor_class = Florence2Processor
    native = NATIVE
    processor_files = "preprocessor_config.json, processor_config.json and tokenizer.json"

    @classmethod
    def facts(cls, folder: Path, config: Mapping[str, Any], num_parameters: int) -> dict[str, Any]:
        from vlm.families.florence2_memory import predict_memory

        facts = super().facts(folder, config, num_parameters)
        return facts | {"memory_bytes": predict_memory(folder, config, num_parameters)}

    @property
    def vocab_size(self) -> int:
        return int(self.model.config.text_config.vocab_size)

    @staticmethod
    def pixels(processor: Any, images: Sequence[Image.Image]) -> Any:
        return processor.image_processor(list(images), return_tensors="pt")

    @torch.inference_mode()
    def _memory(self, features: Features, asked: Sequence[tuple[int, str]]) -> Memory:
        at_once = NUM_PROMPTS.get(features.hidden_BID.device.type, len(asked))
        pad_id = self.model.config.text_config.pad_token_id
        parts = [asked[start : start + at_once] for start in range(0, len(asked), at_once)]
        return Memory.joined([encode_prompts(self.model, *self._asked(features, part, pad_id)) for part in parts])

    def _target_ids(self, text: str) -> list[int]:
        return target_ids(self.processor.tokenizer, text)

    def _num_given(self, prompt: str) -> int:
        # The beginning of a sequence is given where it is forced, which is in generation, too.
        forced = not self._is_native(prompt) or self.model.generation_config.forced_bos_token_id is not None
        return int(forced)

    def _settings(self, prompt: str) -> dict[str, Any]:
        if self._is_native(prompt):
            return {}
        # In our words a repetition is no stutter ("colour: black; ... colour: black"), and may be the only way on.
        return {"no_repeat_ngram_size": 0, "forced_bos_token_id": int(self.processor.tokenizer.bos_token_id)}

    def _limit(self, max_new_tokens: int) -> int:
        return min(max_new_tokens, self.model.config.text_config.max_position_embeddings - 1)

    def prompt_ids(self, text: str) -> list[int]:
        """See the function of this name."""
        return prompt_ids(self.processor, text, self.model.config.text_config.max_position_embeddings)

    def _is_native(self, text: str) -> bool:
        tokens = (*self.processor.task_prompts_without_inputs, *self.processor.task_prompts_with_input)
        return text.startswith(tokens)


def encode_prompts(model: Any, features_RID: Tensor, input_ids_RS: Tensor, mask_RS: Tensor) -> Memory:
    """The encoder's outputs for prompts, each behind the features of its picture.

    Args:
        model: a Florence2ForConditionalGeneration.
        mask_RS: 1 for a prompt's tokens, 0 for padding.
    """
    prompts_RSD = model.get_input_embeddings()(input_ids_RS)
    memory_RMD = torch.cat([features_RID.to(prompts_RSD.dtype), prompts_RSD], dim=1)
    mask_RM = torch.cat([mask_RS.new_ones(features_RID.shape[:2]), mask_RS], dim=1)
    encoder = model.model.language_model.encoder
    return Memory(encoder(inputs_embeds=memory_RMD, attention_mask=mask_RM).last_hidden_state, mask_RM)


def prompt_ids(processor: Any, text: str, max_positions: int) -> list[int]:
    """Tokens of a prompt, as they stand behind the image's.

    Raises:
        ValueError: more tokens than the model has positions.
    """
    ids = target_ids(processor.tokenizer, _sentence(processor, text))
    most = max_positions - processor.num_image_tokens
    if len(ids) > most:
        raise ValueError(f"the prompt has {len(ids)} tokens, at most {most}: {text[:60]!r}...")
    return ids


def target_ids(tokenizer: Any, text: str) -> list[int]:
    """Tokens of a text between beginning and end, as encoder and decoder were trained with them."""
    return [
        int(tokenizer.bos_token_id),
        *tokenizer.encode(text, add_special_tokens=False),
        int(tokenizer.eos_token_id),
    ]


def _sentence(processor: Any, text: str) -> str:
    """What the processor says in place of the task token that a native prompt begins with."""
    for token, sentence in processor.task_prompts_without_inputs.items():
        if text == token:
            return str(sentence)
    for token, sentence in processor.task_prompts_with_input.items():
        if text.startswith(token):
            return str(sentence.format(input=text[len(token) :].strip()))
    return text
