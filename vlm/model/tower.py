"""The convolution stages: pixels to features at the stride of one image token.

Residual blocks with weight-standardised convolutions and group normalisation: convolutions carry small
data, and nothing here looks at another sample (no batch normalisation), so a sample's features do not
depend on its neighbours or on how a batch is split over processes.

Sources: Weight Standardization (arXiv 1903.10520), Big Transfer (arXiv 1912.11370).
"""

# B batch, C channels, H height, W width

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(1, channels // 16), channels)


class StandardizedConv2d(nn.Conv2d):
    """A convolution whose filters are brought to zero mean and unit gain before use."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        weight = self.weight
        centred = weight - weight.mean((1, 2, 3), keepdim=True)
        fan_in = weight[0].numel()
        weight = centred * torch.rsqrt(centred.square().mean((1, 2, 3), keepdim=True) * fan_in + 1e-4)
        return F.conv2d(x_BCHW, weight.to(x_BCHW.dtype), None, self.stride, self.padding)


class ConvNorm(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = StandardizedConv2d(in_channels, out_channels, kernel_size, stride)
        self.norm = group_norm(out_channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.norm(self.conv(x_BCHW))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions; the shortcut is averaged down and widened where the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.first = ConvNorm(in_channels, out_channels, 3, stride)
        self.second = ConvNorm(out_channels, out_channels, 3)
        self.shortcut = ConvNorm(in_channels, out_channels, 1) if in_channels != out_channels else None
        self.stride = stride

    def forward(self, x_BCHW: Tensor) -> Tensor:
        residual = self.second(F.relu(self.first(x_BCHW)))
        if self.stride > 1:
            x_BCHW = F.avg_pool2d(x_BCHW, self.stride)
        if self.shortcut is not None:
            x_BCHW = self.shortcut(x_BCHW)
        return F.relu(x_BCHW + residual)


class ConvTower(nn.Module):
    """Stem and stages; the output is `stride` times smaller than the input and `out_channels` wide."""

    def __init__(self, stem_width: int, stage_widths: list[int], stage_depths: list[int]) -> None:
        super().__init__()
        self.stem = ConvNorm(3, stem_width, 3, stride=2)
        channels = stem_width
        blocks: list[nn.Module] = []
        for width, depth in zip(stage_widths, stage_depths, strict=True):
            for index in range(depth):
                blocks.append(ResidualBlock(channels, width, stride=2 if index == 0 else 1))
                channels = width
        self.blocks = nn.ModuleList(blocks)
        self.out_channels = channels

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        # With three channels a channels-last convolution has no fast backward pass on CPUs without AVX-512: 130 ms
        # against 10 ms for 8 pictures. From here on channels-last is the faster one.
        x_BCHW = F.relu(self.stem(pixels_BCHW.contiguous())).contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            x_BCHW = block(x_BCHW)
        return x_BCHW
