"""Our tasks in Florence-2's words: its prompts, and how what it says is read into our typed results.

| ours | Florence-2's |
|---|---|
| caption, brief and detailed | `<CAPTION>`, `<DETAILED_CAPTION>` |
| caption of a box, brief and detailed | `<REGION_TO_CATEGORY>`, `<REGION_TO_DESCRIPTION>` |
| detection | `<OD>` |
| grounding | `<CAPTION_TO_PHRASE_GROUNDING>` |

Grounding is not `<OPEN_VOCABULARY_DETECTION>`, which is for names of categories and may answer with polygons; phrases
("the red bag") are what phrase grounding was trained on. It takes for granted that what the phrase names is there.

The prompts here begin with Florence-2's task token; `Florence2` puts the processor's sentence in its place. They have
no grammar, so that the tokens are those of the checkpoint alone, and reading copes with anything: what is not a label
with whole boxes (four locations, corners in order) is left out, never repaired.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tasks.base import ParseError, SpanScorer, escape, token_probability, unescape
from tasks.boxes import BOX_TEXT, LOCATION, Box, ImageSize, encode_box, parse_box, sort_key
from tasks.caption import known_detail
from tasks.results import Caption, Detection, Garment, Grounding

__all__ = ["NATIVE", "NativeCaption", "NativeDetection", "NativeGrounding", "Place", "read_places"]

# The label is whatever stands before locations: hyphens, accents and "<" are part of it.
_PLACE = re.compile(rf"(.+?)((?:{LOCATION.pattern})+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Place:
    """A label and one of its boxes, with the characters of both in what was said."""

    label: str
    box: Box
    label_span: tuple[int, int]
    box_span: tuple[int, int]

    def score(self, scorer: SpanScorer | None, *, with_label: bool) -> float:
        """Probability of the box, or of label and box."""
        if scorer is None:
            return 1.0
        total = scorer(*self.box_span)[0] + (scorer(*self.label_span)[0] if with_label else 0.0)
        return min(1.0, math.exp(total))


def read_places(text: str, image_size: ImageSize) -> Iterator[Place]:
    """`label<loc_..>x4` with any number of boxes a label. What is not of this form is passed over."""
    for match in _PLACE.finditer(text):
        label = match[1].strip()
        position = match.start(2)
        while label and (box := BOX_TEXT.match(text, position)):
            position = box.end()
            try:
                found = parse_box(box[0], image_size)
            except ParseError:  # swapped corners, or a bin that there is none of
                continue
            yield Place(label, found, match.span(1), box.span())


class NativeCaption:
    """ "<CAPTION>" -> "A woman in a tan coat." """

    max_new_tokens = 256
    _TOKENS: Mapping[tuple[str, bool], str] = {
        ("brief", False): "<CAPTION>",
        ("detailed", False): "<DETAILED_CAPTION>",
        ("brief", True): "<REGION_TO_CATEGORY>",
        ("detailed", True): "<REGION_TO_DESCRIPTION>",
    }

    def prompt(self, inputs: Mapping[str, Any], image_size: ImageSize) -> str:
        """Raises ValueError for a detail that is not known."""
        detail, box = known_detail(inputs), inputs.get("box")
        return self._TOKENS[detail, box is not None] + ("" if box is None else encode_box(box, image_size))

    def target(self, label: Caption, image_size: ImageSize) -> str:
        return escape(label.text)

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
        """The words; a region's caption repeats the region behind them."""
        said = LOCATION.sub("", text)
        end = len(text) if said == text else len(text) - len(text.lstrip()) + len(said.strip())
        return Caption(said.strip(), token_probability(scorer, 0, end), truncated)


class NativeDetection:
    """ "<OD>" -> "dress<loc_1><loc_2><loc_3><loc_4>high heels<loc_...>x4<loc_...>x4" """

    max_new_tokens = 512

    def prompt(self, inputs: Mapping[str, Any], image_size: ImageSize) -> str:
        """Raises ValueError where labels alone are asked for."""
        if not inputs.get("boxes", True):
            raise ValueError("this checkpoint finds objects only with their boxes; leave boxes=False out")
        return "<OD>"

    def target(self, label: Detection, image_size: ImageSize) -> str:
        """Objects as they come; raises ValueError for one without a box."""
        if any(item.box is None for item in label.objects):
            raise ValueError("a detection target has an object without a box; give all of them boxes")
        return "".join(
            escape(item.label) + encode_box(item.box, image_size) for item in label.objects if item.box is not None
        )

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
    ) -> Detection:
        """Everything it names, people too, largest first. A score is the probability of label and box."""
        places = sorted(read_places(text, image_size), key=lambda place: sort_key(place.box))
        objects = (Garment(place.label, place.box, score=place.score(scorer, with_label=True)) for place in places)
        return Detection(tuple(objects), truncated)


class NativeGrounding:
    """ "<CAPTION_TO_PHRASE_GROUNDING>the red bag" -> "the red bag<loc_1><loc_2><loc_3><loc_4>" """

    max_new_tokens = 128

    def prompt(self, inputs: Mapping[str, Any], image_size: ImageSize) -> str:
        """Capitals are left as they are: the checkpoint was trained with them.

        Raises:
            ValueError: an empty phrase.
        """
        phrase = " ".join(str(inputs["phrase"]).split())
        if not phrase:
            raise ValueError("the phrase is empty; ask for example for 'the red bag'")
        return f"<CAPTION_TO_PHRASE_GROUNDING>{escape(phrase)}"

    def target(self, label: Grounding, image_size: ImageSize) -> str:
        """The phrase with its boxes; nothing where it is not in the picture."""
        phrase = escape(" ".join(label.phrase.split()))
        boxes = "".join(encode_box(box, image_size) for box, _ in label.boxes)
        return phrase + boxes if boxes else ""

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
    ) -> Grounding:
        """Boxes of the part of the phrase that stands first in it: of "a bag on a chair" the bag.

        A box's score is its probability; that of the whole is of all that was said, the end included.
        """
        phrase = str(inputs["phrase"])
        places = list(read_places(text, image_size))
        if places:
            head = min((place.label for place in places), key=lambda label: _position(unescape(label), phrase))
            places = [place for place in places if place.label == head]
        boxes = tuple((place.box, place.score(scorer, with_label=False)) for place in places)
        # From before the first character to behind the last, so that the end token, which has none, counts.
        total = scorer(-1, len(text) + 1)[0] if scorer else 0.0
        return Grounding(phrase, boxes, min(1.0, math.exp(total)), truncated)


def _position(label: str, phrase: str) -> int:
    found = " ".join(phrase.split()).casefold().find(label.casefold())
    return found if found >= 0 else len(phrase)


NATIVE = {"caption": NativeCaption(), "detection": NativeDetection(), "grounding": NativeGrounding()}
"""What every Florence-2 checkpoint was trained for."""
