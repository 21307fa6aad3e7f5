"""Teacher forcing: what a decoder reads of its targets, and their losses summed."""

# B rows (prompts, or pictures with their prompts), T target tokens, N labelled target tokens

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["shift_right", "sum_losses"]


def shift_right(labels_BT: Tensor, start_id: int, pad_id: int) -> Tensor:
    """What the decoder reads, from what it is to say: the start first, and padding where labels have -100."""
    inputs_BT = labels_BT.roll(1, dims=1)
    inputs_BT[:, 0] = start_id
    return inputs_BT.masked_fill(inputs_BT == -100, pad_id)


def sum_losses(losses_N: Tensor, valid_BT: Tensor, token_weights_BT: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The weighted sum of all tokens' losses, the sum of their weights, and B x T every token's own loss, detached.

    Args:
        losses_N: of the tokens where `valid_BT` is true, in their order.
        token_weights_BT: None for 1.
    """
    weights_N = torch.ones_like(losses_N) if token_weights_BT is None else token_weights_BT[valid_BT].to(losses_N)
    token_loss_BT = torch.zeros(valid_BT.shape, device=losses_N.device).masked_scatter(valid_BT, losses_N.detach())
    return (losses_N * weights_N).sum(), weights_N.sum(), token_loss_BT
