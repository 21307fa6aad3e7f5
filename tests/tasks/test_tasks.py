"""Whatever a record holds, every task asks what it can answer, and the same in every process."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import TASKS
from tasks.base import QA, ObjectLabel, Record, TextLabel
from tasks.boxes import NUM_BINS, Box, ImageSize, decode_box
from tasks.grammar import compile_grammar
from tasks.ontology import default_ontology
from tasks.results import Answer, Grounding

ONTOLOGY = default_ontology()
GARMENTS = st.sampled_from(list(ONTOLOGY.garments))
PIECES = ["<loc_5>", "<caption>", "<", ">", "\u2060", "crêpe", "t-shirt", "裙子", "👗", " ", ";", ": ", "none"]
WORDS = (
    st.lists(st.sampled_from(PIECES) | st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1)
    .map(lambda pieces: " ".join("".join(pieces).split()))
    .filter(bool)
)
SIZES = st.tuples(st.integers(1, 4000), st.integers(1, 4000))


@st.composite
def boxes(draw: st.DrawFn, image_size: ImageSize) -> Box:
    """At bin centres, so that a box comes back as it was; how near other boxes come is tested with the boxes."""
    bins = [draw(st.integers(0, NUM_BINS - 1)) for _ in range(4)]
    return decode_box([*map(min, bins[:2], bins[2:]), *map(max, bins[:2], bins[2:])], image_size)


@st.composite
def values(draw: st.DrawFn, name: str) -> tuple[str, ...]:
    """None is as good as an attribute that is not there."""
    most = ONTOLOGY.num_values.get(name, 1)
    return tuple(draw(st.lists(st.sampled_from(ONTOLOGY.values[name]), max_size=most, unique=True)))


def _attributes(label: str) -> st.SearchStrategy[Mapping[str, tuple[str, ...]]]:
    names = ONTOLOGY.attributes_of(label)
    return st.fixed_dictionaries({}, optional={name: values(name) for name in names})


@st.composite
def records(draw: st.DrawFn) -> Record:
    size = draw(SIZES)
    complete, boxed = draw(st.booleans()), draw(st.booleans())
    words = draw(st.lists(GARMENTS, max_size=4))
    objects = tuple(
        ObjectLabel(
            label=word,
            box=draw(boxes(size) if boxed else st.none() | boxes(size)),
            attributes=draw(_attributes(word)),
            phrases=tuple(draw(st.lists(WORDS, max_size=1))),
        )
        for word in words
    )
    return Record(
        id="1",
        image="1.jpg",
        image_size=size,
        captions=tuple(draw(st.lists(st.builds(TextLabel, text=WORDS), max_size=2))),
        objects=objects,
        qa=tuple(draw(st.lists(st.builds(QA, question=WORDS, answer=WORDS), max_size=2))),
        objects_complete=complete,
        boxes_complete=boxed,
    )


@given(records(), st.integers(0, 9))
@settings(deadline=None, max_examples=60)
def test_every_example_can_be_asked_and_answered(record: Record, seed: int) -> None:
    size = record.image_size
    for task in TASKS.values():
        found = task.examples(record, random.Random(seed))
        assert list(found) == list(task.examples(record, random.Random(seed)))
        for example in found:
            assert example.task == task.name
            prompt = task.prompt(example.inputs, size)
            assert prompt.startswith(task.token)
            assert [other.token for other in TASKS.values() if other.token in prompt] == [task.token]
            target = task.target(example.label, size)
            assert compile_grammar(task.grammar(example.inputs)).accepts(target)
            assert task.parse(target, example.inputs, size) == example.label


@given(records(), st.integers(0, 9))
@settings(deadline=None, max_examples=50)
def test_what_is_not_complete_is_not_called_absent(record: Record, seed: int) -> None:
    record = replace(record, objects_complete=False)
    assert not TASKS["detection"].examples(record, random.Random(seed))
    for example in TASKS["grounding"].examples(record, random.Random(seed)):
        assert isinstance(example.label, Grounding)
        assert example.label.boxes
    own = {" ".join(item.answer.split()) for item in record.qa}
    for example in TASKS["vqa"].examples(record, random.Random(seed)):
        assert isinstance(example.label, Answer)
        assert example.label.text not in ("yes", "no") or example.label.text in own


DIGEST = """
import random
from tasks import TASKS
from tasks.base import ObjectLabel, Record
from tasks.boxes import Box

coat = ObjectLabel(label="coat", box=Box(1, 2, 30, 40), attributes={"colour": ("tan",), "closure": ("none",)})
boots = ObjectLabel(label="boots", box=Box(1, 50, 9, 60), attributes={"colour": ("black",)})
record = Record(id="1", image="1.jpg", image_size=(99, 99), objects=(boots, coat), objects_complete=True)
for seed in range(5):
    print([task.examples(record, random.Random(seed)) for task in TASKS.values()])
"""


def test_examples_are_the_same_in_every_process() -> None:
    """Python hashes words anew in each, and sets of words come out in another order."""
    said = [
        subprocess.run(
            [sys.executable, "-c", DIGEST],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1]
    assert said[0].count("Example(") > 20
