"""Find everything worn: every garment with its box, or only what there is."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tasks.base import Example, ParseError, Record, SpanScorer
from tasks.boxes import BOX_TEXT, ImageSize, encode_box, parse_box, sort_key
from tasks.grammar import BOX, Choice, Grammar, Literal, Repeat
from tasks.grammar import Sequence as Then
from tasks.ontology import default_ontology
from tasks.results import Detection, Garment

__all__ = ["MAX_OBJECTS", "DetectionTask"]

NONE = "none"
MAX_OBJECTS = 20
_ITEM = re.compile(rf"([^<;]+)({BOX_TEXT.pattern})?")


class DetectionTask:
    """ "<detect>" -> "coat<loc_120><loc_88><loc_700><loc_640>;boots<loc_...>...", largest first, or "none".

    With `boxes` False in its inputs, "<detect>labels" -> "coat;boots": what is worn, where nobody has drawn boxes.
    """

    name: ClassVar[str] = "detection"
    token: ClassVar[str] = "<detect>"
    max_new_tokens: ClassVar[int] = 200

    def examples(self, record: Record, rng: random.Random) -> Sequence[Example]:
        """One with boxes where every garment has its box, one of labels alone where all garments are known."""
        found = []
        if record.boxes_complete and record.objects_complete:
            boxed = [(item.label, item.box) for item in record.objects if item.box is not None]
            boxed.sort(key=lambda pair: sort_key(pair[1]))
            label = Detection(tuple(Garment(label, box) for label, box in boxed[:MAX_OBJECTS]))
            found.append(Example(task=self.name, inputs={}, label=label))
        elif record.objects_complete:
            order = list(default_ontology().garments)
            labels = sorted({item.label for item in record.objects}, key=order.index)
            label = Detection(tuple(Garment(name) for name in labels[:MAX_OBJECTS]))
            found.append(Example(task=self.name, inputs={"boxes": False}, label=label))
        return found

    def prompt(self, inputs: Mapping[str, Any], image_size: ImageSize) -> str:
        return self.token if inputs.get("boxes", True) else f"{self.token}labels"

    def target(self, label: Detection, image_size: ImageSize) -> str:
        """Raises ValueError for a garment that the grammar has no word for."""
        known = default_ontology().garments
        for item in label.objects:
            if item.label not in known:
                raise ValueError(f"unknown garment {item.label!r}; known: {', '.join(known)}")
        return (
            ";".join(
                item.label + ("" if item.box is None else encode_box(item.box, image_size)) for item in label.objects
            )
            or NONE
        )

    def grammar(self, inputs: Mapping[str, Any]) -> Grammar:
        garment: Grammar = Choice(tuple(Literal(name) for name in default_ontology().garments))
        item = Then((garment, BOX)) if inputs.get("boxes", True) else garment
        return Choice((Literal(NONE), Repeat(item, Literal(";"), max=MAX_OBJECTS)))

    def parse(
        self,
        text: str,
        inputs: Mapping[str, Any],
        image_size: ImageSize,
        *,
        scorer: SpanScorer | None = None,
        truncated: bool = False,
    ) -> Detection:
        """Objects in the order they were said.

        Raises:
            ParseError: an unknown garment, a box that is incomplete or has swapped corners, nothing at all. What the
                token limit cut (`truncated`) is left out instead.
        """
        boxes = bool(inputs.get("boxes", True))
        if text == NONE:
            return Detection((), truncated)
        found: list[Garment] = []
        position = 0
        parts = text.split(";")
        for number, part in enumerate(parts):
            start, end = position, position + len(part)
            position = end + 1
            match = _ITEM.fullmatch(part)
            whole = match is not None and bool(match[2]) == boxes and match[1] in default_ontology().garments
            # A label at the cut may be the beginning of a longer one; a whole box cannot.
            if truncated and number == len(parts) - 1 and not (whole and boxes):
                break
            if match is None or not whole:
                raise ParseError(f"{part!r} is not a known garment {'and its box' if boxes else 'alone'}")
            box = parse_box(match[2], image_size) if boxes else None
            total, _ = scorer(start, end) if scorer else (0.0, 0)
            found.append(Garment(match[1], box, score=min(1.0, math.exp(total))))
        return Detection(tuple(found), truncated)
