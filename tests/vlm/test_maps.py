"""Garment maps: what each image token is told it shows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tasks.base import ObjectLabel, Record
from tasks.boxes import Box
from tasks.ontology import default_ontology
from vlm.data.maps import garment_map
from vlm.model import OneLookConfig, OneLookModel
from vlm.model.modeling import ImageFeatures

GARMENTS = list(default_ontology().garments)
RECORD = Record(
    id="one",
    image="one.jpg",
    image_size=(40, 20),
    objects=(
        ObjectLabel(label="coat", box=Box(0, 0, 10, 20)),
        ObjectLabel(label="boots", box=Box(5, 30, 15, 40)),
        ObjectLabel(label="bag"),
    ),
    objects_complete=True,
)


def of(name: str) -> int:
    return GARMENTS.index(name)


def test_tokens_share_the_weight_by_how_much_of_them_is_inside() -> None:
    found = garment_map(RECORD, (4, 2))
    inside = found.inside_IG[:, of("coat")].reshape(4, 2)
    assert torch.allclose(inside, torch.tensor([[0.5, 0], [0.5, 0], [0, 0], [0, 0]]), atol=1e-6)
    assert torch.allclose(found.inside_IG[:, of("boots")].reshape(4, 2)[3], torch.tensor([0.5, 0.5]))
    outside = found.outside_IG[:, of("coat")].reshape(4, 2)
    assert torch.allclose(outside, torch.tensor([[0, 1], [0, 1], [1, 1], [1, 1]]) / 6, atol=1e-6)


def test_both_sides_add_up_to_one_or_are_unknown() -> None:
    found = garment_map(RECORD, (4, 2))
    for name in GARMENTS:
        worn, boxed = name in ("coat", "boots", "bag"), name in ("coat", "boots")
        assert float(found.inside_IG[:, of(name)].sum()) == pytest.approx(1.0 if boxed else 0.0)
        assert float(found.outside_IG[:, of(name)].sum()) == pytest.approx(0.0 if worn and not boxed else 1.0)
        assert float(found.somewhere_G[of(name)]) == (1.0 if name == "bag" else 0.0)


def test_what_else_is_worn_is_unknown_where_labels_are_incomplete() -> None:
    found = garment_map(replace(RECORD, objects_complete=False), (4, 2))
    assert not found.outside_IG[:, of("dress")].any()
    assert float(found.outside_IG[:, of("coat")].sum()) == pytest.approx(1.0)


def test_the_whole_picture_has_no_outside() -> None:
    whole = replace(RECORD, objects=(ObjectLabel(label="coat", box=Box(0, 0, 20, 40)),))
    found = garment_map(whole, (4, 2))
    assert not found.outside_IG[:, of("coat")].any()
    assert torch.allclose(found.inside_IG[:, of("coat")], torch.full((8,), 1 / 8), atol=1e-5)


def test_map_loss_by_hand() -> None:
    """Against binary cross-entropies written out, with a padded picture in the batch."""
    config = OneLookConfig(
        vocab_size=1300,
        first_location_id=300,
        hidden_size=16,
        head_dim=8,
        stem_width=16,
        stage_widths=(16,),
        stage_depths=(1,),
        num_image_layers=0,
        num_joint_layers=1,
        num_decoder_layers=1,
        region_classes=(3,),
        map_weight=1.0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = OneLookModel(config)
        hidden = torch.randn(2, 4, 16)
    mask = torch.tensor([[True] * 4, [True, True, True, False]])
    scores = model.map_head(model.map_norm(hidden)) - 3.0
    inside, outside, somewhere = torch.zeros(2, 4, 3), torch.zeros(2, 4, 3), torch.zeros(2, 3)
    inside[0, 1, 0], outside[0, [0, 2, 3], 0], somewhere[1, 2] = 1.0, 1 / 3, 1.0
    found = model.map_loss(ImageFeatures(hidden, mask, []), inside, outside, somewhere)
    wanted = -scores[0, 1, 0].sigmoid().log() - (1 - scores[0, [0, 2, 3], 0].sigmoid()).log().mean()
    wanted = wanted - scores[1, :3, 2].mean().sigmoid().log()
    assert float(found.detach()) == pytest.approx(float(wanted.detach()), abs=1e-4)


def test_maps_need_region_classes() -> None:
    with pytest.raises(ValueError, match="map_weight needs region_classes"):
        OneLookConfig(map_weight=1.0)
