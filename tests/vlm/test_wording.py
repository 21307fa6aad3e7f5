"""Language of known garments: all that is said is read again, by other means, and looked up in the labels."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache

import pytest

from tasks import TASKS
from tasks.base import QA, ObjectLabel, Record, TextLabel
from tasks.boxes import Box
from tests.vlm.answering import Reader
from tests.vlm.reading import (
    ACCESSORIES,
    FOOTWEAR,
    LOWER,
    ONTOLOGY,
    WHOLE,
    check_caption,
    check_phrase,
    check_setting,
    mentions,
)
from vlm.synthetic.wording import MAX_WORDS, describe_record

NUM_RECORDS = 1000
FIRST = (0, *(pytest.param(first, marks=pytest.mark.slow) for first in (1000, 2000, 3000)))
"""Numbers of the records that are drawn and read; the later thousands only in the long run of the tests."""

# -- records ----------------------------------------------------------------------------------------------


def make_records(num: int, first: int = 0) -> list[Record]:
    return [make_record(number) for number in range(first, first + num)]


def make_record(number: int) -> Record:
    """Half of them dressed, with boxes where such things are; half of them anything anywhere."""
    rng = random.Random(f"record {number}")
    groups: dict[str, str] = {}
    style = rng.choice(("person", "person", "anything", "flat", "hanger", "bare"))
    if style == "person":
        groups = {"kind": "person", "crop": rng.choice(("full", "full", "upper", "lower"))}
        groups["background"] = rng.choice(("street", "park", "wall", "white", "clutter"))
        groups["pose"] = rng.choice(("standing", "walking", "arms crossed", "sitting", "turned"))
        objects = tuple(dressed(rng, groups["crop"]))
        if rng.random() < 0.15:
            plain = {"colour": (rng.choice(("black", "white", "navy", "light blue")),), "pattern": ("solid",)}
            objects = tuple(replace(item, attributes={**item.attributes, **plain}) for item in objects)
    elif style == "anything":
        labels = rng.choices(list(ONTOLOGY.garments), k=rng.randint(0, 9))
        objects = tuple(garment(label, anywhere(rng), rng) for label in labels)
    else:
        groups = {} if style == "bare" else {"kind": style, "background": rng.choice(("table", "bed", "white"))}
        label = rng.choice(list(ONTOLOGY.garments))
        objects = tuple(garment(label, anywhere(rng), rng) for _ in range(rng.choice((1, 1, 1, 2))))
    return Record(
        id=str(number), image="a.jpg", image_size=(600, 400), objects=objects, objects_complete=True, groups=groups
    )


def anywhere(rng: random.Random) -> Box | None:
    x1, y1 = rng.uniform(0, 380), rng.uniform(0, 580)
    return rng.choice((Box(x1, y1, rng.uniform(x1 + 5, 400), rng.uniform(y1 + 5, 600)),) * 5 + (None,))


def dressed(rng: random.Random, crop: str) -> Iterator[ObjectLabel]:
    def at(label: str, x1: float, y1: float, x2: float, y2: float) -> ObjectLabel:
        x, y = rng.uniform(-10, 10), rng.uniform(-10, 10)
        return garment(label, Box(x1 + x, y1 + y, x2 + x, y2 + y), rng)

    if rng.random() < 0.5:
        yield at(rng.choice(("coat", "jacket", "blazer", "cape")), 100, 110, 300, 400)
    if rng.random() < 0.3:
        yield at(rng.choice(("cardigan", "vest", "sweater", "hoodie")), 105, 110, 295, 320)
    if rng.random() < 0.2:
        yield at(rng.choice(WHOLE), 120, 120, 280, 430)
    else:
        yield at(rng.choice(("shirt", "t-shirt", "blouse", "top", "tank top")), 115, 115, 285, 310)
        yield at(rng.choice(LOWER), 120, 290, 280, 500)
    if crop != "upper" and rng.random() < 0.9:
        yield at(rng.choice(FOOTWEAR), 130, 540, 270, 585)
    places = {"hat": (160, 15, 240, 60), "sunglasses": (175, 65, 225, 80), "scarf": (160, 100, 240, 210)}
    places |= {"belt": (140, 290, 260, 305), "watch": (300, 300, 312, 312), "necklace": (170, 110, 230, 160)}
    for label, place in places.items():
        if rng.random() < 0.3 and not (crop == "lower" and label in ("hat", "sunglasses")):
            yield at(label, *place)
    for place in ((15, 300, 95, 420), (305, 300, 385, 420)):
        if rng.random() < 0.35:
            yield at(rng.choice(("bag", "bag", "clutch", "backpack")), *place)


def garment(label: str, box: Box | None, rng: random.Random) -> ObjectLabel:
    attributes: dict[str, tuple[str, ...]] = {}
    for name in ONTOLOGY.garments[label]:
        if rng.random() < 0.1:
            continue
        words: Sequence[str] = ONTOLOGY.values[name]
        if rng.random() < 0.5:  # so that garments have something in common
            words = {"pattern": ("solid",), "colour": ("black", "white", "red", "blue")}.get(name, words)
        attributes[name] = tuple(rng.sample(words, min(len(words), 1 + (name == "colour" and rng.random() < 0.3))))
    return ObjectLabel(label=label, box=box, attributes=attributes)


@cache
def described(first: int = 0) -> list[Record]:
    return [describe_record(record, random.Random(record.id)) for record in make_records(NUM_RECORDS, first)]


# -- captions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", FIRST)
def test_captions_say_what_is_worn_and_nothing_else(first: int) -> None:
    numbers = [check_caption(caption.text, record) for record in described(first) for caption in record.captions]
    assert len(numbers) > NUM_RECORDS
    assert sum(numbers) / len(numbers) > 2.5


def test_one_colour_for_all_clothes() -> None:
    said = [caption.text for record in described() for caption in record.captions]
    assert sum(" in black wears" in text or " in white wears" in text for text in said) > 2


@pytest.mark.parametrize("first", FIRST)
def test_captions_are_short_and_name_all_clothes_of_a_person(first: int) -> None:
    for record in described(first):
        for caption in record.captions:
            assert len(caption.text.split()) <= MAX_WORDS[caption.detail], caption.text
            assert re.fullmatch(r"[A-Z].*\.", caption.text)
            assert " a a" not in caption.text and " an b" not in caption.text and "  " not in caption.text
        if record.groups.get("kind") == "person":
            text = check_setting(record.captions[1].text, record)
            clothes = sorted(item.label for item in record.objects if item.label not in ACCESSORIES)
            named = sorted(label for label, number, _ in mentions(text) for _ in range(number))
            assert [label for label in named if label not in ACCESSORIES] == clothes
    lengths = [len(r.captions[1].text.split()) for r in described(first) if r.groups.get("kind") == "person"]
    assert 25 <= sum(lengths) / len(lengths) <= 45


def test_captions_vary() -> None:
    record = replace(make_record(3), captions=())
    texts = {describe_record(record, random.Random(seed)).captions[1].text for seed in range(20)}
    assert len(texts) > 15


# -- phrases -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", FIRST)
def test_a_phrase_means_exactly_the_objects_that_carry_it(first: int) -> None:
    number = distinguishing = 0
    for record in described(first):
        for phrase in {phrase for item in record.objects for phrase in item.phrases}:
            check_phrase(phrase, record.objects)
            carriers = [item for item in record.objects if phrase in item.phrases]
            number += 1
            assert not (record.groups.get("kind") in ("flat", "hanger") and "worn" in phrase)
            distinguishing += len(carriers) < sum(item.label == carriers[0].label for item in record.objects)
    assert number > NUM_RECORDS
    assert distinguishing > 50


# -- questions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", FIRST)
def test_every_answer_follows_from_the_labels(first: int) -> None:
    number = 0
    for record in described(first):
        reader = Reader(record)
        assert len({qa.question for qa in record.qa}) == len(record.qa) <= 8
        for qa in record.qa:
            assert reader.answer(qa.question) == qa.answer, (qa, record)
            number += 1
    assert number > 4 * NUM_RECORDS


def test_yes_and_no_are_balanced_in_every_kind_of_question() -> None:
    answers: dict[str, list[str]] = {}
    for record in described():
        if record.groups.get("kind") == "person":
            for qa in record.qa:
                if qa.answer in ("yes", "no"):
                    answers.setdefault(kind_of_question(qa.question), []).append(qa.answer)
    every = [answer for found in answers.values() for answer in found]
    assert 0.44 <= every.count("yes") / len(every) <= 0.56
    for kind, found in answers.items():
        if len(found) > 60:
            assert 0.3 <= found.count("yes") / len(found) <= 0.7, (kind, len(found))
    assert len(answers) >= 5


def kind_of_question(question: str) -> str:
    for word in ("same", "left", "right", "above", "below", "there", "person", "sleeves", "made"):
        if re.search(rf"\b{word}\b", question):
            return word
    return "is"


def test_all_kinds_of_answers_come() -> None:
    answers = [qa.answer for record in described() for qa in record.qa]
    for answer in ("yes", "no", "two", "not visible", "none", "left", "right", "striped", "black", "coat", "long"):
        assert answers.count(answer) >= 3, answer


def test_nothing_is_denied_beyond_the_edge_of_the_photo() -> None:
    for record in described():
        crop = record.groups.get("crop")
        beyond = {"upper": (*FOOTWEAR, "socks"), "lower": ("hat", "cap", "sunglasses", "glasses")}.get(crop or "", ())
        for qa in record.qa:
            if qa.answer == "no" and (match := re.search(r"(?:there|wearing) (?:an? )?([a-z -]+)\?", qa.question)):
                assert match[1] not in beyond, qa


# -- as a whole ---------------------------------------------------------------------------------------------


def test_same_record_and_state_same_language() -> None:
    for record in make_records(40):
        first, second = (describe_record(record, random.Random(5)) for _ in range(2))
        assert first == second
        assert replace(first, captions=(), qa=(), objects=record.objects) == record


def test_what_a_record_brings_along_stays_and_changes_nothing_else() -> None:
    record = make_record(3)
    plain = describe_record(record, random.Random(1))
    caption, qa = TextLabel(text="A photo."), QA(question="who is it?", answer="someone")
    kept = describe_record(replace(record, captions=(caption,), qa=(qa,)), random.Random(1))
    assert (kept.captions, kept.qa, kept.objects) == ((caption,), (qa,), plain.objects)
    named = tuple(replace(item, phrases=("this one",)) for item in record.objects)
    kept = describe_record(replace(record, objects=named), random.Random(1))
    assert (kept.captions, kept.qa, kept.objects) == (plain.captions, plain.qa, named)


def test_a_record_that_may_lack_garments_is_refused() -> None:
    with pytest.raises(ValueError, match="record 3: objects_complete is false"):
        describe_record(replace(make_record(3), objects_complete=False), random.Random(0))


def test_nothing_worn() -> None:
    empty = Record(id="1", image="a.jpg", image_size=(60, 40), objects_complete=True)
    assert describe_record(empty, random.Random(0)) == empty


def test_tasks_take_the_language() -> None:
    record = described()[3]
    for name in ("caption", "vqa", "grounding"):
        for example in TASKS[name].examples(record, random.Random(0)):
            assert TASKS[name].prompt(example.inputs, record.image_size)
            assert TASKS[name].target(example.label, record.image_size)
