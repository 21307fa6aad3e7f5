"""What transformers' Auto classes and pipelines load a one-look checkpoint with, once `vlm` is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForImageTextToText, AutoProcessor, BatchFeature, PreTrainedTokenizerFast
from transformers.processing_utils import ProcessorMixin

from tasks import TASKS
from vlm.images import open_image
from vlm.model import OneLookConfig
from vlm.model.conditional_generation import OneLookForConditionalGeneration
from vlm.processor import normalize, pixels

__all__ = ["OneLookPromptProcessor"]

_CHAT = (
    "{%- for message in messages if message.role == 'user' -%}{%- if loop.last -%}"
    "{%- if message.content is string -%}{{ message.content }}{%- else -%}"
    "{%- for part in message.content if part.type == 'text' -%}{{ part.text }}{%- endfor -%}"
    "{%- endif -%}{%- endif -%}{%- endfor -%}"
)
"""Every prompt stands for itself, so that a conversation is its last question."""


class OneLookPromptProcessor(ProcessorMixin):
    """Pictures and prompts to padded tensors, for `OneLookForConditionalGeneration`.

    Args:
        tokenizer: the checkpoint's.
        patch_budget, stride, image_size, vision_input: as the model's configuration has them.
        chat_template: None for the last question of a conversation.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        patch_budget: int = 108,
        stride: int = 16,
        chat_template: str | None = None,
        image_size: Sequence[int] | None = None,
        vision_input: Mapping[str, Any] | None = None,
    ) -> None:
        self.patch_budget, self.stride = patch_budget, stride
        self.image_size = None if image_size is None else list(image_size)
        self.vision_input = None if vision_input is None else dict(vision_input)
        super().__init__(tokenizer, chat_template=chat_template or _CHAT)

    @classmethod
    def get_processor_dict(cls, name_or_path: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Checkpoints of version 0.1 have no processor_config.json; config.json says the same."""
        found, rest = super().get_processor_dict(name_or_path, **kwargs)
        if "patch_budget" not in found:
            names = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
            config = OneLookConfig.from_pretrained(
                name_or_path, **{name: kwargs[name] for name in names if kwargs.get(name) is not None}
            )
            found = {
                **found,
                **{name: getattr(config, name) for name in ("patch_budget", "stride", "image_size", "vision_input")},
            }
        return found, rest

    def __call__(self, images: Any = None, text: str | Sequence[str] | None = None, **_: Any) -> BatchFeature:  # type: ignore[override]
        """Pictures and as many prompts.

        Args:
            images: one, or a list, of what `vlm.load().ask` takes.
            text: with the token of a task ("<caption>"), as the tasks write their prompts, or a question.

        Returns:
            pixel_values (B x 3 x height x width, padded), image_sizes (B x 2), input_ids and attention_mask (B x S).

        Raises:
            ValueError: not one picture to each prompt, or one that cannot be opened.
        """
        texts = [text] if isinstance(text, str) else list(text or ())
        opened = [open_image(image) for image in _flat(images)]
        if len(texts) != len(opened) or not texts:
            raise ValueError(f"{len(opened)} pictures and {len(texts)} prompts; give one picture to each prompt")
        size = None if self.image_size is None else (self.image_size[0], self.image_size[1])
        tensors = [
            normalize(pixels(image, self.patch_budget, self.stride, size), self.vision_input) for image in opened
        ]
        sizes = [tuple(tensor.shape[1:]) for tensor in tensors]
        height, width = (max(sides) for sides in zip(*sizes, strict=True))
        padded = [pad(t, (0, width - t.shape[2], 0, height - t.shape[1])) for t in tensors]
        ids = [
            torch.tensor(self.tokenizer.encode(_prompt(said, (image.height, image.width)), add_special_tokens=False))
            for said, image in zip(texts, opened, strict=True)
        ]
        return BatchFeature(
            {
                "pixel_values": torch.stack(padded),
                "image_sizes": torch.tensor(sizes),
                "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.tokenizer.pad_token_id),
                "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
            }
        )

    @property
    def model_input_names(self) -> list[str]:
        return ["pixel_values", "image_sizes", "input_ids", "attention_mask"]

    def post_process_image_text_to_text(
        self, generated_outputs: Tensor, skip_special_tokens: bool = True, **kwargs: Any
    ) -> list[str]:
        """Text; locations are special tokens too, but part of what is said."""
        tokenizer = self.tokenizer
        dropped = {tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}
        rows = [[int(token) for token in row] for row in generated_outputs]
        if skip_special_tokens:
            rows = [[token for token in row if token not in dropped] for row in rows]
        return [str(tokenizer.decode(row, skip_special_tokens=False)) for row in rows]


def _prompt(text: str, image_size: tuple[int, int]) -> str:
    if text.startswith(tuple(task.token for task in TASKS.values())):
        return text
    return TASKS["vqa"].prompt({"question": text}, image_size)


def _flat(images: Any) -> list[Any]:
    if images is None:
        return []
    if isinstance(images, (list, tuple)):
        return [image for inner in images for image in _flat(inner)]
    # Transformers' pipelines take a URL or a path as a string.
    return [Path(images) if isinstance(images, str) and "://" not in images else images]


AutoModelForImageTextToText.register(OneLookConfig, OneLookForConditionalGeneration, exist_ok=True)
AutoProcessor.register(OneLookConfig, OneLookPromptProcessor, exist_ok=True)
