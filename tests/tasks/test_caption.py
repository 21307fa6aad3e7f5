from __future__ import annotations

import math
import random
import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import TASKS
from tasks.base import ParseError, Record, TextLabel
from tasks.grammar import compile_grammar
from tasks.results import Caption

TASK = TASKS["caption"]
SIZE = (640, 480)
JOINER = "\u2060"
PIECES = ["<", ">", JOINER, "loc_5>", "<loc_5>", "<caption>", "<eos>", "</s>", "crêpe", "裙子", "👗", ";", " ", "\n"]
# As `examples` makes them: nothing around, something inside.
TEXTS = (st.text() | st.lists(st.sampled_from(PIECES) | st.text(max_size=2)).map("".join)).map(str.strip).filter(bool)


def record(*captions: TextLabel) -> Record:
    return Record(id="1", image="1.jpg", image_size=SIZE, captions=captions)


# -- there and back ------------------------------------------------------------------------------------------


@given(TEXTS, st.booleans())
@settings(max_examples=300, deadline=None)
def test_a_caption_comes_back(text: str, truncated: bool) -> None:
    target = TASK.target(Caption(text), SIZE)
    assert not re.search(r"<(/?[a-z]+|loc_\d+)>", target)
    assert TASK.parse(target, {}, SIZE, truncated=truncated) == Caption(text, truncated=truncated)


@given(TEXTS.filter(lambda text: unicodedata.category(text[0]) != "Cc"))
@settings(deadline=None)
def test_the_grammar_accepts_every_caption(text: str) -> None:
    assert compile_grammar(TASK.grammar({})).accepts(TASK.target(Caption(text), SIZE))


@given(st.text())
@settings(deadline=None)
def test_whatever_the_grammar_accepts_parses(text: str) -> None:
    if compile_grammar(TASK.grammar({})).accepts(text):
        assert TASK.parse(text, {}, SIZE).text


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("A woman in a crêpe dress.", "A woman in a crêpe dress."),
        ("It says <loc_5> <caption>.", f"It says <{JOINER}loc_5> <{JOINER}caption>."),
        ("2 < 3", "2 < 3"),
    ],
)
def test_targets(text: str, target: str) -> None:
    assert TASK.target(Caption(text), SIZE) == target


# -- the prompt ----------------------------------------------------------------------------------------------


def test_prompts() -> None:
    assert TASK.prompt({}, SIZE) == "<caption>brief"
    assert TASK.prompt({"detail": "brief"}, SIZE) == "<caption>brief"
    assert TASK.prompt({"detail": "detailed"}, SIZE) == "<caption>detailed"


@pytest.mark.parametrize("detail", ["long", "", "Brief", None])
def test_unknown_details_are_refused(detail: str | None) -> None:
    with pytest.raises(ValueError, match=f"detail is {detail!r}; expected one of brief, detailed"):
        TASK.prompt({"detail": detail}, SIZE)


# -- what a model says ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\u3000"])
def test_nothing_is_no_caption(text: str) -> None:
    with pytest.raises(ParseError, match="the caption is empty"):
        TASK.parse(text, {}, SIZE)
    assert TASK.parse(text, {}, SIZE, truncated=True) == Caption("", truncated=True)


def test_every_beginning_is_a_truncated_caption() -> None:
    text = "A crêpe <loc_5> t-shirt."
    target = TASK.target(Caption(text), SIZE)
    for end in range(len(target) + 1):
        found = TASK.parse(target[:end], {}, SIZE, truncated=True)
        assert found.truncated
        assert text.startswith(found.text)


def test_white_space_around_is_dropped() -> None:
    assert TASK.parse(" a t-shirt \n", {}, SIZE) == Caption("a t-shirt")


def test_the_score_is_the_geometric_mean_of_the_tokens() -> None:
    spans = []

    def scorer(start: int, end: int) -> tuple[float, int]:
        spans.append((start, end))
        return math.log(0.5 * 0.125), 2

    assert TASK.parse("a coat", {}, SIZE, scorer=scorer).score == pytest.approx(0.25)
    assert spans == [(0, 6)]
    assert TASK.parse("", {}, SIZE, scorer=lambda start, end: (0.0, 0), truncated=True).score == 1.0
    assert TASK.parse("a", {}, SIZE, scorer=lambda start, end: (-math.inf, 3)).score == 0.0
    assert TASK.parse("a", {}, SIZE, scorer=lambda start, end: (1e-6, 1)).score == 1.0  # rounding above one


# -- examples ------------------------------------------------------------------------------------------------


def test_every_caption_is_an_example() -> None:
    found = TASK.examples(
        record(TextLabel(text=" A tan\n  coat. "), TextLabel(text="A tan coat, open.", detail="detailed")),
        random.Random(0),
    )
    assert [(example.task, example.inputs, example.label) for example in found] == [
        ("caption", {"detail": "brief"}, Caption("A tan coat.")),
        ("caption", {"detail": "detailed"}, Caption("A tan coat, open.")),
    ]
    assert [TASK.prompt(example.inputs, SIZE) for example in found] == ["<caption>brief", "<caption>detailed"]


def test_no_caption_no_example() -> None:
    assert list(TASK.examples(record(), random.Random(0))) == []
