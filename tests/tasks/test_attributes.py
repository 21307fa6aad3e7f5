from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import TASKS
from tasks.base import Example, ObjectLabel, ParseError, Record
from tasks.boxes import Box
from tasks.grammar import compile_grammar
from tasks.ontology import default_ontology
from tasks.results import Attributes, Value

TASK = TASKS["attributes"]
SIZE = (640, 480)
ONTOLOGY = default_ontology()
BOX = Box(48, 64, 240, 320)


@st.composite
def labels(draw: st.DrawFn, max_attributes: int = len(ONTOLOGY.values)) -> Attributes:
    """Some attributes in the order of the ontology, each with as many values as it may have."""
    names = draw(st.sets(st.sampled_from(list(ONTOLOGY.values)), min_size=1, max_size=max_attributes))
    found = {}
    for name in filter(names.__contains__, ONTOLOGY.values):
        words = st.sampled_from(ONTOLOGY.values[name])
        most = ONTOLOGY.num_values.get(name, 1)
        found[name] = Value(tuple(draw(st.lists(words, min_size=1, max_size=most, unique=True))))
    return Attributes(found)


def inputs_for(*names: str) -> dict[str, Any]:
    return {"garment": "coat", "box": None, "attributes": names}


def record(*objects: ObjectLabel) -> Record:
    return Record(id="1", image="1.jpg", image_size=SIZE, objects=objects)


def drawn(found: Record, num: int = 200) -> list[Example]:
    return [example for seed in range(num) for example in TASK.examples(found, random.Random(seed))]


# -- there and back ------------------------------------------------------------------------------------------


@given(labels())
@settings(deadline=None)
def test_attributes_come_back_in_their_order(label: Attributes) -> None:
    back = TASK.parse(TASK.target(label, SIZE), inputs_for(*label.values), SIZE)
    assert back == label
    assert list(back.values) == list(label.values)


@given(labels())
@settings(deadline=None)
def test_the_grammar_accepts_every_target(label: Attributes) -> None:
    assert compile_grammar(TASK.grammar(inputs_for(*label.values))).accepts(TASK.target(label, SIZE))


@pytest.mark.parametrize(("name", "word"), [(name, word) for name, words in ONTOLOGY.values.items() for word in words])
def test_every_value_is_found_whole(name: str, word: str) -> None:
    found = TASK.parse(f"{name}: {word}", inputs_for(name), SIZE)
    assert found == Attributes({name: Value((word,))})  # "knee-high" is no "knee"


def test_targets() -> None:
    label = Attributes(
        {
            "colour": Value(("light blue", "white")),
            "sleeve": Value(("three-quarter",)),
            "neckline": Value(("not visible",)),
            "closure": Value(("none",)),
        }
    )
    assert (
        TASK.target(label, SIZE)
        == "colour: light blue, white; sleeve: three-quarter; neckline: not visible; closure: none"
    )


# -- the prompt ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "prompt"),
    [
        ({"garment": "coat"}, "<attributes>coat"),
        ({"garment": "lace-up shoes", "box": None}, "<attributes>lace-up shoes"),
        ({"garment": None, "box": BOX}, "<attributes><loc_100><loc_100><loc_500><loc_500>"),
        ({"box": BOX}, "<attributes><loc_100><loc_100><loc_500><loc_500>"),
        ({"garment": "t-shirt", "box": BOX}, "<attributes>t-shirt<loc_100><loc_100><loc_500><loc_500>"),
    ],
)
def test_prompts(inputs: dict[str, Any], prompt: str) -> None:
    assert TASK.prompt({**inputs, "attributes": ("colour",)}, SIZE) == prompt


def test_a_prompt_needs_a_known_garment_or_a_box() -> None:
    for inputs in ({}, {"garment": None, "box": None}):
        with pytest.raises(ValueError, match="give its word, its box, or both"):
            TASK.prompt(inputs, SIZE)
    for garment in ("cote", "", "<eos>"):
        with pytest.raises(ValueError, match=f"unknown garment '{garment}'; known: t-shirt, "):
            TASK.prompt({"garment": garment}, SIZE)


# -- the grammar ---------------------------------------------------------------------------------------------


def test_the_grammar_is_exactly_what_is_asked_for() -> None:
    automaton = compile_grammar(TASK.grammar(inputs_for("colour", "sleeve")))
    for text in ("colour: tan; sleeve: long", "colour: tan, brown; sleeve: not visible"):
        assert automaton.accepts(text)
    for text in (
        "",
        "colour: tan",
        "sleeve: long",
        "sleeve: long; colour: tan",
        "colour: tan; sleeve: long; fit: tight",
        "colour: tan, brown, red; sleeve: long",
        "colour: tan; sleeve: long, short",
        "colour: puce; sleeve: long",
        "colour: not visible; sleeve: long",
        "colour:tan; sleeve: long",
        "colour: ; sleeve: long",
        "colour: tan; sleeve: long ",
    ):
        assert not automaton.accepts(text)


def test_what_cannot_be_asked_for() -> None:
    with pytest.raises(ValueError, match="unknown attribute 'smell'; known: colour, pattern, "):
        TASK.grammar(inputs_for("colour", "smell"))
    with pytest.raises(ValueError, match="no attributes are asked for; known: colour, pattern, "):
        TASK.grammar(inputs_for())


# -- what a model says ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "'' is not one of the attributes asked for: colour, sleeve"),
        (" ", "is not one of the attributes asked for"),
        ("tan; long", "'tan' is not one of"),
        ("colour: tan", "sleeve was asked for and is missing in 'colour: tan'"),
        ("colour: tan; ", "'' is not one of"),
        ("colour: tan; sleeve", "'sleeve' is not one of"),
        ("colour: tan; sleeve: ", "'' is no sleeve; known: sleeveless, "),
        ("colour: tan; sleeve: lon", "'lon' is no sleeve"),
        ("colour: tan; sleeve: long; ", "'' is not one of"),
        ("colour: tan; sleeve: long; fit: tight", "'fit: tight' is not one of"),
        ("colour: tan; sleeve: long; sleeve: long", "'sleeve: long' is not one of"),
        ("colour: puce; sleeve: long", "'puce' is no colour; known: black, white, "),
        ("colour: tan, ; sleeve: long", "'' is no colour"),
        ("colour: tan and brown; sleeve: long", "'tan and brown' is no colour"),
        ("colour: tan, brown, red; sleeve: long", "'colour: tan, brown, red' has 3 values; expected at most 2"),
        ("colour: tan; sleeve: long, short", "'sleeve: long, short' has 2 values; expected at most 1"),
        ("colour: tan; sleeve: long, long", "has 2 values; expected at most 1"),
        ("colour: not visible; sleeve: long", "'not visible' is no colour"),
        ("Colour: tan; sleeve: long", "'Colour: tan' is not one of"),
        ("colour: Tan; sleeve: long", "'Tan' is no colour"),
        ("colour:tan; sleeve: long", "'colour:tan' is not one of"),
        ("colour: tan;sleeve: long", "'tan;sleeve: long' is no colour"),
        ("colour: tan; sleeve: long.", "'long.' is no sleeve"),
        ("colour: crêpe; sleeve: long", "'crêpe' is no colour"),
        ("colour: <loc_5>; sleeve: long", "'<loc_5>' is no colour"),
        ("none", "'none' is not one of"),
        ("not visible", "'not visible' is not one of"),
    ],
)
def test_malformed_text_is_an_error(text: str, says: str) -> None:
    with pytest.raises(ParseError, match=says):
        TASK.parse(text, inputs_for("colour", "sleeve"), SIZE)


@pytest.mark.parametrize(
    "text", ["colour: puce; sleeve: long", "fit: tight; sleeve", "colour: tan, red, tan; sl", "; "]
)
def test_the_token_limit_excuses_only_the_end(text: str) -> None:
    with pytest.raises(ParseError):
        TASK.parse(text, inputs_for("colour", "sleeve"), SIZE, truncated=True)


@given(labels(max_attributes=4))
@settings(max_examples=30, deadline=None)
def test_every_beginning_of_a_target(label: Attributes) -> None:
    target, inputs = TASK.target(label, SIZE), inputs_for(*label.values)
    grammar = compile_grammar(TASK.grammar(inputs))
    for end in range(len(target) + 1):
        beginning = target[:end]
        cut = TASK.parse(beginning, inputs, SIZE, truncated=True)
        assert cut.truncated
        assert list(cut.values.items()) == list(label.values.items())[: beginning.count("; ")]
        if grammar.accepts(beginning):
            assert TASK.target(TASK.parse(beginning, inputs, SIZE), SIZE) == beginning
        else:
            with pytest.raises(ParseError):
                TASK.parse(beginning, inputs, SIZE)


PIECES = ["colour", "sleeve", ": ", ": ", "; ", ", ", "tan", "red", "long", "not visible", "lace", "none", " ", "crêpe"]


@given(st.lists(st.sampled_from(PIECES), max_size=3), st.integers(0, 9), st.integers(0, 4))
@settings(max_examples=300, deadline=None)
def test_what_parses_says_exactly_what_was_written(pieces: list[str], position: int, dropped: int) -> None:
    parts = ["colour", ": ", "tan", ", ", "brown", "; ", "sleeve", ": ", "long"]
    parts[position : position + dropped] = pieces
    text = "".join(parts)
    try:
        found = TASK.parse(text, inputs_for("colour", "sleeve"), SIZE)
    except ParseError:
        return
    assert set(found.values) == {"colour", "sleeve"}
    assert TASK.target(found, SIZE) == text.replace("tan, tan", "tan").replace("red, red", "red")


def test_a_value_that_is_said_twice_counts_once() -> None:
    inputs = inputs_for("colour")
    assert compile_grammar(TASK.grammar(inputs)).accepts("colour: tan, tan")
    assert TASK.parse("colour: tan, tan", inputs, SIZE) == Attributes({"colour": Value(("tan",))})


def test_the_score_of_an_attribute_is_that_of_its_first_value() -> None:
    text = "colour: light blue, white; sleeve: not visible; fit: tight"
    said = {"light blue": math.log(0.5), "not visible": math.log(0.25), "tight": 1e-6}

    def scorer(start: int, end: int) -> tuple[float, int]:
        return said[text[start:end]], 1

    found = TASK.parse(text, inputs_for("colour", "sleeve", "fit"), SIZE, scorer=scorer)
    assert [value.score for value in found.values.values()] == pytest.approx([0.5, 0.25, 1.0])


# -- examples ------------------------------------------------------------------------------------------------

COAT = ObjectLabel(
    label="coat",
    box=BOX,
    attributes={
        "closure": ("none",),
        "colour": ("tan", "brown", "red"),
        "sleeve": ("not visible",),
        "neckline": (),
        "material": ("wool",),
    },
)


def test_examples_are_a_function_of_the_generator() -> None:
    found = record(COAT, ObjectLabel(label="boots", attributes={"colour": ("black",), "length": ("ankle",)}))
    before = random.getstate()
    draws = [[TASK.examples(found, random.Random(seed)) for seed in range(20)] for _ in range(2)]
    assert random.getstate() == before
    assert draws[0] == draws[1]
    assert all(len(draw) == 2 for draw in draws[0])
    assert len({str(draw) for draw in draws[0]}) > 5


def test_labels_are_asked_for_in_the_order_of_the_ontology_and_only_those() -> None:
    whole = Attributes(
        {
            "colour": Value(("tan", "brown")),  # not a third one
            "sleeve": Value(("not visible",)),
            "material": Value(("wool",)),
            "closure": Value(("none",)),
        }
    )
    found = drawn(record(COAT))
    assert len(found) == 200
    order = list(whole.values)
    for example in found:
        assert example.task == "attributes"
        asked = example.inputs["attributes"]
        assert asked == tuple(example.label.values) == tuple(name for name in order if name in asked)
        assert all(example.label.values[name] == whole.values[name] for name in asked)
    sizes = [len(example.label.values) for example in found]
    assert set(sizes) == {1, 2, 3, 4}
    assert 0.6 < sizes.count(4) / len(sizes) < 0.8


def test_not_visible_and_none_survive_to_the_target() -> None:
    targets = {TASK.target(example.label, SIZE) for example in drawn(record(COAT))}
    assert "colour: tan, brown; sleeve: not visible; material: wool; closure: none" in targets


def test_garments_are_asked_for_by_word_and_box() -> None:
    def ways(*objects: ObjectLabel) -> set[tuple[str | None, Box | None]]:
        return {(example.inputs["garment"], example.inputs["box"]) for example in drawn(record(*objects))}

    colour = {"colour": ("red",)}
    boxed, unboxed = ObjectLabel(label="bag", box=BOX, attributes=colour), ObjectLabel(label="bag", attributes=colour)
    assert ways(boxed) == {("bag", BOX), (None, BOX), ("bag", None)}
    assert ways(unboxed) == {("bag", None)}
    # "the bag" does not say which of two; a box does.
    assert ways(boxed, unboxed) == {("bag", BOX), (None, BOX)}
    assert ways(unboxed, unboxed) == set()


def test_without_labels_there_is_nothing_to_ask() -> None:
    assert drawn(record(ObjectLabel(label="bag", box=BOX), ObjectLabel(label="coat", attributes={"fit": ()}))) == []
    assert drawn(record()) == []


def test_attributes_that_a_garment_cannot_have_are_not_asked_for() -> None:
    socks = ObjectLabel(label="socks", attributes={"sleeve": ("long",), "colour": ("red",)})
    assert {example.inputs["attributes"] for example in drawn(record(socks))} == {("colour",)}


def test_every_example_has_a_prompt_and_an_accepted_target() -> None:
    for example in drawn(record(COAT), 50):
        assert TASK.prompt(example.inputs, SIZE) in {
            "<attributes>coat",
            "<attributes>coat<loc_100><loc_100><loc_500><loc_500>",
            "<attributes><loc_100><loc_100><loc_500><loc_500>",
        }
        target = TASK.target(example.label, SIZE)
        assert compile_grammar(TASK.grammar(example.inputs)).accepts(target)
        assert TASK.parse(target, example.inputs, SIZE) == example.label
