"""What all families do with a model of transformers: read its weights, and ask it in eval mode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

__all__ = ["convert", "evaluating", "load_weights"]


def load_weights(
    model_class: Any, path: Path, *, device: torch.device, dtype: torch.dtype, placing: Mapping[str, Any]
) -> Any:
    """A model of `model_class` in eval mode, with the safetensors of a checkpoint directory.

    Args:
        placing: what transformers' from_pretrained is told about devices and bits; where there is something, it is in
            place of `device`.

    Raises:
        ValueError: there are no weights, or damaged ones, or they do not fit config.json.
    """
    if not any(path.glob("*.safetensors")):
        raise ValueError(f"{path}: has no .safetensors weights; pickled weights are not loaded")
    try:
        model, loading = model_class.from_pretrained(
            str(path), dtype=dtype, use_safetensors=True, output_loading_info=True, local_files_only=True, **placing
        )
    except (OSError, SafetensorError, RuntimeError) as error:  # missing, damaged, or of other shapes
        raise ValueError(f"{path}: the weights cannot be read: {error}") from error
    # transformers only warns, and then answers with random weights.
    wrong = {kind: sorted(map(str, names)) for kind, names in loading.items() if names}
    if wrong:
        raise ValueError(f"{path}: the weights do not fit config.json: {wrong}")
    return (model if placing else model.to(device)).eval()


def convert(model: Any, dtype: torch.dtype, device: torch.device | None = None) -> None:
    """A loaded model in another precision, as `load_weights` would have given it: what no file has, such as the angles
    of positions, stays in float32."""
    saved = model.state_dict().keys()
    computed = {name: value for name, value in model.named_buffers() if name not in saved}
    model.to(device, dtype)
    for name, value in computed.items():
        module, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(module), attribute, value.to(device))


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """While in it, the model is in eval mode."""
    if not model.training:  # walking through all modules takes milliseconds
        yield
        return
    model.eval()
    try:
        yield
    finally:
        model.train()
