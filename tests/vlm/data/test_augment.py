"""Variations of a picture: the labels follow, and colours stay what they are."""

from __future__ import annotations

import colorsys
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from tasks.base import QA, ObjectLabel, Record, TextLabel
from tasks.boxes import Box
from vlm.config import AugmentConfig
from vlm.data.augment import _change_light, augment, crop_record, flip_record, swap_sides

NOTHING = AugmentConfig(flip=0, crop=0, brightness=0)

COAT = ObjectLabel(
    label="coat",
    box=Box(20, 10, 80, 70),
    attributes={"colour": ("red",), "sleeve": ("long",), "neckline": ("lapel",), "length": ("hip",)},
    phrases=("the coat on the left", "red coat"),
)
BOOTS = ObjectLabel(
    label="boots",
    box=Box(30, 90, 70, 120),
    attributes={"colour": ("blue",), "length": ("ankle",)},
    phrases=("the boots",),
    parts=(Box(30, 90, 45, 120), Box(55, 90, 70, 115)),
)
RECORD = Record(
    id="1",
    image="1.png",
    image_size=(128, 100),
    captions=(TextLabel(text="A bag in her right hand, boots below.", detail="detailed"),),
    objects=(COAT, BOOTS),
    qa=(QA(question="What is on the left?", answer="Right: a coat."),),
    objects_complete=True,
    boxes_complete=True,
)


def picture(record: Record = RECORD) -> Image.Image:
    """Each garment's box in a colour of its own."""
    image = Image.new("RGB", (record.image_size[1], record.image_size[0]), (120, 120, 120))
    draw = ImageDraw.Draw(image)
    for item, colour in zip(record.objects, ((200, 60, 40), (40, 60, 200)), strict=True):
        assert item.box is not None
        x1, y1, x2, y2 = item.box.xyxy
        draw.rectangle((x1, y1, x2 - 1, y2 - 1), fill=colour)
    return image


# -- flip ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("a bag in the left hand", "a bag in the right hand"),
        ("Left sleeve, RIGHT cuff, left-hand side", "Right sleeve, LEFT cuff, right-hand side"),
        ("left and right, (right).", "right and left, (left)."),
        ("bright leftover upright copyright lefty", "bright leftover upright copyright lefty"),
        ("crêpe 裙子", "crêpe 裙子"),
        ("", ""),
    ],
)
def test_sides_swap(text: str, mirrored: str) -> None:
    assert swap_sides(text) == mirrored
    assert swap_sides(mirrored) == text


def test_flip_mirrors_boxes_parts_and_texts() -> None:
    flipped = flip_record(RECORD)
    coat, boots = flipped.objects
    assert coat.box == Box(20, 10, 80, 70)
    assert boots.box == Box(30, 90, 70, 120)
    assert boots.parts == (Box(55, 90, 70, 120), Box(30, 90, 45, 115))
    assert coat.phrases == ("the coat on the right", "red coat")
    assert flipped.captions[0] == TextLabel(text="A bag in her left hand, boots below.", detail="detailed")
    assert flipped.qa == (QA(question="What is on the right?", answer="Left: a coat."),)
    assert (flipped.image_size, coat.attributes) == (RECORD.image_size, COAT.attributes)
    aside = flip_record(replace(RECORD, objects=(replace(COAT, box=Box(0, 5, 30, 6)),)))
    assert aside.objects[0].box == Box(70, 5, 100, 6)


quarters = st.integers(0, 400).map(lambda value: value / 4)


@given(
    st.lists(st.tuples(quarters, quarters, quarters, quarters), max_size=3),
    st.lists(st.sampled_from(("left", "Right", "LEFT", "bright", "the", "left-hand")), max_size=6).map(" ".join),
)
def test_flip_twice_is_identity(corners: list[tuple[float, float, float, float]], text: str) -> None:
    boxes = [Box(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in corners]
    record = Record(
        id="1",
        image="1.png",
        image_size=(100, 100),
        captions=(TextLabel(text=text),),
        objects=tuple(ObjectLabel(label="coat", box=box, phrases=(text,), parts=tuple(boxes)) for box in boxes),
        qa=(QA(question=text, answer=text),),
    )
    assert flip_record(flip_record(record)) == record


# -- crop ----------------------------------------------------------------------------------------------


def test_crop_clips_and_hides_what_is_cut_off() -> None:
    cropped = crop_record(RECORD, Box(30, 30, 100, 128))
    coat, boots = cropped.objects
    assert cropped.image_size == (98, 70)
    assert coat.box == Box(0, 0, 50, 40)
    # Neckline and one sleeve are gone; the hem is still there.
    assert coat.attributes == COAT.attributes | {"neckline": ("not visible",), "sleeve": ("not visible",)}
    assert boots.box == Box(0, 60, 40, 90)
    assert boots.parts == (Box(0, 60, 15, 90), Box(25, 60, 40, 85))
    assert boots.attributes == BOOTS.attributes


def test_crop_at_the_bottom_hides_the_length_alone() -> None:
    cropped = crop_record(RECORD, Box(0, 0, 100, 50))
    [coat] = cropped.objects
    assert coat.box == Box(20, 10, 80, 50)
    assert coat.attributes == COAT.attributes | {"length": ("not visible",)}


def test_crop_does_not_label_what_was_unlabelled() -> None:
    bare = replace(RECORD, objects=(replace(COAT, attributes={"colour": ("red",)}),))
    assert crop_record(bare, Box(30, 25, 75, 60)).objects[0].attributes == {"colour": ("red",)}


def test_a_sliver_hides_nothing() -> None:
    cropped = crop_record(RECORD, Box(24, 14, 100, 128))  # 4 of 60 pixels, left and above
    assert cropped.objects[0].attributes == COAT.attributes
    assert cropped.objects[0].box == Box(0, 0, 56, 56)


def test_what_is_mostly_gone_is_dropped_and_texts_with_it() -> None:
    """Of the boots a fifth is left."""
    cropped = crop_record(RECORD, Box(0, 0, 100, 96))
    assert [item.label for item in cropped.objects] == ["coat"]
    assert cropped.captions == cropped.qa == ()
    assert cropped.objects[0].phrases == COAT.phrases


def test_texts_stay_while_all_of_it_is_seen() -> None:
    cropped = crop_record(RECORD, Box(10, 5, 90, 125))
    assert (cropped.captions, cropped.qa) == (RECORD.captions, RECORD.qa)
    assert crop_record(RECORD, Box(0, 30, 100, 128)).captions == ()  # the neckline that they may tell of is gone


def test_parts_outside_are_dropped() -> None:
    cropped = crop_record(RECORD, Box(0, 60, 50, 128))
    [boots] = cropped.objects
    assert boots.box == Box(30, 30, 50, 60)
    assert boots.parts == (Box(30, 30, 45, 60),)


def test_where_no_box_is_known_nothing_is_dropped() -> None:
    unboxed = replace(RECORD, objects=(ObjectLabel(label="coat"),), boxes_complete=False)
    cropped = crop_record(unboxed, Box(0, 0, 50, 60))
    assert (cropped.objects, cropped.captions) == (unboxed.objects, unboxed.captions)


# -- pixels and labels together ------------------------------------------------------------------------


@pytest.mark.parametrize("config", [replace(NOTHING, flip=1), replace(NOTHING, crop=1), AugmentConfig(flip=1, crop=1)])
def test_boxes_stay_on_their_pixels(config: AugmentConfig) -> None:
    seen = set()
    # Off the middle, so that a flip that only the pixels or only the boxes take shows.
    aside = replace(
        RECORD, objects=(replace(COAT, box=Box(5, 10, 60, 70)), replace(BOOTS, box=Box(50, 90, 95, 120), parts=()))
    )
    for seed in range(30):
        image, record = augment(picture(aside), aside, config, random.Random(seed))
        assert (image.height, image.width) == record.image_size
        pixels = np.asarray(image).astype(int)
        for item in record.objects:
            assert item.box is not None
            x1, y1, x2, y2 = (int(value) for value in item.box.xyxy)
            inside = pixels[y1:y2, x1:x2]
            strong, weak = (0, 2) if item.label == "coat" else (2, 0)
            assert (inside[..., strong] > inside[..., weak] + 50).all()
            around = pixels[max(0, y1 - 1) : y2 + 1, max(0, x1 - 1) : x2 + 1]
            assert ((around[..., strong] > around[..., weak] + 50).sum()) == inside[..., 0].size
        seen.add(tuple(item.label for item in record.objects))
    if config.crop:
        assert len(seen) > 1, "some crops should lose a garment"


def test_zooms_hold_a_whole_garment_in_little_else() -> None:
    config = replace(NOTHING, zoom=1)
    unboxed = replace(RECORD, boxes_complete=False)
    whole = set()
    for seed in range(100):
        image, record = augment(picture(), RECORD, config, random.Random(seed))
        assert (image.height, image.width) == record.image_size
        assert image.height / image.width == pytest.approx(1.28, rel=0.03)
        sizes = {item.label: (item.box.width, item.box.height) for item in RECORD.objects if item.box is not None}
        found = {item.label: (item.box.width, item.box.height) for item in record.objects if item.box is not None}
        kept = {label for label in found if found[label] == pytest.approx(sizes[label], abs=1)}
        assert kept
        assert any(max(found[label][0] / image.width, found[label][1] / image.height) >= 0.49 for label in kept)
        whole |= kept
        assert augment(picture(), unboxed, config, random.Random(seed))[1] == unboxed
    assert whole == {"coat", "boots"}


def test_a_zoom_onto_next_to_nothing_keeps_a_fifth_of_the_side() -> None:
    ring = replace(COAT, label="ring", box=Box(99, 127, 100, 128))
    record = replace(RECORD, objects=(ring,), boxes_complete=True)
    for seed in range(20):
        image, zoomed = augment(Image.new("RGB", (100, 128)), record, replace(NOTHING, zoom=1), random.Random(seed))
        assert image.size == (20, 26)
        assert [item.label for item in zoomed.objects] == ["ring"]


def test_crops_keep_aspect_and_share() -> None:
    config = replace(NOTHING, crop=1, min_crop=0.25, min_crop_unboxed=0.81)
    unboxed = replace(RECORD, objects=(ObjectLabel(label="coat"),), boxes_complete=False)
    full, plain = RECORD.image_size[0] * RECORD.image_size[1], picture()
    shares: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(100):
        for record in (RECORD, unboxed):
            image, _ = augment(plain, record, config, random.Random(seed))
            shares[record.boxes_complete].append(image.width * image.height / full)
            assert image.height / image.width == pytest.approx(1.28, rel=0.02)
    assert 0.24 < min(shares[True]) < 0.35
    assert 0.8 < min(shares[False]) < 0.85
    assert max(shares[True]) > 0.95


def hues(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image.crop((0, 0, 8, 8))).reshape(-1, 3) / 255
    return np.array([colorsys.rgb_to_hsv(*pixel)[0] * 360 for pixel in pixels])


@pytest.mark.parametrize("colour", [(225, 205, 165), (250, 180, 200), (150, 200, 250), (230, 215, 60)])
def test_bright_colours_do_not_turn(colour: tuple[int, int, int]) -> None:
    """Beige, pink, light blue, yellow: clipped channel by channel they would turn by up to 20 degrees."""
    image = Image.new("RGB", (16, 8), (40, 40, 40))
    image.paste(colour, (0, 0, 8, 8))
    record = Record(id="1", image="1.png", image_size=(8, 16))
    for seed in range(40):
        varied, _ = augment(image, record, replace(NOTHING, brightness=0.25), random.Random(seed))
        difference = np.abs(hues(varied) - hues(image)[0])
        assert np.minimum(difference, 360 - difference).max() < 2.5


@pytest.mark.parametrize("colour", [(180, 60, 60), (170, 140, 70), (60, 150, 90), (70, 100, 190), (150, 80, 170)])
def test_brightness_changes_but_not_hue(colour: tuple[int, int, int]) -> None:
    image = Image.new("RGB", (16, 8), (110, 110, 110))
    image.paste(colour, (0, 0, 8, 8))
    record = Record(id="1", image="1.png", image_size=(8, 16))
    config, values = replace(NOTHING, brightness=0.25), []
    for seed in range(40):
        varied, _ = augment(image, record, config, random.Random(seed))
        difference = np.abs(hues(varied) - hues(image)[0])
        assert np.minimum(difference, 360 - difference).max() < 2.5  # whole steps of 256 turn it that much
        values.append(max(varied.getpixel((0, 0))))
    assert min(values) < max(colour) * 0.85 and max(values) > max(colour) * 1.15


def test_contrast_changes_but_not_saturation() -> None:
    """Greys stay grey, and the darker moves against the lighter."""
    image = Image.new("RGB", (16, 8), (60, 60, 60))
    image.paste((150, 150, 150), (0, 0, 8, 8))
    record = Record(id="1", image="1.png", image_size=(8, 16))
    ratios = []
    for seed in range(20):
        varied, _ = augment(image, record, replace(NOTHING, brightness=0.2), random.Random(seed))
        light, dark = varied.getpixel((0, 0)), varied.getpixel((15, 0))
        assert len(set(light)) == len(set(dark)) == 1
        ratios.append(light[0] / dark[0])
    assert min(ratios) < 2.2 and max(ratios) > 2.8


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 0, 255), (0, 0, 0), (255, 255, 255), (128, 128, 128)])
def test_pure_colours_and_greys_stay_what_they_are(colour: tuple[int, int, int]) -> None:
    image = Image.new("RGB", (8, 8), colour)
    record = Record(id="1", image="1.png", image_size=(8, 8))
    for seed in range(20):
        varied, _ = augment(image, record, replace(NOTHING, brightness=0.2), random.Random(seed))
        red, green, blue = varied.getpixel((0, 0))
        hue, saturation, _ = colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)
        true_hue, true_saturation, _ = colorsys.rgb_to_hsv(*(value / 255 for value in colour))
        assert hue == pytest.approx(true_hue, abs=1e-6)
        assert bool(saturation) == bool(true_saturation)


@pytest.mark.parametrize(("brightness", "contrast"), [(0.25, -0.1), (-0.3, 0.3), (0.9, 0.9), (-0.9, -0.9), (0.0, 0.0)])
def test_looking_light_up_is_computing_it(brightness: float, contrast: float) -> None:
    """To the bit: pictures of a seed stay what they are."""
    pixels = np.random.default_rng(0).integers(0, 256, (120, 90, 3), dtype=np.uint8)
    pixels[:4] = [[[255, 255, 255]], [[0, 0, 0]], [[255, 0, 1]], [[1, 1, 2]]]
    value = pixels.max(axis=-1)
    grey = float(value.mean()) * (1 + brightness)
    wanted = np.clip((np.arange(256) * (1 + brightness) - grey) * (1 + contrast) + grey, 0, 255)
    scale = wanted / np.maximum(np.arange(256), 1)
    found = _change_light(Image.fromarray(pixels), brightness, contrast)
    assert np.array_equal(np.asarray(found), np.rint(pixels * scale[value][..., None]).astype(np.uint8))


def test_turning_and_blanking_spare_photos_with_boxes() -> None:
    config = replace(NOTHING, rotate=20, erase=1)
    image, record = augment(picture(), RECORD, config, random.Random(0))
    assert record == RECORD
    assert image.tobytes() == picture().tobytes()
    unboxed = replace(RECORD, objects=(ObjectLabel(label="coat"),), boxes_complete=False)
    image, record = augment(picture(), unboxed, config, random.Random(0))
    assert record == unboxed
    assert image.size == picture().size
    assert image.tobytes() != picture().tobytes()


# -- randomness ----------------------------------------------------------------------------------------


def test_all_of_it_depends_on_the_generator_alone() -> None:
    config = AugmentConfig(brightness=0.2, rotate=10, erase=0.5)
    unboxed = replace(RECORD, objects=(ObjectLabel(label="coat"),), boxes_complete=False)
    for record in (RECORD, unboxed):
        results = []
        for seed in (*range(12), *range(12)):
            random.seed(len(results))  # the global one is not asked
            image, varied = augment(picture(), record, config, random.Random(seed))
            results.append((image.tobytes(), varied))
        assert results[:12] == results[12:]
        assert len({pixels for pixels, _ in results}) == 12


def test_the_original_is_left_alone() -> None:
    image = picture()
    before = image.tobytes()
    unboxed = replace(RECORD, objects=(ObjectLabel(label="coat"),), boxes_complete=False)
    for seed in range(10):
        augment(image, unboxed, replace(NOTHING, erase=1), random.Random(seed))
        augment(image, RECORD, AugmentConfig(flip=1, crop=1), random.Random(seed))
    assert image.tobytes() == before


def test_nothing_is_nothing() -> None:
    image = picture()
    varied, record = augment(image, RECORD, NOTHING, random.Random(0))
    assert record == RECORD
    assert varied.tobytes() == image.tobytes()
