"""T5Gemma 2 in transformers' native class: `google/t5gemma-2-{270m-270m,1b-1b,4b-4b}`.

An image goes through the vision tower and the projector once, which is most of the work. The encoder mixes image and
prompt tokens (its attention goes both ways, so what it makes of an image depends on the prompt), so it runs once a
prompt; all prompts go through encoder and decoder together.

The public checkpoints are pretrained only: they go on with a text, and their model card shows one such use with a
picture, "<start_of_image> in this image, there is". So out of the box this family captions, and nothing else is said
to work. What a checkpoint was fine-tuned for on our own prompts it lists in its config.json
(`"vlm_tasks": ["caption", "grounding"]`); its tokenizer must then have our tokens, see `add_location_tokens`.
"""

# I image tokens, S tokens of image and prompt, R prompts, D width

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence
from transformers import Gemma3Processor, T5Gemma2ForConditionalGeneration

from vlm.families.t5gemma2_tasks import NATIVE
from vlm.families.t5gemma2_tokens import missing_tokens
from vlm.families.transformers_decoding import Memory
from vlm.families.transformers_family import Features, TransformersFamily

__all__ = ["Features", "T5Gemma2"]


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
        own = getattr(model.config, "vlm_tasks", None)
        missing = missing_tokens(processor.tokenizer) if own else []
        if missing:
            raise ValueError(
                f"vlm_tasks in config.json lists {', '.join(own)}, but the tokenizer has no {missing[0]} and "
                f"{len(missing) - 1} more tokens; call add_location_tokens(model, processor) before fine-tuning, and "
                "save the processor with the model"
            )

    @classmethod
    def from_pretrained(cls, path: Path, *, device: torch.device, dtype: torch.dtype, **placing: Any) -> T5Gemma2:
        if not (path / "tokenizer.json").is_file():  # transformers would make an empty tokenizer
            raise ValueError(f"{path}: has no tokenizer.json; copy the one that the checkpoint was published with")
        return super().from_pretrained(path, device=device, dtype=dtype, **placing)

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
        tokenizer = self.processor.tokenizer
        return [*tokenizer.encode(text, add_special_tokens=False), int(tokenizer.eos_token_id)]

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
