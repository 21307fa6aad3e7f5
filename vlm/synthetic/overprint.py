"""Prints for cloth, drawn in the cloth's own coordinates: shares of two or three inks at every point.

A print is a function of (u, v), in units of the garment's width, turned and bent by the caller's field; it is
evaluated at twice the resolution, so that edges are smooth.
"""

# H height, W width, K inks

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

__all__ = ["PRINTS", "draw_print"]

Floats = NDArray[np.float32]
_SUPER = 2
"""Samples a pixel, along each side."""
_LEAST_PERIOD = 5.0
"""Pixels; finer repeats are grey at a model's resolution."""


def draw_print(kind: str, bend: Floats, width: float, rng: random.Random) -> Floats:
    """A print over a region.

    Args:
        kind: a key of PRINTS.
        bend: HxW, by how many pixels the cloth is pushed along its own u and v, from its folds.
        width: of the garment in pixels.
        rng: draws scale, turn and shapes.

    Returns:
        HxWxK shares that add up to 1 at every pixel, the ground first.

    Raises:
        ValueError: an unknown print.
    """
    if kind not in PRINTS:
        raise ValueError(f"no print {kind!r}; known: {', '.join(PRINTS)}")
    height, columns = bend.shape
    y, x = np.mgrid[0 : height * _SUPER, 0 : columns * _SUPER].astype(np.float32) / _SUPER
    pushed = np.repeat(np.repeat(bend, _SUPER, axis=0), _SUPER, axis=1)
    inks = PRINTS[kind](x + pushed, y + 0.6 * pushed, max(width, 8.0), rng)
    shares = np.stack(inks, axis=-1).astype(np.float32)
    shares = shares.reshape(height, _SUPER, columns, _SUPER, -1).mean(axis=(1, 3))
    ground = np.clip(1 - shares.sum(axis=-1, keepdims=True), 0, 1)
    whole = np.concatenate([ground, shares], axis=-1)
    result: Floats = whole / whole.sum(axis=-1, keepdims=True)
    return result


def _turned(x: Floats, y: Floats, angle: float) -> tuple[Floats, Floats]:
    turn = math.radians(angle)
    return x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)


def _period(width: float, rng: random.Random, least: float, most: float) -> float:
    """Pixels; log-uniform between the shares of the garment's width."""
    return max(_LEAST_PERIOD, width * math.exp(rng.uniform(math.log(least), math.log(most))))


def _step(value: NDArray[Any], soft: float = 0.35) -> Floats:
    """0 below 0 and 1 above, over about a pixel."""
    share: Floats = np.clip(value / (2 * soft) + 0.5, 0, 1).astype(np.float32)
    return share


def _bars(position: Floats, period: float, share: float) -> Floats:
    """Bars that take `share` of each period."""
    phase = np.abs((position / period) % 1 - 0.5)
    return _step((share / 2 - phase) * period)


def _stripes(x: Floats, y: Floats, width: float, rng: random.Random) -> list[Floats]:
    angle = rng.choice((0, 0, 0, 90, 90, 45)) + rng.uniform(-5, 5)
    _, v = _turned(x, y, angle)
    period = _period(width, rng, 0.06, 0.28)
    return [_bars(v + rng.uniform(0, period), period, rng.uniform(0.25, 0.55))]


def _checks(x: Floats, y: Floats, width: float, rng: random.Random) -> list[Floats]:
    u, v = _turned(x, y, rng.choice((0, 0, 0, 45)) + rng.uniform(-5, 5))
    period = _period(width, rng, 0.1, 0.36)
    shift = rng.uniform(0, period)
    kind = rng.choice(("gingham", "tartan", "tartan", "windowpane", "board"))
    if kind == "gingham":
        across, down = _bars(u + shift, period, 0.5), _bars(v + shift, period, 0.5)
        return [np.asarray((across + down) / 2)]
    if kind == "windowpane":
        share = max(0.12, 1.3 / period)
        return [np.maximum(_bars(u + shift, period, share), _bars(v + shift, period, share))]
    if kind == "board":
        across, down = _bars(u + shift, period, 0.5), _bars(v + shift, period, 0.5)
        return [np.abs(across - down)]
    wide = rng.uniform(0.3, 0.5)
    across = np.maximum(_bars(u + shift, period, wide), 0.8 * _bars(u + shift + period / 2, period, 0.1))
    down = np.maximum(_bars(v + shift, period, wide), 0.8 * _bars(v + shift + period / 2, period, 0.1))
    first = 0.5 * across + 0.5 * down
    if rng.random() < 0.5:
        return [first]
    thin = np.maximum(_bars(u + shift + period / 3, period, 0.09), _bars(v + shift + period / 3, period, 0.09))
    return [first * (1 - thin), thin]


def _dots(x: Floats, y: Floats, width: float, rng: random.Random) -> list[Floats]:
    u, v = _turned(x, y, rng.choice((0, 45)) + rng.uniform(-8, 8))
    period = _period(width, rng, 0.09, 0.24)
    radius = max(1.3, period * rng.uniform(0.2, 0.34))
    away = np.hypot((u / period) % 1 - 0.5, (v / period) % 1 - 0.5) * period
    return [_step(radius - away, 0.5)]


def _scattered(x: Floats, y: Floats, period: float, rng: random.Random) -> tuple[Floats, Floats, Floats, Floats]:
    """Distance and angle to the motif of each cell of a jittered lattice, and two random numbers of that motif."""
    cells = 32
    table = np.array([[rng.random() for _ in range(5)] for _ in range(cells * cells)], dtype=np.float32)
    column, row = np.floor(x / period), np.floor(y / period)
    # Every other row is shifted, so that no columns are seen.
    shifted = column + 0.0
    index = (np.mod(shifted, cells) + cells * np.mod(row, cells)).astype(np.int32)
    facts = table[index]
    du = x / period - column - 0.5 - (facts[..., 0] - 0.5) * 0.45
    dv = y / period - row - 0.5 - (facts[..., 1] - 0.5) * 0.45
    angle = np.arctan2(dv, du) + facts[..., 2] * 6.3
    return np.hypot(du, dv) * period, angle, facts[..., 3], facts[..., 4]


def _flowers(x: Floats, y: Floats, width: float, rng: random.Random) -> list[Floats]:
    x, y = _turned(x, y, rng.uniform(0, 90))
    period = max(9.0, _period(width, rng, 0.14, 0.36))
    petals = rng.choice((4, 5, 5, 6))
    away, angle, size, which = _scattered(x, y, period, rng)
    radius = period * (0.26 + 0.18 * size) * (0.72 + 0.28 * np.cos(petals * angle))
    flower = _step(radius - away, 0.5)
    heart = _step(period * 0.09 - away, 0.5)
    leaf_away, leaf_angle, leaf_size, _ = _scattered(x + period * 0.55, y + period * 0.5, period * 0.9, rng)
    leaf = _step(period * (0.1 + 0.16 * leaf_size) * np.abs(np.cos(leaf_angle)) - leaf_away, 0.5) * (1 - flower)
    first = flower * (which < 0.55) * (1 - heart)
    return [first, np.maximum(flower * (which >= 0.55) * (1 - heart), leaf + heart * flower * (which < 0.55))]


def _noise(x: Floats, y: Floats, scale: float, rng: random.Random) -> Floats:
    """Smooth noise of mean 0 and deviation 1, with blobs of about `scale` pixels."""
    source = np.random.default_rng(rng.getrandbits(64))
    side = 96
    field = ndimage.gaussian_filter(source.standard_normal((side, side)), 2.0, mode="wrap")
    field /= field.std()
    where = np.stack([y.ravel(), x.ravel()]) * (4.0 / scale)
    sampled = ndimage.map_coordinates(field.astype(np.float32), where, order=1, mode="grid-wrap")
    found: Floats = sampled.reshape(x.shape)
    return found


def _animal(x: Floats, y: Floats, width: float, rng: random.Random) -> list[Floats]:
    if rng.random() < 0.35:  # zebra: bars bent by noise
        period = max(6.0, _period(width, rng, 0.09, 0.2))
        u, v = _turned(x, y, rng.uniform(-30, 30))
        bent = v + period * 0.7 * _noise(x, y, period * 2.5, rng)
        return [_step((0.27 - np.abs((bent / period) % 1 - 0.5) + 0.1 * np.sin(u / period)) * period, 0.5)]
    period = max(6.0, _period(width, rng, 0.06, 0.13))
    wobble = period * 0.2
    x = x + wobble * _noise(x, y, period * 0.7, rng)
    y = y + wobble * _noise(x, y, period * 0.7, rng)
    away, angle, size, _ = _scattered(x, y, period, rng)
    radius = period * (0.2 + 0.14 * size)
    # A rosette: a ring, broken on one side, of uneven thickness.
    thick = period * (0.13 + 0.06 * _noise(x, y, period * 0.6, rng))
    return [_step(thick - np.abs(away - radius), 0.5) * _step((np.cos(angle) + 0.8) * radius, 0.5)]


def _camouflage(x: Floats, y: Floats, width: float, rng: random.Random) -> list[Floats]:
    scale = max(9.0, width * rng.uniform(0.12, 0.28))
    first, second = _noise(x, y * 1.5, scale, rng), _noise(x, y * 1.5, scale, rng)
    one = _step((first - 0.25) * scale / 3)
    return [one, _step((second - 0.55) * scale / 3) * (1 - one)]


def _abstract(x: Floats, y: Floats, width: float, rng: random.Random) -> list[Floats]:
    scale = max(10.0, width * rng.uniform(0.14, 0.4))
    x = x + scale * 0.5 * _noise(x, y, scale * 1.5, rng)
    first, second = _noise(x, y, scale, rng), _noise(x * rng.uniform(0.4, 1), y, scale, rng)
    one = _step((first - 0.2) * scale / 3)
    return [one, _step((second - 0.6) * scale / 3) * (1 - one)]


def _geometric(x: Floats, y: Floats, width: float, rng: random.Random) -> list[Floats]:
    u, v = _turned(x, y, rng.choice((0, 90)) + rng.uniform(-5, 5))
    period = max(7.0, _period(width, rng, 0.12, 0.3))
    kind = rng.choice(("zigzag", "diamonds", "triangles", "rings", "crosses"))
    across, down = (u / period) % 1 - 0.5, (v / period) % 1 - 0.5
    if kind == "zigzag":
        return [_bars(v + period * np.abs(across), period * 0.8, rng.uniform(0.35, 0.55))]
    if kind == "diamonds":
        away = (np.abs(across) + np.abs(down)) * period
        outer = _step(period * 0.44 - away)
        inner = _step(period * 0.2 - away)
        return [outer * (1 - inner), inner] if rng.random() < 0.6 else [outer]
    if kind == "triangles":
        return [_step((0.45 - np.abs(across) * 1.6 - (down + 0.05)) * period) * (down > -0.38)]
    if kind == "rings":
        away = np.hypot(across, down) * period
        return [_step(max(1.0, period * 0.1) - np.abs(away - period * 0.33))]
    arm, long = max(0.09, 0.7 / period), 0.36
    bar = (np.abs(across) < arm) & (np.abs(down) < long) | (np.abs(down) < arm) & (np.abs(across) < long)
    return [bar.astype(np.float32)]


_WORDS = ("CITY", "HELLO", "CLUB", "SUN", "WILD", "LOVE", "1984", "87", "YES", "MOON", "OK", "NORTH", "PARIS", "99")


def _graphic(x: Floats, y: Floats, width: float, rng: random.Random) -> list[Floats]:
    """One motif on the chest; what lies outside of it is ground."""
    side = 96
    inks = [Image.new("L", (side, side)) for _ in range(2)]
    first, second = (ImageDraw.Draw(ink) for ink in inks)
    kind = rng.choice(("word", "word", "disc", "blobs", "face"))
    if kind in ("word", "disc"):
        if kind == "disc":
            first.ellipse((8, 8, 88, 88), fill=255)
        word = rng.choice(_WORDS)
        font = ImageFont.load_default(size=40 if kind == "word" else 26)
        box = first.textbbox((0, 0), word, font=font)
        factor = (88 if kind == "word" else 60) / max(1, box[2] - box[0])
        font = ImageFont.load_default(size=min(72.0, (40 if kind == "word" else 26) * factor))
        (first if kind == "word" else second).text((48, 48), word, fill=255, font=font, anchor="mm", stroke_width=1)
        if kind == "word" and rng.random() < 0.6:
            second.rectangle((10, 76, 86, 84), fill=255)
    elif kind == "face":
        first.ellipse((14, 10, 82, 86), fill=255)
        for eye in (30, 56):
            second.ellipse((eye, 32, eye + 11, 45), fill=255)
        second.arc((32, 40, 64, 72), 20, 160, fill=255, width=6)
    else:
        for draw, count in ((first, 6), (second, 4)):
            for _ in range(count):
                middle = (rng.uniform(20, 76), rng.uniform(20, 76))
                draw.regular_polygon(
                    (*middle, rng.uniform(8, 24)), rng.choice((3, 4, 5, 6, 8)), rng.uniform(0, 90), 255
                )
    size = width * rng.uniform(0.42, 0.66)
    left, top = width / 2 - size / 2 + rng.uniform(-0.05, 0.05) * width, width * rng.uniform(0.26, 0.42)
    where = np.stack([(y.ravel() - top) / size * side, (x.ravel() - left) / size * side])
    one, two = (
        ndimage.map_coordinates(np.asarray(ink, dtype=np.float32) / 255, where, order=1, cval=0).reshape(x.shape)
        for ink in inks
    )
    return [one * (1 - two), two]


PRINTS: Mapping[str, Callable[[Floats, Floats, float, random.Random], list[Floats]]] = {
    "striped": _stripes,
    "checked": _checks,
    "polka dot": _dots,
    "floral": _flowers,
    "animal print": _animal,
    "camouflage": _camouflage,
    "geometric": _geometric,
    "abstract": _abstract,
    "graphic": _graphic,
}
"""Pattern word of the ontology -> inks over (x, y) in pixels, for a garment of that width."""
