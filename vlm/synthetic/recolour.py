"""Cloth in another colour under the same light: shading stays, paint changes.

Works in OKLab (B. Ottosson, 2020, "A perceptual color space for image processing"): L in 0..1, a and b near 0 for
greys. Shading multiplies light, which in OKLab scales L, a and b together; how far a cloth's folds spread its L
depends on the paint (black goes up into highlights, white goes down into shadows), so the spread is rescaled too.
"""

# H height, W width, N pixels

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["PAINTS", "Paint", "Shading", "distance", "draw_paint", "from_oklab", "repaint", "shading_of", "to_oklab"]

Floats = NDArray[np.float32]

_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ],
    dtype=np.float32,
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ],
    dtype=np.float32,
)
_FROM_LAB = np.linalg.inv(_TO_LAB).astype(np.float32)
_FROM_LMS = np.linalg.inv(_TO_LMS).astype(np.float32)
_LEVELS = np.arange(256, dtype=np.float32) / 255
_LINEAR = np.where(_LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4).astype(np.float32)
_STEPS = 4096
_UNIT = np.linspace(0, 1, _STEPS, dtype=np.float32)
_GAMMA = np.where(_UNIT <= 0.0031308, 12.92 * _UNIT, 1.055 * _UNIT ** (1 / 2.4) - 0.055).astype(np.float32)


def to_oklab(pixels: NDArray[np.uint8]) -> Floats:
    """...x3 sRGB bytes -> ...x3 L, a, b."""
    lab: Floats = np.cbrt(_LINEAR[pixels] @ _TO_LMS.T) @ _TO_LAB.T
    return lab


def from_oklab(lab: Floats) -> NDArray[np.uint8]:
    """...x3 L, a, b -> ...x3 sRGB bytes; what no screen shows is clipped."""
    linear = (lab @ _FROM_LAB.T) ** 3 @ _FROM_LMS.T
    # Squares make the table's steps finest in the dark, where the eye and the curve are.
    index = np.sqrt(np.clip(linear, 0, 1)) * (_STEPS - 1)
    levels: NDArray[np.uint8] = _BYTES[np.rint(index).astype(np.int32)]
    return levels


_BYTES = np.rint(np.interp(_UNIT**2, _UNIT, _GAMMA) * 255).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class Paint:
    """Where a colour's word is beyond doubt: ranges of lightness, chroma and hue (degrees) in OKLab."""

    light: tuple[float, float]
    chroma: tuple[float, float]
    hue: tuple[float, float]


PAINTS: Mapping[str, Paint] = {
    "black": Paint(light=(0.17, 0.27), chroma=(0.0, 0.012), hue=(-120, 60)),
    "white": Paint(light=(0.86, 0.95), chroma=(0.0, 0.014), hue=(-120, 100)),
    "grey": Paint(light=(0.42, 0.70), chroma=(0.0, 0.014), hue=(-120, 80)),
    "red": Paint(light=(0.44, 0.60), chroma=(0.15, 0.21), hue=(20, 30)),
    "burgundy": Paint(light=(0.26, 0.36), chroma=(0.055, 0.092), hue=(2, 20)),
    "orange": Paint(light=(0.62, 0.72), chroma=(0.12, 0.165), hue=(46, 60)),
    "yellow": Paint(light=(0.76, 0.89), chroma=(0.11, 0.17), hue=(86, 103)),
    "green": Paint(light=(0.40, 0.68), chroma=(0.08, 0.135), hue=(138, 162)),
    "olive": Paint(light=(0.38, 0.54), chroma=(0.032, 0.066), hue=(98, 118)),
    "teal": Paint(light=(0.40, 0.58), chroma=(0.055, 0.095), hue=(190, 212)),
    "blue": Paint(light=(0.40, 0.56), chroma=(0.11, 0.19), hue=(252, 266)),
    "navy": Paint(light=(0.2, 0.28), chroma=(0.03, 0.058), hue=(258, 276)),
    "light blue": Paint(light=(0.74, 0.86), chroma=(0.045, 0.085), hue=(234, 258)),
    "purple": Paint(light=(0.36, 0.58), chroma=(0.08, 0.16), hue=(298, 320)),
    "pink": Paint(light=(0.68, 0.84), chroma=(0.06, 0.15), hue=(-12, 12)),
    "brown": Paint(light=(0.29, 0.42), chroma=(0.028, 0.058), hue=(44, 64)),
    "tan": Paint(light=(0.56, 0.68), chroma=(0.045, 0.068), hue=(60, 74)),
    "beige": Paint(light=(0.74, 0.86), chroma=(0.018, 0.036), hue=(62, 82)),
}
"""Medians of a garment's pixels. Set from what ccp's training photos show of each word, without the overlaps."""


def draw_paint(colour: str, rng: random.Random) -> Floats:
    """A shade of the colour: 3 floats L, a, b.

    Raises:
        ValueError: a colour that is no paint (gold, silver, transparent, multicolour) or unknown.
    """
    if colour not in PAINTS:
        raise ValueError(f"no paint {colour!r}; known: {', '.join(PAINTS)}")
    paint = PAINTS[colour]
    light, chroma = rng.uniform(*paint.light), rng.uniform(*paint.chroma)
    hue = math.radians(rng.uniform(*paint.hue))
    return np.array([light, chroma * math.cos(hue), chroma * math.sin(hue)], dtype=np.float32)


def distance(first: Floats, second: Floats) -> float:
    """Between two shades. Hue counts twice: OKLab's a and b are small numbers beside its L."""
    difference = first - second
    return float(math.hypot(difference[0], 2 * difference[1], 2 * difference[2]))


@dataclass(frozen=True, kw_only=True)
class Shading:
    """The light on a cloth.

    Attributes:
        tone: HxW; 0 at the median lightness, 1 at its highlights (95 %), -1 in its shadows (5 %).
        tint: HxWx2, how a and b deviate from the cloth's median.
        own: HxW in 0..1: 0 where the colour is another one (a button, a strap, a hand).
        spread: of L between shadows and highlights.
        above: of L between the median and the highlights.
        below: of L between the shadows and the median.
    """

    tone: Floats
    tint: Floats
    own: Floats
    spread: float
    above: float
    below: float


_OTHER = 0.055
"""A pixel whose a and b are this far from the cloth's median, and 4 times as far as most, is of another thing."""


def shading_of(lab: Floats, mask: NDArray[np.bool_]) -> Shading:
    """The shading of the cloth that covers `mask` in an HxWx3 picture.

    Raises:
        ValueError: an empty mask.
    """
    if not mask.any():
        raise ValueError("the mask is empty; expected at least one pixel of the garment")
    inside = lab[mask]
    low, middle, high = np.percentile(inside[:, 0], (5, 50, 95))
    # What is nearly flat has no folds to follow, only noise.
    above, below = max(float(high - middle), 0.03), max(float(middle - low), 0.03)
    offset = lab[..., 0] - np.float32(middle)
    tone = np.where(offset > 0, offset / np.float32(above), offset / np.float32(below))
    tint = lab[..., 1:] - np.median(inside[:, 1:], axis=0)
    away = np.hypot(tint[..., 0], tint[..., 1])
    limit = max(_OTHER, 4 * float(np.median(away[mask])))
    return Shading(
        tone=tone.astype(np.float32),
        tint=tint.astype(np.float32),
        own=np.clip(2 - away / limit, 0, 1).astype(np.float32),
        spread=float(high - low),
        above=above,
        below=below,
    )


_HIGH = ((0.15, 0.25, 0.48, 0.7, 0.88, 1.0), (1.85, 1.62, 1.36, 1.22, 1.08, 1.0))
"""L of the paint -> L of its highlights as a multiple; measured on solid garments of the training photos."""
_LOW = ((0.15, 0.25, 0.48, 0.7, 0.88, 1.0), (0.58, 0.58, 0.6, 0.64, 0.7, 0.74))
_USUAL_SPREAD = 0.33
_MAX_GAIN = 2.0
"""Spreading L further than this makes a photo's noise and its JPEG blocks visible."""


def repaint(shading: Shading, paint: Floats, noise: np.random.Generator) -> Floats:
    """The cloth in another paint under the light of `shading`.

    Args:
        paint: 3 floats for one colour, or HxWx3 for a print.
        noise: draws a little grain.

    Returns:
        HxWx3 L, a, b.
    """
    light = np.asarray(paint[..., 0], dtype=np.float32)
    contrast = float(np.clip(shading.spread / _USUAL_SPREAD, 0.45, 1.15))
    up = np.minimum((np.interp(light, *_HIGH) - 1) * light * contrast, _MAX_GAIN * shading.above)
    down = np.minimum((1 - np.interp(light, *_LOW)) * light * contrast, _MAX_GAIN * shading.below)
    tone = shading.tone
    if shading.above < 0.1 and float(np.mean(light)) > 0.5:
        # A dark cloth made bright: its grain would grow with it.
        tone = ndimage.gaussian_filter(tone, 0.6)
    # Beyond the highlights it goes on more slowly: a glint is not a second sun.
    tone = np.where(tone > 1, 1 + np.tanh((tone - 1) / 1.5) * 1.5, np.maximum(tone, -2.2))
    result = light + np.where(tone > 0, tone * up, tone * down)
    result += noise.normal(0, 0.006, tone.shape)
    result = np.where(result > 0.93, 0.93 + 0.06 * np.tanh((result - 0.93) / 0.06), np.maximum(result, 0.06))
    glint = 1 - 0.45 * np.clip(tone - 1, 0, 1)
    scale = np.clip(result / np.maximum(light, 0.05), 0.45, 1.3) * glint
    # Dyes vary a little over a cloth, greys hardly: a tint is seen on them at once.
    most = 0.003 + 0.1 * np.hypot(paint[..., 1], paint[..., 2])[..., None]
    colours = paint[..., 1:] * scale[..., None] + np.clip(0.35 * shading.tint, -most, most)
    return np.concatenate([result[..., None], colours], axis=-1).astype(np.float32)
