"""The convolution stages: filters are standardised, and a sample is alone in its own norm."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vlm.model.tower import ConvTower, ResidualBlock, StandardizedConv2d, group_norm


@torch.no_grad()
def filters(conv: StandardizedConv2d) -> Tensor:
    """The filters as the picture meets them (out x in x k x k), read off the answer to single pixels."""
    size = conv.kernel_size[0]
    pixels = torch.eye(conv.in_channels)[:, :, None, None] * torch.nn.functional.pad(
        torch.ones(1, 1, 1, 1), [size // 2] * 4
    )
    return conv(pixels).flip(-1, -2).transpose(0, 1)


@pytest.mark.parametrize("size", [1, 3])
def test_filters_have_zero_mean_and_unit_gain(size: int) -> None:
    """Whatever the weights are: independent unit inputs come out with unit variance, a constant with nothing."""
    torch.manual_seed(0)
    conv = StandardizedConv2d(8, 4, size)
    with torch.no_grad():
        conv.weight.mul_(7.0).add_(3.0)
    used = filters(conv)
    assert used.shape == conv.weight.shape
    torch.testing.assert_close(used.mean((1, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(used.square().sum((1, 2, 3)), torch.ones(4), atol=1e-3, rtol=0)
    centred = conv.weight - conv.weight.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(used, centred / centred.flatten(1).norm(dim=1)[:, None, None, None], atol=1e-3, rtol=0)


@torch.no_grad()
def test_scale_and_offset_of_the_weights_do_not_matter() -> None:
    torch.manual_seed(0)
    conv = StandardizedConv2d(8, 4, 3)
    picture = torch.randn(1, 8, 9, 9)
    before = conv(picture)
    conv.weight.mul_(2.0).add_(5.0)
    torch.testing.assert_close(conv(picture), before, atol=1e-3, rtol=1e-3)


def test_a_standardised_filter_of_equal_weights_is_nothing() -> None:
    """Its spread is 0; that must not divide."""
    conv = StandardizedConv2d(2, 1, 3)
    with torch.no_grad():
        conv.weight.fill_(0.3)
    output = conv(torch.randn(1, 2, 5, 5))
    output.sum().backward()
    assert torch.isfinite(conv.weight.grad).all()
    assert float(output.detach().abs().max()) < 1e-3


@torch.no_grad()
def test_group_norm_looks_at_one_sample() -> None:
    torch.manual_seed(0)
    norm = group_norm(32).train()
    assert norm.num_groups == 2
    samples = torch.randn(2, 32, 5, 5) * torch.tensor([1.0, 50.0])[:, None, None, None] + 3.0
    normed = norm(samples)
    assert torch.allclose(normed[:1], norm(samples[:1]), atol=1e-6)
    groups = normed.reshape(2, 2, -1)
    torch.testing.assert_close(groups.mean(-1), torch.zeros(2, 2), atol=1e-4, rtol=0)
    torch.testing.assert_close(groups.std(-1), torch.ones(2, 2), atol=1e-2, rtol=0)
    assert group_norm(8).num_groups == 1


@torch.no_grad()
def test_a_sample_does_not_see_its_neighbours() -> None:
    """Not in training either, where batch normalisation would."""
    torch.manual_seed(0)
    tower = ConvTower(8, [16, 32], [1, 2]).train()
    assert not list(tower.buffers())  # no running statistics
    pictures = torch.randn(3, 3, 32, 48)
    together = tower(pictures)
    torch.testing.assert_close(together[1:2], tower(pictures[1:2]), atol=1e-5, rtol=1e-5)
    other = torch.cat([pictures[:2], 100 * torch.randn(1, 3, 32, 48)])
    torch.testing.assert_close(tower(other)[:2], together[:2], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(tower(other)[2], together[2], atol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize(("widths", "stride"), [([16], 4), ([16, 32], 8), ([16, 32, 48], 16)])
def test_the_stem_and_every_stage_halve_the_resolution(widths: list[int], stride: int) -> None:
    tower = ConvTower(8, widths, [1] * len(widths))
    assert tower(torch.randn(2, 3, 2 * stride, 3 * stride)).shape == (2, widths[-1], 2, 3)
    assert tower.out_channels == widths[-1]


@torch.no_grad()
def test_a_block_that_adds_nothing_is_its_shortcut() -> None:
    torch.manual_seed(0)
    picture = torch.rand(1, 8, 6, 6)
    same = ResidualBlock(8, 8)
    same.second.norm.weight.zero_()
    assert torch.equal(same(picture), picture)
    down = ResidualBlock(8, 8, stride=2)
    down.second.norm.weight.zero_()
    torch.testing.assert_close(down(picture)[0, 0, 0, 0], picture[0, 0, :2, :2].mean())
    wide = ResidualBlock(8, 16, stride=2)
    assert wide.shortcut is not None
    assert wide(picture).shape == (1, 16, 3, 3)
