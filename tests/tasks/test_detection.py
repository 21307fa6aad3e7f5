from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import TASKS
from tasks.base import Example, ObjectLabel, ParseError, Record
from tasks.boxes import NUM_BINS, Box
from tasks.detection import MAX_OBJECTS
from tasks.grammar import compile_grammar
from tasks.ontology import default_ontology
from tasks.results import Detection, Garment

TASK = TASKS["detection"]
SIZE = (641, 479)
BOXED: dict[str, Any] = {}
LABELS: dict[str, Any] = {"boxes": False}
GRAMMAR = compile_grammar(TASK.grammar(BOXED))
LABEL_GRAMMAR = compile_grammar(TASK.grammar(LABELS))
BOX = "<loc_1><loc_2><loc_3><loc_4>"

NAMES = st.sampled_from(list(default_ontology().garments))
SPANS = [st.tuples(st.floats(0, side), st.floats(0, side)).map(sorted) for side in (479, 641)]
BOXES = st.builds(lambda x, y: Box(x[0], y[0], x[1], y[1]), *SPANS)
BOXED_GARMENTS = st.lists(st.builds(Garment, NAMES, BOXES), max_size=MAX_OBJECTS)
NAMED_GARMENTS = st.lists(st.builds(Garment, NAMES), max_size=MAX_OBJECTS)


def record(*objects: ObjectLabel, objects_complete: bool = True, boxes_complete: bool = True) -> Record:
    return Record(
        id="1",
        image="1.jpg",
        image_size=SIZE,
        objects=objects,
        objects_complete=objects_complete,
        boxes_complete=boxes_complete,
    )


def examples(found: Record) -> list[Example]:
    return list(TASK.examples(found, random.Random(0)))


# -- there and back ------------------------------------------------------------------------------------------


@given(BOXED_GARMENTS)
@settings(deadline=None)
def test_garments_come_back_within_half_a_bin(garments: list[Garment]) -> None:
    target = TASK.target(Detection(garments), SIZE)
    back = TASK.parse(target, BOXED, SIZE)
    assert [item.label for item in back.objects] == [item.label for item in garments]
    assert not back.truncated
    for before, after in zip(garments, back.objects, strict=True):
        assert (after.score, after.attributes) == (1.0, None)
        for one, other, side in zip(before.box.xyxy, after.box.xyxy, (479, 641) * 2, strict=True):
            assert abs(one - other) <= 0.5 * side / NUM_BINS * (1 + 1e-6)
    assert TASK.target(back, SIZE) == target


@given(NAMED_GARMENTS)
@settings(deadline=None)
def test_labels_come_back(garments: list[Garment]) -> None:
    assert TASK.parse(TASK.target(Detection(garments), SIZE), LABELS, SIZE) == Detection(garments)


@given(BOXED_GARMENTS, NAMED_GARMENTS)
@settings(deadline=None)
def test_the_grammars_accept_their_targets_and_not_each_others(boxed: list[Garment], named: list[Garment]) -> None:
    with_boxes, without = TASK.target(Detection(boxed), SIZE), TASK.target(Detection(named), SIZE)
    assert GRAMMAR.accepts(with_boxes)
    assert LABEL_GRAMMAR.accepts(without)
    assert LABEL_GRAMMAR.accepts(with_boxes) == (not boxed)
    assert GRAMMAR.accepts(without) == (not named)


def test_targets() -> None:
    coat, boots = Box(0, 0, 50, 100), Box(10, 10, 20, 20)
    assert (
        TASK.target(Detection([Garment("coat", coat), Garment("lace-up shoes", boots)]), (100, 100))
        == "coat<loc_0><loc_0><loc_500><loc_999>;lace-up shoes<loc_100><loc_100><loc_200><loc_200>"
    )
    assert TASK.target(Detection([Garment("coat"), Garment("t-shirt")]), SIZE) == "coat;t-shirt"
    assert TASK.target(Detection(), SIZE) == "none"


@pytest.mark.parametrize("label", ["cote", "none", "crêpe dress", "Coat"])
def test_a_target_has_no_unknown_garment(label: str) -> None:
    with pytest.raises(ValueError, match=f"unknown garment '{label}'; known: t-shirt, shirt, "):
        TASK.target(Detection([Garment(label)]), SIZE)


@pytest.mark.parametrize("garment", default_ontology().garments)
def test_every_garment_is_found_whole(garment: str) -> None:
    [with_box] = TASK.parse(f"{garment}{BOX}", BOXED, SIZE).objects
    [alone] = TASK.parse(garment, LABELS, SIZE).objects
    assert with_box.label == alone.label == garment  # "t-shirt" is no "shirt"


def test_none_is_an_answer() -> None:
    for inputs in (BOXED, LABELS):
        assert TASK.parse("none", inputs, SIZE) == Detection()
        assert compile_grammar(TASK.grammar(inputs)).accepts("none")


def test_the_grammar_ends_after_twenty_objects() -> None:
    for text, grammar in ((f"coat{BOX}", GRAMMAR), ("coat", LABEL_GRAMMAR)):
        assert grammar.accepts(";".join([text] * MAX_OBJECTS))
        assert not grammar.accepts(";".join([text] * (MAX_OBJECTS + 1)))


# -- the prompt ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "prompt"),
    [({}, "<detect>"), ({"boxes": True}, "<detect>"), ({"boxes": False}, "<detect>labels")],
)
def test_prompts(inputs: dict[str, Any], prompt: str) -> None:
    assert TASK.prompt(inputs, SIZE) == prompt


# -- what a model says ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ";",
        "None",
        "nonenone",
        f"none;coat{BOX}",
        f"none{BOX}",
        BOX,
        "coat",
        "coat<loc_1><loc_2><loc_3>",
        "coat<loc_1><loc_2><loc_3><loc_4><loc_5>",
        "coat<loc_1><loc_2><loc_3><loc_1000>",
        "coat<loc_1><loc_2><loc_3><loc_04>",
        "coat<loc_1><loc_2><loc_3><loc_٤>",
        "coat<loc_30><loc_2><loc_3><loc_4>",
        "coat<loc_1><loc_20><loc_3><loc_4>",
        f"coat{BOX}{BOX}",
        f"coat{BOX};",
        f";coat{BOX}",
        f"coat{BOX};;boots{BOX}",
        f"coat{BOX} ;boots{BOX}",
        f"coat{BOX}; boots{BOX}",
        f"coat{BOX},boots{BOX}",
        f"coat{BOX};{BOX}",
        f"coat{BOX};boots",
        f"cote{BOX}",
        f"Coat{BOX}",
        f"coat {BOX}",
        f"a coat{BOX}",
        f"tshirt{BOX}",
        f"-shirt{BOX}",
        f"crêpe{BOX}",
        f"sweáter{BOX}",
        "coat[1, 2, 3, 4]",
    ],
)
def test_malformed_text_is_an_error(text: str) -> None:
    with pytest.raises(ParseError):
        TASK.parse(text, BOXED, SIZE)


@pytest.mark.parametrize(
    "text", ["", ";", "coat;", ";coat", "coat;;boots", "coat; boots", "cote", "none;coat", f"coat{BOX}", "coat<loc_1>"]
)
def test_malformed_labels_are_an_error(text: str) -> None:
    with pytest.raises(ParseError):
        TASK.parse(text, LABELS, SIZE)


@pytest.mark.parametrize(
    ("text", "inputs", "says"),
    [
        (f"cote{BOX};coat{BOX}", BOXED, f"'cote{BOX}' is not a known garment and its box"),
        ("cote;coat", LABELS, "'cote' is not a known garment alone"),
        (f"coat;boots{BOX}", BOXED, "'coat' is not a known garment and its box"),
        (f"coat{BOX};boots<loc_9><loc_2><loc_3><loc_4>", BOXED, "corners are swapped"),
    ],
)
def test_the_token_limit_excuses_only_the_end(text: str, inputs: dict[str, Any], says: str) -> None:
    with pytest.raises(ParseError, match=says):
        TASK.parse(text, inputs, SIZE, truncated=True)


PIECES = ["coat", "t-shirt", "shirt", "none", ";", ";", BOX, BOX, "<loc_7>", "<loc_1000>", "crêpe", " "]


@given(st.lists(st.sampled_from(PIECES), max_size=7), st.booleans())
@settings(max_examples=300, deadline=None)
def test_what_parses_says_exactly_what_was_written(parts: list[str], boxes: bool) -> None:
    text, inputs = "".join(parts), {"boxes": boxes}
    try:
        found = TASK.parse(text, inputs, SIZE)
    except ParseError:
        return
    assert TASK.target(found, SIZE) == text
    assert compile_grammar(TASK.grammar(inputs)).accepts(text)


def beginnings(target: str, inputs: dict[str, Any]) -> None:
    whole = TASK.parse(target, inputs, SIZE).objects
    grammar = compile_grammar(TASK.grammar(inputs))
    for end in range(len(target) + 1):
        beginning = target[:end]
        cut = TASK.parse(beginning, inputs, SIZE, truncated=True)
        assert cut.truncated
        assert cut.objects == whole[: beginning.count(">") // 4 if inputs.get("boxes", True) else beginning.count(";")]
        if grammar.accepts(beginning):
            assert TASK.target(TASK.parse(beginning, inputs, SIZE), SIZE) == beginning
        else:
            with pytest.raises(ParseError):
                TASK.parse(beginning, inputs, SIZE)


@given(st.lists(st.builds(Garment, NAMES, BOXES), max_size=3))
@settings(max_examples=30, deadline=None)
def test_every_beginning_of_a_target(garments: list[Garment]) -> None:
    beginnings(TASK.target(Detection(garments), SIZE), BOXED)


@given(st.lists(st.builds(Garment, NAMES), max_size=5))
@settings(max_examples=30, deadline=None)
def test_every_beginning_of_labels(garments: list[Garment]) -> None:
    beginnings(TASK.target(Detection(garments), SIZE), LABELS)


def test_a_label_at_the_cut_may_be_the_beginning_of_another() -> None:
    assert TASK.parse("coat;cap", LABELS, SIZE, truncated=True) == Detection([Garment("coat")], truncated=True)
    assert TASK.parse("coat;cap", LABELS, SIZE) == Detection([Garment("coat"), Garment("cap")])


def test_duplicates_stay_as_they_were_said() -> None:
    found = TASK.parse(f"bag{BOX};coat{BOX};bag{BOX};bag<loc_5><loc_6><loc_7><loc_8>", BOXED, SIZE).objects
    assert [item.label for item in found] == ["bag", "coat", "bag", "bag"]
    assert found[0] == found[2]
    assert found[0].box != found[3].box


def test_the_score_of_a_garment_is_that_of_its_name_and_box() -> None:
    text = f"t-shirt{BOX};boots{BOX}"
    spans = {f"t-shirt{BOX}": math.log(0.5), f"boots{BOX}": math.log(0.25), "coat": math.log(0.1), "cap": 1e-6}

    def scorer_of(said: str) -> Any:
        return lambda start, end: (spans[said[start:end]], 1)

    found = TASK.parse(text, BOXED, SIZE, scorer=scorer_of(text)).objects
    assert [item.score for item in found] == pytest.approx([0.5, 0.25])
    found = TASK.parse("coat;cap", LABELS, SIZE, scorer=scorer_of("coat;cap")).objects
    assert [item.score for item in found] == pytest.approx([0.1, 1.0])


# -- examples ------------------------------------------------------------------------------------------------

BIG, LEFT, UPPER, LOWER = Box(0, 0, 400, 600), Box(5, 50, 15, 60), Box(20, 10, 30, 20), Box(20, 30, 30, 40)
OBJECTS = (
    ObjectLabel(label="ring", box=LOWER),
    ObjectLabel(label="watch", box=UPPER),
    ObjectLabel(label="coat", box=BIG),
    ObjectLabel(label="ring", box=LEFT),
)


def test_the_largest_comes_first() -> None:
    [example] = examples(record(*OBJECTS))
    assert (example.task, example.inputs) == ("detection", {})
    assert example.label == Detection(
        [Garment("coat", BIG), Garment("ring", LEFT), Garment("watch", UPPER), Garment("ring", LOWER)]
    )
    assert examples(record(*reversed(OBJECTS))) == [example]


def test_boxes_are_asked_for_only_where_all_are_known() -> None:
    assert examples(record(*OBJECTS, objects_complete=False)) == []
    assert examples(record(*OBJECTS, objects_complete=False, boxes_complete=False)) == []
    unboxed = ObjectLabel(label="boots")
    [example] = examples(record(*OBJECTS, unboxed, boxes_complete=False))
    assert example.inputs == {"boxes": False}
    assert TASK.target(example.label, SIZE) == "coat;boots;watch;ring"  # each once, as the ontology has them


@pytest.mark.parametrize(("boxes_complete", "inputs"), [(True, {}), (False, {"boxes": False})])
def test_nothing_worn_is_an_example(boxes_complete: bool, inputs: dict[str, Any]) -> None:
    [example] = examples(record(boxes_complete=boxes_complete))
    assert (example.inputs, example.label) == (inputs, Detection())
    assert TASK.target(example.label, SIZE) == "none"


def test_the_smallest_are_left_out_where_there_are_too_many() -> None:
    many = [ObjectLabel(label="ring", box=Box(0, 0, side, side)) for side in range(1, MAX_OBJECTS + 6)]
    [example] = examples(record(*many))
    sides = [item.box.width for item in example.label.objects]
    assert sides == list(range(MAX_OBJECTS + 5, 5, -1))
    assert GRAMMAR.accepts(TASK.target(example.label, SIZE))
    names = [ObjectLabel(label=name) for name in default_ontology().garments]
    [example] = examples(record(*names, boxes_complete=False))
    assert len(example.label.objects) == MAX_OBJECTS
    assert LABEL_GRAMMAR.accepts(TASK.target(example.label, SIZE))


def test_nothing_is_drawn() -> None:
    before = random.getstate()
    assert TASK.examples(record(*OBJECTS), random.Random(0)) == TASK.examples(record(*OBJECTS), random.Random(1))
    assert random.getstate() == before
