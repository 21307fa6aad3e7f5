"""Changes to the scene around the garments: another background, something in front, a crop, a garment alone."""

# H height, W width

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from tasks.base import ObjectLabel, Record
from tasks.boxes import Box
from tasks.ontology import NOT_VISIBLE, default_ontology
from vlm.data.augment import MIN_VISIBLE, crop_record
from vlm.synthetic.cloth_edits import Work
from vlm.synthetic.cutout import blurred_crop, cover, empty_scene, ground_shadow, matte, mean_lab, studio
from vlm.synthetic.masked_photo import MaskedPhoto, boxed
from vlm.synthetic.recolour import from_oklab, to_oklab

__all__ = ["change_background", "crop_body", "enlarged", "garment_alone", "may_cut", "may_stand_alone", "occlude"]

_ON_BODY = ("ring", "earrings", "necklace", "watch", "bracelet", "glasses", "sunglasses", "belt", "tie", "bow tie")
"""What lies within the person's outline, whether the mask names it or not."""


def may_cut(work: Work) -> bool:
    """Whether the person's outline holds everything that is labelled: a bag that the mask lacks would be cut off."""
    return all(
        source is not None or item.label in _ON_BODY or default_ontology().kind_of(item.label) == "hosiery"
        for item, source in zip(work.objects, work.sources, strict=True)
    )


def change_background(
    work: Work, others: Sequence[MaskedPhoto], rng: random.Random, noise: np.random.Generator
) -> None:
    """Put the person before another photo's background, a blurred one or a studio's wall."""
    height, width = work.label_map.shape
    person = work.label_map != 0
    lab = to_oklab(work.pixels)
    alpha, pure = matte(lab, person)
    # The new surroundings differ along the whole outline: what is ragged shows.
    alpha = ndimage.gaussian_filter(alpha, 0.5, mode="nearest")
    kind, scene, shade = _scene(others, height, width, rng, noise)
    behind = to_oklab(scene)
    shift = (mean_lab(scene) - mean_lab(work.pixels, ~person)) * np.float32(0.12)
    pure = pure + np.clip(shift, (-0.04, -0.008, -0.008), (0.04, 0.008, 0.008)).astype(np.float32)
    move = _room(person, rng)
    person, alpha, pure = (np.roll(values, move, axis=1) for values in (person, alpha, pure))
    if shade:
        behind = behind * (1 - 0.7 * ground_shadow(person, rng)[..., None])
    result = behind + alpha[..., None] * (pure - behind)
    work.pixels = from_oklab(result.astype(np.float32))
    work.label_map = np.roll(work.label_map, move, axis=1)
    work.done.append("background")
    work.groups["background"] = kind
    work.texts_hold = False


def _room(person: NDArray[np.bool_], rng: random.Random) -> int:
    """Pixels to move the person sideways, so that all of them stays in the picture."""
    columns = np.flatnonzero(person.any(axis=0))
    left, right = int(columns[0]), person.shape[1] - 1 - int(columns[-1])
    return rng.randint(-max(0, left - 2), max(0, right - 2)) if left > 2 and right > 2 else 0


def _scene(
    others: Sequence[MaskedPhoto], height: int, width: int, rng: random.Random, noise: np.random.Generator
) -> tuple[str, NDArray[np.uint8], bool]:
    """(kind, HxWx3, whether feet throw a shadow on it)."""
    draw = rng.random()
    if draw < 0.55 and others:
        for _ in range(4):
            other = rng.choice(others)
            empty = empty_scene(other.pixels, other.person)
            if empty is not None:
                return "street", cover(empty, height, width, rng, most=1.1), True
    if draw < 0.75 and others:
        other = rng.choice(others)
        empty = empty_scene(other.pixels, other.person)
        return "blurred", blurred_crop(other.pixels if empty is None else empty, height, width, rng), False
    wall, _ = studio(height, width, rng, noise)
    return "studio", wall, True


_ZONES = {"neckline": ("top",), "length": ("bottom",), "sleeve": ("left", "right"), "closure": ("middle",)}
"""Which parts of a garment show an attribute."""
_ZONE = 0.18
_HIDDEN = 0.5


def occlude(work: Work, rng: random.Random, noise: np.random.Generator) -> None:
    """Something stands in front of a garment. What is left decides the boxes; what is hidden is not visible."""
    large = [index for index, _ in enumerate(work.objects) if work.area(index) > 0.02]
    if not large:
        return
    index = rng.choice(large)
    mask = work.mask(index)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    tall, wide = int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1
    high, broad = round(tall * rng.uniform(0.2, 0.55)), round(wide * rng.uniform(0.3, 0.9))
    y = int(rows[0]) + rng.randint(-high // 2, max(0, tall - high // 2))
    x = int(columns[0]) + rng.randint(-broad // 2, max(0, wide - broad // 2))
    height, width = work.label_map.shape
    grid_y, grid_x = np.mgrid[0:height, 0:width]
    if rng.random() < 0.5:
        cover_mask = (abs(grid_y - y - high / 2) < high / 2) & (abs(grid_x - x - broad / 2) < broad / 2)
    else:
        away = ((grid_y - y - high / 2) / max(1, high / 2)) ** 2 + ((grid_x - x - broad / 2) / max(1, broad / 2)) ** 2
        cover_mask = away < 1
    hidden = work.label_map.copy()
    hidden[cover_mask] = 0
    kept: list[tuple[ObjectLabel, str | None]] = []
    for number, item in enumerate(work.objects):
        source = work.sources[number]
        if source is None:
            # It may be just there: nobody knows any more.
            work.objects_complete = False
            continue
        whole = work.mask(number)
        left = float((whole & ~cover_mask).sum()) / max(1, int(whole.sum()))
        if left >= MIN_VISIBLE:
            kept.append((item if left == 1 else _without_hidden(item, whole, cover_mask), source))
    alpha = ndimage.gaussian_filter(cover_mask.astype(np.float32), 0.6)[..., None]
    thing = _texture(height, width, rng, noise)
    work.pixels = np.rint(work.pixels * (1 - alpha) + thing * alpha).astype(np.uint8)
    work.label_map = hidden
    work.objects, work.sources = [item for item, _ in kept], [source for _, source in kept]
    work.done.append("occlusion")
    work.texts_hold = False


def _texture(height: int, width: int, rng: random.Random, noise: np.random.Generator) -> NDArray[np.float32]:
    """HxWx3, the surface of nothing in particular, with light and shade."""
    field = ndimage.gaussian_filter(noise.standard_normal((height, width)), rng.uniform(0.6, 6))
    field = field / max(1e-6, float(field.std())) * rng.uniform(2, 14)
    y, x = np.mgrid[0:height, 0:width]
    light = rng.uniform(-40, 40) * (y / height - 0.5) + rng.uniform(-60, 60) * (x / width - 0.5)
    colour = np.array([rng.uniform(25, 235) for _ in range(3)])
    colour = colour.mean() + (colour - colour.mean()) * rng.uniform(0, 0.5)
    surface: NDArray[np.float32] = np.clip(colour + (field + light)[..., None], 0, 255).astype(np.float32)
    return surface


def _without_hidden(item: ObjectLabel, mask: NDArray[np.bool_], cover_mask: NDArray[np.bool_]) -> ObjectLabel:
    rows, columns = np.nonzero(mask)
    y = (rows - rows.min()) / max(1, int(np.ptp(rows)))
    x = (columns - columns.min()) / max(1, int(np.ptp(columns)))
    covered = cover_mask[rows, columns]
    zones = {
        "top": y < _ZONE,
        "bottom": y > 1 - _ZONE,
        "left": x < _ZONE,
        "right": x > 1 - _ZONE,
        "middle": abs(x - 0.5) < 0.15,
    }
    attributes = dict(item.attributes)
    for name, names in _ZONES.items():
        parts = [covered[zones[zone]] for zone in names]
        if name in attributes and any(len(part) and part.mean() > _HIDDEN for part in parts):
            attributes[name] = (NOT_VISIBLE,)
    return replace(item, attributes=attributes)


def crop_body(work: Work, rng: random.Random) -> None:
    """Only the upper or the lower part of the person; what is cut off is not visible, or gone."""
    height, width = work.label_map.shape
    rows = np.flatnonzero((work.label_map != 0).any(axis=1))
    columns = np.flatnonzero((work.label_map != 0).any(axis=0))
    if not len(rows):  # an occluder: nothing is left of the person
        return
    top, tall = int(rows[0]), int(rows[-1] - rows[0] + 1)
    if rng.random() < 0.65:
        part, first = "upper", rng.uniform(0, top) if top else 0
        last = top + tall * rng.uniform(0.45, 0.8)
    else:
        part, last = "lower", rng.uniform(top + tall, height)
        first = top + tall * rng.uniform(0.22, 0.5)
    y1, y2 = int(first), max(int(first) + 8, round(last))
    # As narrow as portraits are, and never through the person.
    wanted = max((y2 - y1) * rng.uniform(0.6, 0.95), float(columns[-1] - columns[0] + 5))
    middle = (columns[0] + columns[-1]) / 2
    x1 = max(0, round(min(middle - wanted / 2, width - wanted)))
    x2 = min(width, max(round(x1 + wanted), int(columns[-1]) + 1))
    _crop(work, Box(x1, y1, x2, min(height, y2)))
    work.done.append("crop")
    work.groups["crop"] = part


def _crop(work: Work, window: Box) -> None:
    """Attributes and garments by the rules of training's crops; boxes from the mask that is left."""
    if any(source is None for source in work.sources):
        work.objects_complete = False
    objects = boxed(work.objects, work.sources, work.label_map, work.labels)
    kept: list[tuple[ObjectLabel, str | None]] = []
    for item, source in zip(objects, work.sources, strict=True):
        if item.box is None:
            continue
        alone = Record(id="", image="", image_size=work.label_map.shape, objects=(item,))
        kept += [(left, source) for left in crop_record(alone, window).objects]
    part = np.s_[int(window.y1) : int(window.y2), int(window.x1) : int(window.x2)]
    work.pixels, work.label_map = work.pixels[part], work.label_map[part]
    work.objects, work.sources = [item for item, _ in kept], [source for _, source in kept]
    work.texts_hold = False


_ALONE = ("upper", "whole", "lower")


def may_stand_alone(work: Work, index: int) -> bool:
    """Whether a garment's region is all of it: large, in one piece, hardly covered by arms, hair or bags."""
    item = work.objects[index]
    if default_ontology().kind_of(item.label) not in _ALONE and item.label not in ("bag", "hat", "backpack"):
        return False
    if work.area(index) < 0.03:
        return False
    mask = work.mask(index)
    numbered, count = ndimage.label(mask)
    largest = np.bincount(numbered.ravel())[1:].max() if count else 0
    filled = ndimage.binary_closing(np.pad(mask, 12), iterations=10)
    return bool(largest > 0.97 * mask.sum() and mask.sum() > 0.9 * filled.sum())


def garment_alone(work: Work, index: int, rng: random.Random, noise: np.random.Generator) -> None:
    """One garment, cut out, before a plain wall, as in a catalogue."""
    mask = work.mask(index)
    alpha, pure = matte(to_oklab(work.pixels), mask, forbidden=(work.label_map != 0) & ~mask)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    tall, wide = int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1
    margin_y, margin_x = round(tall * rng.uniform(0.06, 0.3)) + 3, round(wide * rng.uniform(0.08, 0.4)) + 3
    height, width = tall + 2 * margin_y, wide + 2 * margin_x
    cut = np.s_[int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1]

    def placed(values: NDArray[np.float32]) -> NDArray[np.float32]:
        pads = [(margin_y, margin_y), (margin_x, margin_x)] + [(0, 0)] * (values.ndim - 2)
        return np.pad(values[cut], pads, mode="edge" if values.ndim > 2 else "constant")

    wall = to_oklab(studio(height, width, rng, noise)[0])
    share, colours = placed(alpha), placed(pure)
    shadow = ndimage.gaussian_filter(share, 2.5) * np.float32(rng.uniform(0, 0.25))
    wall = wall * (1 - np.roll(shadow, (2, 1), axis=(0, 1)))[..., None]
    work.pixels = from_oklab((wall + share[..., None] * (colours - wall)).astype(np.float32))
    work.label_map = np.pad(np.where(mask, work.label_map, 0)[cut], ((margin_y, margin_y), (margin_x, margin_x)))
    work.objects, work.sources = [work.objects[index]], [work.sources[index]]
    work.objects_complete = True
    work.done.append("alone")
    work.groups["crop"] = "flat"
    work.texts_hold = False


def enlarged(work: Work, size: int) -> None:
    """Crops at the size of whole photos: the longer side becomes `size` pixels, by at most a factor of 2."""
    height, width = work.label_map.shape
    factor = min(2.0, size / max(height, width))
    if factor <= 1:
        return
    wanted = (round(width * factor), round(height * factor))
    work.pixels = np.asarray(Image.fromarray(work.pixels).resize(wanted, Image.Resampling.BICUBIC))
    work.label_map = np.asarray(Image.fromarray(work.label_map).resize(wanted, Image.Resampling.NEAREST))
