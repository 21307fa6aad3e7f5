"""Say what is in the picture, in one sentence or in several."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tasks.base import Example, ParseError, Record, SpanScorer, escape, token_probability, unescape
from tasks.boxes import ImageSize
from tasks.grammar import FreeText, Grammar
from tasks.results import Caption

__all__ = ["DETAILS", "CaptionTask", "known_detail"]

DETAILS = ("brief", "detailed")


def known_detail(inputs: Mapping[str, Any]) -> str:
    """How detailed a caption is asked for; brief if nothing is said.

    Raises:
        ValueError: a detail that is not in `DETAILS`.
    """
    detail = inputs.get("detail", "brief")
    if detail not in DETAILS:
        raise ValueError(f"detail is {detail!r}; expected one of {', '.join(DETAILS)}")
    return str(detail)


class CaptionTask:
    """ "<caption>brief" -> "A woman in a tan coat and black boots." """

    name: ClassVar[str] = "caption"
    token: ClassVar[str] = "<caption>"
    max_new_tokens: ClassVar[int] = 128

    def examples(self, record: Record, rng: random.Random) -> Sequence[Example]:
        """Every caption of the record."""
        return [
            Example(task=self.name, inputs={"detail": caption.detail}, label=Caption(" ".join(caption.text.split())))
            for caption in record.captions
        ]

    def prompt(self, inputs: Mapping[str, Any], image_size: ImageSize) -> str:
        """Raises ValueError for a detail that is not in `DETAILS`, or a box: the caption is of the whole picture."""
        if inputs.get("box") is not None:
            raise ValueError("a caption is of the whole picture; leave the box out, or ask for attributes of it")
        return f"{self.token}{known_detail(inputs)}"

    def target(self, label: Caption, image_size: ImageSize) -> str:
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
    ) -> Caption:
        """Raises ParseError where nothing was said, unless the token limit is to blame."""
        said = unescape(text).strip()
        if not said and not truncated:
            raise ParseError("the caption is empty")
        return Caption(said, token_probability(scorer, 0, len(text)), truncated)
