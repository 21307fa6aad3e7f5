"""The parts by hand: norms, rotations, attention, embeddings; a layer fed step by step is the layer fed at once."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from vlm.model.layers import (
    NUM_FREQUENCIES,
    Attention,
    DecoderLayer,
    GatedMLP,
    JointLayer,
    Norm,
    TokenEmbedding,
    attend,
    fourier,
    residual_linear,
    rotary,
    rotate,
)
from vlm.model.stepping import LayerStep, SelfCache


def test_norm_by_hand() -> None:
    norm = Norm(4)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    x = torch.tensor([1.0, 2.0, 4.0, 9.0])
    expected = (x - x.mean()) / (x.var(unbiased=False) + 1e-6).sqrt() * norm.weight
    torch.testing.assert_close(norm(x), expected)
    assert norm(x.bfloat16()).dtype == torch.bfloat16


def test_attention_depends_on_relative_positions_alone() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 1, 16)

    def product(at: tuple[float, float], to: tuple[float, float]) -> float:
        q = rotate(query, rotary(torch.tensor([[at]]), 16))
        k = rotate(key, rotary(torch.tensor([[to]]), 16))
        return float((q * k).sum())

    assert product((3, 5), (1, 2)) == pytest.approx(product((13, 25), (11, 22)), abs=1e-3)
    assert product((3, 5), (1, 2)) != pytest.approx(product((5, 3), (2, 1)), abs=1e-3)  # y is not x
    rotated = rotate(query, rotary(torch.tensor([[(7.0, 9.0)]]), 16))
    assert float(rotated.norm()) == pytest.approx(float(query.norm()), rel=1e-5)


def test_fourier_features_by_hand() -> None:
    features = fourier(torch.tensor(0.25))
    assert features.shape == (2 * NUM_FREQUENCIES,)
    assert float(features[0]) == pytest.approx(math.sin(math.pi * 0.25))
    assert float(features[NUM_FREQUENCIES + 1]) == pytest.approx(math.cos(math.pi * 0.5), abs=1e-6)


def test_neighbouring_locations_are_alike_from_the_start() -> None:
    torch.manual_seed(0)
    tokens = TokenEmbedding(1200, 32, 100, 1000, 0.02)
    torch.nn.init.normal_(tokens.location.weight)
    with torch.no_grad():
        table = tokens.table()
    assert table.shape == (1200, 32)
    assert torch.equal(table[:100], tokens.embedding.weight[:100])
    assert torch.equal(table[1100:], tokens.embedding.weight[1100:])
    extra = table[100:1100] - tokens.embedding.weight[100:1100]
    near = (extra[500] - extra[501]).norm()
    assert near < 0.5 * (extra[500] - extra[900]).norm()


@torch.no_grad()
def test_attention_by_hand() -> None:
    """Two heads of width 4: normalised queries and keys, softmax of the masked products, values mixed."""
    torch.manual_seed(0)
    attention = Attention(8, 4, 1)
    attention.query_norm.weight.copy_(torch.tensor([1.0, 2.0, 0.5, 1.5]))
    x, memory = torch.randn(1, 3, 8), torch.randn(1, 5, 8)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 0, 1, 0], [0, 0, 1, 0, 0]], dtype=torch.bool)
    result = attention(x, *attention.keys_values(memory), None, mask[None, None])
    queries, keys = attention.query(x[0]), attention.key_value(memory[0])[:, :8]
    values = attention.key_value(memory[0])[:, 8:]
    heads = []
    for part in (slice(0, 4), slice(4, 8)):
        query, key = attention.query_norm(queries[:, part]), attention.key_norm(keys[:, part])
        scores = (query @ key.T / 2.0).masked_fill(~mask, -torch.inf)
        heads.append(scores.softmax(-1) @ values[:, part])
    torch.testing.assert_close(result[0], attention.out(torch.cat(heads, -1)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_that_is_trained_in_bfloat16_on_a_cpu(masked: bool) -> None:
    """Values and gradients of PyTorch's own attention in float32, but for rounding; what sees nothing stays finite."""
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(2, 3, length, 16, generator=generator).bfloat16().requires_grad_() for length in (7, 9, 9)]
    mask = torch.rand(2, 1, 7, 9, generator=generator) > 0.4 if masked else None
    found = attend(*parts, mask)
    exact = [part.detach().float().requires_grad_() for part in parts]
    expected = F.scaled_dot_product_attention(*exact, attn_mask=mask)
    torch.testing.assert_close(found.float(), expected, atol=0.03, rtol=0.03)
    target = torch.randn(expected.shape, generator=generator)
    gradients = torch.autograd.grad((found.float() * target).sum(), parts)
    for gradient, by_hand in zip(gradients, torch.autograd.grad((expected * target).sum(), exact), strict=True):
        torch.testing.assert_close(gradient.float(), by_hand, atol=0.05, rtol=0.05)
    nothing = attend(*parts, torch.zeros(2, 1, 7, 9, dtype=torch.bool))
    assert bool(nothing.isfinite().all())
    assert all(bool(part.isfinite().all()) for part in torch.autograd.grad(nothing.sum(), parts))


@torch.no_grad()
def test_gated_mlp_by_hand() -> None:
    torch.manual_seed(0)
    mlp = GatedMLP(24, 4.0, 1)
    assert mlp.down.in_features == 64  # two thirds of 96
    x = torch.randn(2, 24)
    gate, up = x @ mlp.gate_up.weight[:64].T, x @ mlp.gate_up.weight[64:].T
    torch.testing.assert_close(mlp(x), (gate * gate.sigmoid() * up) @ mlp.down.weight.T)


def test_the_deeper_the_smaller_residual_branches_start() -> None:
    assert residual_linear(32, 16, 1).init_std == pytest.approx(64**-0.5)
    assert residual_linear(32, 16, 4).init_std == pytest.approx(256**-0.5)


def joint_layer(dropout: float = 0.0) -> JointLayer:
    torch.manual_seed(0)
    return JointLayer(16, 8, 2.0, dropout, 1)


@torch.no_grad()
def test_extra_keys_are_tokens_in_front() -> None:
    """Tokens that look at ready-made keys give what they give in one sequence with the tokens of those keys."""
    layer = joint_layer()
    x = torch.randn(1, 7, 16)
    at = rotary(torch.arange(7)[None, :, None].expand(1, 7, 2), 8)
    first, later = [tuple(part[:, :, rows] for part in at) for rows in (slice(0, 3), slice(3, 7))]
    # The first three look at themselves; the last four at all seven.
    mask = torch.ones(7, 7, dtype=torch.bool)
    mask[:3, 3:] = False
    whole, _ = layer(x, at, mask[None, None])
    head, own = layer(x[:, :3], first)
    tail, _ = layer(x[:, 3:], later, None, own)
    torch.testing.assert_close(torch.cat([head, tail], 1), whole, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_dropout_is_for_training() -> None:
    layer = joint_layer(dropout=0.5)
    x, at = torch.randn(1, 4, 16), rotary(torch.zeros(1, 4, 2), 8)
    assert not torch.equal(layer(x, at)[0], layer(x, at)[0])
    layer.eval()
    assert torch.equal(layer(x, at)[0], layer(x, at)[0])
    assert torch.equal(layer(x, at)[0], joint_layer()(x, at)[0])


@torch.no_grad()
def test_a_decoder_layer_fed_step_by_step_is_the_layer_fed_at_once() -> None:
    """Two rows of two slots: each slot is a sequence of its own."""
    torch.manual_seed(0)
    layer = DecoderLayer(16, 8, 2.0, 0.0, 1)
    sequences = torch.randn(2, 2, 5, 16)  # rows, slots, steps
    memory = torch.randn(2, 4, 16)
    cross = layer.cross_attention.keys_values(memory)
    sees = torch.tensor([[[1, 1, 0, 1], [0, 1, 1, 0]], [[1, 0, 0, 0], [1, 1, 1, 1]]], dtype=torch.bool)[:, None]
    advance, past = LayerStep(layer), SelfCache()
    steps = [advance(sequences[:, :, step], step, cross, sees, past) for step in range(5)]
    at = rotary(torch.arange(5)[None, :, None].expand(1, 5, 2), 8)
    causal = torch.ones(5, 5, dtype=torch.bool).tril()
    for slot in range(2):
        whole = layer(sequences[:, slot], at, causal[None, None], cross, sees[:, :, slot : slot + 1].expand(2, 1, 5, 4))
        torch.testing.assert_close(torch.stack([s[:, slot] for s in steps], 1), whole, atol=1e-5, rtol=1e-5)
