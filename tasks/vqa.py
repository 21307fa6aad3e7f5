"""Answer a question about the picture."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from tasks.base import Example, ObjectLabel, ParseError, Record, SpanScorer, escape, unescape
from tasks.boxes import ImageSize
from tasks.grammar import FreeText, Grammar
from tasks.ontology import NOT_VISIBLE, default_ontology
from tasks.readers.wording import article, colour_words, is_plural
from tasks.results import Answer

__all__ = ["VqaTask", "drawn_questions", "may_pass_for", "question_words"]

NUM_DRAWN = 3
"""Most questions that are made up out of the labels."""
WHAT = ("what is this?", "what garment is shown?")
NUM_ABSENT = 2
"""Garments asked about that nobody wears; as many that are worn are asked about."""


class VqaTask:
    """ "<vqa>what colour are the boots?" -> "brown" """

    name: ClassVar[str] = "vqa"
    token: ClassVar[str] = "<vqa>"
    max_new_tokens: ClassVar[int] = 24

    def examples(self, record: Record, rng: random.Random) -> Sequence[Example]:
        """The record's own questions, and questions that its objects answer."""
        asked = [(item.question, item.answer) for item in record.qa]
        known = {question_words(question) for question, _ in asked}
        drawn = [pair for pair in drawn_questions(record, rng) if question_words(pair[0]) not in known]
        # Few, so that a record's own questions are not drowned in them.
        asked += rng.sample(drawn, min(NUM_DRAWN, len(drawn)))
        if len(record.objects) == 1 and not known & set(WHAT):
            asked.append((rng.choice(WHAT), record.objects[0].label))
        return [
            Example(task=self.name, inputs={"question": question}, label=Answer(" ".join(answer.split())))
            for question, answer in asked
        ]

    def prompt(self, inputs: Mapping[str, Any], image_size: ImageSize) -> str:
        """Capitals and spacing say nothing here and are levelled.

        Raises:
            ValueError: an empty question.
        """
        question = question_words(inputs["question"])
        if not question:
            raise ValueError("the question is empty; ask for example 'what colour are the boots?'")
        return f"{self.token}{escape(question)}"

    def target(self, label: Answer, image_size: ImageSize) -> str:
        return escape(label.text)

    def grammar(self, inputs: Mapping[str, Any]) -> Grammar:
        return FreeText()

    def parse(
        self,
        text: str,
        inputs: Mapping[str, Any],
        image_size: ImageSize,
        *,
        scorer: SpanScorer | None = None,
        truncated: bool = False,
    ) -> Answer:
        """Raises ParseError where nothing was said, unless the token limit is to blame."""
        said = unescape(text).strip()
        if not said and not truncated:
            raise ParseError("the answer is empty")
        total, _ = scorer(0, len(text)) if scorer else (0.0, 0)
        return Answer(said, min(1.0, math.exp(total)), truncated)


def question_words(question: str) -> str:
    """As the prompt has it: small letters, single spaces."""
    return " ".join(question.lower().split())


def drawn_questions(record: Record, rng: random.Random) -> Iterator[tuple[str, str]]:
    """Questions that the labels of the objects answer: attributes, and whether a garment is there at all."""
    labels = [item.label for item in record.objects]
    for item in record.objects:
        if labels.count(item.label) == 1:  # "the bag" means one
            yield from _about(item, rng)
    if record.objects_complete and labels:
        garments = default_ontology().garments
        absent = rng.sample([name for name in garments if name not in labels], NUM_ABSENT)
        worn = rng.sample(sorted(set(labels)), min(NUM_ABSENT, len(set(labels))))
        for name, answer in [(name, "no") for name in absent] + [(name, "yes") for name in worn]:
            if not (answer == "no" and may_pass_for(name, labels)):
                yield _existence(name, rng), answer


_PASSES = (
    {"shirt", "blouse", "top", "t-shirt", "tank top", "polo shirt", "kurta"},
    {"sweater", "cardigan", "sweatshirt", "hoodie"},
    {"jacket", "coat", "blazer", "cape", "cardigan"},
    {"shoes", "sneakers", "sandals", "heels", "flats", "loafers", "lace-up shoes", "boots"},
    {"trousers", "jeans", "leggings", "tights"},
    {"hat", "cap"}, {"bag", "backpack", "clutch"}, {"glasses", "sunglasses"}, {"tie", "bow tie"},
    {"bracelet", "watch"}, {"dress", "jumpsuit", "skirt"},
)  # fmt: skip


def may_pass_for(name: str, labels: Sequence[str]) -> bool:
    """Whether somebody might call one of `labels` by this name: then "no" would be a quibble."""
    return any(name in group and group & set(labels) for group in _PASSES)


def _existence(name: str, rng: random.Random) -> str:
    thing = name if is_plural(name) else f"{article(name)} {name}"
    be = "are" if is_plural(name) else "is"
    return rng.choice(
        (f"is there {thing}?" if be == "is" else f"are there {thing}?", f"is the person wearing {thing}?")
    )


def _about(item: ObjectLabel, rng: random.Random) -> Iterator[tuple[str, str]]:
    be, do = ("are", "do") if is_plural(item.label) else ("is", "does")
    for name, values in item.attributes.items():
        if not values:
            continue
        value = values[0]
        thing = f"the {item.label}"
        if name == "colour":
            yield rng.choice((f"what colour {be} {thing}?", f"which colour {do} {thing} have?")), colour_words(values)
        elif name == "pattern":
            yield f"what pattern {do} {thing} have?", value
        elif name == "sleeve":
            yield f"how long are the sleeves of {thing}?", value
        elif name == "neckline":
            yield f"what neckline {do} {thing} have?", value
        elif name == "length":
            yield f"how long {be} {thing}?", value
        elif name == "fit" and value != NOT_VISIBLE:
            yield f"how {do} {thing} fit?", value
        elif name == "material" and value != "not clear":
            yield f"what {be} {thing} made of?", value
        elif name == "closure":
            yield f"how {be} {thing} closed?", value
