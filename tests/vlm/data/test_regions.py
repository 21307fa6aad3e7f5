"""Regions: which labels they carry, where they lie, and what their loss is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml

from tasks.base import QA, ObjectLabel, Record
from tasks.boxes import Box
from tasks.readers.clothing import CLOTHING_QUESTION
from vlm.data.regions import UNKNOWN, region_classes, region_sizes, regions_of
from vlm.model import OneLookConfig, OneLookModel
from vlm.model.modeling import ImageFeatures

ROOT = Path(__file__).parents[3]
KINDS = list(region_classes())


def named(labels: torch.Tensor) -> dict[str, str]:
    return {
        kind: words[int(index)]
        for (kind, words), index in zip(region_classes().items(), labels, strict=True)
        if int(index) != UNKNOWN
    }


def record(*objects: ObjectLabel, qa: tuple[QA, ...] = ()) -> Record:
    return Record(id="1", image="1.jpg", image_size=(80, 40), objects=objects, qa=qa)


def test_a_garment_alone_is_the_whole_picture() -> None:
    shirt = ObjectLabel(label="shirt", attributes={"colour": ("red", "blue"), "sleeve": ("not visible",)})
    [region] = regions_of(record(shirt, qa=(QA(question=CLOTHING_QUESTION, answer="longsleeve"),)), (4, 2))
    assert named(region.labels) == {"garment": "shirt", "class": "longsleeve", "colour": "red", "sleeve": "not visible"}
    torch.testing.assert_close(region.weights, torch.full((8,), 1 / 8))


def test_boxes_weigh_the_tokens_that_they_cover() -> None:
    coat = ObjectLabel(label="coat", box=Box(0, 0, 20, 30), attributes={"pattern": ("striped",)})
    hat = ObjectLabel(label="hat")  # somewhere: nothing can be said of a region
    [region] = regions_of(record(coat, hat), (4, 2))
    assert named(region.labels) == {"garment": "coat", "pattern": "striped"}
    torch.testing.assert_close(region.weights.reshape(4, 2)[:, 0], torch.tensor([20, 10, 0, 0]) / 30, atol=1e-4, rtol=0)
    assert float(region.weights.reshape(4, 2)[:, 1].sum()) < 1e-4


def test_a_box_smaller_than_a_token_still_has_one() -> None:
    ring = ObjectLabel(label="ring", box=Box(30, 70, 30.5, 70.2))
    [region] = regions_of(record(ring), (4, 2))
    assert float(region.weights.sum()) == pytest.approx(1.0)
    assert int(region.weights.argmax()) == 7


def test_a_class_without_a_garment_of_the_ontology() -> None:
    [region] = regions_of(record(qa=(QA(question=CLOTHING_QUESTION, answer="outwear"),)), (2, 2))
    assert named(region.labels) == {"class": "outwear"}
    assert regions_of(record(), (2, 2)) == []


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "model").glob("*.yaml")), ids=lambda path: path.name)
def test_shapes_have_a_head_for_every_kind_or_none(path: Path) -> None:
    sizes = yaml.safe_load(path.read_text(encoding="utf-8")).get("region_classes", [])
    assert sizes in ([], region_sizes())


def test_region_loss_by_hand() -> None:
    torch.manual_seed(0)
    shape = yaml.safe_load((ROOT / "configs" / "model" / "tiny.yaml").read_text(encoding="utf-8"))
    model = OneLookModel(OneLookConfig(**{**shape, "region_classes": [3, 2]})).eval()
    hidden = torch.randn(2, 4, shape["hidden_size"])
    features = ImageFeatures(hidden, torch.ones(2, 4, dtype=torch.bool), [])
    weights = torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0, 1.0]])
    labels = torch.tensor([[2, UNKNOWN], [0, 1]])
    with torch.no_grad():
        loss = model.region_loss(features, torch.tensor([0, 1]), weights, labels)
        pooled = torch.stack([(hidden[0, 0] + hidden[0, 1]) / 2, hidden[1, 3]])
        scores = model.region_head(model.region_norm(pooled))
        expected = F.cross_entropy(scores[:, :3], labels[:, 0], reduction="sum") + F.cross_entropy(
            scores[1, 3:], labels[1, 1]
        )
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    nowhere = torch.zeros(0, dtype=torch.long)
    with torch.no_grad():
        nothing = model.region_loss(features, nowhere, torch.zeros(0, 4), torch.zeros(0, 2).long())
    assert float(nothing) == 0.0
