"""Pictures and prompts to tensors, ids back to text."""

# B batch (rows), S prompt tokens of a row, T target tokens of a row

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tasks import TASKS
from vlm.images import open_image
from vlm.model.configuration import OneLookConfig
from vlm.tokenizer import load_tokenizer


@dataclass(frozen=True, kw_only=True)
class PackedTarget:
    """One prompt's answer as ids (ending with eos) and the weight of its tokens' losses: of all, or one each."""

    ids: Sequence[int]
    weight: float | Sequence[float] = 1.0

    @property
    def weights(self) -> list[float]:
        """One a token."""
        return [self.weight] * len(self.ids) if isinstance(self.weight, float | int) else list(self.weight)


ASPECTS = (1 / 2, 2 / 3, 3 / 4, 1.0, 4 / 3, 3 / 2, 2.0)
"""Height over width that pictures are brought to, so that those of a batch fall into few groups of one shape. What is
between them is stretched, with the rounding to whole tokens, by a quarter at most; what is longer than the last keeps
its own."""


def grid_shape(height: int, width: int, budget: int) -> tuple[int, int]:
    """Rows and columns of image tokens for a picture: at most `budget` together, aspect kept as well as `ASPECTS` and
    whole tokens allow, and as many as possible."""
    aspect = height / width
    if ASPECTS[0] <= aspect <= ASPECTS[-1]:
        aspect = min(ASPECTS, key=lambda known: abs(math.log(known / aspect)))
    best, best_cost = (1, 1), math.inf
    for rows in range(1, budget + 1):
        columns = min(max(1, round(rows / aspect)), budget // rows)
        distortion = abs(math.log(rows / columns / aspect))
        unused = 1.0 - rows * columns / budget
        cost = distortion + 0.5 * unused
        if cost < best_cost:
            best, best_cost = (rows, columns), cost
    return best


def resize(image: Image.Image, budget: int, stride: int, size: tuple[int, int] | None = None) -> Image.Image:
    """To whole tokens of `stride` pixels a side, at most `budget` of them; or to the one `size` (height, width) that a
    vision encoder takes: the whole picture, stretched, as what a crop cuts off may be the shoes."""
    if size is None:
        rows, columns = grid_shape(image.height, image.width, budget)
        size = rows * stride, columns * stride
    return image.resize((size[1], size[0]), Image.Resampling.BICUBIC, reducing_gap=2.0)


def pixels(image: Image.Image, budget: int, stride: int, size: tuple[int, int] | None = None) -> Tensor:
    """3 x height x width uint8, resized."""
    return torch.from_numpy(np.array(resize(image, budget, stride, size))).permute(2, 0, 1).contiguous()


def normalize(pixels: Tensor, vision_input: Mapping[str, Any] | None = None) -> Tensor:
    """uint8 to floats around 0 with about unit spread; with a vision encoder's own mean and spread where given."""
    if vision_input is None:
        return (pixels.float() - 127.5) / 64.0
    mean, std = (torch.tensor(vision_input[name])[:, None, None] for name in ("mean", "std"))
    return (pixels.float() / 255 - mean) / std


class OneLookProcessor:
    """Everything between people's inputs and the model's tensors.

    Args:
        tokenizer: with the task and location tokens of `vlm.tokenizer`.
        config: gives the patch budget, the stride and the token ids.
    """

    tasks = TASKS
    """In whose words examples are asked and answered in training."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, config: OneLookConfig) -> None:
        if len(tokenizer) > config.vocab_size:
            raise ValueError(
                f"the tokenizer has {len(tokenizer)} tokens but the model only {config.vocab_size}; "
                "they are not of one checkpoint"
            )
        self.tokenizer = tokenizer
        self.config = config
        self.patch_budget = config.patch_budget

    @classmethod
    def from_pretrained(cls, path: str | Path, config: OneLookConfig | None = None) -> OneLookProcessor:
        return cls(load_tokenizer(path), config or OneLookConfig.from_pretrained(str(path)))

    def save_pretrained(self, path: str | Path) -> None:
        """The tokenizer, and what transformers' AutoProcessor reads beside it."""
        from vlm.auto import OneLookPromptProcessor

        processor = OneLookPromptProcessor(
            self.tokenizer,
            self.patch_budget,
            self.config.stride,
            image_size=self.config.image_size,
            vision_input=self.config.vision_input,
        )
        processor.save_pretrained(str(path))

    # -- pictures ------------------------------------------------------------------------------------

    def open_image(self, source: Any) -> Image.Image:
        return open_image(source)

    def resize(self, image: Image.Image, budget: int | None = None) -> Image.Image:
        """See `resize`."""
        return resize(image, budget or self.patch_budget, self.config.stride, self.config.image_size)

    def pixels(self, image: Image.Image, budget: int | None = None) -> Tensor:
        """3 x height x width uint8 at the patch budget; `normalize` makes the model's floats of it."""
        return pixels(image, budget or self.patch_budget, self.config.stride, self.config.image_size)

    def grid(self, pixels: Tensor) -> tuple[int, int]:
        """Rows and columns of image tokens of what `pixels` gave."""
        return pixels.shape[-2] // self.config.stride, pixels.shape[-1] // self.config.stride

    def normalize(self, pixels: Tensor) -> Tensor:
        """See `normalize`."""
        return normalize(pixels, self.config.vision_input)

    # -- text ----------------------------------------------------------------------------------------

    def encode_prompt(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def encode_target(self, text: str) -> list[int]:
        return [*self.encode_prompt(text), self.config.eos_token_id]

    def decode(self, ids: Sequence[int]) -> str:
        """Text with location tokens written out, without padding, bos and eos."""
        dropped = {self.config.pad_token_id, self.config.bos_token_id, self.config.eos_token_id}
        kept = [int(index) for index in ids if int(index) not in dropped]
        return str(self.tokenizer.decode(kept, skip_special_tokens=False))

    # -- rows ----------------------------------------------------------------------------------------

    def collate_images(self, images: Sequence[Image.Image | Tensor]) -> dict[str, list[Tensor]]:
        """Groups of equal shape and their positions in the batch (see `OneLookModel.encode_images`)."""
        groups: dict[tuple[int, int], list[int]] = {}
        tensors = [image if isinstance(image, Tensor) else self.pixels(image) for image in images]
        for index, pixels in enumerate(tensors):
            groups.setdefault((pixels.shape[1], pixels.shape[2]), []).append(index)
        return {
            "pixel_values": [self.normalize(torch.stack([tensors[i] for i in rows])) for rows in groups.values()],
            "image_index": [torch.tensor(rows) for rows in groups.values()],
        }

    def collate(
        self,
        images: Sequence[Image.Image | Tensor],
        prompts: Sequence[Sequence[str | Sequence[int]]],
        targets: Sequence[Sequence[PackedTarget]] | None = None,
    ) -> dict[str, Any]:
        """One row an image, its prompts packed one after the other.

        Args:
            images: B pictures, or uint8 tensors that `pixels` made.
            prompts: for every image its prompts, as text or ids.
            targets: for every image its targets, for training: adds decoder inputs, labels and weights.
        """
        if len(images) != len(prompts):
            raise ValueError(f"{len(images)} images but prompts for {len(prompts)}")
        encoded = [[p if not isinstance(p, str) else self.encode_prompt(p) for p in row] for row in prompts]
        ids, segments, positions = pack(encoded, self.config.pad_token_id)
        batch: dict[str, Any] = {
            **self.collate_images(images),
            "input_ids": ids,
            "segment_ids": segments,
            "position_ids": positions,
        }
        if targets is not None:
            bos = self.config.bos_token_id
            shifted = [[[bos, *target.ids[:-1]] for target in row] for row in targets]
            batch["decoder_input_ids"], batch["decoder_segment_ids"], batch["decoder_position_ids"] = pack(
                shifted, self.config.pad_token_id
            )
            batch["labels"], _, _ = pack([[target.ids for target in row] for row in targets], -100)
            weights = [[target.weights for target in row] for row in targets]
            batch["token_weights"] = pack(weights, 0.0, torch.float32)[0]
        return batch


def pack(
    rows: Sequence[Sequence[Sequence[float]]], padding: float, dtype: torch.dtype = torch.long
) -> tuple[Tensor, Tensor, Tensor]:
    """Lay each row's sequences one after the other: values, segments (1..P, -1 padding) and positions, B x L."""
    length = max((sum(len(sequence) for sequence in row) for row in rows), default=0)
    values = torch.full((len(rows), length), padding, dtype=dtype)
    segments = torch.full((len(rows), length), -1, dtype=torch.long)
    positions = torch.zeros((len(rows), length), dtype=torch.long)
    for index, row in enumerate(rows):
        start = 0
        for number, sequence in enumerate(row, start=1):
            end = start + len(sequence)
            values[index, start:end] = torch.tensor(sequence, dtype=dtype)
            segments[index, start:end] = number
            positions[index, start:end] = torch.arange(len(sequence))
            start = end
    return values, segments, positions
