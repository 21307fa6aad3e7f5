"""Weak labels: boxes before plain backgrounds, labelling functions and their precision."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tasks.base import ObjectLabel, Provenance, Record
from tasks.boxes import Box, iou
from tasks.ontology import attributes_of
from tasks.readers.clothing import lone_box, read_boxes
from tasks.readers.labels import read_weak, with_weak
from tasks.readers.raw import annotations_root, read_rows
from vlm.data.label_functions import (
    LabelFunction,
    Photo,
    PlainPhoto,
    Precision,
    annotated,
    colour_functions,
    implied_function,
    precision,
    sleeve_function,
)
from vlm.data.weak import CONFIG, lone_records, plain_box, write_boxes
from vlm.data.weak_labels import Limits, Measured, fits, halves, load_limits, measure, rows_of, usable, write_rows
from vlm.synthetic.cloth_edits import Work, recolour_garment
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


# -- which are used ------------------------------------------------------------------------------------------

LIMITS = Limits(min_precision=0.9, min_given=5)


def told(function: LabelFunction, chosen: tuple[int, int], held_out: tuple[int, int]) -> Measured:
    return Measured(
        function=function,
        chosen=Precision(right=chosen[0], given=chosen[1], possible=200),
        held_out=Precision(right=held_out[0], given=held_out[1], possible=200),
    )


def test_functions_below_the_declared_precision_are_not_used() -> None:
    good, lucky, unlucky, rare, looked_at = (
        told(implied_function("coat", "sleeve", value), chosen, held_out)
        for value, chosen, held_out in [
            ("long", (95, 100), (91, 100)),
            ("short", (99, 100), (89, 100)),
            ("sleeveless", (89, 100), (99, 100)),
            ("elbow", (4, 4), (99, 99)),
            ("not clear", (99, 99), (99, 99)),
        ]
    )
    limits = Limits(min_precision=0.9, min_given=5, refused=("coat: not clear",))
    assert usable([good, lucky, unlucky, rare, looked_at], limits) == [good]


def test_functions_are_fitted_on_one_half_and_measured_on_both() -> None:
    photos = REDS + BLUES
    chosen, held_out = halves(photos)
    assert sorted(photo.record.id for photo in chosen + held_out) == sorted(photo.record.id for photo in photos)
    asked: list[Sequence[Photo]] = []

    def fit(shown: Sequence[Photo]) -> list[LabelFunction]:
        asked.append(shown)
        return [implied_function("coat", "sleeve", "long")]

    [found] = measure(photos, fit)
    assert asked == [chosen]
    for half, result in ((chosen, found.chosen), (held_out, found.held_out)):
        reds = sum(photo.record.id.startswith("red") for photo in half)
        assert result == Precision(right=reds, given=len(half), possible=len(half))


def test_annotations_of_another_data_set_decide_there() -> None:
    function = told(implied_function("coat", "sleeve", "long"), (99, 100), (98, 100))
    assert fits([function], REDS, LIMITS) == {"coat: long": (function.function, 1.0)}
    assert fits([function], BLUES, LIMITS) == {}
    assert fits([function], BLUES[:3], LIMITS) == {"coat: long": (function.function, 0.98)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("min_precision: 1.5\nmin_given: 1\n", r"min_precision is 1.5 .*expected a share in \(0, 1\]"),
        ("min_precision: 0.5\n", "expected min_precision, min_given and perhaps refused"),
        ("min_precision: 0.5\nmin_given: 1\nrefused: coat\n", "refused is 'coat'; expected a list"),
    ],
)
def test_limits_are_checked(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "weak.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=f"weak.yaml: {said}"):
        load_limits(file)


# -- labels in training --------------------------------------------------------------------------------------


def test_only_what_is_open_in_training_photos_is_labelled() -> None:
    jeans = ObjectLabel(label="jeans")
    known = replace(jeans, attributes={"material": ("cotton",)})
    photo = Record(id="a", image="", image_size=(9, 9), objects=(known, jeans))
    photos = [PlainPhoto(record=photo), PlainPhoto(record=replace(photo, id="b", split="validation"))]
    better, other = implied_function("jeans", "material", "denim"), implied_function("jeans", "material", "cotton")
    rows = list(rows_of(photos, {"other": (other, 0.91), "better": (better, 0.987654)}))
    assert rows == [
        {
            "id": "a",
            "object": 1,
            "garment": "jeans",
            "attribute": "material",
            "value": "denim",
            "function": "jeans: denim",
            "precision": 0.9877,
        }
    ]


ROW = {
    "id": "a", "object": 0, "garment": "jeans", "attribute": "material", "value": "denim", "function": "jeans: denim",
    "precision": 0.98,
}  # fmt: skip


def test_labels_by_rule_fill_what_is_open_and_say_where_they_come_from(tmp_path: Path) -> None:
    path = tmp_path / "weak.jsonl"
    write_rows([ROW, {**ROW, "id": "b", "object": 1}], path)
    labels = read_weak(path, {"a", "b"})
    jeans = ObjectLabel(label="jeans", attributes={"colour": ("blue",), "fit": ("slim",)})
    [found] = with_weak([jeans], labels["a"], source="ccp", split="train")
    assert found.attributes == {"colour": ("blue",), "material": ("denim",), "fit": ("slim",)}
    assert list(found.attributes) == [name for name in attributes_of("jeans") if name in found.attributes]
    assert found.attribute_provenance == {
        "material": Provenance(source="ccp", annotator="weak: jeans: denim", score=0.98)
    }
    assert annotated(found) == jeans.attributes
    [kept] = with_weak([replace(jeans, attributes={"material": ("cotton",)})], labels["a"], source="ccp", split="train")
    assert kept.attributes == {"material": ("cotton",)} and not kept.attribute_provenance
    assert read_weak(tmp_path / "none.jsonl", {"a"}) == {}


def test_labels_by_rule_are_for_the_photo_that_they_were_made_for(tmp_path: Path) -> None:
    path = tmp_path / "weak.jsonl"
    write_rows([ROW], path)
    labels = read_weak(path, {"a"})["a"]
    jeans, coat = ObjectLabel(label="jeans"), ObjectLabel(label="coat")
    with pytest.raises(ValueError, match=r"weak.jsonl:1: its photo is in the validation split"):
        with_weak([jeans], labels, source="ccp", split="validation")
    with pytest.raises(ValueError, match=r"weak.jsonl:1: object 0 is coat; expected jeans.*--labels` again"):
        with_weak([coat, jeans], labels, source="ccp", split="train")
    with pytest.raises(ValueError, match="object 0 is nothing"):
        with_weak([], labels, source="ccp", split="train")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"id": "z"}, "no photo 'z'"),
        ({"object": -1}, "object is -1"),
        ({"object": True}, "object is True"),
        ({"garment": "jeanz"}, "unknown garment 'jeanz'"),
        ({"attribute": "sleeve"}, "jeans has no 'sleeve'"),
        ({"value": "tin"}, "unknown material 'tin'"),
        ({"function": ""}, "expected texts in"),
        ({"precision": 1.5}, "precision is 1.5"),
        ({"more": 1}, "expected texts in"),
    ],
)
def test_broken_labels_by_rule_are_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = tmp_path / "weak.jsonl"
    write_rows([ROW, {**ROW, **change}], path)
    with pytest.raises(ValueError, match=f"weak.jsonl:2: .*{said}"):
        read_weak(path, {"a"})


@pytest.mark.parametrize("source", ["ccp", "clothing", "products"])
def test_the_labels_that_we_keep_are_of_functions_that_may_be_used(source: str) -> None:
    limits = load_limits(CONFIG)
    rows = [row for _, row in read_rows(annotations_root() / source / "weak.jsonl")]
    assert rows
    assert {row["function"] for row in rows}.isdisjoint(limits.refused)
    assert min(row["precision"] for row in rows) >= limits.min_precision


def test_an_edit_of_colour_or_pattern_is_not_by_rule_any_more() -> None:
    person_in_red = REDS[0]
    [coat] = person_in_red.record.objects
    rule = Provenance(source="ccp", annotator="weak: x", score=0.9)
    coat = replace(coat, attribute_provenance={"colour": rule, "pattern": rule, "sleeve": rule})
    work = Work.of(replace(person_in_red, record=replace(person_in_red.record, objects=(coat,))))
    recolour_garment(work, 0, random.Random(0), np.random.default_rng(0), colour="navy")
    assert work.objects[0].attributes["colour"] == ("navy",)
    assert work.objects[0].attribute_provenance == {"sleeve": rule}
