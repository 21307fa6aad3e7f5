"""Boxes of things that lie before a plain background."""

# H height, W width

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from tasks.base import Record
from tasks.boxes import Box, iou
from tasks.readers.clothing import lone_box
from vlm.images import open_image
from vlm.synthetic.recolour import PAINTS, to_oklab

__all__ = ["ALONE", "lone_records", "plain_box"]

ALONE = ("flat", "ghost")
"""Views in which a photo shows a garment and nobody in it."""

_SIDE = 232
"""Longer side, in pixels, at which is looked."""
_HUE_TWICE = np.array([1, 2, 2], dtype=np.float32)
_RING = 0.025
"""Width of the border, as a share of the shorter side."""
_LEAST_DISTANCE = 0.065
"""In OKLab, hue counted twice: what is nearer to the background is background ..."""
_MOST_NOISE = 0.035
"""... and a border that varies more than this around its own gradient is not plain."""
_LEAST_UNIFORM = 0.8
"""Share of the border that must look like the background."""
_STRICTER = 1.6
_LEAST_STABLE = 0.9
"""Where a limit _STRICTER times as high gives a box whose IoU with the first one is less than this, folds of the
background or shadows took part in it."""
_COVERAGE = (0.05, 0.95)
_TOUCHES = 0.06
"""A side whose border is foreground for more than this share is touched."""
_NEAR = 0.06
"""Pieces this near to the largest one, as a share of the photo's longer side, belong to it (a strap, the other leg)."""
_LEAST_PIECE = 0.02


def plain_box(image: Image.Image) -> Box | None:
    """The box of what stands out from a plain background.

    Returns:
        A box in the image's pixels; None where the border is not uniform enough, or what stands out covers less than
        5 % or more than 95 % of the photo (a white shirt on white, a close-up), or touches more than one side.
    """
    found = _foreground(image)
    return None if found is None else _box_around(found[0], image)


def _box_around(mask: NDArray[np.bool_], image: Image.Image) -> Box:
    extent = _extent(mask)
    y, x = image.height / mask.shape[0], image.width / mask.shape[1]
    return Box(
        round(extent.x1 * x),
        round(extent.y1 * y),
        min(image.width, round(extent.x2 * x)),
        min(image.height, round(extent.y2 * y)),
    )


def _extent(mask: NDArray[np.bool_]) -> Box:
    """Of a mask that is not empty; it ends after its last pixel."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return Box(float(columns[0]), float(rows[0]), float(columns[-1]) + 1, float(rows[-1]) + 1)


def _cleaned(stands_out: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Without what is thin (seams of a floor, the hook of a hanger) or far from the largest piece."""
    opened = ndimage.binary_opening(np.pad(stands_out, 3, mode="edge"), iterations=2)
    return _with_neighbours(ndimage.binary_closing(opened, iterations=2)[3:-3, 3:-3])


def _foreground(image: Image.Image) -> tuple[NDArray[np.bool_], NDArray[np.float32]] | None:
    """(HxW mask, the background's colour as 3 floats L, a, b), at _SIDE pixels."""
    factor = min(1.0, _SIDE / max(image.size))
    size = (max(8, round(image.width * factor)), max(8, round(image.height * factor)))
    pixels = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BOX))
    height, width = pixels.shape[:2]
    ring = max(2, round(_RING * min(height, width)))
    border = np.ones((height, width), dtype=bool)
    border[ring:-ring, ring:-ring] = False
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    plane = np.stack([np.ones_like(x), x / width - 0.5, y / height - 0.5], axis=-1)
    # Most photos fail at their border: the rest of their pixels need no look.
    values = to_oklab(pixels[border]) * _HUE_TWICE
    gradient, noise = _gradient(plane[border], values)
    limit = max(_LEAST_DISTANCE, 4 * noise)
    off = np.linalg.norm(values - plane[border] @ gradient, axis=-1)
    if noise > _MOST_NOISE or np.mean(off <= limit) < _LEAST_UNIFORM:
        return None
    away = np.linalg.norm(to_oklab(pixels) * _HUE_TWICE - plane @ gradient, axis=-1)
    mask, strict = _cleaned(away > limit), _cleaned(away > _STRICTER * limit)
    if not mask.any() or not strict.any() or iou(_extent(mask), _extent(strict)) < _LEAST_STABLE:
        return None
    if not _COVERAGE[0] <= mask.mean() <= _COVERAGE[1]:
        return None
    sides = (mask[:ring], mask[-ring:], mask[:, :ring], mask[:, -ring:])
    if sum(side.any(axis=0 if number < 2 else 1).mean() > _TOUCHES for number, side in enumerate(sides)) > 1:
        return None
    return mask, (gradient[0] / _HUE_TWICE).astype(np.float32)


def _gradient(plane: NDArray[np.float32], values: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """Fit a colour that changes evenly over the photo to its border's N pixels.

    Light falls off towards one side in most photos; a plane follows it where one colour cannot.

    Args:
        plane: Nx3, 1 and the place in the photo from -0.5 to 0.5.
        values: Nx3 L, a, b.

    Returns:
        3x3 coefficients, the first row the colour in the middle of the photo, and the median distance of the pixels
        that belong to it.
    """
    coefficients = np.zeros((3, 3), dtype=np.float32)
    coefficients[0] = np.median(values, axis=0)
    noise = 1.0
    used = np.linalg.norm(values - coefficients[0], axis=-1) < 0.2
    for _ in range(4):
        if used.sum() < 12:
            return coefficients, 1.0
        coefficients = np.linalg.lstsq(plane[used], values[used], rcond=None)[0].astype(np.float32)
        off = np.linalg.norm(values - plane @ coefficients, axis=-1)
        noise = float(np.median(off[used]))
        used = off < max(0.04, 3 * noise)
    return coefficients, noise


def _with_neighbours(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest piece and those near it."""
    numbered, count = ndimage.label(mask, structure=np.ones((3, 3), dtype=int))
    if not count:
        return mask
    sizes = np.bincount(numbered.ravel())
    sizes[0] = 0
    largest = int(sizes.argmax())
    kept = numbered == largest
    reach = ndimage.distance_transform_edt(~kept) <= _NEAR * max(mask.shape)
    near = np.unique(numbered[reach])
    chosen = [piece for piece in near if piece and sizes[piece] >= _LEAST_PIECE * sizes[largest]]
    return np.isin(numbered, chosen)


_LIKE = 0.16
"""A garment whose colour is within this distance of the background's may be seen only in part."""


def lone_records(records: Iterable[Record]) -> list[Record]:
    """Those that show one garment, alone before a plain background, with its box.

    Looked at are records of one object without a box, whose group "view" is flat or ghost; a garment of nearly the
    background's colour is left out, since its print alone would stand out. Detection may be trained on the result:
    nothing else is in these photos.

    Raises:
        ValueError: a photo cannot be read.
    """
    return list(_lone(records))


def _lone(records: Iterable[Record]) -> Iterator[Record]:
    for record in records:
        if len(record.objects) != 1 or record.objects[0].box is not None or record.groups.get("view") not in ALONE:
            continue
        [item] = record.objects
        image = open_image(record.image)
        found = _foreground(image)
        if found is None or _like(item.attributes.get("colour", ()), found[1]):
            continue
        yield replace(
            record,
            objects=(lone_box(item, _box_around(found[0], image)),),
            objects_complete=True,
            boxes_complete=True,
        )


def _like(colours: Iterable[str], background: NDArray[np.float32]) -> bool:
    """Whether the garment's dominant colour is one that the background may have too."""
    name = next(iter(colours), None)
    if name is None or name not in PAINTS:
        return False
    paint = PAINTS[name]
    light = float(np.clip(background[0], *paint.light))
    chroma = float(np.hypot(background[1], background[2]))
    off_light = abs(float(background[0]) - light)
    low, high = paint.chroma
    off_chroma = max(0.0, low - chroma, chroma - high)
    hue = (np.degrees(np.arctan2(background[2], background[1])) - np.mean(paint.hue) + 180) % 360 - 180
    turned = 2 * min(low, chroma) * np.sin(np.radians(min(90.0, abs(float(hue)))))
    return bool(np.hypot(off_light, 2 * off_chroma + turned) < _LIKE)
