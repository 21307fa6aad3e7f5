"""Results are checked, cannot be changed afterwards, and are JSON through and through."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from tasks.boxes import Box
from tasks.results import Answer, Attributes, Caption, Detection, Garment, Grounding, Outfit, Result, Value

BOX = Box(1, 2, 30.126, 40)
TAN = Value(("tan", "brown"), 0.75)
COAT = Garment("coat", BOX, Attributes({"colour": TAN}), 0.5)

RESULTS: list[tuple[Result, dict[str, Any]]] = [
    (Caption("A crêpe dress.", 0.5), {"text": "A crêpe dress.", "score": 0.5, "truncated": False}),
    (Answer("yes", 0.25, True), {"text": "yes", "score": 0.25, "truncated": True}),
    (
        Attributes({"colour": TAN, "closure": Value(("none",))}),
        {
            "values": {
                "colour": {"values": ["tan", "brown"], "score": 0.75},
                "closure": {"values": ["none"], "score": 1.0},
            },
            "truncated": False,
        },
    ),
    (
        Detection((COAT, Garment("boots"))),
        {
            "objects": [
                {
                    "label": "coat",
                    "box": [1.0, 2.0, 30.13, 40.0],
                    "score": 0.5,
                    "attributes": {"colour": {"values": ["tan", "brown"], "score": 0.75}},
                },
                {"label": "boots", "box": None, "score": 1.0, "attributes": None},
            ],
            "truncated": False,
        },
    ),
    (
        Grounding("the coat", ((BOX, 0.5),), 0.5),
        {
            "phrase": "the coat",
            "boxes": [{"box": [1.0, 2.0, 30.13, 40.0], "score": 0.5}],
            "score": 0.5,
            "truncated": False,
        },
    ),
    (
        Outfit("A tan coat.", (Garment("coat"),), 0.5),
        {
            "summary": "A tan coat.",
            "score": 0.5,
            "truncated": False,
            "garments": [{"label": "coat", "box": None, "score": 1.0, "attributes": None}],
        },
    ),
]
IDS = [type(result).__name__ for result, _ in RESULTS]


@pytest.mark.parametrize(("result", "expected"), RESULTS, ids=IDS)
def test_to_dict_is_json(result: Result, expected: dict[str, Any]) -> None:
    assert result.to_dict() == expected
    assert json.loads(json.dumps(result.to_dict())) == expected


@pytest.mark.parametrize("result", [result for result, _ in RESULTS], ids=IDS)
def test_copies_and_pickles_are_equal(result: Result) -> None:
    for twin in (copy.copy(result), copy.deepcopy(result), pickle.loads(pickle.dumps(result))):
        assert twin == result
        assert hash(twin) == hash(result)


@pytest.mark.parametrize("result", [result for result, _ in RESULTS], ids=IDS)
def test_results_cannot_be_changed(result: Result) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.truncated = True  # type: ignore[misc]


@pytest.mark.parametrize("score", [-0.001, 1.001, math.nan, math.inf])
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("Caption", lambda score: Caption("a", score)),
        ("Answer", lambda score: Answer("a", score)),
        ("Value", lambda score: Value(("tan",), score)),
        ("Garment", lambda score: Garment("coat", score=score)),
        ("Grounding", lambda score: Grounding("a", (), score)),
        ("Grounding.boxes", lambda score: Grounding("a", ((BOX, 1.0), (BOX, score)))),
        ("Outfit", lambda score: Outfit("a", (), score)),
    ],
)
def test_a_score_is_a_probability(name: str, make: Callable[[float], object], score: float) -> None:
    assert make(0.0) != make(1.0)
    with pytest.raises(ValueError, match=rf"^{name}\.score is {score}; expected a probability in \[0, 1\]"):
        make(score)


def test_empty_words_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Value.values is empty; use \('not visible',\)"):
        Value(())
    with pytest.raises(ValueError, match=r"Garment\.label is empty"):
        Garment("")


def test_lists_become_tuples() -> None:
    assert Value(["tan"]).values == ("tan",)  # type: ignore[arg-type]
    assert Detection([COAT]).objects == (COAT,)  # type: ignore[arg-type]
    assert Grounding("a", [[BOX, 1]]).boxes == ((BOX, 1.0),)  # type: ignore[arg-type]
    assert Outfit("a", [COAT]).garments == (COAT,)  # type: ignore[arg-type]


def test_attributes_keep_their_own_values() -> None:
    values = {"colour": TAN}
    attributes = Attributes(values)
    values["fit"] = Value(("tight",))
    assert list(attributes.values) == ["colour"]
    with pytest.raises(TypeError):
        attributes.values["fit"] = TAN  # type: ignore[index]


def test_attributes_are_equal_in_any_order() -> None:
    one = Attributes({"colour": TAN, "fit": Value(("tight",))})
    other = Attributes({"fit": Value(("tight",)), "colour": TAN})
    assert one == other
    assert hash(one) == hash(other)
    assert one != Attributes({"colour": TAN})
    assert list(other.values) == ["fit", "colour"]  # the order asked


def test_a_value_reads_as_words() -> None:
    assert str(TAN) == "tan and brown"
    assert str(Value(("not visible",))) == "not visible"
