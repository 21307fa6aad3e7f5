from __future__ import annotations

import math
import random
import re
import unicodedata
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import TASKS
from tasks.base import QA, ObjectLabel, ParseError, Record
from tasks.grammar import compile_grammar
from tasks.results import Answer
from tasks.vqa import NUM_DRAWN, WHAT, drawn_questions

TASK = TASKS["vqa"]
SIZE = (640, 480)
JOINER = "\u2060"
PIECES = ["<", ">", JOINER, "loc_5>", "<loc_5>", "<vqa>", "<caption>", "<eos>", "crêpe", "裙子", "👗", ";", " ", "\n"]
# As `examples` makes them: nothing around, something inside.
TEXTS = (st.text() | st.lists(st.sampled_from(PIECES) | st.text(max_size=2)).map("".join)).map(str.strip).filter(bool)

COAT = ObjectLabel(
    label="coat",
    attributes={
        "colour": ("tan", "brown"),
        "pattern": ("solid",),
        "sleeve": ("not visible",),
        "neckline": ("lapel",),
        "length": ("knee",),
        "fit": ("not visible",),
        "material": ("not clear",),
        "closure": ("none",),
    },
)
BOOTS = ObjectLabel(label="boots", attributes={"colour": ("black",), "fit": ("tight",), "material": ("leather",)})
BAG = ObjectLabel(label="bag", attributes={"colour": ("red",)})


def record(objects: Iterable[ObjectLabel] = (), qa: Iterable[QA] = (), complete: bool = False) -> Record:
    return Record(
        id="1", image="1.jpg", image_size=SIZE, objects=tuple(objects), qa=tuple(qa), objects_complete=complete
    )


def drawn(found: Record) -> dict[str, set[str]]:
    """Every question that may be drawn, and its answers."""
    asked: dict[str, set[str]] = {}
    for seed in range(300):
        for question, answer in drawn_questions(found, random.Random(seed)):
            asked.setdefault(question, set()).add(answer)
    return asked


# -- there and back ------------------------------------------------------------------------------------------


@given(TEXTS, st.booleans())
@settings(max_examples=300, deadline=None)
def test_an_answer_comes_back(text: str, truncated: bool) -> None:
    target = TASK.target(Answer(text), SIZE)
    assert not re.search(r"<(/?[a-z]+|loc_\d+)>", target)
    assert TASK.parse(target, {"question": "?"}, SIZE, truncated=truncated) == Answer(text, truncated=truncated)


@given(TEXTS.filter(lambda text: unicodedata.category(text[0]) != "Cc"))
@settings(deadline=None)
def test_the_grammar_accepts_every_answer(text: str) -> None:
    assert compile_grammar(TASK.grammar({"question": "?"})).accepts(TASK.target(Answer(text), SIZE))


def test_targets() -> None:
    assert TASK.target(Answer("navy and white"), SIZE) == "navy and white"
    assert TASK.target(Answer("the <loc_5> label"), SIZE) == f"the <{JOINER}loc_5> label"
    assert TASK.target(Answer("none"), SIZE) == "none"


# -- the prompt ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "prompt"),
    [
        ("what colour are the boots?", "<vqa>what colour are the boots?"),
        ("  What COLOUR\n are  the boots? ", "<vqa>what colour are the boots?"),
        ("is this crêpe?", "<vqa>is this crêpe?"),
        ("what is <loc_5>?", f"<vqa>what is <{JOINER}loc_5>?"),
        ("what is <LOC_5><EOS>?", f"<vqa>what is <{JOINER}loc_5><{JOINER}eos>?"),
    ],
)
def test_prompts(question: str, prompt: str) -> None:
    assert TASK.prompt({"question": question}, SIZE) == prompt


@pytest.mark.parametrize("question", ["", " \n", "\u3000"])
def test_an_empty_question_is_refused(question: str) -> None:
    with pytest.raises(ValueError, match="the question is empty; ask for example"):
        TASK.prompt({"question": question}, SIZE)


# -- what a model says ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\u3000"])
def test_nothing_is_no_answer(text: str) -> None:
    with pytest.raises(ParseError, match="the answer is empty"):
        TASK.parse(text, {"question": "?"}, SIZE)
    assert TASK.parse(text, {"question": "?"}, SIZE, truncated=True) == Answer("", truncated=True)


def test_every_beginning_is_a_truncated_answer() -> None:
    text = "a crêpe <loc_5> t-shirt"
    target = TASK.target(Answer(text), SIZE)
    for end in range(len(target) + 1):
        found = TASK.parse(target[:end], {"question": "?"}, SIZE, truncated=True)
        assert found.truncated
        assert text.startswith(found.text)


def test_the_score_is_the_probability_of_the_whole_answer() -> None:
    spans = []

    def scorer(start: int, end: int) -> tuple[float, int]:
        spans.append((start, end))
        return math.log(0.5 * 0.125), 2

    assert TASK.parse("light blue", {"question": "?"}, SIZE, scorer=scorer).score == pytest.approx(0.0625)
    assert spans == [(0, 10)]
    assert TASK.parse("a", {"question": "?"}, SIZE, scorer=lambda start, end: (1e-6, 1)).score == 1.0


# -- examples ------------------------------------------------------------------------------------------------


def test_own_questions_come_first_and_as_they_are() -> None:
    found = TASK.examples(
        record(qa=[QA(question="Is it open?", answer=" not\n visible "), QA(question="how many?", answer="2")]),
        random.Random(0),
    )
    assert [(example.task, example.inputs, example.label) for example in found] == [
        ("vqa", {"question": "Is it open?"}, Answer("not visible")),
        ("vqa", {"question": "how many?"}, Answer("2")),
    ]
    assert list(TASK.examples(record(), random.Random(0))) == []


def test_few_are_drawn_and_only_by_the_generator() -> None:
    labelled = record([COAT, BOOTS, BAG], [QA(question="is it open?", answer="yes")], complete=True)
    before = random.getstate()
    draws = [[TASK.examples(labelled, random.Random(seed)) for seed in range(20)] for _ in range(2)]
    assert random.getstate() == before
    assert draws[0] == draws[1]
    for found in draws[0]:
        assert found[0].label == Answer("yes")
        assert len(found) == 1 + NUM_DRAWN
        assert len({example.inputs["question"] for example in found}) == len(found)
    assert len({tuple(example.inputs["question"] for example in found) for found in draws[0]}) > 5


def test_what_the_record_asks_is_not_drawn_again() -> None:
    own = QA(question="What  colour is the BAG?", answer="crimson")
    for seed in range(50):
        found = TASK.examples(record([BAG, BOOTS], [own]), random.Random(seed))
        about = [e.label for e in found if " ".join(e.inputs["question"].lower().split()) == "what colour is the bag?"]
        assert about == [Answer("crimson")]


def test_a_single_garment_is_named() -> None:
    asked = set()
    for seed in range(30):
        named = [e for e in TASK.examples(record([BAG]), random.Random(seed)) if e.inputs["question"] in WHAT]
        assert [example.label for example in named] == [Answer("bag")]
        asked.add(named[0].inputs["question"])
        assert not [e for e in TASK.examples(record([BAG, BOOTS]), random.Random(seed)) if e.inputs["question"] in WHAT]
    assert asked == set(WHAT)


def test_questions_of_labels() -> None:
    assert drawn(record([COAT, BOOTS])) == {
        "what colour is the coat?": {"tan and brown"},
        "which colour does the coat have?": {"tan and brown"},
        "what pattern does the coat have?": {"solid"},
        "how long are the sleeves of the coat?": {"not visible"},
        "what neckline does the coat have?": {"lapel"},
        "how long is the coat?": {"knee"},
        "how is the coat closed?": {"none"},
        "what colour are the boots?": {"black"},
        "which colour do the boots have?": {"black"},
        "how do the boots fit?": {"tight"},
        "what are the boots made of?": {"leather"},
    }


def test_the_bag_means_one_bag() -> None:
    asked = drawn(record([BAG, BAG, BOOTS], complete=True))
    assert not [question for question in asked if "the bag" in question]
    assert asked["what colour are the boots?"] == {"black"}
    assert asked["is there a bag?"] == {"yes"}


def test_absence_is_asked_about_only_where_everything_is_known() -> None:
    asked = drawn(record([COAT, BOOTS], complete=True))
    existence = {question: answers for question, answers in asked.items() if re.match("(is|are) th", question)}
    assert existence["is there a coat?"] == existence["are there boots?"] == {"yes"}
    assert existence["is the person wearing boots?"] == {"yes"}
    assert existence["are there earrings?"] == existence["is there a tie?"] == {"no"}
    # Somebody may call the coat a jacket and the boots shoes.
    for name in ("a jacket", "a cape", "shoes", "heels"):
        assert not [question for question in existence if question.endswith(f" {name}?")]
    assert not [question for question in drawn(record([COAT, BOOTS])) if re.match("(is|are) th", question)]
    assert drawn(record(complete=True)) == {}
