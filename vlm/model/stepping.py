"""Decoding token by token: what a step needs of the weights, put together once, and what it leaves to the next."""

# B batch (rows), P slots (running sequences of a row), N = B * P sequences, H heads, E head width, D width,
# V vocabulary, K targets so far, L positions, M memory tokens

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm.model.layers import Attention, DecoderLayer, Norm, rotary


class SelfCache:
    """Keys and values of one decoder layer's targets so far: N x H x K x E each, in buffers that double when they are
    full. Joining the old and the new at every step would copy all of the past every time."""

    def __init__(self) -> None:
        self.length = 0
        self._buffers: tuple[Tensor, Tensor] | None = None

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values, with those of the new tokens at the end."""
        start, end = self.length, self.length + key.shape[2]
        if self._buffers is None or end > self._buffers[0].shape[2]:
            self._buffers = self._grown(key, end), self._grown(value, end, 1)
        for buffer, new in zip(self._buffers, (key, value), strict=True):
            buffer[:, :, start:end] = new
        self.length = end
        return self._buffers[0][:, :, :end], self._buffers[1][:, :, :end]

    def _grown(self, new: Tensor, end: int, index: int = 0) -> Tensor:
        number, heads, _, width = new.shape
        buffer = new.new_empty(number, heads, max(16, 2 * end), width)
        if self._buffers is not None:
            buffer[:, :, : self.length] = self._buffers[index][:, :, : self.length]
        return buffer

    def select(self, sequences: Tensor) -> None:
        """Keep these of the N sequences, in this order; one may come several times."""
        if self._buffers is not None:
            self._buffers = self._buffers[0][sequences], self._buffers[1][sequences]


def _weight(linear: Any) -> Tensor:
    """What a linear layer multiplies with. One with an adapter tells only its own weight, so it is asked."""
    if type(linear) is nn.Linear:
        return linear.weight
    own: Tensor = linear.weight
    dtype = own.dtype if own.is_floating_point() else None  # in 4 bits several share a byte
    return linear(torch.eye(linear.in_features, dtype=dtype, device=own.device)).T


class QueryKeyValue:
    """A self-attention's projections as decoding token by token wants them, put together once: one product for query,
    key and value, and the norms' weights taken into the rotations. For inference: it carries no gradients.

    Many small operations, not arithmetic, are what a step over few sequences waits for.
    """

    def __init__(self, attention: Attention) -> None:
        self.weight = torch.cat([_weight(attention.query), _weight(attention.key_value)]).detach()
        self.num_heads, self.head_dim = attention.num_heads, attention.head_dim
        self.eps = attention.query_norm.eps
        norms = torch.stack([attention.query_norm.weight, attention.key_norm.weight]).detach().float()
        self._norms_21E = norms[:, None]
        self._turns_L21E = self._turns(64)

    def _turns(self, length: int) -> tuple[Tensor, Tensor]:
        """For all positions below `length` the factors of a normed vector and of the same with its halves swapped, for
        query and key: `rotate` after the norm's weight."""
        positions_1L2 = torch.arange(length, device=self.weight.device)[None, :, None].expand(1, -1, 2)
        cos_L11E, sin_L11E = (part.transpose(0, 2) for part in rotary(positions_1L2, self.head_dim))
        own = torch.cat([cos_L11E, cos_L11E], dim=-1) * self._norms_21E
        swapped_norms = self._norms_21E.roll(self.head_dim // 2, -1)
        return own, torch.cat([-sin_L11E, sin_L11E], dim=-1) * swapped_norms

    def __call__(self, x_ND: Tensor, position: int) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value, N x H x 1 x E each, of one token of each of N sequences."""
        while position >= len(self._turns_L21E[0]):
            self._turns_L21E = self._turns(2 * len(self._turns_L21E[0]))
        own_21E, other_21E = (part[position] for part in self._turns_L21E)
        projected_N3HE = F.linear(x_ND, self.weight).unflatten(-1, (3, self.num_heads, self.head_dim))
        normed_N2HE = F.layer_norm(projected_N3HE[:, :2], (self.head_dim,), None, None, self.eps)
        turned_N2HE = normed_N2HE * own_21E + normed_N2HE.roll(self.head_dim // 2, -1) * other_21E
        query_NHE, key_NHE = turned_N2HE.to(projected_N3HE.dtype).unbind(1)
        return query_NHE.unsqueeze(2), key_NHE.unsqueeze(2), projected_N3HE[:, 2].unsqueeze(2)


Map = Callable[[Tensor], Tensor]


def _linear(linear: nn.Linear) -> Map:
    """The layer's product; one with an adapter does it itself."""
    return partial(F.linear, weight=linear.weight.detach()) if type(linear) is nn.Linear else linear


def _norm(norm: Norm) -> Map:
    weight, eps = norm.weight.detach(), norm.eps
    return lambda x: torch.layer_norm(x, weight.shape, weight.to(x.dtype), None, eps)


class LayerStep:
    """One new token through a decoder layer, in each of P slots: what `DecoderLayer` does, without dropout and without
    its modules, since calling those takes as long as what they do with so few tokens. It carries no gradients.
    """

    def __init__(self, layer: DecoderLayer) -> None:
        cross = layer.cross_attention
        self.self_norm, self.cross_norm, self.mlp_norm, self.query_norm = map(
            _norm, (layer.self_norm, layer.cross_norm, layer.mlp_norm, cross.query_norm)
        )
        self.project, self.self_out = QueryKeyValue(layer.self_attention), _linear(layer.self_attention.out)
        self.query, self.out = _linear(cross.query), _linear(cross.out)
        self.gate_up, self.down = _linear(layer.mlp.gate_up), _linear(layer.mlp.down)
        self._heads = (cross.num_heads, cross.head_dim)

    def __call__(
        self, x_BPD: Tensor, position: int, cross: tuple[Tensor, Tensor], cross_mask: Tensor, past: SelfCache
    ) -> Tensor:
        """A slot is a sequence of its own in self-attention (over its cache) and one query among the row's in
        cross-attention (over keys that the slots share).

        Args:
            cross_mask: True or 0 where a slot may look, False or -inf elsewhere.
        """
        query_NH1E, *key_value = self.project(self.self_norm(x_BPD).flatten(0, 1), position)
        mixed_NH1E = F.scaled_dot_product_attention(query_NH1E, *past.append(*key_value))
        x_BPD = x_BPD + self.self_out(mixed_NH1E.reshape(x_BPD.shape))
        query_BPHE = self.query_norm(self.query(self.cross_norm(x_BPD)).unflatten(-1, self._heads))
        mixed_BHPE = F.scaled_dot_product_attention(query_BPHE.transpose(1, 2), *cross, attn_mask=cross_mask)
        x_BPD = x_BPD + self.out(mixed_BHPE.transpose(1, 2).flatten(2))
        gate, up = self.gate_up(self.mlp_norm(x_BPD)).chunk(2, dim=-1)
        return x_BPD + self.down(F.silu(gate) * up)


@dataclass
class StepWeights:
    """What every step of decoding needs of the weights, put together once (`OneLookModel.step_weights`).

    Attributes:
        table_VD: the tied embedding; a third of the time went into making it anew at every step.
        layers: the decoder's.
    """

    table_VD: Tensor
    layers: list[LayerStep]


@dataclass
class DecodeState:
    """P running sequences a row, advanced in lockstep by `OneLookModel.decode_step`.

    Attributes:
        cross: every layer's keys and values of the memory.
        cross_mask: B x 1 x P x M, True or 0 where a slot may look.
        past: every layer's keys and values of the targets so far, of B * P sequences.
        position: of the next token.
    """

    weights: StepWeights
    cross: list[tuple[Tensor, Tensor]]
    cross_mask: Tensor
    past: list[SelfCache]
    position: int = 0

    def select(self, rows: Tensor, slots: Tensor) -> None:
        """Keep only some rows and slots, or let slots take over the history of others, as beams do.

        Args:
            rows: the rows that stay, in this order.
            slots: rows x new P: the slot of the same row whose history each new slot goes on with.
        """
        batch, _, num_slots, _ = self.cross_mask.shape
        sequences = (rows[:, None] * num_slots + slots).flatten()
        for cache in self.past:
            cache.select(sequences)
        self.cross_mask = self.cross_mask[rows[:, None], 0, slots][:, None]
        if len(rows) < batch:
            self.cross = [(key[rows], value[rows]) for key, value in self.cross]
