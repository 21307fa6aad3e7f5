"""The contracts of a task: Record in, Example out, text both ways.

A `Record` holds all that is known of one image; a task draws `Example`s from it. Prompts and targets
are plain text in which location tokens (`<loc_120>`) and task tokens (`<caption>`) are written out;
words that come from people are passed through `escape` so that they can never become such a token.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

from tasks.boxes import Box, ImageSize
from tasks.errors import ParseError
from tasks.grammar import Grammar
from tasks.results import Result

__all__ = [
    "QA",
    "Example",
    "ObjectLabel",
    "ParseError",
    "Provenance",
    "Record",
    "SpanScorer",
    "Task",
    "TextLabel",
    "escape",
    "token_probability",
    "unescape",
]

_WORD_JOINER = "\u2060"
# A word joiner that is already there gets another one, so that `unescape` gives it back.
_SPECIAL = re.compile(rf"<(?={_WORD_JOINER}|/?[a-z]+(?:_\d+)?>)")


def escape(text: str) -> str:
    """Make people's words safe inside a prompt or target: a literal `<loc_5>` stays five letters.

    The zero-width word joiner goes after the `<`; `unescape` takes it out again.
    """
    return _SPECIAL.sub("<" + _WORD_JOINER, text)


def unescape(text: str) -> str:
    return text.replace("<" + _WORD_JOINER, "<")


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Where a label came from: data set, who or what made it, and how sure they were."""

    source: str
    annotator: str | None = None
    score: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TextLabel:
    """A caption. `detail` is "brief" or "detailed"."""

    text: str
    detail: str = "brief"
    provenance: Provenance | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class QA:
    question: str
    answer: str
    provenance: Provenance | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectLabel:
    """A garment in the image.

    Attributes:
        label: garment word of the ontology.
        box: the whole visible garment, or None where only its presence is known.
        attributes: attribute name -> values. An attribute that is absent is unlabelled, not "none".
        phrases: referring phrases that mean this object.
        parts: boxes of its separate regions (each shoe of a pair), for readers that know them.
        attribute_provenance: attribute name -> where this one label came from, where that is not `provenance`: labels
            by rule, which fill what the annotation leaves open.
    """

    label: str
    box: Box | None = None
    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    phrases: tuple[str, ...] = ()
    parts: tuple[Box, ...] = ()
    provenance: Provenance | None = None
    attribute_provenance: Mapping[str, Provenance] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """All that is known of one image.

    Attributes:
        id: unique within its source.
        image: path of the image file; relative paths are relative to the record file.
        image_size: (height, width) in pixels, after EXIF rotation.
        objects_complete: every garment is in `objects`, so absence means "not worn".
        boxes_complete: every object has its box. With `objects_complete`, detection may be trained on it.
        groups: names of groups for splits and audits, e.g. {"contributor": "12"}.
        split: "train" or "validation".
    """

    id: str
    image: str
    image_size: ImageSize
    captions: tuple[TextLabel, ...] = ()
    objects: tuple[ObjectLabel, ...] = ()
    qa: tuple[QA, ...] = ()
    objects_complete: bool = False
    boxes_complete: bool = False
    groups: Mapping[str, str] = field(default_factory=dict)
    split: str = "train"
    provenance: Provenance | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One prompt and its right answer for one record.

    Attributes:
        task: key in `tasks.TASKS`.
        inputs: what the prompt is made of, e.g. {"question": "..."}.
        label: the typed result (every score 1.0).
        weight: factor on its tokens' loss.
    """

    task: str
    inputs: Mapping[str, Any]
    label: Result
    weight: float = 1.0


class SpanScorer(Protocol):
    """How sure the decoder was of a span of its text."""

    def __call__(self, start: int, end: int) -> tuple[float, int]:
        """(sum of token log-probabilities, number of tokens) of text[start:end], in characters."""


def token_probability(scorer: SpanScorer | None, start: int, end: int) -> float:
    """Geometric mean of the probabilities of the tokens of text[start:end]; 1 where there is none."""
    total, count = scorer(start, end) if scorer else (0.0, 0)
    return min(1.0, math.exp(total / count)) if count else 1.0


@runtime_checkable
class Task(Protocol):
    """One task, one file. All methods are pure; text is what the tokenizer sees."""

    name: ClassVar[str]
    token: ClassVar[str]
    """The task token that opens the prompt, e.g. "<caption>"."""
    max_new_tokens: ClassVar[int]

    def examples(self, record: Record, rng: random.Random) -> Sequence[Example]:
        """Examples this record supports, drawn with `rng`; empty where it supports none."""

    def prompt(self, inputs: Mapping[str, Any], image_size: ImageSize) -> str: ...

    def target(self, label: Any, image_size: ImageSize) -> str: ...

    def grammar(self, inputs: Mapping[str, Any]) -> Grammar:
        """What the decoder may emit for these inputs."""

    def parse(
        self,
        text: str,
        inputs: Mapping[str, Any],
        image_size: ImageSize,
        *,
        scorer: SpanScorer | None = None,
        truncated: bool = False,
    ) -> Any:
        """Typed result of a model's text. With `truncated`, an incomplete last item is dropped.

        Raises:
            ParseError: the text is not of the task's form.
        """
