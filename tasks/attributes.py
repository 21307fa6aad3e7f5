"""Tell a garment's attributes: colour, pattern, sleeve, neckline, length, fit, material, closure."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from tasks.base import Example, ObjectLabel, ParseError, Record, SpanScorer
from tasks.boxes import Box, ImageSize, encode_box
from tasks.grammar import Choice, Grammar, Literal, Repeat
from tasks.grammar import Sequence as Then
from tasks.ontology import default_ontology
from tasks.results import Attributes, Value

__all__ = ["AttributesTask", "value_spans"]

SUBSET_SHARE = 0.3
"""Share of the examples that ask for some of the labelled attributes instead of all."""


class AttributesTask:
    """ "<attributes>coat<loc_120><loc_88><loc_700><loc_640>" -> "colour: tan; sleeve: long; neckline: not visible"

    The garment is given by its word, its box, or both. Which attributes are asked for stands in the inputs and goes
    into the grammar; the order is the ontology's.
    """

    name: ClassVar[str] = "attributes"
    token: ClassVar[str] = "<attributes>"
    max_new_tokens: ClassVar[int] = 96

    def examples(self, record: Record, rng: random.Random) -> Sequence[Example]:
        """One a garment with labels, asked for by word and box, by box alone, or by a word that means only one."""
        labels = [item.label for item in record.objects]
        found = []
        for item in record.objects:
            ways: list[tuple[str | None, Box | None]] = []
            if item.box is not None:
                ways += [(item.label, item.box)] * 3 + [(None, item.box)]
            if labels.count(item.label) == 1:
                ways += [(item.label, None)] * (1 if item.box is not None else 3)
            label = _label(item, rng)
            if ways and label.values:
                garment, box = rng.choice(ways)
                inputs = {"garment": garment, "box": box, "attributes": tuple(label.values)}
                found.append(Example(task=self.name, inputs=inputs, label=label))
        return found

    def prompt(self, inputs: Mapping[str, Any], image_size: ImageSize) -> str:
        """Raises ValueError where neither garment nor box is given, or the garment is unknown."""
        garment, box = inputs.get("garment"), inputs.get("box")
        if garment is None and box is None:
            raise ValueError("attributes are of a garment; give its word, its box, or both")
        default_ontology().attributes_of(garment)
        return f"{self.token}{garment or ''}{'' if box is None else encode_box(box, image_size)}"

    def target(self, label: Attributes, image_size: ImageSize) -> str:
        return "; ".join(f"{name}: {', '.join(value.values)}" for name, value in label.values.items())

    def grammar(self, inputs: Mapping[str, Any]) -> Grammar:
        """Exactly the attributes that are asked for, each with values of the ontology."""
        ontology = default_ontology()
        parts: list[Grammar] = []
        for name in inputs["attributes"]:
            if name not in ontology.values:
                raise ValueError(f"unknown attribute {name!r}; known: {', '.join(ontology.values)}")
            value: Grammar = Choice(tuple(Literal(word) for word in ontology.values[name]))
            most = ontology.num_values.get(name, 1)
            parts.append(Literal(f"{'; ' if parts else ''}{name}: "))
            parts.append(value if most == 1 else Repeat(value, Literal(", "), max=most))
        if not parts:
            raise ValueError(f"no attributes are asked for; known: {', '.join(ontology.values)}")
        return Then(tuple(parts))

    def parse(
        self,
        text: str,
        inputs: Mapping[str, Any],
        image_size: ImageSize,
        *,
        scorer: SpanScorer | None = None,
        truncated: bool = False,
    ) -> Attributes:
        """Values by attribute. A value's score is the probability of its first word, the dominant one.

        Raises:
            ParseError: other attributes than were asked for, or a value that the ontology has not, or too many of them.
                What the token limit cut (`truncated`) is left out instead.
        """
        ontology = default_ontology()
        asked = tuple(inputs["attributes"])
        found: dict[str, Value] = {}
        position = 0
        parts = text.split("; ")
        for number, part in enumerate(parts):
            if truncated and number == len(parts) - 1:
                break
            name, colon, said = part.partition(": ")
            if not colon or name not in asked or name in found:
                raise ParseError(f"{part!r} is not one of the attributes asked for: {', '.join(asked)}")
            words = said.split(", ")
            most = ontology.num_values.get(name, 1)
            unknown = [word for word in words if word not in ontology.values[name]]
            if unknown:
                raise ParseError(f"{unknown[0]!r} is no {name}; known: {', '.join(ontology.values[name])}")
            if len(words) > most:
                raise ParseError(f"{part!r} has {len(words)} values; expected at most {most}")
            start = position + len(name) + 2
            total, _ = scorer(start, start + len(words[0])) if scorer else (0.0, 0)
            found[name] = Value(tuple(dict.fromkeys(words)), min(1.0, math.exp(total)))
            position += len(part) + 2
        missing = [name for name in asked if name not in found]
        if missing and not truncated:
            raise ParseError(f"{missing[0]} was asked for and is missing in {text!r}")
        return Attributes(found, truncated)


def value_spans(label: Attributes) -> Iterator[tuple[str, str, int, int]]:
    """(attribute, word, start, end) of every word of a value, in characters of `AttributesTask.target`."""
    position = 0
    for name, value in label.values.items():
        position += len(f"{name}: ")
        for word in value.values:
            yield name, word, position, position + len(word)
            position += len(word) + 2  # ", ", or "; " before the next attribute


def _label(item: ObjectLabel, rng: random.Random) -> Attributes:
    ontology = default_ontology()
    known = {name: item.attributes[name] for name in ontology.attributes_of(item.label) if item.attributes.get(name)}
    if len(known) > 1 and rng.random() < SUBSET_SHARE:
        chosen = rng.sample(list(known), rng.randint(1, len(known) - 1))
        known = {name: values for name, values in known.items() if name in chosen}
    return Attributes(
        {name: Value(tuple(values[: ontology.num_values.get(name, 1)])) for name, values in known.items()}
    )
