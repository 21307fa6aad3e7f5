"""Repeating tiles of the ontology's patterns."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm.synthetic.paths import Point, circle, ellipse, outline, polygon, skia, smooth
from vlm.synthetic.pieces import Colour

__all__ = ["tile"]

_SIDE = 64
"""Pixels of a tile."""
_Draw = Callable[[Any, Sequence[Colour], random.Random], float]


def tile(
    pattern: str, colours: Sequence[Colour], rng: random.Random, *, small: bool = False
) -> tuple[Any, float, list[float]]:
    """A pattern as (picture that repeats, its side in units, share of each colour).

    Raises:
        ValueError: no such pattern.
    """
    if pattern not in _PATTERNS:
        raise ValueError(f"no tile for the pattern {pattern!r}; known: {', '.join(_PATTERNS)}")
    surface = skia.Surface(_SIDE, _SIDE)
    canvas = surface.getCanvas()
    canvas.clear(_argb(colours[0]) if pattern != "lace" else 0)
    size = _PATTERNS[pattern](canvas, colours, rng) * (0.55 if small else 1.0)
    image = surface.makeImageSnapshot()
    pixels = image.toarray(colorType=skia.ColorType.kRGBA_8888_ColorType)
    return image.withDefaultMipmaps(), size, _shares(pixels, colours)


def _shares(pixels: NDArray[np.uint8], colours: Sequence[Colour]) -> list[float]:
    """Of how much of the pixels each colour is the nearest, the first of equals."""
    channels = pixels.reshape(-1, 4).T[:3].astype(np.int16)
    away = [sum(np.abs(channel - goal) for channel, goal in zip(channels, colour, strict=True)) for colour in colours]
    nearest = np.argmin(away, axis=0)
    return [count / nearest.size for count in np.bincount(nearest, minlength=len(colours)).tolist()]


def _argb(colour: Colour, alpha: float = 1.0) -> int:
    return int(skia.Color(*colour, round(alpha * 255)))


def _fill(colour: Colour, alpha: float = 1.0) -> Any:
    return skia.Paint(AntiAlias=True, Color=_argb(colour, alpha))


def _rect(canvas: Any, x: float, y: float, wide: float, high: float, colour: Colour, alpha: float = 1.0) -> None:
    canvas.drawRect(skia.Rect.MakeXYWH(x, y, wide, high), _fill(colour, alpha))


def _everywhere(canvas: Any, path: Any, paint: Any) -> None:
    """Drawn so that it goes on across the tile's edges."""
    bounds = path.getBounds()
    for dx in (-_SIDE, 0, _SIDE):
        for dy in (-_SIDE, 0, _SIDE):
            if bounds.right() + dx > 0 and bounds.left() + dx < _SIDE:
                canvas.save()
                canvas.translate(dx, dy)
                canvas.drawPath(path, paint)
                canvas.restore()


def _striped(canvas: Any, colours: Sequence[Colour], rng: random.Random) -> float:
    across = rng.random() < 0.6
    count = rng.choice([2, 4, 4])
    step = _SIDE / count
    share = rng.choice([0.2, 0.35, 0.5, 0.5])
    for index in range(count):
        colour = colours[1 + index % (len(colours) - 1)] if rng.random() < 0.3 else colours[1]
        at = (index + 0.25) * step
        thick = step * share
        if across:
            _rect(canvas, 0, at, _SIDE, thick, colour)
        else:
            _rect(canvas, at, 0, thick, _SIDE, colour)
    return count * rng.choice([1.8, 2.2, 2.8, 3.6, 4.6])


def _checked(canvas: Any, colours: Sequence[Colour], rng: random.Random) -> float:
    kind = rng.choice(["gingham", "tartan", "window", "houndstooth"])
    count = 2
    step = _SIDE / count
    if kind == "houndstooth":
        for i in range(2):
            for j in range(2):
                x, y = i * step, j * step
                h = step / 2
                shape = [(x, y), (x + h, y), (x + h * 1.5, y - h / 2), (x + h * 1.5, y), (x + h, y + h),
                    (x + h / 2, y + h * 1.5),
                         (x, y + h * 1.5), (x + h / 2, y + h), (x, y + h)]  # fmt: skip
                _everywhere(canvas, polygon(shape), _fill(colours[1]))
        return rng.uniform(4, 7)
    for index in range(count):
        at = index * step
        if kind == "gingham":
            _rect(canvas, at, 0, step / 2, _SIDE, colours[1], 0.55)
            _rect(canvas, 0, at, _SIDE, step / 2, colours[1], 0.55)
        elif kind == "tartan":
            _rect(canvas, at, 0, step * 0.4, _SIDE, colours[1], 0.55)
            _rect(canvas, 0, at, _SIDE, step * 0.4, colours[1], 0.55)
            line = colours[-1] if len(colours) > 2 else colours[1]
            _rect(canvas, at + step * 0.66, 0, step * 0.1, _SIDE, line, 0.9)
            _rect(canvas, 0, at + step * 0.66, _SIDE, step * 0.1, line, 0.9)
        else:
            _rect(canvas, at, 0, step * 0.12, _SIDE, colours[1])
            _rect(canvas, 0, at, _SIDE, step * 0.12, colours[1])
    return rng.choice([3.6, 5, 7, 10, 13])


def _dots(canvas: Any, colours: Sequence[Colour], rng: random.Random) -> float:
    radius = _SIDE * rng.uniform(0.11, 0.19)
    for x, y in ((0.25, 0.25), (0.75, 0.75)):
        canvas.drawPath(circle((x * _SIDE, y * _SIDE), radius), _fill(colours[1]))
    return rng.choice([2.8, 3.6, 4.6, 6, 8])


def _floral(canvas: Any, colours: Sequence[Colour], rng: random.Random) -> float:
    leaf = rng.choice([(60, 110, 60), (90, 130, 80), (40, 70, 50)])
    petals = [*colours[1:]]
    for index in range(rng.randint(4, 7)):
        x, y, size = rng.uniform(0, _SIDE), rng.uniform(0, _SIDE), rng.uniform(6, 12)
        start = rng.uniform(0, 6.3)
        if rng.random() < 0.7:
            for turn in (0.8, 3.6):
                centre = (x + math.cos(start + turn) * size * 1.2, y + math.sin(start + turn) * size * 1.2)
                _everywhere(canvas, ellipse(centre, size * 0.7, size * 0.28, math.degrees(start + turn)), _fill(leaf))
        colour = colours[1] if index < 3 else rng.choice(petals)
        number = rng.choice([5, 5, 6, 8])
        for petal in range(number):
            angle = start + petal * 2 * math.pi / number
            centre = (x + math.cos(angle) * size * 0.6, y + math.sin(angle) * size * 0.6)
            _everywhere(canvas, ellipse(centre, size * 0.5, size * 0.34, math.degrees(angle)), _fill(colour))
        _everywhere(
            canvas, circle((x, y), size * 0.25), _fill(rng.choice([(235, 200, 70), (250, 245, 235), (80, 40, 30)]))
        )
    return rng.choice([6, 8, 10, 14, 18])


def _blob(x: float, y: float, size: float, rng: random.Random, stretch: float = 1.0) -> Any:
    points: list[Point] = []
    for index in range(7):
        angle = index * 2 * math.pi / 7
        reach = size * rng.uniform(0.6, 1.2)
        points.append((x + math.cos(angle) * reach * stretch, y + math.sin(angle) * reach))
    return smooth(points)


def _animal(canvas: Any, colours: Sequence[Colour], rng: random.Random) -> float:
    kind = rng.choice(["leopard", "leopard", "zebra", "snake"])
    if kind == "leopard":
        inner = tuple(round(a * 0.62 + b * 0.38) for a, b in zip(colours[0], colours[1], strict=True))
        for i in range(4):
            for j in range(4):
                x = (i + 0.5 + (j % 2) * 0.5 + rng.uniform(-0.2, 0.2)) * 16
                y = (j + 0.5 + rng.uniform(-0.2, 0.2)) * 16
                size = rng.uniform(4.6, 6.6)
                path = _blob(x, y, size, rng)
                _everywhere(canvas, path, _fill(inner))  # type: ignore[arg-type]
                ring = skia.Paint(
                    AntiAlias=True, Color=_argb(colours[1]), Style=skia.Paint.kStroke_Style,
                        StrokeWidth=rng.uniform(3, 4.4),
                    PathEffect=skia.DashPathEffect.Make([rng.uniform(7, 12), rng.uniform(2, 5)], rng.uniform(0, 9)),
                )  # fmt: skip
                _everywhere(canvas, path, ring)
        return rng.uniform(6, 11)
    if kind == "zebra":
        for index in range(4):
            y = index * 16 + rng.uniform(-2, 2)
            shift = rng.uniform(-4, 4)
            top = [(0, y), (16, y + shift), (34, y - shift), (50, y + shift * 0.6), (64, y)]
            low = [(x, ly + rng.uniform(4.5, 9.5) * (0.4 if 0 < x < 64 and rng.random() < 0.3 else 1)) for x, ly in top]
            low[-1] = (64, low[0][1])
            _everywhere(canvas, outline(top, low[::-1]), _fill(colours[1]))
        return rng.uniform(6, 12)
    for i in range(5):
        for j in range(5):
            x, y = (i + (j % 2) * 0.5) * 12.8, j * 12.8
            shade = colours[1] if rng.random() < 0.6 else colours[0]
            diamond = polygon([(x, y - 6.6), (x + 5.8, y), (x, y + 6.6), (x - 5.8, y)])
            _everywhere(canvas, diamond, _fill(shade, rng.uniform(0.5, 1)))
    return rng.uniform(6, 10)


def _camouflage(canvas: Any, colours: Sequence[Colour], rng: random.Random) -> float:
    for colour, count in zip(colours[1:], (7, 4, 4), strict=False):
        for _ in range(count):
            path = _blob(rng.uniform(0, 64), rng.uniform(0, 64), rng.uniform(7, 12), rng, rng.uniform(1.0, 1.8))
            _everywhere(canvas, path, _fill(colour))
    return rng.uniform(10, 18)


def _geometric(canvas: Any, colours: Sequence[Colour], rng: random.Random) -> float:
    kind = rng.choice(["zigzag", "diamond", "triangle", "greek", "rings", "argyle"])
    other = colours[-1]
    line = skia.Paint(AntiAlias=True, Color=_argb(colours[1]), Style=skia.Paint.kStroke_Style, StrokeWidth=7)
    if kind == "zigzag":
        for y in (0, 32, 64):
            points = [(x, y + (8 if (x // 16) % 2 else -8)) for x in range(-16, 96, 16)]
            canvas.drawPath(outline(points[:2], *[[p] for p in points[2:]], closed=False), line)
    elif kind in ("diamond", "argyle"):
        for x, y in ((16, 16), (48, 48), (48, 16), (16, 48)):
            on = (x == y) or kind == "argyle"
            shape = polygon([(x, y - 16), (x + 14, y), (x, y + 16), (x - 14, y)])
            canvas.drawPath(shape, _fill(colours[1] if x == y else other, 1.0 if on else 0.4))
            if kind == "diamond":
                canvas.drawPath(polygon([(x, y - 6), (x + 5, y), (x, y + 6), (x - 5, y)]), _fill(colours[0]))
    elif kind == "triangle":
        for i in range(4):
            for j in range(4):
                x, y = i * 16, j * 16
                if rng.random() < 0.75:
                    canvas.drawPath(
                        polygon([(x, y + 15), (x + 15, y + 15), (x + 8, y + 1)]), _fill(rng.choice(colours[1:]))
                    )
    elif kind == "greek":
        for y in (4, 36):
            for x in (2, 34):
                _rect(canvas, x, y, 28, 24, colours[1])
                _rect(canvas, x + 6, y + 6, 16, 12, colours[0])
                _rect(canvas, x + 10, y + 10, 8, 8, other if len(colours) > 2 else colours[1])
    else:
        for x, y in ((16, 16), (48, 48)):
            canvas.drawPath(circle((x, y), 12), line)
            canvas.drawPath(circle((x, y), 4), _fill(other))
    return rng.choice([4, 5.5, 7.5, 10, 14])


def _abstract(canvas: Any, colours: Sequence[Colour], rng: random.Random) -> float:
    kind = rng.choice(["blobs", "strokes", "marble"])
    for index in range(12):
        colour = colours[1 + index % (len(colours) - 1)]
        x, y = rng.uniform(0, 64), rng.uniform(0, 64)
        if kind == "blobs":
            _everywhere(
                canvas, _blob(x, y, rng.uniform(4, 11), rng, rng.uniform(0.6, 1.8)), _fill(colour, rng.uniform(0.7, 1))
            )
        else:
            points = [(x, y)]
            for _ in range(3):
                points.append((points[-1][0] + rng.uniform(-18, 18), points[-1][1] + rng.uniform(-14, 14)))
            brush = skia.Paint(
                AntiAlias=True, Color=_argb(colour), Style=skia.Paint.kStroke_Style, StrokeCap=skia.Paint.kRound_Cap,
                StrokeWidth=rng.uniform(2, 8) if kind == "strokes" else rng.uniform(6, 14),
                MaskFilter=None if kind == "strokes" else skia.MaskFilter.MakeBlur(skia.kNormal_BlurStyle, 2.5),
            )  # fmt: skip
            _everywhere(canvas, outline(points, closed=False), brush)
    return rng.uniform(9, 20)


def _lace(canvas: Any, colours: Sequence[Colour], rng: random.Random) -> float:
    canvas.clear(_argb(colours[0], rng.uniform(0.25, 0.5)))
    thread = skia.Paint(AntiAlias=True, Color=_argb(colours[0]), Style=skia.Paint.kStroke_Style, StrokeWidth=2.5)
    for i in range(9):
        canvas.drawLine(
            i * 8 - 32, 0, i * 8 + 32, 64, skia.Paint(AntiAlias=True, Color=_argb(colours[0], 0.7), StrokeWidth=1.2)
        )
        canvas.drawLine(
            i * 8 + 32, 0, i * 8 - 32, 64, skia.Paint(AntiAlias=True, Color=_argb(colours[0], 0.7), StrokeWidth=1.2)
        )
    for x, y in ((16, 16), (48, 48)):
        for petal in range(6):
            angle = petal * math.pi / 3
            centre = (x + math.cos(angle) * 8, y + math.sin(angle) * 8)
            _everywhere(canvas, ellipse(centre, 6, 3.6, math.degrees(angle)), _fill(colours[0]))
            _everywhere(canvas, ellipse(centre, 7, 4.5, math.degrees(angle)), thread)
    return rng.uniform(4.5, 8)


_PATTERNS: dict[str, _Draw] = {
    "striped": _striped,
    "checked": _checked,
    "polka dot": _dots,
    "floral": _floral,
    "animal print": _animal,
    "camouflage": _camouflage,
    "geometric": _geometric,
    "abstract": _abstract,
    "lace": _lace,
}
