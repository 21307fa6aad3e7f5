"""A closer look at each garment, and what the surer of two looks says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tasks.base import ObjectLabel, Record
from tasks.boxes import Box
from tasks.results import Attributes, Detection, Garment, Value
from vlm import VLM, Request
from vlm.closer import closer_attributes, crop_around, surer
from vlm.evaluate import evaluate_records
from vlm.probes import ask
from vlm.suite import SourceSettings

COAT = Box(4, 6, 16, 22)


@given(st.integers(1, 900), st.integers(1, 900), st.data())
def test_a_crop_holds_the_box_and_keeps_the_aspect(height: int, width: int, data: st.DataObject) -> None:
    x1, x2 = sorted(data.draw(st.tuples(*[st.floats(0, width)] * 2)))
    y1, y2 = sorted(data.draw(st.tuples(*[st.floats(0, height)] * 2)))
    window = crop_around(Box(x1, y1, x2, y2), (height, width))
    assert all(value == int(value) for value in window.xyxy)
    assert window.clip((height, width)) == window
    assert window.x1 <= x1 + 1
    assert window.y1 <= y1 + 1
    assert window.x2 >= x2 - 1
    assert window.y2 >= y2 - 1
    assert abs(window.width / width - window.height / height) <= 1 / width + 1 / height
    assert window.width >= 0.2 * width - 1


def test_a_crop_leaves_half_as_much_around() -> None:
    assert crop_around(Box(400, 300, 600, 400), (1000, 1000)) == Box(340, 190, 660, 510)
    assert crop_around(Box(0, 0, 100, 300), (1000, 1000)) == Box(0, 0, 480, 480), "at the corner"
    assert crop_around(Box(10, 0, 90, 1000), (1000, 500)) == Box(0, 0, 500, 1000), "no larger than the photo"
    assert crop_around(Box(500, 500, 501, 501), (1000, 1000)).width == 200, "no smaller than a fifth of its side"


def test_the_surer_look_counts_attribute_by_attribute() -> None:
    first = Attributes({"colour": Value(("red", "white"), 0.4), "pattern": Value(("solid",), 0.9)})
    second = Attributes({"pattern": Value(("striped",), 0.8), "colour": Value(("pink",), 0.5)})
    assert dict(surer(first, second).values) == {"colour": Value(("pink",), 0.5), "pattern": Value(("solid",), 0.9)}
    equal = Attributes({"colour": Value(("pink",), 0.4)}, truncated=True)
    assert surer(first, equal) == first


def expected(model: VLM, photo: Image.Image, garment: str | None, box: Box, names: Any = None) -> dict[str, Value]:
    """By two plain requests."""
    window = crop_around(box, (photo.height, photo.width))
    crop = photo.crop(tuple(map(int, window.xyxy)))
    moved = [box.x1 - window.x1, box.y1 - window.y1, box.x2 - window.x1, box.y2 - window.y1]
    whole = model.attributes(photo, garment=garment, box=box, attributes=names)
    close = model.attributes(crop, garment=garment, box=moved, attributes=tuple(whole.values))
    return {
        name: max(value, close.values.get(name, value), key=lambda either: either.score)
        for name, value in whole.values.items()
    }


def same(found: Attributes | None, wanted: dict[str, Value]) -> bool:
    """Scores to within what batches change."""
    assert found is not None
    assert {name: value.values for name, value in found.values.items()} == {n: v.values for n, v in wanted.items()}
    assert [v.score for v in found.values.values()] == pytest.approx([v.score for v in wanted.values()], rel=1e-3)
    return True


def test_attributes(tiny: VLM, photos: list[Image.Image]) -> None:
    plain = tiny.attributes(photos[0], garment="coat", box=COAT)
    wanted = expected(tiny, photos[0], "coat", COAT)
    assert wanted != dict(plain.values), "the crop says something else"
    assert same(tiny.attributes(photos[0], garment="coat", box=COAT, closer=True), wanted)
    named = tiny.attributes(photos[0], box=COAT.xyxy, attributes=["pattern", "colour"], closer=True)
    assert same(named, expected(tiny, photos[0], None, COAT, ["pattern", "colour"]))


def test_what_a_closer_look_needs(tiny: VLM, photos: list[Image.Image]) -> None:
    with pytest.raises(ValueError, match="a closer look needs the garment's box"):
        tiny.attributes(photos[0], garment="coat", closer=True)
    [look] = tiny.encode([photos[0]])
    with pytest.raises(ValueError, match=r"pass the image in place of what encode\(\) gave"):
        tiny.attributes(look, garment="coat", box=COAT, closer=True)
    with pytest.raises(ValueError, match=r"pass the image in place of what encode\(\) gave"):
        tiny.describe_outfit(look, closer=True)


def test_what_has_no_box_or_attributes_stays(tiny: VLM, photos: list[Image.Image]) -> None:
    told = Attributes({"colour": Value(("red",), 0.0)})
    boxed = Request(photos[0], "attributes", garment="coat", box=COAT)
    requests = [Request(photos[0], "attributes", garment="coat"), Request(photos[0], "detection"), boxed, boxed]
    results = [told, Detection((Garment("coat", COAT),)), Attributes({}), None]
    assert closer_attributes(tiny, requests, [photos[0]] * 4, results) == results
    [changed] = closer_attributes(tiny, [boxed], [photos[0]], [told])
    assert changed != told


def test_an_outfit(tiny: VLM, photos: list[Image.Image], monkeypatch: pytest.MonkeyPatch) -> None:
    plain = [tiny.describe_outfit(photo) for photo in photos[:2]]
    assert any(outfit.garments for outfit in plain), "the tiny model should find something"
    close = [tiny.describe_outfit(photo, closer=True) for photo in photos[:2]]
    for photo, before, after in zip(photos, plain, close, strict=False):
        assert after.summary == before.summary
        assert [(g.label, g.box) for g in after.garments] == [(g.label, g.box) for g in before.garments]
        for garment in after.garments:
            assert garment.box is not None
            assert same(garment.attributes, expected(tiny, photo, garment.label, garment.box))


def test_in_an_evaluation(tiny: VLM, photos: list[Image.Image], tmp_path: Path) -> None:
    photos[0].save(tmp_path / "a.png")
    coat = ObjectLabel(label="coat", box=COAT, attributes={"colour": ("red",), "sleeve": ("long",)})
    record = Record(
        id="a", image=str(tmp_path / "a.png"), image_size=(photos[0].height, photos[0].width), objects=(coat,),
        objects_complete=True, boxes_complete=True,
    )  # fmt: skip
    [answer] = ask(tiny, [record], measures=("attributes", "detection"), closer=True)
    [(_, detection)] = answer.of("detection")
    assert [g.label for g in detection.objects] == [g.label for g in tiny.detect(photos[0]).objects], "as without"
    [(_, found)] = answer.of("attributes")
    assert same(found, expected(tiny, photos[0], "coat", COAT, ["colour", "sleeve"]))
    table = evaluate_records(tiny, [record], measures=("attributes",), closer=True, num_resamples=0)
    right = found.values["colour"].values[0] == "red"
    assert table["attributes"]["attributes"]["colour"]["accuracy"] == float(right)
    assert SourceSettings(reader="ccp", closer=True).closer
