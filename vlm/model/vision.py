"""A vision encoder of transformers in place of the image layers: SigLIP, DINOv2, DINOv3, CLIP, and what is like them.

How an encoder lays out its tokens is found by a look at nothing: it is made without weights (torch's "meta" device),
and its outputs have shapes all the same. So one class serves every encoder whose tokens are a grid over the picture.
"""

# G images of a group, C channels, H height, W width, N tokens, P side of a patch in pixels, D the encoder's width

from __future__ import annotations

import inspect
import json
import math
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from vlm.model.layers import Norm

__all__ = ["VisionTower", "token_layout", "unread_weights"]

_USUAL_SIDE = 224
"""Of the picture that an encoder is tried on where its configuration names no size."""
_MOST_PREFIX_TOKENS = 32
"""Class and register tokens; more are no grid's neighbours but something else."""
_UNABLE = (ValueError, RuntimeError, IndexError, AssertionError)
"""What encoders raise for a picture of a size that they do not take."""


class VisionTower(nn.Module):
    """An encoder and a norm, which brings every encoder's tokens to one scale.

    Args:
        config: of the encoder.
        layout: what `token_layout` gives for it.

    Attributes:
        out_channels: the encoder's width.
    """

    def __init__(self, config: PreTrainedConfig, layout: dict[str, Any]) -> None:
        super().__init__()
        self.model = AutoModel.from_config(config)
        self.stride, self.num_prefix_tokens = int(layout["stride"]), int(layout["num_prefix_tokens"])
        self.out_channels = int(layout["width"])
        self.norm = Norm(self.out_channels)

    def forward(self, pixels_GCHW: Tensor) -> Tensor:
        """G x D x rows x columns."""
        rows, columns = (side // self.stride for side in pixels_GCHW.shape[-2:])
        tokens_GND = _tokens(self.model, pixels_GCHW)[:, self.num_prefix_tokens :]
        return self.norm(tokens_GND).transpose(1, 2).unflatten(2, (rows, columns))

    def train(self, mode: bool = True) -> VisionTower:
        """Batch normalisation stays as it was pretrained: it would let a sample see its neighbours."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def checkpoint_activations(self) -> None:
        """Of every layer, or of the whole where the encoder has no such option, keep only what goes in."""
        if self.model.supports_gradient_checkpointing:
            # transformers 5.13 has the older name.
            old, new = "gradient_checkpointing_enable", "activation_checkpointing_enable"
            getattr(self.model, new if hasattr(self.model, new) else old)({"use_reentrant": False})
        else:
            self.model.forward = partial(checkpoint, self.model.forward, use_reentrant=False)


def _tokens(model: nn.Module, pixels_GCHW: Tensor) -> Tensor:
    """G x N x D, whatever the encoder's own order and arguments."""
    accepts = inspect.signature(model.forward).parameters
    if "spatial_shapes" in accepts:  # NaFlex: patches in place of pictures
        side = model.config.patch_size
        patches = pixels_GCHW.unflatten(2, (-1, side)).unflatten(4, (-1, side)).permute(0, 2, 4, 3, 5, 1)
        # All pictures of a group have one shape: nothing is padded, so nothing has to be masked.
        output = model(
            pixel_values=patches.flatten(3).flatten(1, 2),
            pixel_attention_mask=None,
            spatial_shapes=torch.tensor([patches.shape[1:3]], device="cpu").expand(len(patches), -1),
        )
    elif "interpolate_pos_encoding" in accepts:
        output = model(pixels_GCHW, interpolate_pos_encoding=True)
    else:
        output = model(pixels_GCHW)
    hidden: Tensor = output.last_hidden_state
    return hidden.flatten(2).transpose(1, 2) if hidden.ndim == 4 else hidden


def token_layout(config: PreTrainedConfig) -> dict[str, Any]:
    """How an encoder's tokens lie over a picture.

    Returns:
        stride: pixels a side of one token.
        num_prefix_tokens: class and register tokens, which come first.
        width: of its tokens.
        image_size: [height, width] where it takes pictures of this size alone, else None.

    Raises:
        ValueError: it does not look at pictures alone, or its tokens are not a grid.
    """
    return dict(_examined(config.to_json_string(use_diff=False)).layout)


def unread_weights(config: PreTrainedConfig) -> frozenset[str]:
    """Names of weights that an encoder's tokens do not depend on: poolers, mask tokens. No gradient reaches them, which
    would keep several processes waiting for one."""
    return _examined(config.to_json_string(use_diff=False)).unread


class _Examined(NamedTuple):
    layout: dict[str, Any]
    unread: frozenset[str]


@lru_cache(maxsize=8)
def _examined(config_json: str) -> _Examined:
    values = json.loads(config_json)
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    name = f"vision tower {config.model_type}"
    patch = _pair(getattr(config, "patch_size", 1))
    if patch[0] != patch[1] or getattr(config, "num_channels", 3) != 3:
        raise ValueError(f"{name}: expected square patches of 3 channels; choose another tower")
    if hasattr(config, "num_patches"):
        native = (math.isqrt(config.num_patches) * patch[0],) * 2
    else:
        native = _pair(getattr(config, "image_size", None) or _USUAL_SIDE)
    try:
        with torch.device("meta"), torch.inference_mode(False), torch.enable_grad():
            model = AutoModel.from_config(config).train()
            tokens = _tokens(model, torch.empty(1, 3, *native))
    except (*_UNABLE, TypeError, AttributeError, KeyError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{name}: is no vision encoder that looks at a picture alone: {first}") from error
    _, number, width = tokens.shape
    stride = patch[0]
    while (native[0] // stride) * (native[1] // stride) > number:
        stride *= 2
    prefix = number - (native[0] // stride) * (native[1] // stride)
    fixed = False
    for rows, columns in ((native[0] // stride, native[1] // stride + 2), (2, 3)):
        try:
            with torch.no_grad():
                number = _tokens(model, torch.empty(1, 3, rows * stride, columns * stride, device="meta")).shape[1]
        except _UNABLE:
            fixed = True
        else:
            if number != rows * columns + prefix or prefix > _MOST_PREFIX_TOKENS:
                raise ValueError(f"{name}: its {number} tokens are not a grid over the picture; choose another tower")
    layout = {
        "stride": stride,
        "num_prefix_tokens": prefix,
        "width": width,
        "image_size": list(native) if fixed else None,
    }
    with torch.inference_mode(False), torch.enable_grad():  # whoever asks may have turned gradients off
        read = _read_by(tokens[:, prefix:])
    return _Examined(
        layout, frozenset(name for name, parameter in model.named_parameters() if id(parameter) not in read)
    )


def _pair(value: Any) -> tuple[int, int]:
    height, width = (value, value) if isinstance(value, int) else value
    return int(height), int(width)


def _read_by(result: Tensor) -> set[int]:
    """Ids of the parameters that a result was made of, by its graph."""
    seen: set[Any] = {None}
    read: set[int] = set()
    ahead: list[Any] = [result.grad_fn]
    while ahead:
        node = ahead.pop()
        if node not in seen:
            seen.add(node)
            if hasattr(node, "variable"):
                read.add(id(node.variable))
            ahead.extend(following for following, _ in node.next_functions)
    return read
