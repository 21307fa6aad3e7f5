"""What a checkpoint directory holds, read from its headers: no weights are loaded."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

__all__ = ["EMBEDDED", "checkpoint_info", "weight_dtypes"]

EMBEDDED = Path(__file__).parent / "embedded"
"""The checkpoint that the package ships."""

_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_image_layers",
    "num_joint_layers",
    "num_decoder_layers",
    "patch_budget",
)


def checkpoint_info(folder: Path) -> dict[str, Any]:
    """JSON-ready facts of a checkpoint directory.

    `memory_bytes` is what a process that describes one photo on a CPU in float32 is predicted to take at most; only
    of families that can tell.

    Raises:
        ValueError: no readable config.json, no weights, or a damaged weights file.
    """
    config = _read_config(folder)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ValueError(f"{folder}: no *.safetensors in it; vlm loads weights from nothing else")
    counts = weight_dtypes(folder)
    parameters = sum(counts.values())
    facts = _family_facts(folder, config, parameters)
    if (folder / "adapter_config.json").is_file():  # most of what is in memory then is its checkpoint's
        facts.pop("memory_bytes", None)
    return {
        "checkpoint": str(folder),
        "family": config.get("model_type", "unknown"),
        **({"vision_tower": config["vision_config"].get("model_type")} if config.get("vision_config") else {}),
        "parameters": parameters,
        "dtype": ", ".join(sorted(counts)),
        "weights_bytes": sum(file.stat().st_size for file in weights),
        **({"memory_bytes": facts["memory_bytes"]} if "memory_bytes" in facts else {}),
        **{name: config[name] for name in _SIZES if name in config},
        "tasks": facts["tasks"],
        "calibrated": (folder / "calibration.json").is_file(),
    }


def _family_facts(folder: Path, config: dict[str, Any], parameters: int) -> dict[str, Any]:
    from vlm.families import FAMILIES, family_class  # loads torch

    family = config.get("model_type")
    return family_class(family).facts(folder, config, parameters) if family in FAMILIES else {"tasks": []}


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{folder}: no config.json in it; give a checkpoint directory") from None
    except ValueError as error:
        raise ValueError(f"{file}: is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{file}: expected a JSON object, found {type(config).__name__}")
    return config


def weight_dtypes(folder: Path) -> Counter[str]:
    """Dtype, as safetensors names it -> number of parameters.

    Raises:
        ValueError: a damaged weights file.
    """
    counts: Counter[str] = Counter()
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="np") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a mapping
                    part = tensors.get_slice(name)
                    counts[str(part.get_dtype())] += math.prod(part.get_shape())
        except SafetensorError as error:
            raise ValueError(f"{file}: is damaged or not a safetensors file: {error}") from error
    return counts
