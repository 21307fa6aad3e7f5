"""Cutting out of photos and pasting into others: soft edges without halos, backgrounds without people."""

# H height, W width, C channels

from __future__ import annotations

import random

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from scipy.special import expit

from vlm.synthetic.recolour import to_oklab

__all__ = ["blurred_crop", "cover", "empty_scene", "ground_shadow", "matte", "studio"]

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

_BAND = 2
"""Pixels on either side of an outline within which it may be wrong."""
_REACH = 2.5
"""Standard deviation, in pixels, of the neighbourhood that says what inside and outside look like."""
_TELLABLE = 0.08
"""Where inside and outside differ less than this in OKLab, the outline itself decides."""


def matte(lab: Floats, mask: Mask, *, forbidden: Mask | None = None) -> tuple[Floats, Floats]:
    """How much of each pixel belongs to what `mask` outlines, and what that looks like without the rest.

    Near the outline a pixel's colour is a mixture of what lies inside and outside of it there; its share along the
    line between the two colours is its alpha.

    Args:
        lab: HxWx3.
        mask: HxW.
        forbidden: HxW, pixels that are surely of something else (another garment).

    Returns:
        HxW alpha in 0..1 and HxWx3 colours, in which edge pixels have the inside's colour.
    """
    near = ndimage.binary_dilation(mask, iterations=_BAND)
    core = ndimage.binary_erosion(mask, iterations=_BAND, border_value=1)
    if not core.any():
        # A strap or an earring is all edge.
        core = mask
    beyond = ~near
    inside, inside_weight = _mean_near(lab, core)
    outside, outside_weight = _mean_near(lab, beyond)
    line = inside - outside
    length = np.sum(line * line, axis=-1)
    share = np.sum((lab - outside) * line, axis=-1) / np.maximum(length, 1e-6)
    plain = ndimage.gaussian_filter(mask.astype(np.float32), 0.7, mode="nearest")
    told = (length > _TELLABLE**2) & (inside_weight > 1e-4) & (outside_weight > 1e-4)
    # The outline keeps a say, or a stripe of the background's colour would be cut out of the garment.
    mixed = np.clip(np.clip(share, 0, 1) * 0.9 + plain * 0.4 - 0.12, 0, 1)
    alpha = np.where(told, mixed, plain)
    alpha = np.where(core, 1, np.where(near, alpha, 0)).astype(np.float32)
    if forbidden is not None:
        alpha = np.where(forbidden & ~mask, np.minimum(alpha, plain * 0.5), alpha)
    pure = np.where((alpha < 0.98)[..., None] & (inside_weight > 1e-4)[..., None], inside, lab)
    # Not all of it: fine detail at the edge is the photo's.
    blend = np.clip(alpha, 0, 1)[..., None]
    return alpha, (lab * blend + pure * (1 - blend)).astype(np.float32)


def _mean_near(lab: Floats, where: Mask) -> tuple[Floats, Floats]:
    weight = ndimage.gaussian_filter(where.astype(np.float32), _REACH, truncate=3.0, mode="nearest")
    total = np.stack(
        [
            ndimage.gaussian_filter(np.where(where, lab[..., channel], 0), _REACH, truncate=3.0, mode="nearest")
            for channel in range(3)
        ],
        axis=-1,
    )
    return (total / np.maximum(weight, 1e-6)[..., None]).astype(np.float32), weight


def empty_scene(pixels: Pixels, person: Mask) -> Pixels | None:
    """The photo without its person: each row mirrors what stands left and right of them into the gap.

    None where the person takes nearly all of some rows: there is nothing to mirror.
    """
    height, width = person.shape
    gap = ndimage.binary_dilation(person, iterations=max(3, width // 50))
    rows = np.flatnonzero(gap.any(axis=1))
    if not len(rows):
        return pixels
    left, right = np.full(height, width / 2), np.full(height, width / 2)
    left[rows] = gap.argmax(axis=1)[rows]
    right[rows] = width - gap[:, ::-1].argmax(axis=1)[rows]
    # Even edges from row to row, or the filling falls into shreds.
    reach = max(3, height // 12)
    left = ndimage.gaussian_filter1d(ndimage.minimum_filter1d(left, reach), reach / 3)
    right = ndimage.gaussian_filter1d(ndimage.maximum_filter1d(right, reach), reach / 3)
    first, last = max(0, rows[0] - 3), min(height, rows[-1] + 4)
    least = max(6, width // 12)
    if np.any(np.maximum(left, width - right)[first:last] < least):
        return None
    x = np.arange(width, dtype=np.float32)[None, :]
    left, right = left[:, None], right[:, None]
    from_left = _bounce(left - 1 - (x - left), np.maximum(left - 1, 1))
    from_right = width - 1 - _bounce((width - right) - 1 - (right - 1 - x), np.maximum(width - right - 1, 1))
    row = np.arange(height)[:, None]
    along = np.clip((x - left) / np.maximum(right - left, 1), 0, 1)
    # A narrow margin has little to say.
    bias = (width - right) / np.maximum(left + width - right, 1)
    centre = np.where(left < least, -1.0, np.where(width - right < least, 2.0, 1 - bias))
    weight = expit((along - centre) / 0.12)[..., None]
    mirrored = pixels[row, np.clip(from_left, 0, width - 1).astype(int)] * (1 - weight)
    mirrored = mirrored + pixels[row, np.clip(from_right, 0, width - 1).astype(int)] * weight
    inside = np.clip(np.minimum(x - left, right - x) / 2 + 0.5, 0, 1)
    inside[: rows[0] - 3 if rows[0] > 3 else 0] = 0
    inside[last:] = 0
    inside = ndimage.gaussian_filter(inside, (2.0, 0.7))[..., None]
    filled: Pixels = np.rint(mirrored * inside + pixels * (1 - inside)).astype(np.uint8)
    return filled


def _bounce(position: Floats, length: Floats) -> Floats:
    """Positions folded back into 0..length, as between two mirrors."""
    folded: Floats = np.abs((position + length) % (2 * length) - length)
    return folded


def cover(pixels: Pixels, height: int, width: int, rng: random.Random, *, most: float = 1.25) -> Pixels:
    """A part of the picture that fills height x width, enlarged by up to `most` beyond that."""
    factor = max(height / pixels.shape[0], width / pixels.shape[1]) * rng.uniform(1, most)
    wide = max(width, round(pixels.shape[1] * factor))
    high = max(height, round(pixels.shape[0] * factor))
    x, y = rng.randint(0, wide - width), rng.randint(0, high - height)
    scaled = Image.fromarray(pixels).resize((wide, high), Image.Resampling.BILINEAR)
    return np.asarray(scaled.crop((x, y, x + width, y + height)))


def blurred_crop(pixels: Pixels, height: int, width: int, rng: random.Random) -> Pixels:
    """A background out of focus: part of a photo, enlarged and blurred."""
    part = cover(pixels, height, width, rng, most=2.0)
    sigma = rng.uniform(0.02, 0.05) * width
    # Blurring small and enlarging is the same to the eye, and fast.
    shrink = max(1, int(sigma / 2))
    small = np.asarray(Image.fromarray(part).resize((max(4, width // shrink), max(4, height // shrink))))
    small = ndimage.gaussian_filter(small.astype(np.float32), (sigma / shrink, sigma / shrink, 0), mode="reflect")
    smooth = Image.fromarray(np.rint(np.clip(small, 0, 255)).astype(np.uint8))
    return np.asarray(smooth.resize((width, height), Image.Resampling.BICUBIC))


def studio(height: int, width: int, rng: random.Random, noise: np.random.Generator) -> tuple[Pixels, int | None]:
    """A photographer's wall: plain, shaded or with a floor; and the row where the floor begins, if any."""
    tone = rng.choice((rng.uniform(225, 255), rng.uniform(90, 225)))
    cast = np.array([rng.uniform(-1, 1) for _ in range(3)]) * (rng.choice((2, 2, 8, 30)) if tone < 225 else 3)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    light = np.full((height, width), tone, dtype=np.float32)
    kind = rng.choice(("plain", "gradient", "spot", "floor"))
    horizon = None
    if kind == "gradient":
        light += rng.uniform(-35, 25) * (y / height - 0.5) + rng.uniform(-15, 15) * (x / width - 0.5)
    elif kind == "spot":
        away = ((x / width - rng.uniform(0.3, 0.7)) / 0.8) ** 2 + ((y / height - rng.uniform(0.2, 0.5)) / 0.9) ** 2
        light -= rng.uniform(15, 50) * np.clip(away, 0, 1.5)
    elif kind == "floor":
        horizon = round(height * rng.uniform(0.72, 0.9))
        step = expit((y - horizon) / rng.uniform(1, 1 + height * 0.04))
        light += step * rng.uniform(-30, 12) - 12 * np.abs(x / width - 0.5)
    grain = noise.normal(0, rng.uniform(0.3, 2.0), (height, width, 1))
    return np.rint(np.clip(light[..., None] + cast + grain, 0, 255)).astype(np.uint8), horizon


def ground_shadow(person: Mask, rng: random.Random) -> Floats:
    """HxW in 0..1: how dark the floor is under the feet; all 0 where the person goes beyond the lower edge."""
    height, width = person.shape
    shadow = np.zeros((height, width), dtype=np.float32)
    rows = np.flatnonzero(person.any(axis=1))
    if not len(rows) or rows[-1] >= height - 2:
        return shadow
    low, tall = int(rows[-1]), int(rows[-1] - rows[0] + 1)
    feet = person[max(0, low - max(3, tall // 25)) : low + 1].any(axis=0)
    thick = max(1, tall // 90)
    shadow[max(0, low - thick) : low + thick + 1, feet] = 1
    sigma = tall * rng.uniform(0.008, 0.02)
    wide = ndimage.gaussian_filter(shadow, (sigma, sigma * 2.5), mode="constant")
    close = ndimage.gaussian_filter(shadow, (sigma / 3, sigma / 2), mode="constant")
    dark: Floats = np.clip(wide * rng.uniform(0.5, 1.0) + close * rng.uniform(0.3, 0.6), 0, 0.8).astype(np.float32)
    return dark


def mean_lab(pixels: Pixels, where: Mask | None = None) -> Floats:
    """Median colour of a picture, 3 floats L, a, b; of every 4th pixel, which is plenty."""
    sample = pixels[::4, ::4]
    values = to_oklab(sample if where is None else sample[where[::4, ::4]]).reshape(-1, 3)
    return np.median(values, axis=0).astype(np.float32) if len(values) else np.array([0.6, 0, 0], dtype=np.float32)
