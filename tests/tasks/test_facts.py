"""What captions claim, and whether labels bear it out."""

from __future__ import annotations

import pytest

from tasks.base import ObjectLabel
from tasks.facts import Fact, is_true, read_facts
from tasks.ontology import default_ontology


def claims(text: str) -> dict[str, set[str]]:
    """Garment -> values claimed of it."""
    found: dict[str, set[str]] = {}
    for fact in read_facts(text):
        found.setdefault(fact.garment, set()).update({fact.value} if fact.value else ())
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("Someone smiles in the street.", {}),
        ("A woman in a tan coat and black boots.", {"coat": {"tan"}, "boots": {"black"}}),
        (
            "He wears a black and white striped shirt, jeans and a navy blue cap.",
            {"shirt": {"black", "white", "striped"}, "jeans": set(), "cap": {"navy"}},
        ),
        ("A black jacket and light-blue jeans.", {"jacket": {"black"}, "jeans": {"light blue"}}),
        ("A shirt with polka dots and red trousers.", {"shirt": {"polka dot"}, "trousers": {"red"}}),
        ("A coat with a checked scarf over a white dress.", {"coat": set(), "scarf": {"checked"}, "dress": {"white"}}),
        ("A pale peach shirt dress under a black leather jacket.", {"dress": set(), "jacket": {"black"}}),
        ("A blue T-shirt with a graphic print.", {"t-shirt": {"blue", "graphic"}}),
        ("Dressed all in black with slim trousers and lace-up heels.", {"trousers": set(), "heels": set()}),
        ("White lace-up shoes, two scarves, a polka-dot bow tie.", {
            "lace-up shoes": {"white"}, "scarf": set(), "bow tie": {"polka dot"},
        }),
        ("Snakeskin-print trousers; a cream jumper on top.", {"trousers": set(), "sweater": {"beige"}}),
        ("a plaid tank top", {"tank top": {"checked"}}),
        ("A red dress. A green hat.", {"dress": {"red"}, "hat": {"green"}}),
    ],
)  # fmt: skip
def test_claims(text: str, expected: dict[str, set[str]]) -> None:
    assert claims(text) == expected


def test_a_claim_counts_once() -> None:
    assert read_facts("A red hat, the red hat.") == (Fact("hat"), Fact("hat", "colour", "red"))


@pytest.mark.parametrize("garment", sorted(default_ontology().garments))
def test_every_garment_is_read_by_its_own_word(garment: str) -> None:
    assert claims(f"There is one red striped {garment}.") == {garment: {"red", "striped"}}


@pytest.mark.parametrize("attribute", ["colour", "pattern"])
def test_every_value_is_read_by_its_own_word(attribute: str) -> None:
    for value in default_ontology().values[attribute]:
        assert Fact("coat", attribute, value) in read_facts(f"A {value} coat."), value


def test_truth() -> None:
    coat = ObjectLabel(label="coat", attributes={"colour": ("tan", "black"), "material": ("lace",), "pattern": ()})
    skirts = [ObjectLabel(label="skirt", attributes={"colour": (colour,)}) for colour in ("red", "blue")]
    worn = [coat, *skirts]
    assert is_true(Fact("coat"), worn, complete=True) is True
    assert is_true(Fact("coat", "colour", "black"), worn, complete=True) is True
    assert is_true(Fact("coat", "colour", "red"), worn, complete=True) is False
    assert is_true(Fact("coat", "pattern", "lace"), worn, complete=True) is True  # a material here
    assert is_true(Fact("skirt", "colour", "blue"), worn, complete=True) is True  # any of the two
    assert is_true(Fact("skirt", "pattern", "striped"), worn, complete=True) is None  # nobody has said
    assert is_true(Fact("hat"), worn, complete=True) is False
    assert is_true(Fact("hat"), worn, complete=False) is None
    assert is_true(Fact("hat", "colour", "red"), worn, complete=True) is False
