"""Our tasks in the words of a T5Gemma 2 that is pretrained only: a text that it goes on with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tasks.base import SpanScorer
from tasks.boxes import ImageSize
from tasks.caption import DETAILS
from tasks.results import Caption

__all__ = ["NATIVE", "ContinuedCaption"]


class ContinuedCaption:
    """ " in this image, there is" -> " a woman in a tan coat." The words of the public model card.

    It knows no length to be asked for: a detailed caption is asked with the same words, and may be longer only by its
    limit of tokens.
    """

    max_new_tokens = 64

    def prompt(self, inputs: Mapping[str, Any], image_size: ImageSize) -> str:
        """Raises ValueError for a detail that is not known, and for a box."""
        detail = inputs.get("detail", "brief")
        if detail not in DETAILS:
            raise ValueError(f"detail is {detail!r}; expected one of {', '.join(DETAILS)}")
        if inputs.get("box") is not None:
            raise ValueError("this checkpoint captions the whole picture; leave box out, or crop the picture to it")
        return " in this image, there is"

    def grammar(self, inputs: Mapping[str, Any]) -> None:
        return None

    def parse(
        self,
        text: str,
        inputs: Mapping[str, Any],
        image_size: ImageSize,
        *,
        scorer: SpanScorer | None = None,
        truncated: bool = False,
    ) -> Caption:
        total, count = scorer(0, len(text)) if scorer else (0.0, 0)
        return Caption(text.strip(), min(1.0, math.exp(total / count)) if count else 1.0, truncated)


NATIVE = {"caption": ContinuedCaption()}
