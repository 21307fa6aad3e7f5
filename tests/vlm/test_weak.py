"""Weak labels: boxes before plain backgrounds, labelling functions and their precision."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tasks.base import ObjectLabel, Provenance, Record
from tasks.boxes import Box, iou
from tasks.readers.clothing import lone_box, read_boxes
from vlm.data.label_functions import (
    LabelFunction,
    Precision,
    colour_functions,
    implied_function,
    precision,
    sleeve_function,
)
from vlm.data.weak import CONFIG, load_limits, lone_records, plain_box, usable, write_boxes
from vlm.synthetic.masked_photo import MaskedPhoto, boxed

SHIRT = (60, 40, 140, 200)
LABELS = ("null", "coat", "skin", "hair")


def photo_of(shirt: tuple[int, int, int, int] = SHIRT, *, noise: float = 2.0, slope: float = 0.1) -> Image.Image:
    """A dark red thing on a light wall that is brighter on one side."""
    wall = np.full((240, 200, 3), 205.0) * (1 + np.linspace(-slope, slope, 200))[None, :, None]
    wall += np.random.default_rng(0).normal(0, noise, wall.shape)
    image = Image.fromarray(np.clip(wall, 0, 255).astype(np.uint8))
    ImageDraw.Draw(image).rectangle((shirt[0], shirt[1], shirt[2] - 1, shirt[3] - 1), fill=(120, 20, 40))
    return image


def test_a_thing_on_a_wall_has_a_box() -> None:
    found = plain_box(photo_of())
    assert found is not None
    assert iou(found, Box(*SHIRT)) > 0.95


def test_a_large_photo_gets_its_box_in_its_own_pixels() -> None:
    found = plain_box(photo_of().resize((800, 960)))
    assert found is not None
    assert iou(found, Box(*(4 * value for value in SHIRT))) > 0.95


def test_pieces_near_by_belong_to_it_and_far_ones_do_not() -> None:
    image = photo_of()
    draw = ImageDraw.Draw(image)
    draw.rectangle((146, 60, 155, 95), fill=(120, 20, 40))
    draw.rectangle((5, 222, 16, 232), fill=(120, 20, 40))
    found = plain_box(image)
    assert found is not None
    assert iou(found, Box(60, 40, 156, 200)) > 0.95


@pytest.mark.parametrize(
    "image",
    [
        photo_of(noise=60),  # not a plain wall
        photo_of((0, 0, 140, 200)),  # cut off at two sides
        photo_of((90, 110, 100, 120)),  # a speck
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 20, 3), dtype=np.uint8)).resize((200, 300)),
        Image.new("RGB", (100, 100), (255, 255, 255)),
    ],
    ids=["noise", "cut", "speck", "patches", "empty"],
)
def test_doubtful_photos_have_none(image: Image.Image) -> None:
    assert plain_box(image) is None


def test_a_thing_may_touch_one_side() -> None:
    found = plain_box(photo_of((60, 40, 140, 240)))
    assert found is not None
    assert iou(found, Box(60, 40, 140, 240)) > 0.95


def lone(path: Path, **changes: object) -> Record:
    record = Record(
        id=path.stem,
        image=str(path),
        image_size=(240, 200),
        objects=(
            ObjectLabel(
                label="shirt",
                attributes={"colour": ("burgundy",)},
                provenance=Provenance(source="clothing", annotator="b1"),
            ),
        ),
        groups={"view": "flat"},
    )
    return replace(record, **changes)


def test_lone_records_are_garments_alone(tmp_path: Path) -> None:
    photo_of().save(tmp_path / "a.png")
    record = lone(tmp_path / "a.png")
    [found] = lone_records([record])
    assert found.boxes_complete and found.objects_complete
    assert found.objects[0].box == plain_box(photo_of())
    assert found.objects[0].provenance == Provenance(source="clothing", annotator="b1, box: weak: plain background")
    [item] = record.objects
    assert not lone_records(
        [
            replace(record, groups={"view": "worn"}),
            replace(record, groups={}),
            replace(record, objects=(item, item)),
            replace(record, objects=()),
            replace(record, objects=(replace(item, box=Box(0, 0, 5, 5)),)),
            # Of a garment in the wall's colour only the print is seen.
            replace(record, objects=(replace(item, attributes={"colour": ("white", "red")}),)),
            replace(record, objects=(replace(item, attributes={"colour": ("beige", "red")}),)),
        ]
    )


def test_boxes_are_kept_and_read(tmp_path: Path) -> None:
    photo_of().save(tmp_path / "a.png")
    target = tmp_path / "annotations" / "boxes.jsonl"
    assert write_boxes([lone(tmp_path / "a.png"), lone(tmp_path / "a.png", groups={})], target) == 1
    [row] = [json.loads(line) for line in target.open()]
    assert row == {"id": "a", "box": [round(value) for value in read_boxes(target)["a"].xyxy]}
    item = lone(tmp_path / "a.png").objects[0]
    assert lone_box(item, read_boxes(target)["a"]).box == plain_box(photo_of())
    assert lone_box(item, None) is item
    assert read_boxes(tmp_path / "none.jsonl") == {}


# -- labelling functions -------------------------------------------------------------------------------------


def person(colour: tuple[int, int, int], word: str, *, sleeve: str, seed: int = 0) -> MaskedPhoto:
    """A coat with arms at its sides, bare or not."""
    labels = np.zeros((200, 100), dtype=np.uint8)
    labels[10:20, 42:58] = 3
    labels[20:35, 44:56] = 2
    labels[35:110, 36:64] = 1
    arm = 2 if sleeve == "sleeveless" else 1
    labels[37:80, 28:35] = labels[37:80, 65:72] = arm
    labels[110:190, 40:60] = 2
    rng = np.random.default_rng(seed)
    colours = np.array([(200, 200, 200), colour, (225, 180, 150), (50, 40, 30)])
    pixels = np.clip(colours[labels] + rng.normal(0, 6, (200, 100, 1)) + rng.normal(0, 6), 0, 255).astype(np.uint8)
    item = ObjectLabel(label="coat", attributes={"colour": (word,), "pattern": ("solid",), "sleeve": (sleeve,)})
    objects = tuple(boxed([item], ["coat"], labels, LABELS))
    record = Record(id=f"{word}-{sleeve}-{seed}", image="", image_size=(200, 100), objects=objects)
    return MaskedPhoto(record=record, pixels=pixels, label_map=labels, sources=("coat",), labels=LABELS)


REDS = [person((190, 40, 40), "red", sleeve="long", seed=seed) for seed in range(12)]
BLUES = [person((50, 70, 180), "blue", sleeve="sleeveless", seed=seed) for seed in range(12)]


def test_colour_by_prototype() -> None:
    functions = {function.name: function for function in colour_functions(REDS + BLUES)}
    assert set(functions) == {"pixels: red", "pixels: blue"}
    red, other = functions["pixels: red"], [person((190, 40, 40), "red", sleeve="long", seed=seed) for seed in (40, 41)]
    assert precision(red, [*other, BLUES[0]]) == Precision(right=2, given=2, possible=3)
    with pytest.raises(ValueError, match="1 colours with 5 solid garments"):
        colour_functions(REDS)


def test_a_colour_that_is_often_wrong_has_no_function() -> None:
    wrong = [person((50, 70, 180), "green", sleeve="long", seed=seed) for seed in range(50, 54)]
    assert {function.name for function in colour_functions(REDS + BLUES + wrong)} == {"pixels: red"}


def test_sleeve_by_skin() -> None:
    function = sleeve_function(REDS + BLUES)
    assert function.label(person((20, 20, 20), "black", sleeve="long", seed=40), 0) == "long"
    assert function.label(person((20, 20, 20), "black", sleeve="sleeveless", seed=41), 0) == "sleeveless"
    few = sleeve_function(REDS[:3])
    assert few.label(REDS[0], 0) is None


def test_precision_counts_what_was_given() -> None:
    coat_long = implied_function("coat", "sleeve", "long")
    found = precision(coat_long, REDS[:9] + BLUES[:3])
    assert found == Precision(right=9, given=12, possible=12)
    assert found.value == 0.75
    assert found.lower == pytest.approx(0.4677, abs=1e-3)  # Wilson's interval for 9 of 12
    nothing = precision(implied_function("hoodie", "neckline", "hooded"), REDS)
    assert math.isnan(nothing.value)
    assert nothing.lower == 0


def test_functions_below_the_declared_precision_are_not_used() -> None:
    limits = load_limits(CONFIG)
    good, bad, rare = (
        LabelFunction(name=name, attribute="sleeve", label=lambda photo, index: None) for name in ("g", "b", "r")
    )
    measured = [
        (good, Precision(right=95, given=100, possible=200)),
        (bad, Precision(right=70, given=100, possible=200)),
        (rare, Precision(right=2, given=2, possible=200)),
    ]
    assert usable(measured, **limits) == [good]


def test_limits_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "weak.yaml"
    file.write_text("min_precision: 1.5\nmin_given: 1\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"expected min_precision in \(0, 1\]"):
        load_limits(file)
    file.write_text("min_precision: 0.5\n", encoding="utf-8")
    with pytest.raises(ValueError, match="expected exactly min_precision and min_given"):
        load_limits(file)
