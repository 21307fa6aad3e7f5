"""Where the picture is taken: streets, rooms, walls, studios, tables, drawn as soft shapes."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import ndimage

from vlm.synthetic.paths import ellipse, polygon, skia, smooth, tube
from vlm.synthetic.pieces import Colour

__all__ = ["draw_background"]


@lru_cache(maxsize=8)
def _cloud(index: int) -> Any:
    """A repeating grey cloud, 128 in the mean: stone, plaster, sand."""
    raw = np.random.default_rng(index).normal(size=(96, 96))
    soft = sum(
        ndimage.gaussian_filter(raw, sigma, mode="wrap") * weight for sigma, weight in ((0.6, 1.0), (2, 3.0), (7, 9.0))
    )
    soft = (soft - soft.mean()) / soft.std()
    grey = np.clip(128 + 26 * soft, 0, 255).astype(np.uint8)
    pixels = np.dstack([grey, grey, grey, np.full_like(grey, 255)])
    return skia.Image.fromarray(pixels, colorType=skia.ColorType.kRGBA_8888_ColorType).withDefaultMipmaps()


def _times(colour: Colour, factor: float) -> Colour:
    return (round(colour[0] * factor), round(colour[1] * factor), round(colour[2] * factor))


def _plus(colour: Colour, step: int) -> Colour:
    red, green, blue = (min(255, max(0, value + step)) for value in colour)
    return (red, green, blue)


class _Place:
    """A canvas of 100 units' height, `wide` units wide, with the ground's edge at `horizon`."""

    def __init__(self, canvas: Any, wide: float, horizon: float, rng: random.Random) -> None:
        self.canvas, self.wide, self.horizon, self.rng = canvas, wide, horizon, rng

    def grey(self, low: int, high: int, warmth: int = 10) -> Colour:
        level, shift = self.rng.randint(low, high), self.rng.randint(-warmth, warmth)
        return (min(255, max(0, level + shift)), min(255, max(0, level + shift // 3)), min(255, max(0, level - shift)))

    def any_colour(self) -> Colour:
        return (self.rng.randint(20, 235), self.rng.randint(20, 235), self.rng.randint(20, 235))

    def rect(self, x: float, y: float, wide: float, high: float, colour: Colour, alpha: float = 1.0) -> None:
        paint = skia.Paint(AntiAlias=True, Color=skia.Color(*colour, round(255 * alpha)))
        self.canvas.drawRect(skia.Rect.MakeXYWH(x, y, wide, high), paint)

    def path(self, path: Any, colour: Colour, alpha: float = 1.0, blur: float = 0.0) -> None:
        paint = skia.Paint(AntiAlias=True, Color=skia.Color(*colour, round(255 * alpha)))
        if blur:
            paint.setMaskFilter(skia.MaskFilter.MakeBlur(skia.kNormal_BlurStyle, blur))
        self.canvas.drawPath(path, paint)

    def fade(self, x: float, y: float, wide: float, high: float, first: Colour, second: Colour) -> None:
        """A surface that goes from one colour at its top to another."""
        shader = skia.GradientShader.MakeLinear(
            [skia.Point(0, y), skia.Point(0, y + high)], [skia.Color(*first), skia.Color(*second)]
        )
        self.canvas.drawRect(skia.Rect.MakeXYWH(x, y, wide, high), skia.Paint(Shader=shader))

    def grain(self, y: float, high: float, strength: float, scale: float) -> None:
        matrix = skia.Matrix().setScale(scale / 96, scale / 96)
        matrix.preTranslate(self.rng.uniform(0, 96), self.rng.uniform(0, 96))
        shader = _cloud(self.rng.randrange(8)).makeShader(
            skia.TileMode.kRepeat, skia.TileMode.kRepeat, skia.SamplingOptions(skia.FilterMode.kLinear), matrix
        )
        paint = skia.Paint(Shader=shader, Alphaf=strength, BlendMode=skia.BlendMode.kOverlay)
        self.canvas.drawRect(skia.Rect.MakeXYWH(-5, y, self.wide + 10, high), paint)

    def ground(self, first: Colour, second: Colour, strength: float = 0.5) -> None:
        self.fade(-5, self.horizon, self.wide + 10, 105 - self.horizon, first, second)
        self.grain(self.horizon, 105 - self.horizon, strength, self.rng.uniform(12, 40))

    def blobs(self, count: int, top: float, low: float, size: tuple[float, float], colours: list[Colour]) -> None:
        for _ in range(count):
            x, y, radius = self.rng.uniform(-5, self.wide + 5), self.rng.uniform(top, low), self.rng.uniform(*size)
            ring = [
                (
                    x + math.cos(a) * radius * self.rng.uniform(0.6, 1.2),
                    y + math.sin(a) * radius * self.rng.uniform(0.6, 1.2),
                )
                for a in (0, 1.05, 2.1, 3.15, 4.2, 5.25)
            ]
            self.path(smooth(ring), self.rng.choice(colours), self.rng.uniform(0.7, 1.0))

    def person(self, x: float, size: float) -> None:
        """Someone far away."""
        foot = self.horizon + self.rng.uniform(2, 10)
        top = foot - size
        skin = self.rng.choice([(224, 180, 150), (160, 120, 90), (90, 64, 50)])
        self.path(tube([(x, top + size * 0.18), (x, top + size * 0.52)], [size * 0.22, size * 0.2]), self.any_colour())
        for sign in (-1, 1):
            self.path(
                tube(
                    [(x + sign * size * 0.05, top + size * 0.5), (x + sign * size * 0.07, foot)],
                    [size * 0.11, size * 0.07],
                ),
                self.grey(20, 90),
            )
        self.path(ellipse((x, top + size * 0.07), size * 0.05, size * 0.07), skin)

    def car(self, x: float, size: float) -> None:
        y, colour = (
            self.horizon + self.rng.uniform(0, 6),
            self.rng.choice([self.grey(20, 60), self.grey(180, 235), self.any_colour(), (230, 190, 40)]),
        )
        body = smooth([(x, y), (x + size * 0.05, y - size * 0.22), (x + size * 0.25, y - size * 0.26),
            (x + size * 0.36, y - size * 0.42), (x + size * 0.72, y - size * 0.42),
                       (x + size * 0.86, y - size * 0.24), (x + size, y - size * 0.2), (x + size, y)])  # fmt: skip
        self.path(body, colour)
        self.path(
            polygon(
                [
                    (x + size * 0.3, y - size * 0.26),
                    (x + size * 0.38, y - size * 0.39),
                    (x + size * 0.7, y - size * 0.39),
                    (x + size * 0.8, y - size * 0.26),
                ]
            ),
            (40, 48, 56),
        )
        for wheel in (0.22, 0.8):
            self.path(ellipse((x + size * wheel, y), size * 0.09, size * 0.09), (24, 24, 26))


def _street(place: _Place) -> None:
    rng = place.rng
    sky = rng.choice([(196, 214, 232), (228, 230, 232), (150, 184, 220), (236, 226, 210)])
    place.fade(-5, -5, place.wide + 10, place.horizon + 10, sky, _plus(sky, 14))
    x = rng.uniform(-20, -3)
    while x < place.wide + 3:
        wide, top = rng.uniform(12, 42), rng.uniform(-10, place.horizon * 0.7)
        wall = rng.choice([place.grey(90, 220, 26), (150, 96, 74), (176, 150, 118), (110, 116, 124), (206, 196, 176)])
        place.rect(x, top, wide, place.horizon - top + 1, wall)
        step = rng.uniform(3.5, 9)
        glass = rng.choice([(60, 70, 84), (90, 106, 124), (36, 38, 44), (220, 214, 190)])
        y = top + step * 0.5
        while y < place.horizon - step * 0.6:
            at = x + step * 0.3
            while at < x + wide - step * 0.5:
                place.rect(at, y, step * 0.5, step * rng.choice([0.6, 0.62]), glass, rng.uniform(0.5, 1))
                at += step
            y += step * 1.15
        if rng.random() < 0.5:
            place.rect(
                x + wide * 0.15, place.horizon - 9, wide * 0.7, 9, rng.choice([place.any_colour(), place.grey(20, 80)])
            )
        x += wide
    if rng.random() < 0.4:
        place.blobs(
            rng.randint(6, 18),
            place.horizon * 0.1,
            place.horizon * 0.75,
            (3, 10),
            [(70, 104, 56), (94, 124, 66), (50, 80, 48), (140, 150, 70)],
        )
    asphalt = place.grey(80, 190, 12)
    place.ground(asphalt, _plus(asphalt, -18), 0.55)
    if rng.random() < 0.5:
        edge = place.horizon + rng.uniform(4, 20)
        place.rect(-5, edge, place.wide + 10, rng.uniform(0.6, 1.6), place.grey(150, 220))
    if rng.random() < 0.35:
        at = rng.uniform(0, place.wide)
        for index in range(4):
            y = place.horizon + 5 + index * 9
            place.path(
                polygon(
                    [
                        (at + index * 6, y),
                        (at + 4 + index * 7, y),
                        (at + 7 + index * 8, y + 6),
                        (at + 1 + index * 7, y + 6),
                    ]
                ),
                (236, 236, 230),
                0.9,
            )
    for _ in range(rng.choice([0, 1, 1, 2])):
        place.car(rng.uniform(-14, place.wide - 6), rng.uniform(16, 36))
    for _ in range(rng.choice([0, 0, 1, 2, 4])):
        place.person(rng.uniform(0, place.wide), rng.uniform(14, 40))
    if rng.random() < 0.3:
        place.rect(rng.uniform(0, place.wide), -5, rng.uniform(0.8, 2), place.horizon + 12, place.grey(50, 130))


def _wall(place: _Place) -> None:
    rng = place.rng
    colour = rng.choice(
        [
            place.grey(80, 235, 24),
            (152, 92, 72),
            (196, 176, 146),
            (90, 110, 130),
            (176, 190, 176),
            (214, 190, 90),
            (120, 60, 60),
        ]
    )
    place.fade(-5, -5, place.wide + 10, place.horizon + 6, colour, _times(colour, 0.86))
    kind = rng.choice(["brick", "plain", "door", "shutter", "panels"])
    line = _times(colour, rng.uniform(0.7, 0.85))
    if kind == "brick":
        high = rng.uniform(1.6, 3.4)
        for row in range(int(place.horizon / high) + 1):
            place.rect(-5, row * high, place.wide + 10, high * 0.14, line)
            at = (row % 2) * high * 1.1 - 3
            while at < place.wide:
                place.rect(at, row * high, high * 0.14, high, line)
                at += high * 2.3
    elif kind == "door":
        x, wide = rng.uniform(0, place.wide * 0.6), rng.uniform(18, 34)
        wood = rng.choice([(110, 70, 44), (60, 80, 70), (46, 50, 60), (150, 40, 36), (180, 170, 150)])
        place.rect(x, rng.uniform(-5, 25), wide, 100, wood)
        for column in range(2):
            for row in range(4):
                place.rect(x + 2 + column * wide / 2, 28 + row * 16, wide / 2 - 4, 12, _times(wood, 0.8))
    elif kind in ("shutter", "panels"):
        step = rng.uniform(2, 4) if kind == "shutter" else rng.uniform(10, 20)
        at = 0.0
        while at < max(place.horizon, place.wide):
            if kind == "shutter":
                place.rect(-5, at, place.wide + 10, step * 0.25, line)
            else:
                place.rect(at, -5, step * 0.06, place.horizon + 5, line)
            at += step
    place.grain(-5, place.horizon + 5, 0.5, rng.uniform(20, 60))
    if rng.random() < 0.25:
        place.blobs(8, 0, place.horizon * 0.8, (2, 9), [place.any_colour() for _ in range(3)])
    floor = place.grey(90, 200, 14)
    place.ground(floor, _plus(floor, -20), 0.5)


def _park(place: _Place) -> None:
    rng = place.rng
    place.fade(-5, -5, place.wide + 10, place.horizon + 8, (176, 206, 226), (214, 224, 220))
    greens: list[Colour] = [(58, 90, 46), (84, 118, 58), (40, 66, 40), (120, 140, 70), (100, 130, 84)]
    if rng.random() < 0.25:
        greens = [(170, 110, 50), (190, 140, 60), (120, 80, 44), (150, 60, 40)]
    place.blobs(rng.randint(25, 50), -4, place.horizon, (3, 12), greens)
    for _ in range(rng.randint(0, 3)):
        x = rng.uniform(0, place.wide)
        place.rect(x, rng.uniform(-5, 20), rng.uniform(1, 4), place.horizon + 4, (74, 58, 46))
    first = rng.choice([(96, 128, 66), (120, 134, 80), (170, 156, 128), (150, 146, 138)])
    place.ground(first, _times(first, 0.8), 0.7)
    if rng.random() < 0.3:
        place.person(rng.uniform(0, place.wide), rng.uniform(12, 24))


def _room(place: _Place) -> None:
    rng = place.rng
    wall = rng.choice([place.grey(170, 240, 18), (206, 196, 178), (180, 192, 196), (224, 214, 206), (130, 140, 130)])
    place.fade(-5, -5, place.wide + 10, place.horizon + 6, wall, _times(wall, 0.92))
    for _ in range(rng.randint(1, 4)):
        x, y, wide, high = rng.uniform(-5, place.wide), rng.uniform(4, 46), rng.uniform(8, 26), rng.uniform(8, 34)
        place.rect(x, y, wide, high, rng.choice([place.grey(30, 90), (250, 248, 244), (120, 84, 52)]))
        place.rect(
            x + 1, y + 1, wide - 2, high - 2, rng.choice([(226, 236, 244), place.any_colour(), place.grey(120, 220)])
        )
    for _ in range(rng.randint(0, 3)):
        x, wide, high = rng.uniform(-10, place.wide), rng.uniform(12, 34), rng.uniform(14, 44)
        place.rect(
            x,
            place.horizon - high + 5,
            wide,
            high,
            rng.choice([(110, 76, 50), (150, 116, 80), place.grey(60, 220), place.any_colour()]),
        )
    floor = rng.choice([(150, 112, 76), (186, 150, 110), place.grey(120, 200), (110, 80, 60)])
    place.ground(floor, _times(floor, 0.84), 0.45)
    place.rect(-5, place.horizon - 1.2, place.wide + 10, 1.4, (238, 236, 232))


def _studio(place: _Place) -> None:
    rng = place.rng
    tone = rng.choice(
        [place.grey(120, 235, 6), place.grey(60, 120, 8), (206, 186, 176), (176, 190, 206), (222, 206, 150)]
    )
    place.fade(-5, -5, place.wide + 10, 110, tone, _times(tone, rng.uniform(0.72, 0.97)))
    place.path(ellipse((place.wide / 2, 40), place.wide * 0.6, 42), (255, 255, 255), rng.uniform(0.05, 0.3), blur=14)


def _white(place: _Place) -> None:
    level = place.rng.choice([255, 255, 252, 246, 240])
    place.rect(-5, -5, place.wide + 10, 115, (level, level, level))


def _clutter(place: _Place) -> None:
    place.rect(-5, -5, place.wide + 10, 115, place.any_colour())
    for _ in range(place.rng.randint(20, 60)):
        x, y, wide, high = (
            place.rng.uniform(-10, place.wide),
            place.rng.uniform(-10, 90),
            place.rng.uniform(3, 26),
            place.rng.uniform(3, 40),
        )
        if place.rng.random() < 0.6:
            place.rect(x, y, wide, high, place.any_colour(), place.rng.uniform(0.5, 1))
        else:
            place.path(ellipse((x, y), wide / 2, high / 2), place.any_colour(), place.rng.uniform(0.5, 1))
    if place.rng.random() < 0.7:
        place.ground(place.grey(60, 200), place.grey(60, 200))
    for _ in range(place.rng.choice([0, 2, 4])):
        place.person(place.rng.uniform(0, place.wide), place.rng.uniform(18, 50))


def _beach(place: _Place) -> None:
    place.fade(-5, -5, place.wide + 10, place.horizon, (130, 180, 224), (214, 228, 236))
    place.fade(-5, place.horizon - 16, place.wide + 10, 18, (70, 130, 160), (120, 176, 190))
    place.ground((222, 204, 166), (206, 184, 142), 0.6)


def _surface(place: _Place) -> None:
    """A table, floor or bed seen from above."""
    rng = place.rng
    tone = rng.choice(
        [(176, 130, 84), (120, 84, 56), (206, 176, 136), place.grey(130, 240, 14), (226, 220, 210), (90, 70, 56)]
    )
    place.rect(-5, -5, place.wide + 10, 115, tone)
    if rng.random() < 0.6:
        step = rng.uniform(8, 24)
        at = rng.uniform(0, step)
        while at < max(place.wide, 100):
            line = _times(tone, 0.78)
            if rng.random() < 0.9:
                place.rect(at, -5, 0.4, 115, line) if step < 17 else place.rect(-5, at, place.wide + 10, 0.4, line)
            at += step
    place.grain(-5, 115, rng.uniform(0.3, 0.7), rng.uniform(10, 50))


def _bed(place: _Place) -> None:
    tone = place.rng.choice(
        [place.grey(200, 250, 8), (190, 200, 214), (206, 180, 176), (120, 130, 150), (210, 206, 170)]
    )
    place.rect(-5, -5, place.wide + 10, 115, tone)
    for _ in range(place.rng.randint(6, 14)):
        x, y = place.rng.uniform(0, place.wide), place.rng.uniform(0, 100)
        fold = tube(
            [
                (x, y),
                (x + place.rng.uniform(-20, 20), y + place.rng.uniform(6, 26)),
                (x + place.rng.uniform(-30, 30), y + 40),
            ],
            [1, 5, 1],
        )
        place.path(fold, place.rng.choice([(0, 0, 0), (255, 255, 255)]), 0.12, blur=2.2)


_PLACES: dict[str, Callable[[_Place], None]] = {
    "street": _street, "wall": _wall, "park": _park, "room": _room, "studio": _studio, "white": _white,
    "clutter": _clutter,
    "beach": _beach, "table": _surface, "floor": _surface, "bed": _bed,
}  # fmt: skip


def draw_background(canvas: Any, name: str, height: int, width: int, rng: random.Random, *, zoom: float = 1.0) -> None:
    """Paint a whole canvas of height x width pixels; `zoom` above 1 stands nearer, so that all is larger and softer."""
    soft = 0.0 if name == "white" else rng.choice([0.0, 0.25, 0.6, 1.1, 1.8, 3.0]) * zoom
    if name in ("table", "floor", "bed"):
        soft = min(soft, 0.4)
    scale = height / 100
    if soft:
        blur = skia.ImageFilters.Blur(soft * scale, soft * scale, skia.TileMode.kMirror)
        canvas.saveLayer(None, skia.Paint(ImageFilter=blur))
    canvas.save()
    canvas.scale(scale, scale)
    horizon = rng.uniform(52, 82) if zoom < 1.2 else rng.uniform(60, 104)
    _PLACES[name](_Place(canvas, width / scale, horizon, rng))
    canvas.restore()
    if soft:
        canvas.restore()
