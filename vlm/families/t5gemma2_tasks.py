"""Our tasks in the words of a T5Gemma 2 that is pretrained only: a text that it goes on with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.base import SpanScorer, token_probability
from tasks.boxes import ImageSize
from tasks.caption import known_detail
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
        known_detail(inputs)
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
        return Caption(text.strip(), token_probability(scorer, 0, len(text)), truncated)


NATIVE = {"caption": ContinuedCaption()}
