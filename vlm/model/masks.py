"""Who may look at whom, as boolean masks (True = may look).

Segments: 0 is the image, 1..P are the prompts packed into the row, -1 is padding. A prompt and its
target carry the same number, which is all that packing needs.
"""

# B batch, I image tokens, S prompt tokens (all prompts of a row), T target tokens, M = I + S memory tokens

from __future__ import annotations

import torch
from torch import Tensor

IMAGE = 0
PADDING = -1


def prompt_mask(image_mask_BI: Tensor, segments_BS: Tensor) -> Tensor:
    """Prompt tokens look at the image and at their own prompt: B x 1 x S x (I + S).

    Padding looks at the image too (its output is never read), so that no row of the softmax is empty.
    """
    batch, length = segments_BS.shape
    to_image_BSI = image_mask_BI[:, None, :].expand(batch, length, -1)
    to_prompt_BSS = segments_BS[:, :, None] == segments_BS[:, None, :]
    return torch.cat([to_image_BSI, to_prompt_BSS], dim=-1)[:, None]


def causal_mask(segments_BT: Tensor) -> Tensor:
    """Targets look back over their own target: B x 1 x T x T."""
    length = segments_BT.shape[1]
    same_BTT = segments_BT[:, :, None] == segments_BT[:, None, :]
    past_TT = torch.ones(length, length, dtype=torch.bool, device=segments_BT.device).tril()
    return (same_BTT & past_TT)[:, None]


def cross_mask(segments_BT: Tensor, memory_segments_BM: Tensor) -> Tensor:
    """Targets look at the image and at their own prompt: B x 1 x T x M."""
    own_BTM = segments_BT[:, :, None] == memory_segments_BM[:, None, :]
    image_BM = memory_segments_BM == IMAGE
    valid_BM = memory_segments_BM != PADDING
    return ((own_BTM | image_BM[:, None, :]) & valid_BM[:, None, :])[:, None]


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where `mask` is True and -inf elsewhere: what attention makes of a boolean mask in every call."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, -torch.inf)
