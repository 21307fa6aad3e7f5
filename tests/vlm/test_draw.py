"""Drawings: boxes where they belong, texts that do not cover each other, the photo untouched."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tasks.boxes import Box
from tasks.results import Attributes, Garment, Outfit, Value
from vlm.draw import MIN_SIDE, PALETTE, _free_spot, draw_boxes, draw_labels, draw_outfit, garment_line, text_panel


def where(image: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero((np.asarray(image) == colour).all(axis=-1))
    return int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())


def test_a_box_is_drawn_where_it_is() -> None:
    photo = Image.new("RGB", (600, MIN_SIDE), "white")
    drawing = draw_labels(photo, [("coat", Box(100, 200, 400, 700))])
    assert drawing.size == photo.size
    x1, y1, x2, y2 = where(drawing, PALETTE[0])
    assert (x1, x2, y2) == (100, 400, 700)
    assert 150 < y1 < 200  # the text stands on the box
    assert np.asarray(photo).min() == 255


def test_small_photos_are_enlarged() -> None:
    drawing = draw_boxes(Image.new("RGB", (60, 90), "white"), [Garment("coat", Box(10, 45, 30, 60), score=0.5)])
    assert drawing.size == (600, MIN_SIDE)
    x1, _, x2, y2 = where(drawing, PALETTE[0])
    assert (x1, x2, y2) == (100, 300, 600)


def test_boxes_reach_the_edge_but_not_beyond() -> None:
    photo = Image.new("RGB", (MIN_SIDE, MIN_SIDE), "white")
    labels = [("whole", Box(-50, -50, 5000, 5000)), ("gone", Box(2000, 2000, 3000, 3000))]
    drawing = draw_labels(photo, labels)
    assert where(drawing, PALETTE[0])[:2] == (0, 0)
    assert not (np.asarray(drawing) == PALETTE[1]).all(axis=-1).any()


def test_texts_do_not_cover_each_other() -> None:
    taken: list[tuple[float, float, float, float]] = []
    for _ in range(8):
        spot = _free_spot((100, 100, 300, 400), (80, 20), (500, 500), taken)
        assert all(
            spot[2] <= other[0] or other[2] <= spot[0] or spot[3] <= other[1] or other[3] <= spot[1] for other in taken
        )
        taken.append(spot)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_any_mode(mode: str) -> None:
    assert draw_boxes(Image.new(mode, (50, 40)), [Garment("hat", Box(1, 1, 20, 20))]).mode == "RGB"


def test_outfits_are_told_beside_the_photo() -> None:
    coat = Garment(
        "coat",
        Box(10, 10, 300, 500),
        Attributes({"colour": Value(("tan", "brown")), "sleeve": Value(("not visible",))}),
    )
    outfit = Outfit("A tan coat, worn in a street. " * 5, (Garment("ring"), coat))
    drawing = draw_outfit(Image.new("RGB", (600, MIN_SIDE), "white"), outfit)
    assert drawing.width > 600 and drawing.height >= MIN_SIDE
    panel = drawing.crop((600, 0, drawing.width, drawing.height))
    assert (np.asarray(panel) == PALETTE[0]).all(axis=-1).any()  # the coat's line has its box's colour
    assert garment_line(coat) == "coat: colour tan and brown"
    assert garment_line(Garment("ring")) == "ring"


def test_panels_grow_with_their_text() -> None:
    short, long = (text_panel([("word " * count, None)], width=200) for count in (3, 60))
    assert short.width == long.width == 200
    assert long.height > 3 * short.height
    assert text_panel([("x" * 200, None)], width=50).height == text_panel([("x", None)], width=50).height
