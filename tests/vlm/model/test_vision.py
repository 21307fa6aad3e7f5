"""With a vision encoder of transformers in place of the image layers, all that the one-look model promises holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from tests.vlm.model import test_modeling as promises
from tests.vlm.towers import SHAPES
from vlm.model import OneLookConfig, OneLookModel
from vlm.model.vision import VisionTower, token_layout, unread_weights
from vlm.processor import OneLookProcessor
from vlm.towers import plain_tower

VISION_TYPES = {"siglip": "siglip_vision_model", "siglip2": "siglip2_vision_model", "clip": "clip_vision_model"}


def vision_config(model_type: str, **changes: Any) -> dict[str, Any]:
    shape = SHAPES[model_type]
    return {"model_type": VISION_TYPES.get(model_type, model_type), **shape.get("vision_config", shape), **changes}


@pytest.fixture(scope="session", params=[*SHAPES, "held to one size"])
def tiny_model(request: pytest.FixtureRequest, tiny_model: OneLookModel) -> OneLookModel:
    """The tiny model with each kind of tower; the last is held to one size, as those are that can do no other."""
    fixed = request.param == "held to one size"
    tower = plain_tower(vision_config("siglip" if fixed else request.param), {"image_size": [32, 32]} if fixed else {})
    model = promises.variant(
        tiny_model, vision_config=tower.vision_config, vision_input=tower.vision_input, num_image_layers=1
    )
    with torch.no_grad():
        model.tokens.embedding.weight.mul_(8.0)
        for parameter in model.tower.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model


@pytest.fixture(scope="session")
def tiny_processor(tiny_model: OneLookModel, tiny_processor: OneLookProcessor) -> OneLookProcessor:
    return OneLookProcessor(tiny_processor.tokenizer, tiny_model.config)


test_packed_is_unpacked = promises.test_packed_is_unpacked
test_neighbours_in_the_batch_change_nothing = promises.test_neighbours_in_the_batch_change_nothing
test_padding_of_image_tokens_changes_nothing = promises.test_padding_of_image_tokens_changes_nothing
test_the_picture_matters = promises.test_the_picture_matters
test_features_are_reused_to_the_bit = promises.test_features_are_reused_to_the_bit
test_selected_features_are_those_of_the_rows = promises.test_selected_features_are_those_of_the_rows


def test_packed_gradients_are_unpacked_gradients(
    tiny_model: OneLookModel, tiny_processor: OneLookProcessor, photos: list[Any]
) -> None:
    """In training mode too, and of every weight that is not known to be idle; so every other one learns."""
    unread = {f"tower.model.{name}" for name in unread_weights(tiny_model.config.vision_config)}
    kept = [(parameter, name) for name, parameter in tiny_model.named_parameters() if name in unread]
    assert len(kept) < 4
    for parameter, _ in kept:
        parameter.requires_grad_(False)

    def gradients(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        tiny_model.zero_grad()
        tiny_model.train()(**batch).loss.backward()
        tiny_model.eval()
        found = {name: p.grad.clone() for name, p in tiny_model.named_parameters() if p.grad is not None}
        tiny_model.zero_grad()
        return found

    packed = gradients(promises.collate(tiny_processor, photos, promises.ROWS))
    alone = gradients(promises.collate(tiny_processor, *promises.unpacked(photos)))
    assert packed.keys() == alone.keys() == {name for name, _ in tiny_model.named_parameters()} - unread
    # Adding a number to all keys changes no softmax: what reaches their biases is rounding.
    firm = [name for name in packed if not name.endswith(("k_proj.bias", "key.bias"))]
    assert len(firm) >= len(packed) - 2
    for name in firm:
        assert float((packed[name] - alone[name]).norm() / alone[name].norm()) < 5e-4, name


def test_image_tokens_do_not_depend_on_prompts(
    tiny_model: OneLookModel, tiny_processor: OneLookProcessor, photos: list[Any]
) -> None:
    batch = promises.collate(tiny_processor, photos, promises.ROWS)
    features = promises.encode(tiny_model, batch)
    tiny_model.zero_grad()
    features.hidden_BID.square().sum().backward()
    assert tiny_model.tokens.embedding.weight.grad is None  # no word reaches the image
    assert sum(float(p.grad.abs().sum()) for p in tiny_model.tower.model.parameters() if p.grad is not None) > 0
    tiny_model.zero_grad()
    assert len(tiny_model.image_layers) == 0, "they are replaced too"


@torch.no_grad()
def test_save_and_load(
    tiny_model: OneLookModel, tiny_processor: OneLookProcessor, photos: list[Any], tmp_path: Path
) -> None:
    """The checkpoint is whole: neither the tower's own nor its name is asked for again."""
    tiny_model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert isinstance(loaded, OneLookModel) and not loaded.training
    without = {"dtype": None, "transformers_version": None}
    before, after = (model.config.vision_config.to_dict() | without for model in (tiny_model, loaded))
    assert before == after and loaded.config.vision_input == tiny_model.config.vision_input
    assert loaded.state_dict().keys() == tiny_model.state_dict().keys()
    for name, value in tiny_model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    batch = promises.collate(tiny_processor, photos, promises.ROWS)
    first, second = (m(**batch, return_logits=True) for m in (tiny_model, loaded))
    assert torch.equal(first.logits, second.logits)
    half = OneLookModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert half.encode_images([pixels.bfloat16() for pixels in batch["pixel_values"]]).hidden_BID.isfinite().all()


# -- layouts -----------------------------------------------------------------------------------------------

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
OTHERS: dict[str, tuple[dict[str, Any], tuple[int, int, int], list[int] | None]] = {
    "vit": ({**SMALL, "image_size": 64, "patch_size": 16}, (16, 1, 32), None),
    "deit": ({**SMALL, "image_size": 64, "patch_size": 16}, (16, 2, 32), None),
    "dinov2_with_registers": (
        {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 56, "patch_size": 14},
        (14, 5, 32),
        None,
    ),
    "aimv2_vision_model": ({**SMALL, "image_size": 64, "patch_size": 16}, (16, 0, 32), [64, 64]),
    "siglip_vision_model": ({**SMALL, "image_size": 60, "patch_size": 14}, (14, 0, 32), None),
    "swin": (
        {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4, "image_size": 64, "patch_size": 2},
        (4, 0, 16),
        [64, 64],
    ),
    "convnext": ({"hidden_sizes": [8, 8, 16, 24], "depths": [1, 1, 1, 1]}, (32, 0, 24), None),
    "resnet": ({"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}, (8, 0, 16), None),
    "dinov3_convnext": ({"hidden_sizes": [8, 8, 16, 24], "depths": [1, 1, 1, 1]}, (32, 1, 24), None),
}


def one_look(config: OneLookConfig, tower: Any) -> OneLookModel:
    shape = {**config.to_dict(), "vision_config": tower.vision_config, "vision_input": tower.vision_input}
    return OneLookModel(OneLookConfig(**shape)).eval()


@torch.no_grad()
@pytest.mark.parametrize("model_type", OTHERS)
def test_any_encoder_whose_tokens_are_a_grid(model_type: str) -> None:
    """What is found without weights is what comes out with them, and each token is where it looks."""
    shape, (stride, prefix, width), size = OTHERS[model_type]
    layout = token_layout(AutoConfig.for_model(model_type, **shape))
    assert layout == {"stride": stride, "num_prefix_tokens": prefix, "width": width, "image_size": size}
    tower = plain_tower({"model_type": model_type, **shape}, {})
    torch.manual_seed(0)
    made = one_look(OneLookConfig(hidden_size=32, head_dim=16), tower).tower
    assert isinstance(made, VisionTower)
    rows, columns = (size[0] // stride, size[1] // stride) if size else (2, 3)
    pixels = torch.randn(2, 3, rows * stride, columns * stride)
    features = made(pixels)
    assert features.shape == (2, width, rows, columns)
    torch.testing.assert_close(made(pixels[1:]), features[1:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("model_type", ["siglip", "siglip2", "clip", "dinov2", "dinov3_vit"])
def test_tokens_lie_row_by_row(model_type: str) -> None:
    """Of a layer that mixes no tokens, a token is moved by its own patch alone."""
    tower = plain_tower(vision_config(model_type, num_hidden_layers=0), {})
    config = OneLookConfig(vision_config=tower.vision_config, vision_input=tower.vision_input)
    made = VisionTower(config.vision_config, tower.vision_input)
    stride = made.stride
    pixels = torch.randn(1, 3, 2 * stride, 3 * stride)
    other = pixels.clone()
    other[:, :, stride:, 2 * stride :] += torch.randn(3, stride, stride)  # the last row's last column
    with torch.no_grad():
        moved = (made.eval()(pixels) - made(other)).abs().amax(1)[0] > 1e-6
    assert moved.tolist() == [[False] * 3, [False, False, True]]


def test_batch_normalisation_stays_as_it_was() -> None:
    """A sample does not see its neighbours in training either."""
    shape, _, _ = OTHERS["resnet"]
    tower = one_look(
        OneLookConfig(hidden_size=32, head_dim=16), plain_tower({"model_type": "resnet", **shape}, {})
    ).tower
    before = {name: value.clone() for name, value in tower.named_buffers()}
    tower.train()
    assert tower.training and any(isinstance(module, nn.BatchNorm2d) for module in tower.modules())
    pixels = torch.randn(3, 3, 64, 64)
    torch.testing.assert_close(tower(pixels)[:1], tower(pixels[:1]), atol=1e-5, rtol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in tower.named_buffers())


def test_dinov3_moves_no_positions_at_random() -> None:
    found = plain_tower(vision_config("dinov3_vit") | {"pos_embed_shift": 0.1}, {}).vision_config
    assert found["pos_embed_shift"] == 0.1, "who asks for it has it"
    shape = vision_config("dinov3_vit")
    assert AutoConfig.for_model(**shape).pos_embed_rescale == 2.0, "its own default"
    assert plain_tower(shape, {}).vision_config["pos_embed_rescale"] is None


def test_what_is_no_encoder() -> None:
    with pytest.raises(ValueError, match=r"vision tower bert: is no vision encoder that looks at a picture alone"):
        plain_tower({"model_type": "bert"}, {})
    with pytest.raises(ValueError, match=r"vision_config\.model_type is 'sigclip', which transformers does not know"):
        plain_tower({"model_type": "sigclip"}, {})
    with pytest.raises(
        ValueError, match=r"vision_config\.model_type is 'sigclip', which transformers \S+ does not know"
    ):
        OneLookConfig(vision_config={"model_type": "sigclip"})
    with pytest.raises(ValueError, match=r"vision_config changes depth, which a siglip_vision_model does not have"):
        plain_tower({"model_type": "siglip_vision_model", "depth": 3}, {})
    with pytest.raises(ValueError, match=r"vision_input lacks stride, .*, std, which go with vision_config"):
        OneLookConfig(vision_config={"model_type": "siglip_vision_model"})
