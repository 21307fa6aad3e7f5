"""The transformer's parts: norms, rotary positions in two dimensions, attention, gated MLP, embeddings."""

# B batch, H heads, L queries, K keys, E width of a head, D width, V vocabulary, F Fourier features

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROPE_BASE = 1000.0
NUM_FREQUENCIES = 10
"""Octaves of the Fourier features: the finest has a period of 2/1024 of the image's side, about two location bins."""


class Norm(nn.Module):
    """Layer normalisation without a bias. It does what RMSNorm does, and on a CPU it is one kernel where RMSNorm is
    five: forward and backward over 4,576 x 256 took 0.8 ms against 6.2 ms."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight.to(x.dtype), None, self.eps)


def rotary(positions_BL2: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """cos and sin, B x 1 x L x E/2, for positions (y, x): half the pairs turn with y, half with x.

    Text has y = x = its index in its own prompt, so for text this is the usual 1-D rotation.
    Source: Qwen2-VL's M-RoPE (arXiv 2409.12191) without the time axis.
    """
    pairs = head_dim // 4
    frequencies = ROPE_BASE ** (-torch.arange(pairs, device=positions_BL2.device, dtype=torch.float32) / pairs)
    angles = (positions_BL2.float()[..., None] * frequencies).flatten(-2)
    return angles.cos()[:, None], angles.sin()[:, None]


def rotate(x_BHLE: Tensor, cos_sin: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = cos_sin
    first, second = x_BHLE.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x_BHLE.dtype)


def residual_linear(in_features: int, out_features: int, num_layers: int) -> nn.Linear:
    """The last layer of a residual branch: it starts small, so that deep stacks train without a long warm-up."""
    linear = nn.Linear(in_features, out_features, bias=False)
    linear.init_std = (in_features * 2 * num_layers) ** -0.5
    return linear


def attend(query_BHLE: Tensor, key_BHKE: Tensor, value_BHKE: Tensor, mask: Tensor | None) -> Tensor:
    """Attention by PyTorch's kernel, but for training in bfloat16 on a CPU, where that kernel's backward pass is slow:
    with 120 tokens and 5 heads of 32 pictures both passes took 44 ms against 12 ms for the plain products."""
    plain = query_BHLE.device.type == "cpu" and query_BHLE.dtype == torch.bfloat16 and torch.is_grad_enabled()
    if not plain or (mask is not None and mask.dtype != torch.bool):
        return F.scaled_dot_product_attention(query_BHLE, key_BHKE, value_BHKE, attn_mask=mask)
    scores_BHLK = (query_BHLE @ key_BHKE.transpose(-1, -2)).float() * query_BHLE.shape[-1] ** -0.5
    if mask is not None:
        # Not minus infinity: what is padding sees nothing, and must not become NaN.
        scores_BHLK = scores_BHLK.masked_fill(~mask, torch.finfo(torch.float32).min)
    return scores_BHLK.softmax(-1).to(value_BHKE.dtype) @ value_BHKE


class Attention(nn.Module):
    """Multi-head attention with normalised queries and keys. Keys and values come ready-made, so that
    the image's are computed once and shared by all prompts."""

    def __init__(self, width: int, head_dim: int, num_layers: int) -> None:
        super().__init__()
        self.num_heads = width // head_dim
        self.head_dim = head_dim
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = residual_linear(width, width, num_layers)
        self.query_norm = Norm(head_dim)
        self.key_norm = Norm(head_dim)

    def _heads(self, x_BLD: Tensor) -> Tensor:
        return x_BLD.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def keys_values(self, x_BKD: Tensor, cos_sin: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        key_BKD, value_BKD = self.key_value(x_BKD).chunk(2, dim=-1)
        key_BHKE = self.key_norm(self._heads(key_BKD))
        if cos_sin is not None:
            key_BHKE = rotate(key_BHKE, cos_sin)
        return key_BHKE, self._heads(value_BKD)

    def forward(
        self,
        x_BLD: Tensor,
        key_BHKE: Tensor,
        value_BHKE: Tensor,
        cos_sin: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        query_BHLE = self.query_norm(self._heads(self.query(x_BLD)))
        if cos_sin is not None:
            query_BHLE = rotate(query_BHLE, cos_sin)
        mixed_BHLE = attend(query_BHLE, key_BHKE, value_BHKE, mask)
        return self.out(mixed_BHLE.transpose(1, 2).flatten(2))


class GatedMLP(nn.Module):
    """SwiGLU (arXiv 2002.05202); two thirds of the nominal width, so that the parameters stay the same."""

    def __init__(self, width: int, ratio: float, num_layers: int) -> None:
        super().__init__()
        hidden = max(32, round(width * ratio * 2 / 3 / 32) * 32)
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = residual_linear(hidden, width, num_layers)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


def fourier(values: Tensor) -> Tensor:
    """Sines and cosines of a coordinate in [0, 1]: ... -> ... x F (F = 2 * NUM_FREQUENCIES)."""
    octaves = math.pi * 2.0 ** torch.arange(NUM_FREQUENCIES, device=values.device, dtype=torch.float32)
    angles = values.float()[..., None] * octaves
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class TokenEmbedding(nn.Module):
    """The tied embedding. A location's row is a learnt vector plus a projection of its coordinate, so that
    neighbouring bins start out alike and bins that training seldom saw are still in their place."""

    def __init__(
        self, vocab_size: int, width: int, first_location_id: int, num_locations: int, init_std: float
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.location = nn.Linear(2 * NUM_FREQUENCIES, width, bias=False)
        self.location.init_std = init_std / NUM_FREQUENCIES**0.5
        self.first_location_id = first_location_id
        self.num_locations = num_locations

    def table(self) -> Tensor:
        """V x D."""
        weight = self.embedding.weight
        centres = (torch.arange(self.num_locations, device=weight.device, dtype=torch.float32) + 0.5) / (
            self.num_locations
        )
        extra = F.linear(fourier(centres).to(weight.dtype), self.location.weight)
        start, end = self.first_location_id, self.first_location_id + self.num_locations
        return torch.cat([weight[:start], weight[start:end] + extra, weight[end:]])


class JointLayer(nn.Module):
    """Pre-norm layer in which some tokens look at ready-made keys beside their own."""

    def __init__(self, width: int, head_dim: int, mlp_ratio: float, dropout: float, num_layers: int) -> None:
        super().__init__()
        self.attention_norm = Norm(width)
        self.attention = Attention(width, head_dim, num_layers)
        self.mlp_norm = Norm(width)
        self.mlp = GatedMLP(width, mlp_ratio, num_layers)
        self.dropout = dropout

    def forward(
        self,
        x_BLD: Tensor,
        cos_sin: tuple[Tensor, Tensor],
        mask: Tensor | None = None,
        extra: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Returns the new tokens and their own keys and values (without `extra`, which come first in `mask`)."""
        normed = self.attention_norm(x_BLD)
        own = self.attention.keys_values(normed, cos_sin)
        key, value = own if extra is None else (torch.cat([a, b], dim=2) for a, b in zip(extra, own, strict=True))
        x_BLD = x_BLD + self._drop(self.attention(normed, key, value, cos_sin, mask))
        return x_BLD + self._drop(self.mlp(self.mlp_norm(x_BLD))), own

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class DecoderLayer(nn.Module):
    """Pre-norm layer: over the target so far, over image and own prompt, MLP. Token by token: `stepping.LayerStep`."""

    def __init__(self, width: int, head_dim: int, mlp_ratio: float, dropout: float, num_layers: int) -> None:
        super().__init__()
        self.self_norm = Norm(width)
        self.self_attention = Attention(width, head_dim, num_layers)
        self.cross_norm = Norm(width)
        self.cross_attention = Attention(width, head_dim, num_layers)
        self.mlp_norm = Norm(width)
        self.mlp = GatedMLP(width, mlp_ratio, num_layers)
        self.dropout = dropout

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x

    def forward(
        self,
        x_BTD: Tensor,
        cos_sin: tuple[Tensor, Tensor],
        self_mask: Tensor | None,
        cross: tuple[Tensor, Tensor],
        cross_mask: Tensor | None,
    ) -> Tensor:
        normed = self.self_norm(x_BTD)
        key, value = self.self_attention.keys_values(normed, cos_sin)
        x_BTD = x_BTD + self._drop(self.self_attention(normed, key, value, cos_sin, self_mask))
        x_BTD = x_BTD + self._drop(self.cross_attention(self.cross_norm(x_BTD), *cross, None, cross_mask))
        return x_BTD + self._drop(self.mlp(self.mlp_norm(x_BTD)))
