"""Onto which devices, and in which precision, a checkpoint's weights are loaded."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vlm.info import weight_dtypes

__all__ = ["load_options", "one_device", "own_dtype"]

_BY_ACCELERATE = ("auto", "balanced", "balanced_low_0", "sequential")
_FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def load_options(
    device: str | torch.device | None,
    device_map: str | Mapping[str, Any] | None,
    *,
    load_in_8bit: bool = False,
    load_in_4bit: bool = False,
) -> dict[str, Any]:
    """What transformers' from_pretrained is told; empty where a model is just put onto one device.

    Raises:
        ValueError: options that exclude each other, or bitsandbytes is not installed.
    """
    if device is not None and device_map is not None:
        raise ValueError(f"device is {device!r} and device_map {device_map!r}; give one of them")
    if load_in_8bit and load_in_4bit:
        raise ValueError("load_in_8bit and load_in_4bit are both set; choose one")
    if not (load_in_8bit or load_in_4bit):
        return {} if device_map is None else {"device_map": device_map}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError(
            f"load_in_{8 if load_in_8bit else 4}bit needs bitsandbytes, which is not installed; install it with "
            "`pip install 'vlm[quantize]'`, or load with dtype='bfloat16'"
        )
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_8bit=load_in_8bit, load_in_4bit=load_in_4bit)
    place = device_map or ("auto" if device is None else {"": str(device)})
    return {"device_map": place, "quantization_config": config}


def one_device(device_map: str | Mapping[str, Any], device: torch.device) -> torch.device:
    """The one device of a model that cannot be split, because it reads weights of its parts itself.

    Args:
        device: for "auto" and its like.

    Raises:
        ValueError: several devices, or one that holds no weights that can be computed with.
    """
    values = {"": device_map} if isinstance(device_map, str) else dict(device_map)
    places = {str(device if value in _BY_ACCELERATE else value) for value in values.values()}
    places = {f"cuda:{place}" if place.isdigit() else place for place in places}
    if len(places) != 1 or places == {"disk"}:
        raise ValueError(
            f"device_map {device_map!r}: this model is small and stays on one device; expected 'auto' or one device, "
            "for example {'': 'cuda:0'}"
        )
    try:
        return torch.device(places.pop())
    except RuntimeError as error:
        raise ValueError(f"device_map {device_map!r} names no device that is known: {error}") from error


def own_dtype(path: Path) -> torch.dtype:
    """In which most of a checkpoint's weights are stored; float32 where they are stored in a way of their own."""
    counts: Counter[torch.dtype] = Counter()
    for name, number in weight_dtypes(path).items():
        counts[_FLOATS.get(name, torch.float32)] += number
    return counts.most_common(1)[0][0] if counts else torch.float32
