"""Readers: on the real files where they are, on small ones everywhere."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks.base import Provenance, Record
from tasks.ontology import default_ontology
from tasks.readers import READERS, annotations_root, clothing, data_root, products
from tasks.readers.ccp import skin_tone_groups
from tasks.readers.ccp_boxes import derive_boxes, item_boxes, regions
from tasks.readers.clothing import CLOTHING_CLASSES, CLOTHING_QUESTION, garment_questions
from tasks.readers.jsonl import from_row, parse_row
from tasks.readers.raw import read_rows
from tasks.readers.split import balanced_groups, draw_ids, share
from tasks.readers.titles import read_title, title_key
from tasks.readers.wording import describe

GOOD: dict[str, Any] = {
    "id": "1",
    "image": "photos/1.jpg",
    "image_size": [80, 60],
    "captions": [{"text": "A tan coat."}],
    "objects": [
        {"label": "coat", "box": [1, 2, 30.5, 70], "attributes": {"colour": ["tan"], "sleeve": ["long"]}},
        {"label": "boots", "phrases": ["the boots"], "provenance": {"source": "me", "score": 0.5}},
    ],
    "qa": [{"question": "is it open?", "answer": "no"}],
    "groups": {"contributor": "7"},
}


@cache
def records(name: str) -> list[Record]:
    try:
        root = data_root()
    except FileNotFoundError:
        pytest.skip("the photos are not on this machine")
    if not (root / name / "photos").is_dir():
        pytest.skip(f"the photos of {name} are not on this machine")
    return list(READERS[name](root))


# -- the real files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "train", "validation"), [("ccp", 1650, 150), ("clothing", 3068, 341), ("products", 9807, 446)]
)
def test_real_records(name: str, train: int, validation: int) -> None:
    found = records(name)
    assert Counter(record.split for record in found) == {"train": train, "validation": validation}
    assert len({record.id for record in found}) == len(found)
    ontology = default_ontology()
    for record in found:
        assert Path(record.image).is_absolute()
        assert record.captions or record.objects or record.qa
        for item in record.objects:
            assert item.label in ontology.garments
            assert list(item.attributes) == [n for n in ontology.attributes_of(item.label) if n in item.attributes]
            assert all(item.attributes.values())
            for box in (item.box, *item.parts):
                assert box is None or (box.clip(record.image_size) == box and box.area > 0)
            if item.box:
                assert all(part.x1 >= item.box.x1 and part.y2 <= item.box.y2 for part in item.parts)
    for record in random.Random(0).sample(found, 5):
        with Image.open(record.image) as image:
            assert (image.height, image.width) == record.image_size


def test_ccp_boxes_come_from_masks() -> None:
    found = records("ccp")
    boxed = [record for record in found if any(item.box for item in record.objects)]
    assert len(boxed) >= 700
    assert all(record in boxed for record in found if record.split == "validation" and record.boxes_complete)
    complete = [record for record in found if record.boxes_complete]
    assert len(complete) == 457
    assert sum(record.split == "validation" for record in complete) == 97
    assert all(item.box is not None for record in complete for item in record.objects)
    assert all(record.objects_complete for record in found)
    shoes = [item for record in boxed for item in record.objects if item.label == "heels" and item.box]
    assert sum(len(item.parts) == 2 for item in shoes) > len(shoes) / 3  # a pair is one object of two parts


def test_kept_boxes_are_what_the_masks_give() -> None:
    records("ccp")
    kept = {row["id"]: row for _, row in read_rows(annotations_root() / "ccp" / "boxes.jsonl")}
    rows = derive_boxes()
    for _ in range(5):
        row = json.loads(json.dumps(next(rows)))
        assert row == kept[row["id"]]


def test_skin_tone_is_in_no_record() -> None:
    groups = skin_tone_groups()
    counts = Counter(groups.values())
    assert counts == {"1-3": 961, "4-5": 729, "6-10": 105, None: 5}
    assert all(set(record.groups) == {"annotator"} for record in records("ccp"))


def test_clothing_split_is_contributor_disjoint_and_balanced() -> None:
    found = records("clothing")
    sides = {split: {r.groups["contributor"] for r in found if r.split == split} for split in ("train", "validation")}
    assert not sides["train"] & sides["validation"]
    classes = {
        split: Counter(record.qa[0].answer for record in found if record.split == split)
        for split in ("train", "validation")
    }
    assert set(classes["validation"]) == set(CLOTHING_CLASSES)
    for name in CLOTHING_CLASSES:
        shares = [classes[split][name] / classes[split].total() for split in ("train", "validation")]
        assert abs(shares[0] - shares[1]) < 0.03
    assert all(record.qa[0].question == CLOTHING_QUESTION for record in found)


def test_products_keep_titles_on_one_side_and_brands_out() -> None:
    found = records("products")
    train, validation = ({r.groups["title"] for r in found if r.split == split} for split in ("train", "validation"))
    assert not train & validation
    words = {word for r in found for c in r.captions for word in re.findall(r"[\w'-]+", c.text.lower())}
    assert len(words) < 250
    assert not words & {"puma", "nike", "adidas", "benetton", "fastrack", "wrangler", "levis", "titan", "fila"}
    shop = [r for r in found if r.objects and r.objects[0].provenance and r.objects[0].provenance.annotator == "shop"]
    assert len(shop) > 4000
    assert all((r.objects[0].provenance or Provenance(source="")).score == 0.7 for r in shop)


@pytest.mark.parametrize(("name", "read", "num"), [("clothing", clothing.read, 617), ("products", products.read, 556)])
def test_garments_alone_before_a_plain_background_have_boxes(name: str, read: Any, num: int) -> None:
    found = records(name)
    boxed = [record for record in found if record.boxes_complete]
    assert len(boxed) == num
    assert all(record.boxes_complete == any(item.box for item in record.objects) for record in found)
    for record in boxed:
        [item] = record.objects
        assert record.objects_complete
        assert record.groups["view"] in ("flat", "ghost")
        assert item.provenance is not None and item.provenance.annotator is not None
        assert item.provenance.annotator.endswith("box: weak: plain background")
    without = list(read(boxes=False))
    assert [record.id for record in without] == [record.id for record in found]
    assert not any(record.boxes_complete or record.objects_complete for record in without)


# -- masks ---------------------------------------------------------------------------------------------------


def test_regions_drop_specks_and_count_the_last_pixel() -> None:
    mask = np.zeros((200, 100), dtype=bool)
    mask[10:50, 20:60] = True
    mask[100:140, 20:50] = True
    mask[180, 90] = True
    assert regions(mask) == [(1600, (20, 10, 60, 50)), (1200, (20, 100, 50, 140))]
    assert regions(np.zeros((4, 4), dtype=bool)) == []


def test_an_earring_is_not_a_speck() -> None:
    mask = np.zeros((400, 300), dtype=bool)
    mask[10:14, 20:23] = mask[10:14, 60:63] = True
    assert [box for _, box in regions(mask)] == [(20, 10, 23, 14), (60, 10, 63, 14)]


def test_items_share_out_the_regions_of_one_label() -> None:
    label_map = np.zeros((100, 100), dtype=np.uint8)
    label_map[10:20, 10:30] = 1
    label_map[50:90, 10:50] = 1
    label_map[30:40, 60:70] = label_map[30:40, 80:90] = 2
    items = [
        {"item": "bag", "src": "bag"},
        {"item": "clutch", "src": "bag"},
        {"item": "backpack", "src": "bag"},
        {"item": "boots", "src": "boots"},
        {"item": "hat", "src": None},
    ]
    assert item_boxes(label_map, items, ["null", "bag", "boots"]) == [
        ((10, 50, 50, 90), [(10, 50, 50, 90)]),
        ((10, 10, 30, 20), [(10, 10, 30, 20)]),
        (None, []),
        ((60, 30, 90, 40), [(60, 30, 70, 40), (80, 30, 90, 40)]),
        (None, []),
    ]


# -- words ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("title", "subcategory", "gender", "colour", "phrase", "garment"),
    [
        (
            "Puma Men Printed Black Sweatshirts",
            "Topwear",
            "Men",
            "black",
            "a men's black printed sweatshirt",
            "sweatshirt",
        ),
        ("Nike Women Solid White Tshirts", "Topwear", "Women", "white", "a women's plain white t-shirt", "t-shirt"),
        ("Franco Leone Men Black Formal Shoe", "Shoes", "Men", "black", "men's black formal shoes", "lace-up shoes"),
        ("Catwalk Women Blue Flats", "Shoes", "Women", "blue", "women's blue flat sandals", "sandals"),
        ("Titan Men White Dial Watch NB390YM14", "Watches", "Men", "", "a men's watch with a white dial", "watch"),
        ("Ivory Tag Brown Fur Handbag", "Bags", "Women", "brown", "a women's brown handbag", "bag"),
        ("FNF Pink Sari", "Saree", "Women", "pink", "a women's pink sari", None),
        ("Newhide Smooth Finish Wallet", "Wallets", "Unisex", "orange", "an orange wallet", None),
        ("What Is This", "Rockets", "Unisex", "", "a product", None),
    ],
)
def test_titles(title: str, subcategory: str, gender: str, colour: str, phrase: str, garment: str | None) -> None:
    read = read_title(title, subcategory, gender)
    assert read.phrase(colour) == phrase
    assert read.garment == garment


def test_title_key_is_blind_to_colour_number_and_plural() -> None:
    keys = {
        title_key("Puma Men Solid Navy Blue T-shirts"),
        title_key("PUMA Men Solid Black Tshirt"),
        title_key("Puma Men Solid Off White T-Shirt 123"),
    }
    assert keys == {"puma men solid tshirt"}


def test_describe_is_a_function_of_its_generator() -> None:
    attributes = {
        "colour": ("white", "multicolour"),
        "pattern": ("graphic",),
        "sleeve": ("short",),
        "neckline": ("not visible",),
        "closure": ("none",),
    }
    said = {describe("t-shirt", attributes, random.Random(seed)) for seed in range(20)}
    assert len(said) > 2
    assert all("not visible" not in text and "white and multicoloured" in text for text in said)
    assert describe("t-shirt", attributes, random.Random(1)) == describe("t-shirt", attributes, random.Random(1))
    assert describe("jeans", {}, random.Random(0)) == "jeans"
    assert describe("shirt", {"colour": ("olive",)}, random.Random(0)) == "an olive shirt"


def test_garment_questions_ask_about_what_is_labelled() -> None:
    labels = {"colour": ("navy", "white"), "sleeve": ("not visible",)}
    asked = {
        (qa.question, qa.answer)
        for seed in range(20)
        for qa in garment_questions("jeans", labels, Provenance(source="test"), random.Random(seed))
    }
    assert asked == {("what colour are the jeans?", "navy and white")}


# -- splits --------------------------------------------------------------------------------------------------


def test_draws_do_not_depend_on_order() -> None:
    names = [str(number) for number in range(100)]
    assert draw_ids(names, 10, seed=0) == draw_ids(reversed(names), 10, seed=0)
    assert draw_ids(names, 10, seed=0) != draw_ids(names, 10, seed=1)
    assert 0.4 < sum(share("x", name) for name in names) / 100 < 0.6


def test_balanced_groups() -> None:
    classes = {str(number): Counter(a=1, b=2) for number in range(50)} | {"big": Counter(a=500)}
    chosen = balanced_groups(classes, 30, max_group=10, trials=5, seed=0)
    assert "big" not in chosen
    assert sum(classes[name].total() for name in chosen) == 30


# -- our own rows --------------------------------------------------------------------------------------------


def test_rows_become_records(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps(GOOD) + "\n\n", encoding="utf-8")
    [record] = READERS["jsonl"](file)
    assert record.image == str(tmp_path / "photos" / "1.jpg")
    assert record.image_size == (80, 60)
    assert record.objects[0].attributes == {"colour": ("tan",), "sleeve": ("long",)}
    assert record.objects[1].box is None
    assert record.objects[1].provenance == Provenance(source="me", score=0.5)
    assert record.captions[0].detail == "brief"
    assert record.split == "train"
    assert list(READERS["jsonl"](tmp_path)) == [record]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"id": None}, "id of the row is missing; give id a text"),
        ({"image_size": [80]}, r"image_size is \[80\]; write \[height, width\]"),
        ({"image_size": [80, 0]}, "image_size"),
        ({"caption": "x"}, "unknown field 'caption'; rename or drop it; known: id, image"),
        ({"captions": [{"text": " "}]}, r"text of captions\[0\] is ' '"),
        ({"captions": [{"text": "x", "detail": "long"}]}, "use one of: brief, detailed"),
        ({"captions": "x"}, "captions is a str; write captions as a list"),
        ({"qa": [{"question": "a?"}]}, r"answer of qa\[0\] is missing"),
        ({"qa": ["a?"]}, r"qa\[0\] is 'a\?'"),
        ({"objects": [{"label": "cote"}]}, "unknown garment 'cote'; use one of: .*coat"),
        ({"objects": [{"label": "coat", "box": [30, 2, 1, 70]}]}, "swapped corners"),
        ({"objects": [{"label": "coat", "box": [1, 2, 1, 70]}]}, "is empty"),
        ({"objects": [{"label": "coat", "box": [1, 2, 75, 70]}]}, "outside the image: .* 60 wide and 80 high"),
        ({"objects": [{"label": "coat", "box": [1, 2, 3]}]}, r"write \[x1, y1, x2, y2\] in pixels"),
        ({"objects": [{"label": "coat", "box": [1, 2, 3, float("nan")]}]}, r"write \[x1, y1, x2, y2\] in pixels"),
        ({"objects": [{"label": "coat", "attributes": {"colour": ["tanned"]}}]}, "unknown colour 'tanned'; use one of"),
        ({"objects": [{"label": "coat", "attributes": {"colour": []}}]}, "leave the attribute out"),
        ({"objects": [{"label": "coat", "attributes": {"smell": ["old"]}}]}, "'smell' that it cannot have; drop it"),
        ({"objects": [{"label": "coat", "phrases": [""]}]}, "write phrases as texts"),
        (
            {"objects": [{"label": "coat", "attribute_provenance": {"colour": {"source": "x"}}}]},
            "provenance of 'colour', but no such attribute; give colour its values",
        ),
        (
            {"objects": [{"label": "coat", "attributes": {"colour": ["tan"]}, "attribute_provenance": ["colour"]}]},
            "attribute_provenance of .* write {",
        ),
        (
            {"objects": [{"label": "coat", "attributes": {"colour": ["tan"]}, "attribute_provenance": {"colour": 1}}]},
            r"provenance of colour of objects\[0\] \(coat\) is 1; write {",
        ),
        ({"boxes_complete": True}, r'objects\[1\] \("boots"\) has no box'),
        ({"split": "test"}, "split is 'test'; use one of: train, validation"),
        ({"provenance": {"source": "x", "score": 2}}, r"write a probability in \[0, 1\]"),
        ({"groups": {"contributor": 7}}, "write groups as texts"),
        ({"objects_complete": "yes"}, "write true or false"),
    ],
)
def test_broken_rows_say_where_what_and_how(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps(GOOD) + "\n" + json.dumps({**GOOD, **change}) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=says) as caught:
        list(READERS["jsonl"](file))
    assert str(caught.value).startswith(f"{file}:2: ")


@pytest.mark.parametrize("line", ["{", "[1]", '{"id": "\udcff"}'])
def test_broken_lines_say_where(line: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_bytes(b"\n" + line.encode(errors="surrogateescape") + b"\n")
    with pytest.raises(ValueError, match=r"mine\.jsonl:2: .*one JSON object a line"):
        list(READERS["jsonl"](file))


def test_parse_row_reports_everything_and_keeps_the_rest() -> None:
    row = {**GOOD, "objects": [{"label": "cote"}, {"label": "hat", "attributes": {"fur": ["x"]}}], "qa": [{}]}
    problems: list[str] = []
    record = parse_row(row, lambda problem, fix: problems.append(problem))
    assert len(problems) == 4
    assert record is not None
    assert [item.label for item in record.objects] == ["hat"]
    assert parse_row({}, lambda problem, fix: None) is None


def test_lists_of_names_are_mappings_too() -> None:
    item = {"label": "coat", "attributes": [{"name": "colour", "values": ["tan", "red"]}]}
    row = {**GOOD, "objects": [item], "groups": [{"name": "contributor", "value": "7"}]}
    record = from_row(row, "here")
    assert record.objects[0].attributes == {"colour": ("tan", "red")}
    assert record.groups == {"contributor": "7"}


# -- missing files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ccp", "clothing", "products"])
def test_missing_photos_say_what_to_set(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="VLM_DATA"):
        list(READERS[name](tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=f"{name}/photos.*VLM_DATA"):
        list(READERS[name](tmp_path))
    (tmp_path / name / "photos").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="photos are missing, the first is"):
        list(READERS[name](tmp_path))


def test_missing_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="set `path`"):
        list(READERS["jsonl"](None))
    with pytest.raises(FileNotFoundError, match="no record files in this folder"):
        list(READERS["jsonl"](tmp_path))
    with pytest.raises(FileNotFoundError, match="no such file"):
        list(READERS["jsonl"](tmp_path / "x.jsonl"))
    (tmp_path / "x.csv").touch()
    with pytest.raises(ValueError, match=r"\.jsonl and \.parquet"):
        list(READERS["jsonl"](tmp_path / "x.csv"))
    monkeypatch.setenv("VLM_DATA", str(tmp_path))
    assert data_root() == tmp_path


def test_annotations_with_unknown_words_name_their_line(tmp_path: Path) -> None:
    ours = tmp_path / "annotations" / "clothing"
    photos = tmp_path / "clothing" / "photos"
    ours.mkdir(parents=True)
    photos.mkdir(parents=True)
    (photos / "a.jpg").touch()
    facts = {"id": "a", "label": "shirt", "contributor": "1", "width": 10, "height": 20}
    label = {"id": "a", "item": "shirt", "colour": ["puce"], "pattern": "solid", "view": "flat", "annotator": "b0"}
    (ours / "index.jsonl").write_text(json.dumps(facts), encoding="utf-8")
    (ours / "annotations.jsonl").write_text(json.dumps(label), encoding="utf-8")
    with pytest.raises(ValueError, match=r"annotations\.jsonl:1: unknown colour 'puce' of shirt; known: black"):
        list(clothing.read(tmp_path, tmp_path / "annotations"))
