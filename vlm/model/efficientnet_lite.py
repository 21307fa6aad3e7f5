"""EfficientNet-Lite as a vision tower: inverted bottlenecks without squeeze-and-excitation, made for processors without
an accelerator.

Batch normalisation is folded into the convolutions, whose statistics are those of pretraining: a picture's features
never depend on its neighbours, and a CPU spares two passes over memory for each convolution.

`vlm.model` registers it with transformers as `efficientnet_lite`. `python -m vlm.imagenet_tower` makes a directory of
its ImageNet weights for `vision_tower`.

Sources: MobileNetV2 (arXiv 1801.04381), EfficientNet (arXiv 1905.11946) and its Lite variants
(https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite).
"""

# B batch, C channels, H height, W width

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

__all__ = ["EfficientNetLiteConfig", "EfficientNetLiteModel", "stage_plan"]

_STEM_WIDTH = 32
# Of every stage: blocks, kernel, stride, expansion, channels; of width and depth 1.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_FINE_STAGES = 5
"""After these a feature stands for 16 pixels, after all for 32."""


class EfficientNetLiteConfig(PreTrainedConfig):
    """Shape of an EfficientNet-Lite.

    Args:
        width: factor on the channels (Lite 0 and 1: 1.0, Lite 2: 1.1).
        depth: factor on the blocks of each stage (Lite 0: 1.0, Lite 1: 1.1, Lite 2: 1.2).
    """

    model_type = "efficientnet_lite"

    def __init__(self, width: float = 1.0, depth: float = 1.0, **kwargs: Any) -> None:
        if width <= 0 or depth <= 0:
            raise ValueError(f"width {width} and depth {depth} must be above 0")
        self.width = width
        self.depth = depth
        super().__init__(**kwargs)


def stage_plan(config: EfficientNetLiteConfig) -> list[tuple[int, int, int, int, int]]:
    """Blocks, kernel, stride, expansion and channels of every stage. The first and the last stage keep their depth."""

    def channels(base: int) -> int:
        wide = base * config.width
        nearest = max(8, int(wide + 4) // 8 * 8)
        return nearest + 8 if nearest < 0.9 * wide else nearest

    last = len(_STAGES) - 1
    return [
        (blocks if index in (0, last) else math.ceil(blocks * config.depth), kernel, stride, expansion, channels(base))
        for index, (blocks, kernel, stride, expansion, base) in enumerate(_STAGES)
    ]


class Convolution(nn.Conv2d):
    """Padded as TensorFlow does ("same"): with stride 2, what is odd of the padding is at the right and the bottom."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, kernel // 2 if stride == 1 else 0, groups=groups)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        step, kernel = self.stride[0], self.kernel_size[0]
        if step > 1:
            height, width = ((side + step - 1) // step * step - step + kernel - side for side in x_BCHW.shape[-2:])
            x_BCHW = F.pad(x_BCHW, (width // 2, width - width // 2, height // 2, height - height // 2))
        return super().forward(x_BCHW)


class Bottleneck(nn.Module):
    """Widen, look around channel by channel, narrow again; the shortcut joins the narrow ends."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = in_channels * expansion
        self.expand = Convolution(in_channels, wide, 1) if expansion > 1 else None
        self.depthwise = Convolution(wide, wide, kernel, stride, groups=wide)
        self.project = Convolution(wide, out_channels, 1)
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x_BCHW: Tensor) -> Tensor:
        wide = x_BCHW if self.expand is None else F.relu6(self.expand(x_BCHW))
        narrow = self.project(F.relu6(self.depthwise(wide)))
        return x_BCHW + narrow if self.has_shortcut else narrow


class EfficientNetLiteModel(PreTrainedModel):
    """Pixels to features: those of 16 pixels a side, with those of 32 pixels around them beside.

    `last_hidden_state` is B x C x H/16 x W/16 (sides rounded up), C the channels of the fifth and the last stage.
    """

    config_class = EfficientNetLiteConfig
    base_model_prefix = "efficientnet_lite"
    main_input_name = "pixel_values"
    _no_split_modules: ClassVar[list[str]] = ["Bottleneck"]

    def __init__(self, config: EfficientNetLiteConfig) -> None:
        super().__init__(config)
        self.stem = Convolution(3, _STEM_WIDTH, 3, stride=2)
        channels = _STEM_WIDTH
        self.stages = nn.ModuleList()
        for count, kernel, stride, expansion, width in stage_plan(config):
            blocks = nn.ModuleList()
            for index in range(count):
                blocks.append(Bottleneck(channels, width, kernel, stride if index == 0 else 1, expansion))
                channels = width
            self.stages.append(blocks)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, pixel_values: Tensor) -> BaseModelOutput:
        """`pixel_values`: B x 3 x H x W, normalised."""
        # With three channels a channels-last convolution has no fast backward pass on CPUs without AVX-512.
        hidden = F.relu6(self.stem(pixel_values.contiguous())).contiguous(memory_format=torch.channels_last)
        fine = hidden
        for index, blocks in enumerate(self.stages, 1):
            for block in blocks:
                hidden = block(hidden)
            if index == _FINE_STAGES:
                fine = hidden
        height, width = fine.shape[-2:]
        around = hidden.repeat_interleave(2, 2).repeat_interleave(2, 3)[..., :height, :width]
        return BaseModelOutput(last_hidden_state=torch.cat([fine, around], 1))
