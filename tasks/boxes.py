"""Boxes in pixels, location tokens, and the way between them.

Frame: xyxy, float pixels of the original, EXIF-rotated image; x to the right, y down.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.errors import ParseError

NUM_BINS = 1000
ImageSize = tuple[int, int]
"""(height, width) in pixels."""

# ASCII digits without leading zeros: what else looks like a location is none. Four digits are told that they are out
# of range.
LOCATION = re.compile(r"<loc_(0|[1-9][0-9]{0,3})>")
BOX_TEXT = re.compile(rf"(?:{LOCATION.pattern}){{4}}")


@dataclass(frozen=True, slots=True)
class Box:
    """An axis-aligned box in pixels; x2 >= x1 and y2 >= y1.

    Raises:
        ValueError: a coordinate is not finite, or the corners are swapped.
    """

    x1: float
    y1: float
    x2: float
    y2: float

    def __post_init__(self) -> None:
        for name in ("x1", "y1", "x2", "y2"):
            value = float(getattr(self, name))
            if not math.isfinite(value):
                raise ValueError(f"Box.{name} is {value}; expected a finite number of pixels")
            object.__setattr__(self, name, value)
        if self.x2 < self.x1 or self.y2 < self.y1:
            raise ValueError(
                f"Box corners are swapped: {self.xyxy}; expected x1 <= x2 and y1 <= y2 "
                "(top-left corner first, then bottom-right)"
            )

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        return (self.x1, self.y1, self.x2, self.y2)

    @property
    def width(self) -> float:
        return self.x2 - self.x1

    @property
    def height(self) -> float:
        return self.y2 - self.y1

    @property
    def area(self) -> float:
        return self.width * self.height

    def clip(self, image_size: ImageSize) -> Box | None:
        """The part inside the image, or None where nothing is left."""
        height, width = image_size
        x1, x2 = max(0.0, self.x1), min(float(width), self.x2)
        y1, y2 = max(0.0, self.y1), min(float(height), self.y2)
        return Box(x1, y1, x2, y2) if x2 > x1 and y2 > y1 else None


def iou(first: Box, second: Box) -> float:
    """Intersection over union; 0.0 where both are empty, or too small for a float to hold their area."""
    width = min(first.x2, second.x2) - max(first.x1, second.x1)
    height = min(first.y2, second.y2) - max(first.y1, second.y1)
    if width <= 0 or height <= 0:
        return 0.0
    overlap = width * height
    union = first.area + second.area - overlap
    return overlap / union if union > 0 else 0.0


def to_bin(value: float, side: float) -> int:
    """floor(1000 * value / side), clamped to 0..999."""
    return min(NUM_BINS - 1, max(0, math.floor(NUM_BINS * value / side)))


def from_bin(index: int, side: float) -> float:
    """The bin's centre in pixels, as a float."""
    return (index + 0.5) / NUM_BINS * side


def encode_box(box: Box, image_size: ImageSize) -> str:
    """Four location tokens: x1, y1, x2, y2."""
    height, width = image_size
    bins = (to_bin(box.x1, width), to_bin(box.y1, height), to_bin(box.x2, width), to_bin(box.y2, height))
    return "".join(f"<loc_{index}>" for index in bins)


def decode_box(tokens: Sequence[int], image_size: ImageSize) -> Box:
    """Turn four location bins into a pixel box.

    Args:
        tokens: x1, y1, x2, y2, each in [0, 1000).
        image_size: (height, width) in pixels of the original image.

    Raises:
        ParseError: not four bins, a bin out of range, or x2 < x1 or y2 < y1.

    Source: Florence-2 (arXiv 2311.06242), with bin centres kept as floats.
    """
    if len(tokens) != 4:
        raise ParseError(f"a box needs 4 location tokens (x1, y1, x2, y2), got {len(tokens)}")
    for token in tokens:
        if not 0 <= token < NUM_BINS:
            raise ParseError(f"location {token} is outside 0..{NUM_BINS - 1}")
    x1, y1, x2, y2 = tokens
    if x2 < x1 or y2 < y1:
        raise ParseError(f"box corners are swapped: {tuple(tokens)}; expected x1 <= x2 and y1 <= y2")
    height, width = image_size
    return Box(from_bin(x1, width), from_bin(y1, height), from_bin(x2, width), from_bin(y2, height))


def parse_box(text: str, image_size: ImageSize) -> Box:
    """`<loc_1><loc_2><loc_3><loc_4>` -> Box; ParseError as `decode_box`, or where anything else stands there."""
    if rest := LOCATION.sub("", text):
        raise ParseError(f"{rest!r} is no location; expected four like <loc_120>")
    return decode_box([int(match) for match in LOCATION.findall(text)], image_size)


def sort_key(box: Box) -> tuple[float, float, float]:
    """Objects in a target are sorted by (area descending, x1, y1)."""
    return (-box.area, box.x1, box.y1)
