"""Find what a phrase means: one box, several, or none."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from tasks.base import Example, ObjectLabel, ParseError, Record, SpanScorer, escape
from tasks.boxes import BOX_TEXT, LOCATION, Box, ImageSize, encode_box, parse_box, sort_key
from tasks.grammar import BOX, Choice, Grammar, Literal, Repeat
from tasks.ontology import default_ontology
from tasks.results import Grounding
from tasks.vqa import may_pass_for, question_words

__all__ = ["GroundingTask"]

NONE = "none"
MAX_BOXES = 8
_CUT_BOX = re.compile(rf"(?:{LOCATION.pattern}){{0,3}}(?:<[loc_0-9]*)?")
_COLOURS_APART = {
    "black": ("white", "red", "yellow", "beige", "pink"),
    "white": ("black", "red", "navy", "green", "brown"),
    "grey": ("red", "yellow", "green", "orange", "pink"),
    "red": ("blue", "green", "white", "black", "yellow"),
    "burgundy": ("white", "green", "yellow", "light blue", "grey"),
    "orange": ("blue", "white", "black", "green", "purple"),
    "yellow": ("black", "blue", "red", "purple", "grey"),
    "green": ("white", "red", "black", "pink", "purple"),
    "olive": ("white", "red", "blue", "pink", "purple"),
    "teal": ("white", "red", "black", "yellow", "pink"),
    "blue": ("red", "yellow", "white", "brown", "pink"),
    "navy": ("white", "red", "yellow", "beige", "pink"),
    "light blue": ("black", "red", "yellow", "brown", "orange"),
    "purple": ("white", "green", "yellow", "orange", "beige"),
    "pink": ("black", "blue", "green", "brown", "navy"),
    "brown": ("blue", "white", "green", "pink", "purple"),
    "tan": ("black", "white", "blue", "green", "purple"),
    "beige": ("black", "red", "blue", "green", "purple"),
    "gold": ("black", "white", "blue", "red", "green"),
    "silver": ("black", "red", "green", "orange", "brown"),
}
"""Colours that nobody takes for one another. A transparent or multicoloured thing may be called anything."""


class GroundingTask:
    """ "<ground>the tan coat" -> "<loc_120><loc_88><loc_700><loc_640>", several boxes in a row, or "none"."""

    name: ClassVar[str] = "grounding"
    token: ClassVar[str] = "<ground>"
    max_new_tokens: ClassVar[int] = 4 * MAX_BOXES + 1

    def examples(self, record: Record, rng: random.Random) -> Sequence[Example]:
        """Phrases for the objects with boxes, and about half as many that mean nothing in the picture."""
        present = list(_present(record, rng))
        asked = [(phrase, boxes) for phrase, boxes in present if boxes]
        if record.objects_complete and asked:
            absent = [(phrase, ()) for phrase in _absent(record, rng)]
            asked += absent[: max(1, (len(asked) + 1) // 2)]
        found: dict[str, tuple[str, tuple[Box, ...]]] = {}
        for phrase, boxes in asked:
            found.setdefault(question_words(phrase), (phrase, boxes))
        return [
            Example(
                task=self.name,
                inputs={"phrase": phrase},
                label=Grounding(phrase, tuple((box, 1.0) for box in sorted(boxes, key=sort_key))),
            )
            for phrase, boxes in found.values()
        ]

    def prompt(self, inputs: Mapping[str, Any], image_size: ImageSize) -> str:
        """Raises ValueError for an empty phrase."""
        phrase = question_words(inputs["phrase"])
        if not phrase:
            raise ValueError("the phrase is empty; ask for example for 'the red bag'")
        return f"{self.token}{escape(phrase)}"

    def target(self, label: Grounding, image_size: ImageSize) -> str:
        return "".join(encode_box(box, image_size) for box, _ in label.boxes[:MAX_BOXES]) or NONE

    def grammar(self, inputs: Mapping[str, Any]) -> Grammar:
        return Choice((Literal(NONE), Repeat(BOX, max=MAX_BOXES)))

    def parse(
        self,
        text: str,
        inputs: Mapping[str, Any],
        image_size: ImageSize,
        *,
        scorer: SpanScorer | None = None,
        truncated: bool = False,
    ) -> Grounding:
        """Raises ParseError for anything but whole boxes or "none"; what the token limit cut is left out."""
        phrase = str(inputs["phrase"])
        total, _ = scorer(0, len(text)) if scorer else (0.0, 0)
        score = min(1.0, math.exp(total))
        if text == NONE:
            return Grounding(phrase, (), score, truncated)
        boxes: list[tuple[Box, float]] = []
        position = 0
        while match := BOX_TEXT.match(text, position):
            part, _ = scorer(match.start(), match.end()) if scorer else (0.0, 0)
            boxes.append((parse_box(match[0], image_size), min(1.0, math.exp(part))))
            position = match.end()
        rest = text[position:]
        cut = truncated and (_CUT_BOX.fullmatch(rest) is not None or (not boxes and NONE.startswith(rest)))
        if (rest and not cut) or not (boxes or truncated):
            raise ParseError(f"{rest!r} is neither a box of four locations nor {NONE!r}")
        return Grounding(phrase, tuple(boxes), score, truncated)


def _present(record: Record, rng: random.Random) -> Iterator[tuple[str, tuple[Box, ...]]]:
    """Phrases of the garments and what they mean; no boxes where one of the things meant has none."""
    for item in record.objects:
        if item.box is None:
            continue
        for phrase in item.phrases:
            yield phrase, _boxes(other for other in record.objects if phrase in other.phrases)
        same = [other for other in record.objects if other.label == item.label]
        yield f"the {item.label}", _boxes(same)
        adjectives = _adjectives(item)
        if adjectives:
            chosen = rng.choice(adjectives)
            meant = [other for other in same if chosen in _adjectives(other)]
            # Second colours make "the white shirt" a matter of taste; of two shirts it must not be one.
            if len(meant) == 1:
                yield f"the {chosen} {item.label}", _boxes(meant)


def _adjectives(item: ObjectLabel) -> list[str]:
    words = list(item.attributes.get("colour", ())[:1])
    words += [value for value in item.attributes.get("pattern", ())[:1] if value != "solid"]
    words += [f"{value}-sleeved" for value in item.attributes.get("sleeve", ())[:1] if value in ("long", "short")]
    return words


def _boxes(items: Iterator[ObjectLabel] | Sequence[ObjectLabel]) -> tuple[Box, ...]:
    boxes = [item.box for item in items]
    return tuple(box for box in boxes if box is not None) if all(boxes) else ()


def _absent(record: Record, rng: random.Random) -> Iterator[str]:
    """Garments that nobody wears, then garments that are worn in another colour."""
    labels = [item.label for item in record.objects]
    names = [name for name in default_ontology().garments if name not in labels and not may_pass_for(name, labels)]
    phrases = [f"the {name}" for name in rng.sample(names, min(4, len(names)))]
    for item in rng.sample(list(record.objects), min(2, len(record.objects))):
        colours = item.attributes.get("colour", ())
        if colours and labels.count(item.label) == 1:
            # Apart from both of its colours: "the beige coat" is no lie about one in black and tan.
            apart = [set(_COLOURS_APART.get(colour, ())) for colour in colours]
            other = sorted(set.intersection(*apart))
            if other:
                phrases.append(f"the {rng.choice(other)} {item.label}")
    rng.shuffle(phrases)
    yield from phrases
