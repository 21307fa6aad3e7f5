"""Vision encoders from the Hub or a directory: read once when a run begins, kept in the run's own checkpoint after.

`vision_tower: google/siglip2-base-patch16-224` in a model's YAML names one. What comes of it is the encoder's
configuration, what it takes and gives, and its weights; of a checkpoint of picture and text the picture's half.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedConfig
from transformers.image_processing_base import ImageProcessingMixin
from transformers.utils import logging

from vlm.hub import find_checkpoint
from vlm.model.vision import token_layout, unread_weights
from vlm.run_log import no_other_bars

__all__ = ["Tower", "load_tower", "plain_tower"]

_WITHOUT_HEAD = {"vision_use_head": False, "use_head": False}
"""Poolers give one vector for a picture, which nothing here asks for."""
_WITHOUT_CHANCE = {"pos_embed_shift": None, "pos_embed_jitter": None, "pos_embed_rescale": None}
"""DINOv3 moves its positions at random in training, for all pictures of a batch together: a picture's features would
depend on how a batch is split."""
_OF_ITS_DEPTH = ("stage_names", "out_features", "out_indices")
"""Follow from the number of layers, which may be changed."""
_OF_ITS_PLACE = ("_name_or_path",)
"""Where it lay on the machine that a run began on says nothing to who loads the checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Tower:
    """A vision encoder as a one-look model takes it.

    Attributes:
        vision_config, vision_input: fields of `OneLookConfig`.
        weights: by the encoder's own names; None to draw them.
    """

    vision_config: dict[str, Any]
    vision_input: dict[str, Any]
    weights: dict[str, Tensor] | None = None


def load_tower(name: str, config_changes: Mapping[str, Any], input_changes: Mapping[str, Any]) -> Tower:
    """An encoder from a directory or the Hub, with its weights in float32.

    Args:
        name: a directory or "owner/name".
        config_changes: fields of its configuration to change, such as num_hidden_layers, to leave out the last ones.
        input_changes: fields of `vision_input` to change, such as image_size.

    Raises:
        ValueError: nothing is there, it is no vision encoder, its pixels' mean is not told, or its weights do not fit.
    """
    path = find_checkpoint(name)
    config = _changed(_read_config(path), config_changes)
    layout = token_layout(config)
    pixels = {} if {"mean", "std"} <= input_changes.keys() else _pixels(path)
    return Tower(
        vision_config=config.to_dict(),
        vision_input={**layout, **pixels, **input_changes},
        weights=_read_weights(path, config),
    )


def plain_tower(config: Mapping[str, Any], input_changes: Mapping[str, Any]) -> Tower:
    """An encoder of a given shape whose weights are drawn."""
    values = dict(config)
    model_type = values.pop("model_type", None)
    try:
        made = AutoConfig.for_model(model_type)
    except ValueError:
        raise ValueError(f"vision_config.model_type is {model_type!r}, which transformers does not know") from None
    made = _changed(made, values)
    return Tower(
        vision_config=made.to_dict(),
        vision_input={**token_layout(made), "mean": [0.5] * 3, "std": [0.5] * 3, **input_changes},
    )


def _read_config(path: Path) -> PreTrainedConfig:
    try:
        config = AutoConfig.from_pretrained(str(path), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(
            f"vision tower {path}: its config.json names no model that transformers has: {first}"
        ) from error
    part = getattr(config, "vision_config", None)
    return part if isinstance(part, PreTrainedConfig) else config


def _changed(config: PreTrainedConfig, changes: Mapping[str, Any]) -> PreTrainedConfig:
    unknown = [name for name in changes if not hasattr(config, name)]
    if unknown:
        raise ValueError(
            f"vision_config changes {', '.join(unknown)}, which a {config.model_type} does not have; it has: "
            + ", ".join(name for name in config.to_dict() if name != "transformers_version")
        )
    settled = {name: value for name, value in {**_WITHOUT_HEAD, **_WITHOUT_CHANCE}.items() if hasattr(config, name)}
    kept = {name: value for name, value in config.to_dict().items() if name not in _OF_ITS_DEPTH + _OF_ITS_PLACE}
    return type(config).from_dict({**kept, **settled, **changes})  # type: ignore[no-any-return]


def _pixels(path: Path) -> dict[str, list[float]]:
    """Mean and spread of the pixels in [0, 1] that an image processor's file tells."""
    told: dict[str, Any] = {}
    with suppress(OSError, ValueError):  # said below, with what to do
        told, _ = ImageProcessingMixin.get_image_processor_dict(str(path), local_files_only=True)
    if told.get("do_normalize", True) and not {"image_mean", "image_std"} <= told.keys():
        raise ValueError(
            f"vision tower {path}: has no preprocessor_config.json that tells image_mean and image_std; add "
            "`vision_input: {mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}` with its own values to the model's YAML"
        )
    mean, std = (told["image_mean"], told["image_std"]) if told.get("do_normalize", True) else ([0.0] * 3, [1.0] * 3)
    # What it multiplies the 0..255 of a picture with, as a multiple of the usual 1/255.
    scale = 255 * told.get("rescale_factor", 1 / 255) if told.get("do_rescale", True) else 255.0
    return {"mean": [value / scale for value in mean], "std": [value / scale for value in std]}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the list of the weights that the text's half would have had."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with no_other_bars():
            yield
    finally:
        logging.set_verbosity(before)


def _read_weights(path: Path, config: PreTrainedConfig) -> dict[str, Tensor]:
    if not any(path.glob("*.safetensors")):
        raise ValueError(f"vision tower {path}: has no .safetensors weights; pickled weights are not loaded")
    try:
        with _quiet():
            model, loading = AutoModel.from_pretrained(
                str(path),
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                local_files_only=True,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"vision tower {path}: the weights cannot be read: {error}") from error
    # transformers only warns, and the tower would look with random weights.
    missing = sorted(set(loading["missing_keys"]) - unread_weights(config)) + sorted(
        map(str, loading["mismatched_keys"])
    )
    if missing:
        raise ValueError(
            f"vision tower {path}: its weights lack {len(missing)} of the encoder's, {missing[0]} first; it is no "
            f"checkpoint of a {config.model_type}, or of another shape than its config.json tells"
        )
    weights: dict[str, Tensor] = model.state_dict()
    return weights
