from __future__ import annotations

import math
import random
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import TASKS
from tasks.base import ObjectLabel, ParseError, Record
from tasks.boxes import NUM_BINS, Box, sort_key
from tasks.grammar import compile_grammar
from tasks.grounding import MAX_BOXES
from tasks.ontology import default_ontology
from tasks.results import Grounding

TASK = TASKS["grounding"]
SIZE = (641, 479)
INPUTS = {"phrase": "the coat"}
JOINER = "\u2060"
GRAMMAR = compile_grammar(TASK.grammar(INPUTS))

SPANS = [st.tuples(st.floats(0, side), st.floats(0, side)).map(sorted) for side in (479, 641)]
BOXES = st.builds(lambda x, y: Box(x[0], y[0], x[1], y[1]), *SPANS)
GROUNDINGS = st.lists(BOXES, max_size=MAX_BOXES).map(lambda boxes: Grounding("the coat", [(box, 1.0) for box in boxes]))

BIG, SMALL, TINY = Box(10, 10, 200, 400), Box(300, 10, 400, 200), Box(300, 400, 350, 450)


def record(*objects: ObjectLabel, complete: bool = False) -> Record:
    return Record(id="1", image="1.jpg", image_size=SIZE, objects=objects, objects_complete=complete)


def item(label: str, box: Box | None = None, *phrases: str, **attributes: str) -> ObjectLabel:
    return ObjectLabel(
        label=label, box=box, phrases=phrases, attributes={name: (value,) for name, value in attributes.items()}
    )


def asked(found: Record, seeds: Iterable[int] = range(100)) -> dict[str, set[tuple[Box, ...]]]:
    """Every phrase that may be asked for, and the boxes it is said to mean."""
    phrases: dict[str, set[tuple[Box, ...]]] = {}
    for seed in seeds:
        for example in TASK.examples(found, random.Random(seed)):
            assert example.task == "grounding"
            assert example.label.phrase == example.inputs["phrase"]
            phrases.setdefault(example.label.phrase, set()).add(tuple(box for box, _ in example.label.boxes))
    return phrases


# -- there and back ------------------------------------------------------------------------------------------


@given(GROUNDINGS)
@settings(deadline=None)
def test_boxes_come_back_within_half_a_bin(label: Grounding) -> None:
    target = TASK.target(label, SIZE)
    back = TASK.parse(target, INPUTS, SIZE)
    assert (back.phrase, back.score, back.truncated) == ("the coat", 1.0, False)
    for (before, _), (after, score) in zip(label.boxes, back.boxes, strict=True):
        assert score == 1.0
        for one, other, side in zip(before.xyxy, after.xyxy, (479, 641) * 2, strict=True):
            assert abs(one - other) <= 0.5 * side / NUM_BINS * (1 + 1e-6)
    assert TASK.target(back, SIZE) == target
    assert TASK.parse(target, INPUTS, SIZE) == back


@given(GROUNDINGS)
@settings(deadline=None)
def test_the_grammar_accepts_every_target(label: Grounding) -> None:
    assert GRAMMAR.accepts(TASK.target(label, SIZE))


@given(st.text())
@settings(deadline=None)
def test_the_phrase_is_kept_as_it_was_given(phrase: str) -> None:
    assert TASK.parse("none", {"phrase": phrase}, SIZE) == Grounding(phrase)


def test_targets() -> None:
    assert TASK.target(Grounding("a hat"), SIZE) == "none"
    one = Grounding("the coat", [(Box(0, 0, 50, 100), 1.0)])
    assert TASK.target(one, (100, 100)) == "<loc_0><loc_0><loc_500><loc_999>"
    two = Grounding("the coats", [(Box(0, 0, 50, 100), 1.0), (Box(10, 10, 20, 20), 1.0)])
    assert TASK.target(two, (100, 100)) == "<loc_0><loc_0><loc_500><loc_999><loc_100><loc_100><loc_200><loc_200>"


def test_more_boxes_than_the_grammar_takes_are_left_out_of_the_target() -> None:
    many = Grounding("the socks", [(Box(index, 0, index + 1, 1), 1.0) for index in range(MAX_BOXES + 3)])
    target = TASK.target(many, SIZE)
    assert target.count("<loc_") == 4 * MAX_BOXES
    assert GRAMMAR.accepts(target)
    assert TASK.max_new_tokens > 4 * MAX_BOXES  # and one token for the end


# -- the prompt ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phrase", "prompt"),
    [
        ("the tan coat", "<ground>the tan coat"),
        (" The TAN\ncoat ", "<ground>the tan coat"),
        ("the crêpe t-shirt", "<ground>the crêpe t-shirt"),
        ("<LOC_5><ground>", f"<ground><{JOINER}loc_5><{JOINER}ground>"),
    ],
)
def test_prompts(phrase: str, prompt: str) -> None:
    assert TASK.prompt({"phrase": phrase}, SIZE) == prompt


@pytest.mark.parametrize("phrase", ["", " \n", "\u3000"])
def test_an_empty_phrase_is_refused(phrase: str) -> None:
    with pytest.raises(ValueError, match="the phrase is empty; ask for example"):
        TASK.prompt({"phrase": phrase}, SIZE)


# -- what a model says ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "nothing",
        "None",
        "none.",
        "nonenone",
        " none",
        "the coat",
        "<loc_1><loc_2><loc_3>",
        "<loc_1><loc_2><loc_3><loc_4><loc_5>",
        "<loc_1><loc_2><loc_3><loc_1000>",
        "<loc_1><loc_2><loc_3><loc_04>",
        "<loc_1><loc_2><loc_3><loc_٤>",
        "<loc_30><loc_2><loc_3><loc_4>",
        "<loc_1><loc_20><loc_3><loc_4>",
        "<loc_1><loc_2><loc_3><loc_4>none",
        "none<loc_1><loc_2><loc_3><loc_4>",
        "<loc_1><loc_2><loc_3><loc_4>;<loc_1><loc_2><loc_3><loc_4>",
        "coat<loc_1><loc_2><loc_3><loc_4>",
        "<loc_1><loc_2><loc_3><loc_4> ",
        "[1, 2, 3, 4]",
    ],
)
def test_malformed_text_is_an_error(text: str) -> None:
    with pytest.raises(ParseError):
        TASK.parse(text, INPUTS, SIZE)


@pytest.mark.parametrize(
    "text",
    [
        "nothing",
        "the coat",
        "<loc_1><loc_2><loc_3><loc_4>none",
        "<loc_1><loc_2><loc_3><loc_4>n",
        "<loc_1>coat",
        "<loc_30><loc_2><loc_3><loc_4><loc_5>",
        "<loc_1><loc_2><loc_3><loc_1000>",
    ],
)
def test_the_token_limit_does_not_excuse_everything(text: str) -> None:
    with pytest.raises(ParseError):
        TASK.parse(text, INPUTS, SIZE, truncated=True)


@given(st.lists(st.sampled_from(["none", "<loc_1>", "<loc_7>", "<loc_7>", "<loc_1000>", ";", "coat", "n"]), max_size=9))
@settings(max_examples=300, deadline=None)
def test_what_parses_says_exactly_what_was_written(parts: list[str]) -> None:
    text = "".join(parts)
    try:
        found = TASK.parse(text, INPUTS, SIZE)
    except ParseError:
        return
    assert TASK.target(found, SIZE) == text
    assert GRAMMAR.accepts(text)


@given(st.lists(BOXES, max_size=3))
@settings(max_examples=30, deadline=None)
def test_every_beginning_of_a_target(boxes: list[Box]) -> None:
    target = TASK.target(Grounding("the coat", [(box, 1.0) for box in boxes]), SIZE)
    whole = TASK.parse(target, INPUTS, SIZE).boxes
    for end in range(len(target) + 1):
        beginning = target[:end]
        cut = TASK.parse(beginning, INPUTS, SIZE, truncated=True)
        assert cut.truncated
        assert cut.boxes == whole[: beginning.count(">") // 4]
        if GRAMMAR.accepts(beginning):
            assert TASK.parse(beginning, INPUTS, SIZE).boxes == cut.boxes
        else:
            with pytest.raises(ParseError):
                TASK.parse(beginning, INPUTS, SIZE)


def test_a_box_that_is_said_twice_stays_twice() -> None:
    text = "<loc_1><loc_2><loc_3><loc_4>"
    [[one, _], [other, _]] = TASK.parse(text * 2, INPUTS, SIZE).boxes
    assert one == other


def test_scores_of_boxes_and_of_the_whole() -> None:
    first, second = "<loc_1><loc_2><loc_3><loc_4>", "<loc_10><loc_20><loc_30><loc_40>"
    log_probabilities = {(0, 60): math.log(0.1), (0, 28): math.log(0.5), (28, 60): math.log(0.2), (0, 4): math.log(0.7)}

    def scorer(start: int, end: int) -> tuple[float, int]:
        return log_probabilities[start, end], 1

    found = TASK.parse(first + second, INPUTS, SIZE, scorer=scorer)
    assert found.score == pytest.approx(0.1)
    assert [score for _, score in found.boxes] == pytest.approx([0.5, 0.2])
    assert TASK.parse("none", INPUTS, SIZE, scorer=scorer).score == pytest.approx(0.7)
    assert TASK.parse("none", INPUTS, SIZE, scorer=lambda start, end: (1e-6, 1)).score == 1.0


# -- examples ------------------------------------------------------------------------------------------------


def test_examples_are_a_function_of_the_generator() -> None:
    found = record(item("coat", BIG, colour="tan", sleeve="long"), item("boots", SMALL, colour="black"), complete=True)
    before = random.getstate()
    draws = [[TASK.examples(found, random.Random(seed)) for seed in range(20)] for _ in range(2)]
    assert random.getstate() == before
    assert draws[0] == draws[1]
    assert len({tuple(example.label.phrase for example in draw) for draw in draws[0]}) > 5


def test_phrases_of_a_garment() -> None:
    coat = item("coat", BIG, "the warm one", colour="tan", pattern="checked", sleeve="long")
    assert asked(record(coat)) == {
        phrase: {(BIG,)}
        for phrase in ("the warm one", "the coat", "the tan coat", "the checked coat", "the long-sleeved coat")
    }
    plain = item("coat", BIG, pattern="solid", sleeve="not visible", material="wool")
    assert asked(record(plain)) == {"the coat": {(BIG,)}}


def test_several_garments_of_a_name_are_all_meant_the_largest_first() -> None:
    found = record(item("bag", TINY, colour="red"), item("bag", BIG, colour="blue"), item("bag", SMALL, colour="red"))
    assert asked(found) == {"the bag": {(BIG, SMALL, TINY)}, "the blue bag": {(BIG,)}}
    for example in TASK.examples(found, random.Random(0)):
        boxes = [box for box, _ in example.label.boxes]
        assert boxes == sorted(boxes, key=sort_key)
        assert {score for _, score in example.label.boxes} <= {1.0}


def test_a_phrase_of_two_garments_means_both() -> None:
    found = record(item("bag", SMALL, "what she carries"), item("coat", BIG, "what she carries"))
    assert asked(found)["what she carries"] == {(BIG, SMALL)}


def test_unboxed_duplicates_are_not_asked_for_by_name() -> None:
    pair = record(item("bag", SMALL, "both", "this", colour="red"), item("bag", None, "both", colour="blue"))
    assert asked(pair) == {"this": {(SMALL,)}, "the red bag": {(SMALL,)}}
    same = record(item("bag", SMALL, colour="red"), item("bag", None, colour="red"))
    assert asked(same) == {}


def test_nothing_is_asked_for_where_nothing_has_a_box() -> None:
    assert asked(record(item("bag", None, "the bag", colour="red"), complete=True)) == {}
    assert asked(record(complete=True)) == {}


def test_phrases_are_asked_for_once() -> None:
    found = record(item("coat", BIG, "The  Coat", "the coat"))
    for seed in range(20):
        phrases = [example.label.phrase for example in TASK.examples(found, random.Random(seed))]
        assert phrases == ["The  Coat"]  # two ways of writing the phrase, one prompt


def test_absent_phrases_are_really_absent() -> None:
    objects = (
        item("coat", BIG, colour="black"),
        item("boots", SMALL, colour="tan"),
        item("bag", TINY, colour="red"),
        item("bag", TINY, colour="blue"),
    )
    absent = {phrase for phrase, meant in asked(record(*objects, complete=True), range(500)).items() if () in meant}
    garments = default_ontology().garments
    worn = {"coat": "black", "boots": "tan"}
    recoloured = set()
    for phrase in absent:
        words = phrase.removeprefix("the ")
        if words in garments:
            assert words not in {found.label for found in objects}
            # Nor what somebody might call one of them.
            assert words not in {"jacket", "blazer", "cape", "shoes", "heels", "sandals", "backpack", "clutch"}
        else:
            colour, label = words.rsplit(" ", 1)
            assert colour in default_ontology().values["colour"]
            assert colour != worn[label]  # of the two bags none is asked for in another colour
            recoloured.add((colour, label))
    assert {("white", "coat"), ("red", "coat"), ("blue", "boots")} <= recoloured
    assert not recoloured & {("navy", "coat"), ("brown", "boots"), ("beige", "boots")}  # a matter of taste
    assert "the hat" in absent


def test_a_second_colour_is_not_absent() -> None:
    coat = ObjectLabel(label="coat", box=BIG, attributes={"colour": ("white", "black")})
    found = asked(record(coat, complete=True), range(300))
    assert () in found["the red coat"]
    assert "the black coat" not in found


def test_nothing_is_absent_where_not_everything_is_known() -> None:
    found = record(item("coat", BIG, colour="black"), item("boots", SMALL))
    assert not [phrase for phrase, meant in asked(found).items() if () in meant]


def test_about_half_as_many_are_absent() -> None:
    found = record(item("coat", BIG, colour="black"), item("boots", SMALL, colour="tan"), complete=True)
    for seed in range(50):
        examples = TASK.examples(found, random.Random(seed))
        absent = [example for example in examples if not example.label.boxes]
        assert (len(examples) - len(absent), len(absent)) == (4, 2)
        assert {TASK.target(example.label, SIZE) for example in absent} == {"none"}


def test_every_example_has_a_prompt_and_an_accepted_target() -> None:
    found = record(item("coat", BIG, "The <loc_5> coat", colour="tan"), item("t-shirt", SMALL), complete=True)
    for seed in range(20):
        for example in TASK.examples(found, random.Random(seed)):
            inputs: dict[str, Any] = dict(example.inputs)
            assert TASK.prompt(inputs, SIZE).startswith("<ground>the ")
            target = TASK.target(example.label, SIZE)
            assert compile_grammar(TASK.grammar(inputs)).accepts(target)
            assert len(TASK.parse(target, inputs, SIZE).boxes) == len(example.label.boxes)
