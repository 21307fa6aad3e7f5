"""The vocabulary, the file it is read from, and the labels that are written in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.ontology import NOT_VISIBLE, Ontology, attributes_of, default_ontology, load_ontology

ROOT = Path(__file__).parents[2]


def test_the_annotations_use_the_same_words() -> None:
    theirs = json.loads((ROOT / "data" / "annotations" / "ontology.json").read_text(encoding="utf-8"))
    ours = default_ontology()
    assert list(ours.garments) == theirs.pop("item")
    del theirs["view"]  # how the photo was taken, not what is worn
    assert {name: list(words) for name, words in ours.values.items()} == theirs
    assert list(ours.values) == list(theirs)


def test_the_default_is_the_file_in_the_checkout() -> None:
    assert default_ontology() == load_ontology(ROOT / "configs" / "ontology" / "outfit.yaml")
    assert default_ontology() is default_ontology()


def test_words_do_not_collide_with_the_text_of_the_tasks() -> None:
    ontology = default_ontology()
    words = [*ontology.values, *ontology.garments, *(word for words in ontology.values.values() for word in words)]
    for word in words:
        assert word == " ".join(word.lower().split())
        assert not set(word) & set(",;:<>")
    assert "none" not in ontology.garments  # it says that nothing is worn


def test_not_visible_is_a_value_of_what_can_be_hidden() -> None:
    hidden = [name for name, words in default_ontology().values.items() if NOT_VISIBLE in words]
    assert hidden == ["sleeve", "neckline", "length", "fit", "closure"]


def test_attributes_of_garments() -> None:
    assert attributes_of("socks") == ("colour", "pattern", "material")
    assert attributes_of("boots") == ("colour", "pattern", "length", "material")
    assert attributes_of("t-shirt") == tuple(default_ontology().values)
    assert attributes_of(None) == tuple(default_ontology().values)
    for garment in ("cote", "", "T-shirt"):
        with pytest.raises(ValueError, match=f"unknown garment '{garment}'; known: t-shirt, shirt, "):
            attributes_of(garment)


def test_kinds() -> None:
    ontology = default_ontology()
    assert ontology.kind_of("coat") == "upper"
    assert ontology.kind_of("bow tie") == "accessories"
    assert {ontology.kind_of(garment) for garment in ontology.garments} == set(ontology.kinds)
    assert dict(ontology.num_values) == {"colour": 2}


GOOD: dict[str, Any] = {
    "values": {"colour": ["red", "blue"], "sleeve": ["long"]},
    "num_values": {"colour": 2},
    "kinds": {
        "upper": {"attributes": ["sleeve", "colour"], "garments": ["coat"]},
        "shoes": {"attributes": ["colour"], "garments": ["boots"]},
    },
}


def write(tmp_path: Path, found: Any) -> Path:
    file = tmp_path / "mine.yaml"
    file.write_text(found if isinstance(found, str) else yaml.safe_dump(found, sort_keys=False), encoding="utf-8")
    return file


def test_load(tmp_path: Path) -> None:
    assert load_ontology(write(tmp_path, GOOD)) == Ontology(
        values={"colour": ("red", "blue"), "sleeve": ("long",)},
        kinds={"upper": ("coat",), "shoes": ("boots",)},
        garments={"coat": ("colour", "sleeve"), "boots": ("colour",)},  # in the order of the values
        num_values={"colour": 2},
    )
    without = {name: part for name, part in GOOD.items() if name != "num_values"}
    assert load_ontology(write(tmp_path, without)).num_values == {}


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ("", "is not an ontology"),
        ("values: [", "is not YAML: .*line 1"),
        ("[colour]", "is not an ontology"),
        ({"kinds": {}}, "is not an ontology: KeyError.'values'.; see configs/ontology/outfit.yaml"),
        ({**GOOD, "values": ["colour"]}, "is not an ontology"),
        ({**GOOD, "values": {"colour": "red"}}, "'red' is not a list of words"),
        ({**GOOD, "values": {"colour": None}}, "None is not a list of words"),
        ({**GOOD, "values": {"colour": [], "sleeve": ["long"]}}, "colour has an empty word or none"),
        ({**GOOD, "values": {"colour": [""], "sleeve": ["long"]}}, "colour has an empty word or none"),
        ({**GOOD, "values": {"colour": ["red", "blue", "red"], "sleeve": ["long"]}}, "colour has twice red"),
        ({**GOOD, "kinds": {"upper": {"garments": ["coat"]}}}, "KeyError.'attributes'"),
        ({**GOOD, "kinds": {"upper": {"attributes": [], "garments": "coat"}}}, "'coat' is not a list of words"),
        ({**GOOD, "kinds": {"upper": {"attributes": [], "garments": ["coat", "coat"]}}}, "garments has twice coat"),
        (
            {**GOOD, "kinds": {"upper": {"attributes": ["smell"], "garments": ["coat"]}}},
            "coat has an unknown attribute 'smell'; known: colour, sleeve",
        ),
        ({**GOOD, "num_values": {"colour": "two"}}, "invalid literal"),
        ({**GOOD, "num_values": [2]}, "is not an ontology"),
    ],
)
def test_errors_name_the_file(found: Any, says: str, tmp_path: Path) -> None:
    file = write(tmp_path, found)
    with pytest.raises(ValueError, match=f"(?s){says}") as caught:
        load_ontology(file)
    assert str(caught.value).startswith(f"{file}: ")


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(b"values: \xff")
    with pytest.raises(ValueError, match=r"mine\.yaml: .*decode"):
        load_ontology(file)


def test_a_garment_of_two_kinds_is_refused(tmp_path: Path) -> None:
    kinds = {kind: {"attributes": ["colour"], "garments": ["coat"]} for kind in ("upper", "outer")}
    with pytest.raises(ValueError, match=r"mine\.yaml: ontology: garments has twice coat"):
        load_ontology(write(tmp_path, {**GOOD, "kinds": kinds}))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml"):
        load_ontology(tmp_path / "nowhere.yaml")
