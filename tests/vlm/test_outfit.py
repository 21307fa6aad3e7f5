"""describe_outfit: one look, every garment with its attributes, and plain words where there is nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from PIL import Image

from tasks.boxes import Box
from tasks.results import Garment
from vlm.api import VLM
from vlm.generate import Generated
from vlm.outfit import NOTHING_FOUND, describe_outfit, describe_outfits, without_duplicates


def said(text: str, score: float = -0.1) -> Generated:
    return Generated(text, (0,), (score,), (score,), ((0, len(text)),), False)


def answering(tiny: VLM, monkeypatch: pytest.MonkeyPatch, detection: str) -> list[list[str]]:
    """The real model, but detection says `detection`; returns the prompts of every pass."""
    passes: list[list[str]] = []
    real = tiny.family.generate

    def generate(features: Any, prompts: Any) -> list[Generated]:
        passes.append([prompt.text for prompt in prompts])
        return [
            said(detection) if prompt.text.startswith("<detect>") else result
            for prompt, result in zip(prompts, real(features, prompts), strict=True)
        ]

    monkeypatch.setattr(tiny.family, "generate", generate)
    return passes


WORN = "coat<loc_100><loc_100><loc_900><loc_800>;boots<loc_300><loc_800><loc_600><loc_950>"


def test_one_look_two_passes(tiny: VLM, photos: list[Image.Image], monkeypatch: pytest.MonkeyPatch) -> None:
    passes = answering(tiny, monkeypatch, WORN)
    images = []
    real = tiny.family.model.encode_images

    def counting(pixel_values: Any, image_index: Any = None) -> Any:
        images.append(sum(map(len, pixel_values)))
        return real(pixel_values, image_index)

    monkeypatch.setattr(tiny.family.model, "encode_images", counting)
    outfit = tiny.describe_outfit(photos[0])
    assert images == [1]
    assert [len(prompts) for prompts in passes] == [2, 2]
    assert [garment.label for garment in outfit.garments] == ["coat", "boots"]
    coat, boots = outfit.garments
    assert coat.attributes is not None
    assert boots.attributes is not None
    assert "sleeve" in coat.attributes.values
    assert "sleeve" not in boots.attributes.values
    assert outfit.summary == tiny.caption(photos[0]).text
    json.dumps(outfit.to_dict())


def test_attributes_are_those_asked_one_by_one(
    tiny: VLM, photos: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(tiny, monkeypatch, WORN)
    for garment in describe_outfit(tiny, photos[1]).garments:
        alone = tiny.attributes(photos[1], garment=garment.label, box=garment.box)
        assert garment.attributes is not None
        assert {name: value.values for name, value in alone.values.items()} == {
            name: value.values for name, value in garment.attributes.values.items()
        }


def test_nothing_worn_is_said_plainly(tiny: VLM, photos: list[Image.Image], monkeypatch: pytest.MonkeyPatch) -> None:
    answering(tiny, monkeypatch, "none")
    outfit = describe_outfit(tiny, photos[0])
    assert outfit.summary == NOTHING_FOUND
    assert outfit.garments == ()
    assert outfit.score == pytest.approx(0.904837, abs=1e-4)  # exp(-0.1), the probability of "none"


def test_unsure_garments_are_left_out(tiny: VLM, photos: list[Image.Image], monkeypatch: pytest.MonkeyPatch) -> None:
    answering(tiny, monkeypatch, WORN)
    assert len(describe_outfit(tiny, photos[0]).garments) == 2
    outfit = describe_outfit(tiny, photos[0], min_score=1.0)
    assert outfit.summary == NOTHING_FOUND
    assert 0 < outfit.score < 1
    with pytest.raises(ValueError, match="min_score"):
        describe_outfit(tiny, photos[0], min_score=2)


def test_many_images_give_what_each_gives(tiny: VLM, photos: list[Image.Image]) -> None:
    for image, outfit in zip(photos, describe_outfits(tiny, photos, batch_size=3), strict=True):
        alone = describe_outfit(tiny, image)
        assert outfit.summary == alone.summary
        assert [g.label for g in outfit.garments] == [g.label for g in alone.garments]


def test_random_weights_never_break_it(tiny: VLM, photos: list[Image.Image]) -> None:
    for outfit in describe_outfits(tiny, photos, num_beams=2, detail="detailed"):
        assert outfit.summary
        assert all(garment.attributes is not None for garment in outfit.garments)


def test_near_duplicates_of_one_label_go() -> None:
    sure = Garment("coat", Box(0, 0, 100, 100), score=0.9)
    again = Garment("coat", Box(2, 0, 100, 100), score=0.4)
    apart = Garment("coat", Box(200, 0, 300, 100), score=0.3)
    other = Garment("dress", Box(0, 0, 100, 100), score=0.2)
    unplaced = Garment("coat", score=0.1)
    assert without_duplicates([again, sure, apart, other, unplaced]) == [sure, apart, other, unplaced]
