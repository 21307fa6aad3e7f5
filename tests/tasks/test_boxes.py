"""Boxes: pixels to location tokens and back, and what is no box."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.boxes import (
    BOX_TEXT,
    LOCATION,
    NUM_BINS,
    Box,
    ImageSize,
    decode_box,
    encode_box,
    from_bin,
    iou,
    parse_box,
    sort_key,
    to_bin,
)
from tasks.errors import ParseError

SIDE = st.integers(1, 6000)


@st.composite
def boxes_in_images(draw: st.DrawFn) -> tuple[Box, ImageSize]:
    height, width = draw(SIDE), draw(SIDE)
    x1, x2 = sorted((draw(st.floats(0, width)), draw(st.floats(0, width))))
    y1, y2 = sorted((draw(st.floats(0, height)), draw(st.floats(0, height))))
    return Box(x1, y1, x2, y2), (height, width)


# -- boxes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["x1", "y1", "x2", "y2"])
def test_coordinates_are_finite(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"Box\.{name} is -?(nan|inf); expected a finite number"):
        Box(**{"x1": 1, "y1": 1, "x2": 2, "y2": 2, name: value})


@pytest.mark.parametrize("corners", [(5, 1, 4, 2), (1, 5, 2, 4)])
def test_swapped_corners_are_refused(corners: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"corners are swapped.*expected x1 <= x2 and y1 <= y2"):
        Box(*corners)


def test_a_box_measures_itself() -> None:
    box = Box(1, 2, 4, 8)
    assert box.xyxy == (1.0, 2.0, 4.0, 8.0)
    assert all(isinstance(value, float) for value in box.xyxy)
    assert (box.width, box.height, box.area) == (3, 6, 18)
    assert Box(3, 3, 3, 9).area == 0


@pytest.mark.parametrize(
    ("box", "clipped"),
    [
        (Box(-5, -5, 20, 10), Box(0, 0, 20, 10)),
        (Box(10, 10, 400, 300), Box(10, 10, 60, 80)),
        (Box(1, 2, 3, 4), Box(1, 2, 3, 4)),
        (Box(60, 0, 90, 10), None),
        (Box(-9, 0, -1, 10), None),
        (Box(5, 5, 5, 9), None),
    ],
)
def test_clip(box: Box, clipped: Box | None) -> None:
    assert box.clip((80, 60)) == clipped


def test_iou_by_hand() -> None:
    assert iou(Box(0, 0, 2, 2), Box(1, 1, 3, 3)) == pytest.approx(1 / 7)
    assert iou(Box(0, 0, 4, 4), Box(1, 1, 3, 3)) == pytest.approx(4 / 16)
    assert iou(Box(0, 0, 2, 2), Box(2, 0, 4, 2)) == 0.0  # they touch
    assert iou(Box(1, 1, 1, 1), Box(1, 1, 1, 1)) == 0.0  # both are empty
    assert iou(Box(0, 0, 5e-196, 8e-295), Box(0, 0, 5e-196, 8e-295)) == 0.0  # their areas are 0 to a float


@given(boxes_in_images(), boxes_in_images())
@settings(deadline=None)
def test_iou_is_symmetric_and_at_most_one(first: tuple[Box, ImageSize], second: tuple[Box, ImageSize]) -> None:
    value = iou(first[0], second[0])
    assert value == iou(second[0], first[0])
    assert 0.0 <= value <= 1.0 + 1e-9


def test_larger_boxes_come_first_then_the_left_then_the_upper() -> None:
    ordered = [Box(0, 0, 9, 9), Box(1, 5, 3, 7), Box(4, 1, 6, 3), Box(4, 2, 6, 4), Box(0, 0, 1, 1)]
    shuffled = random.Random(0).sample(ordered, len(ordered))
    assert sorted(shuffled, key=sort_key) == ordered


# -- bins ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "side", "index"),
    [(0, 640, 0), (0.63, 640, 0), (0.64, 640, 1), (320, 640, 500), (639.9, 640, 999), (640, 640, 999), (-3, 640, 0)],
)
def test_bins_by_hand(value: float, side: float, index: int) -> None:
    assert to_bin(value, side) == index


def test_no_value_becomes_location_1000() -> None:
    assert {to_bin(value, 480) for value in (479.99, 480, 480.0001, 1e9)} == {NUM_BINS - 1}


def test_a_bin_comes_back_as_its_centre() -> None:
    assert from_bin(0, 1000) == 0.5
    assert from_bin(999, 500) == 499.75  # a float: rounding down would move every box by half a bin


@given(st.integers(0, NUM_BINS - 1), SIDE)
@settings(deadline=None)
def test_the_centre_is_in_its_bin(index: int, side: int) -> None:
    assert to_bin(from_bin(index, side), side) == index


# -- text ----------------------------------------------------------------------------------------------------


def test_text_of_a_box() -> None:
    assert encode_box(Box(48, 64, 240, 640), (640, 480)) == "<loc_100><loc_100><loc_500><loc_999>"
    assert encode_box(Box(-9, 0, 9999, 1), (640, 480)) == "<loc_0><loc_0><loc_999><loc_1>"
    assert parse_box("<loc_0><loc_9><loc_10><loc_999>", (2000, 1000)) == Box(0.5, 19.0, 10.5, 1999.0)


@given(boxes_in_images())
@settings(deadline=None)
def test_a_box_comes_back_within_half_a_bin(case: tuple[Box, ImageSize]) -> None:
    box, (height, width) = case
    text = encode_box(box, (height, width))
    assert BOX_TEXT.fullmatch(text)
    back = parse_box(text, (height, width))
    for before, after, side in zip(box.xyxy, back.xyxy, (width, height, width, height), strict=True):
        assert abs(before - after) <= 0.5 * side / NUM_BINS * (1 + 1e-6)
    assert encode_box(back, (height, width)) == text


@given(st.lists(st.integers(-5, 1010), max_size=6))
@settings(deadline=None)
def test_bins_become_exactly_that_box_or_an_error(bins: list[int]) -> None:
    good = len(bins) == 4 and all(0 <= index < 1000 for index in bins) and bins[0] <= bins[2] and bins[1] <= bins[3]
    if good:
        assert encode_box(decode_box(bins, (700, 300)), (700, 300)) == "".join(f"<loc_{index}>" for index in bins)
    else:
        with pytest.raises(ParseError):
            decode_box(bins, (700, 300))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "needs 4 location tokens .*, got 0"),
        ("<loc_1><loc_2><loc_3>", "got 3"),
        ("<loc_1><loc_2><loc_3><loc_4><loc_5>", "got 5"),
        ("<loc_1><loc_2><loc_3><loc_1000>", r"location 1000 is outside 0\.\.999"),
        ("<loc_1><loc_2><loc_3><loc_10000>", "'<loc_10000>' is no location"),
        ("<loc_30><loc_2><loc_3><loc_4>", r"corners are swapped: \(30, 2, 3, 4\)"),
        ("<loc_1><loc_20><loc_3><loc_4>", "corners are swapped"),
        ("coat<loc_1><loc_2><loc_3><loc_4>", "'coat' is no location"),
        ("<loc_1><loc_2> <loc_3><loc_4>", "' ' is no location"),
        ("<loc_1><loc_2><loc_3><loc_4", "'<loc_4' is no location"),
        ("<loc_1><loc_2><loc_3><loc_04>", "'<loc_04>' is no location"),
        ("<loc_1><loc_2><loc_3><loc_٤>", "'<loc_٤>' is no location"),
        ("<loc_1><loc_2><loc_3><loc_-4>", "is no location"),
        ("1, 2, 3, 4", "is no location"),
    ],
)
def test_what_is_no_box(text: str, says: str) -> None:
    with pytest.raises(ParseError, match=says):
        parse_box(text, (100, 100))


@pytest.mark.parametrize("text", ["<loc_>", "<loc_00>", "<loc_07>", "<loc_12345>", "<LOC_1>", "<loc_٣>", "<loc_1"])
def test_what_is_no_location(text: str) -> None:
    assert not LOCATION.match(text)
