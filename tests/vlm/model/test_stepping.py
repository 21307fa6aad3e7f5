"""What a decoding step is fed with is what the attention makes by itself; caches keep what they are given."""

from __future__ import annotations

import pytest
import torch

from vlm.model.layers import Attention, rotary, rotate
from vlm.model.stepping import QueryKeyValue, SelfCache


@torch.no_grad()
@pytest.mark.parametrize("position", [0, 5, 63, 64, 200])
def test_one_product_gives_query_key_and_value(position: int) -> None:
    torch.manual_seed(0)
    attention = Attention(16, 8, 1)
    for norm in (attention.query_norm, attention.key_norm):
        torch.nn.init.uniform_(norm.weight, 0.5, 2.0)
    x = torch.randn(3, 16)
    query, key, value = QueryKeyValue(attention)(x, position, position + 1)
    at = rotary(torch.full((1, 1, 2), position), 8)
    keys, values = attention.keys_values(x[:, None], at)
    queries = rotate(attention.query_norm(attention._heads(attention.query(x[:, None]))), at)
    assert query.shape == key.shape == value.shape == (3, 2, 8)
    for found, expected in ((query, queries), (key, keys), (value, values)):
        torch.testing.assert_close(found, expected[:, :, 0], atol=1e-5, rtol=1e-5)


def test_a_cache_keeps_all_keys_however_many() -> None:
    cache = SelfCache()
    keys, values = torch.randn(2, 3, 2, 50, 4)
    for step in range(50):
        found = cache.append(keys[:, :, step : step + 1], values[:, :, step : step + 1])
        assert torch.equal(found[0], keys[:, :, : step + 1])
        assert torch.equal(found[1], values[:, :, : step + 1])


def test_a_cache_keeps_the_sequences_that_are_selected() -> None:
    cache = SelfCache()
    keys, values = torch.randn(2, 3, 2, 20, 4)
    cache.append(keys[:, :, :19], values[:, :, :19])
    chosen = torch.tensor([2, 0, 2])
    cache.select(chosen)
    found = cache.append(keys[chosen][:, :, 19:], values[chosen][:, :, 19:])
    assert torch.equal(found[0], keys[chosen])
    assert torch.equal(found[1], values[chosen])
