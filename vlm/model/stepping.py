"""Decoding token by token: what a step needs of the weights, put together once, and what it leaves to the next."""

# B batch (rows), P slots (running sequences of a row), N = B * P sequences, H heads, E head width, D width,
# V vocabulary, K targets so far, L positions, M memory tokens

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm.model.layers import Attention, DecoderLayer, Norm, rotary
from vlm.model.masks import additive


class Runs:
    """New tokens of N sequences: of each a run, which may be empty, from a position of its own on.

    Products are taken over the R tokens; for attention they are spread over a grid, N x the longest run, T.

    Args:
        runs: for every sequence the position of its first new token, and its new tokens; one at least has some.

    Attributes:
        token_ids_R, positions_R, sequences_R: in the order of the sequences.
        end: the length of the longest sequence, the new tokens with it.
    """

    def __init__(self, runs: Sequence[tuple[int, Sequence[int]]], device: torch.device, dtype: torch.dtype) -> None:
        self.num_sequences, self.longest = len(runs), max(len(tokens) for _, tokens in runs)
        self.end = max(start + len(tokens) for start, tokens in runs if tokens)
        rows = [
            (token, start + t, n, n * self.longest + t)
            for n, (start, tokens) in enumerate(runs)
            for t, token in enumerate(tokens)
        ]
        parts = torch.tensor(rows).T.contiguous().to(device)
        self.token_ids_R, self.positions_R, self.sequences_R, self._cells_R = parts.unbind()
        num_cells = self.num_sequences * self.longest
        self._grid: Tensor | None = None
        if len(rows) < num_cells:
            # An empty cell has a token of someone, so that its softmax is over something; what comes out is not read.
            self._grid = self._cells_R.new_zeros(num_cells)
            self._grid[self._cells_R] = torch.arange(len(rows), device=device)
        past_NTK = torch.arange(self.end, device=device) <= self.spread(self.positions_R)[..., None]
        self.mask_N1TK = additive(past_NTK, dtype)[:, None]

    def spread(self, x_R: Tensor) -> Tensor:
        """R x ... to N x T x ...."""
        x = x_R if self._grid is None else x_R[self._grid]
        return x.unflatten(0, (self.num_sequences, self.longest))

    def collect(self, x_NT: Tensor) -> Tensor:
        """N x T x ... to R x ...."""
        x = x_NT.flatten(0, 1)
        return x if self._grid is None else x[self._cells_R]


class SelfCache:
    """Keys and values of one decoder layer's targets so far: N x H x K x E each, in buffers that double when they are
    full. Joining the old and the new at every step would copy all of the past every time."""

    def __init__(self) -> None:
        self.length = 0
        self._buffers: tuple[Tensor, Tensor] | None = None

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values, with those of one new token of every sequence at the end."""
        start, end = self.length, self.length + key.shape[2]
        buffers = self._room(key, len(key), end)
        for buffer, new in zip(buffers, (key, value), strict=True):
            buffer[:, :, start:end] = new
        return buffers[0][:, :, :end], buffers[1][:, :, :end]

    def write(self, key_RHE: Tensor, value_RHE: Tensor, runs: Runs) -> tuple[Tensor, Tensor]:
        """All keys and values, with those of the runs in their places; what was there before is written over."""
        buffers = self._room(key_RHE, runs.num_sequences, runs.end)
        for buffer, new in zip(buffers, (key_RHE, value_RHE), strict=True):
            buffer[runs.sequences_R, :, runs.positions_R] = new
        return buffers[0][:, :, : runs.end], buffers[1][:, :, : runs.end]

    def _room(self, new: Tensor, number: int, end: int) -> tuple[Tensor, Tensor]:
        if self._buffers is None or end > self._buffers[0].shape[2]:
            heads, width = new.shape[1], new.shape[-1]
            # Zeros, as a place that is masked out still is multiplied with: by nothing, which no nan bears.
            key, value = (new.new_zeros(number, heads, max(16, 2 * end), width) for _ in range(2))
            if self._buffers is not None:
                for buffer, old in zip((key, value), self._buffers, strict=True):
                    buffer[:, :, : self.length] = old[:, :, : self.length]
            self._buffers = key, value
        self.length = max(self.length, end)
        return self._buffers

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

    def __call__(self, x_ND: Tensor, position: int | Tensor, end: int) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value, N x H x E each, of N tokens.

        Args:
            position: of all of them, or of each.
            end: above every position.
        """
        while end > len(self._turns_L21E[0]):
            self._turns_L21E = self._turns(2 * len(self._turns_L21E[0]))
        own, other = (part[position] for part in self._turns_L21E)
        projected_N3HE = F.linear(x_ND, self.weight).unflatten(-1, (3, self.num_heads, self.head_dim))
        normed_N2HE = F.layer_norm(projected_N3HE[:, :2], (self.head_dim,), None, None, self.eps)
        turned_N2HE = normed_N2HE * own + normed_N2HE.roll(self.head_dim // 2, -1) * other
        query_NHE, key_NHE = turned_N2HE.to(projected_N3HE.dtype).unbind(1)
        return query_NHE, key_NHE, projected_N3HE[:, 2]


Map = Callable[[Tensor], Tensor]


def _linear(linear: nn.Linear) -> Map:
    """The layer's product; one with an adapter does it itself."""
    return partial(F.linear, weight=linear.weight.detach()) if type(linear) is nn.Linear else linear


def _norm(norm: Norm) -> Map:
    weight, eps = norm.weight.detach(), norm.eps
    return lambda x: torch.layer_norm(x, weight.shape, weight.to(x.dtype), None, eps)


class LayerStep:
    """New tokens through a decoder layer, in each of P slots one (a call) or a run (`several`): what `DecoderLayer`
    does, without dropout and without its modules, since calling those takes as long as what they do with so few tokens.
    It carries no gradients.
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
        projected = self.project(self.self_norm(x_BPD).flatten(0, 1), position, position + 1)
        query_NH1E, *key_value = (part.unsqueeze(2) for part in projected)
        mixed_NH1E = F.scaled_dot_product_attention(query_NH1E, *past.append(*key_value))
        x_BPD = x_BPD + self.self_out(mixed_NH1E.reshape(x_BPD.shape))
        mixed_BHPE = F.scaled_dot_product_attention(self._asked(x_BPD).transpose(1, 2), *cross, attn_mask=cross_mask)
        return self._told(x_BPD, mixed_BHPE.transpose(1, 2).flatten(2))

    def several(
        self, x_RD: Tensor, runs: Runs, cross: tuple[Tensor, Tensor], cross_mask: Tensor, past: SelfCache
    ) -> Tensor:
        """Runs of tokens; within a run each sees those before it. `cross_mask` is for the runs' grid, row by row."""
        query_RHE, *key_value = self.project(self.self_norm(x_RD), runs.positions_R, runs.end)
        query_NHTE = runs.spread(query_RHE).transpose(1, 2)
        mixed_NHTE = F.scaled_dot_product_attention(query_NHTE, *past.write(*key_value, runs), attn_mask=runs.mask_N1TK)
        x_RD = x_RD + self.self_out(runs.collect(mixed_NHTE.transpose(1, 2)).flatten(1))
        query_NTHE = runs.spread(self._asked(x_RD))
        query_BCHE = query_NTHE.reshape(len(cross_mask), -1, *self._heads)
        mixed_BHCE = F.scaled_dot_product_attention(query_BCHE.transpose(1, 2), *cross, attn_mask=cross_mask)
        mixed_NTD = mixed_BHCE.transpose(1, 2).reshape(*query_NTHE.shape[:2], -1)
        return self._told(x_RD, runs.collect(mixed_NTD))

    def _asked(self, x: Tensor) -> Tensor:
        """Queries of the memory, ... x H x E."""
        return self.query_norm(self.query(self.cross_norm(x)).unflatten(-1, self._heads))

    def _told(self, x: Tensor, mixed: Tensor) -> Tensor:
        """With what the memory said, and through the MLP."""
        x = x + self.out(mixed)
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


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
        position: of the next token in the longest sequence.
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
