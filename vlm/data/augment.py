"""Variations of a picture that its labels follow.

A flip swaps left and right in every text; a crop clips or drops boxes and turns the attributes of what was
cut off into "not visible"; brightness and contrast change a little, hue never: colours are labels.
"""

from __future__ import annotations

import random
import re
from dataclasses import replace

import numpy as np
from PIL import Image

from tasks.base import QA, ObjectLabel, Record, TextLabel
from tasks.boxes import Box, ImageSize
from vlm.config import AugmentConfig

_SIDE = re.compile(r"\b(left|right)\b", re.IGNORECASE)
MIN_VISIBLE = 0.3
"""Less of a garment than this share of its area is not called visible."""
ZOOM_MARGIN = (1.2, 2.0)
"""Smallest and largest side of a zoom's window against its garment's box."""
ZOOM_MIN_SIDE = 0.2
"""Smallest share of the image's side that a zoom keeps: a ring alone is a blur."""
CUT_ATTRIBUTES = {"top": ("neckline",), "bottom": ("length",), "side": ("sleeve",)}
"""Which attributes a cut at which edge hides."""
EDGE_SHARE = 0.12
"""A cut that takes more than this share of a garment's height or width hides what sits at that edge."""


def swap_sides(text: str) -> str:
    """left <-> right, keeping capitals."""

    def swap(match: re.Match[str]) -> str:
        word = match.group()
        other = "right" if word.lower() == "left" else "left"
        return other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other

    return _SIDE.sub(swap, text)


def flip_record(record: Record) -> Record:
    """The record of the mirror image."""
    width = record.image_size[1]

    def box(value: Box) -> Box:
        return Box(width - value.x2, value.y1, width - value.x1, value.y2)

    def flipped(item: ObjectLabel) -> ObjectLabel:
        return replace(
            item,
            box=None if item.box is None else box(item.box),
            parts=tuple(box(part) for part in item.parts),
            phrases=tuple(swap_sides(phrase) for phrase in item.phrases),
        )

    return replace(
        record,
        captions=tuple(replace(caption, text=swap_sides(caption.text)) for caption in record.captions),
        qa=tuple(replace(qa, question=swap_sides(qa.question), answer=swap_sides(qa.answer)) for qa in record.qa),
        objects=tuple(flipped(item) for item in record.objects),
    )


def crop_record(record: Record, window: Box) -> Record:
    """The record of the part of the image inside `window`.

    Garments that are mostly gone are dropped; attributes at a cut edge become "not visible". Texts about the
    whole picture are kept only where nothing was dropped, since they may speak of what is gone.
    """
    size = (round(window.height), round(window.width))
    kept: list[ObjectLabel] = []
    texts_hold = True
    for item in record.objects:
        if item.box is None:
            # Where it is, is not known: it may be gone. A crop of such a record is mild by configuration.
            kept.append(item)
            continue
        moved = shift(item.box, window)
        inside = moved.clip(size)
        if inside is None or item.box.area <= 0 or inside.area < MIN_VISIBLE * item.box.area:
            texts_hold = False
            continue
        parts = tuple(part for part in (shift(p, window).clip(size) for p in item.parts) if part is not None)
        attributes = _cut_attributes(item, moved, inside)
        texts_hold = texts_hold and attributes == dict(item.attributes)
        kept.append(replace(item, box=inside, parts=parts, attributes=attributes))
    captions: tuple[TextLabel, ...] = record.captions if texts_hold else ()
    qa: tuple[QA, ...] = record.qa if texts_hold else ()
    return replace(record, image_size=size, objects=tuple(kept), captions=captions, qa=qa)


def cut(image: Image.Image, window: Box) -> Image.Image:
    """The part of an image inside a window of whole pixels."""
    return image.crop((int(window.x1), int(window.y1), int(window.x2), int(window.y2)))


def shift(box: Box, window: Box) -> Box:
    """The box as it lies in what `cut` gives; not clipped."""
    return Box(box.x1 - window.x1, box.y1 - window.y1, box.x2 - window.x1, box.y2 - window.y1)


def _cut_attributes(item: ObjectLabel, whole: Box, inside: Box) -> dict[str, tuple[str, ...]]:
    cut = {
        "top": inside.y1 - whole.y1 > EDGE_SHARE * whole.height,
        "bottom": whole.y2 - inside.y2 > EDGE_SHARE * whole.height,
        "side": (inside.x1 - whole.x1) + (whole.x2 - inside.x2) > EDGE_SHARE * whole.width,
    }
    attributes = dict(item.attributes)
    for edge, names in CUT_ATTRIBUTES.items():
        if cut[edge]:
            attributes.update({name: ("not visible",) for name in names if name in attributes})
    return attributes


def augment(
    image: Image.Image, record: Record, config: AugmentConfig, rng: random.Random
) -> tuple[Image.Image, Record]:
    """A variation of the picture and the record that goes with it, drawn with `rng`."""
    boxed = any(item.box is not None for item in record.objects)
    if rng.random() < config.flip:
        image, record = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), flip_record(record)
    if config.rotate and not boxed and rng.random() < 0.5:
        angle = rng.uniform(-config.rotate, config.rotate)
        image = image.rotate(angle, Image.Resampling.BILINEAR, fillcolor=_corner_colour(image))
    window = None
    if config.zoom and boxed and record.boxes_complete and rng.random() < config.zoom:
        window = _draw_zoom(image, rng.choice([item.box for item in record.objects if item.box is not None]), rng)
    elif rng.random() < config.crop:
        window = _draw_window(image, config.min_crop if record.boxes_complete else config.min_crop_unboxed, rng)
    if window is not None:
        image = cut(image, window)
        record = crop_record(record, window)
    if config.brightness:
        image = _change_light(image, *(rng.uniform(-config.brightness, config.brightness) for _ in range(2)))
    if not boxed and rng.random() < config.erase:
        width, height = round(image.width * rng.uniform(0.1, 0.3)), round(image.height * rng.uniform(0.1, 0.3))
        x, y = rng.randrange(max(1, image.width - width)), rng.randrange(max(1, image.height - height))
        image = image.copy()
        image.paste(tuple(rng.randrange(256) for _ in range(3)), (x, y, x + width, y + height))
    return image, record


def _change_light(image: Image.Image, brightness: float, contrast: float) -> Image.Image:
    """Brightness and contrast of the brightest channel; the others keep their share of it, so that hue and saturation
    stay. Pillow's enhancers clip each channel for itself, and a bright beige turns yellow."""
    pixels = np.asarray(image)
    red, green, blue = (pixels[..., channel] for channel in range(3))
    value = np.maximum(np.maximum(red, green), blue)  # ten times as fast as a reduction over three
    grey = float(value.mean()) * (1 + brightness)
    levels = np.arange(256)
    wanted = np.clip((levels * (1 + brightness) - grey) * (1 + contrast) + grey, 0, 255)
    scale = wanted / np.maximum(levels, 1)
    # What becomes of every level under every brightest channel: looking it up spares the arithmetic in floats. No
    # channel is above the brightest; what the table says there is never read.
    table = np.rint(np.minimum(scale[:, None] * levels, 255)).astype(np.uint8)
    return Image.fromarray(table.ravel()[(value.astype(np.uint16) << 8)[..., None] | pixels])


def _draw_window(image: Image.Image, min_area: float, rng: random.Random) -> Box:
    """A window of the image's own aspect (so that pictures keep falling into few shapes), whole pixels."""
    side = rng.uniform(min_area, 1.0) ** 0.5
    width, height = max(1, round(image.width * side)), max(1, round(image.height * side))
    x, y = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
    return Box(x, y, x + width, y + height)


def zoom_size(box: Box, image_size: ImageSize, margin: float) -> ImageSize:
    """(height, width) in whole pixels of a window of the image's own aspect, `margin` times as large as the box."""
    height, width = image_size
    side = min(1.0, max(ZOOM_MIN_SIDE, max(box.width / width, box.height / height) * margin))
    return max(1, round(height * side)), max(1, round(width * side))


def _draw_zoom(image: Image.Image, box: Box, rng: random.Random) -> Box:
    """A window that holds the box somewhere, `ZOOM_MARGIN` times as large."""
    height, width = zoom_size(box, (image.height, image.width), rng.uniform(*ZOOM_MARGIN))
    x = _draw_start(box.x1, box.x2, width, image.width, rng)
    y = _draw_start(box.y1, box.y2, height, image.height, rng)
    return Box(x, y, x + width, y + height)


def _draw_start(low: float, high: float, length: int, whole: int, rng: random.Random) -> int:
    """Where a window of this length may begin so that it holds all from low to high."""
    first, last = sorted((round(high) - length, round(low)))  # swapped by rounding alone
    return min(max(0, rng.randint(first, last)), whole - length)


def _corner_colour(image: Image.Image) -> tuple[int, ...]:
    pixel = image.getpixel((0, 0))
    return pixel if isinstance(pixel, tuple) else (int(pixel or 0),) * 3
