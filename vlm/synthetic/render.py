"""Pieces -> pixels, and pieces -> masks, by the same paths in the same order."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm.synthetic.fabric import Fabric, shader
from vlm.synthetic.light import Light
from vlm.synthetic.paths import Path, skia
from vlm.synthetic.pieces import SKIN, Piece

__all__ = ["PART", "Camera", "MaskCanvas", "figure_bounds", "paint_pieces"]

PART = 100
"""Added in masks to the owner of the second of a pair."""
Mask = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Camera:
    """From units to pixels: scale, then turn (degrees) about the middle, then shift.

    Attributes:
        size: (height, width) of the image in pixels.
    """

    size: tuple[int, int]
    scale: float
    shift: tuple[float, float]
    turn: float = 0.0

    def matrix(self) -> Any:
        matrix = skia.Matrix()
        matrix.setTranslate(*self.shift)
        if self.turn:
            matrix.preRotate(self.turn, 0, 50 * self.scale)
        matrix.preScale(self.scale, self.scale)
        return matrix


def _argb(colour: tuple[int, int, int], alpha: float = 1.0) -> int:
    return round(255 * min(1.0, alpha)) << 24 | colour[0] << 16 | colour[1] << 8 | colour[2]


@lru_cache(maxsize=256)
def _softened(steps: int) -> Any:
    return skia.MaskFilter.MakeBlur(skia.kNormal_BlurStyle, steps / 20)


def _blur(sigma: float) -> Any:
    """In steps of 0.05 units, which nobody sees, so that filters are made once."""
    return _softened(max(1, round(sigma * 20)))


_DUSK = (8, 6, 16)
_BLOOD = (74, 26, 12)
"""Skin in shadow is red, not grey."""
_ATOP = skia.BlendMode.kSrcATop
_OVER = skia.BlendMode.kSrcOver


def figure_bounds(camera: Camera, pieces: Iterable[Piece]) -> Any:
    """The part of the image, a skia.IRect, outside of which the pieces leave nothing; a corner's pixel at the least."""
    bounds, grow = skia.Rect.MakeEmpty(), 0.0
    for piece in pieces:
        if piece.owner:
            bounds.join(piece.path.getBounds())
            grow = max(grow, piece.stroke + 3 * piece.blur)
    bounds.outset(grow, grow)
    height, width = camera.size
    part = camera.matrix().mapRect(bounds).makeOutset(2, 2).roundOut()
    return part if part.intersect(skia.IRect.MakeWH(width, height)) else skia.IRect.MakeWH(1, 1)


def paint_pieces(
    canvas: Any, pieces: Iterable[Piece], fabrics: Mapping[int, Fabric], light: Light, rng: random.Random
) -> None:
    """Paint in order onto an empty transparent canvas that is already scaled to units."""
    shifts = {owner: (rng.uniform(0, 40), rng.uniform(0, 40)) for owner in fabrics}
    clip, brushes, painted = _Clip(canvas), _Brushes(light), _Painted(canvas)
    for piece in pieces:
        fabric = fabrics.get(piece.owner)
        if not piece.owner:
            if piece.inside is None or painted.may_show(piece.inside):
                clip.to(piece.inside)
                canvas.drawPath(piece.path, brushes.cloth(piece, fabric, shifts))
            continue
        if not painted.may_show(piece.path, piece.stroke + 3 * piece.blur):
            continue
        clip.to(piece.inside)
        if piece.shadow > 0 and painted.any_below(piece):
            _shadow(canvas, piece, brushes, light)
        canvas.drawPath(piece.path, brushes.cloth(piece, fabric, shifts))
        painted.add(piece)
        if not piece.stroke:
            _round(canvas, piece, fabric, light, shifts.get(piece.owner, (0.0, 0.0)), clip, brushes)
    clip.to(None)


class _Clip:
    """What a canvas is clipped to.

    Neighbours inside the same path share the clip: a garment's folds and buttons come one after the other, and setting
    a clip costs more than drawing one of them.
    """

    def __init__(self, canvas: Any, *, smooth: bool = True) -> None:
        self._canvas, self._smooth = canvas, smooth
        self._path: Path | None = None

    def to(self, path: Path | None) -> None:
        if path is self._path:
            return
        if self._path is not None:
            self._canvas.restore()
        self._path = path
        if path is not None:
            self._canvas.save()
            self._canvas.clipPath(path, skia.ClipOp.kIntersect, self._smooth)


class _Painted:
    """What can be seen of a canvas, and where something is on it already."""

    _SPREAD = 5.0
    """Units; a shadow is moved by 0.9 at the most and reaches three times its softness of 0.9 beyond the path."""

    def __init__(self, canvas: Any) -> None:
        self._window = _edges(canvas.getLocalClipBounds())
        self._boxes: list[_Edges] = []

    def may_show(self, path: Path, more: float = 0.0) -> bool:
        """Whether the path, its shadow or what reaches `more` units beyond it may lie in the image."""
        return _near(_edges(path.getBounds()), self._window, self._SPREAD + more)

    def any_below(self, piece: Piece) -> bool:
        """Whether the piece's shadow may fall on something."""
        edges = _edges(piece.path.getBounds())
        return any(_near(edges, box, self._SPREAD + piece.stroke) for box in self._boxes)

    def add(self, piece: Piece) -> None:
        left, top, right, low = _edges(piece.path.getBounds())
        grow = piece.stroke + 3 * piece.blur + 1.0
        self._boxes.append((left - grow, top - grow, right + grow, low + grow))


_Edges = tuple[float, float, float, float]


def _edges(rect: Any) -> _Edges:
    return rect.left(), rect.top(), rect.right(), rect.bottom()


def _near(first: _Edges, second: _Edges, distance: float) -> bool:
    return (
        first[0] - distance < second[2]
        and second[0] < first[2] + distance
        and first[1] - distance < second[3]
        and second[1] < first[3] + distance
    )


class _Brushes:
    """Paints that are made once and changed from piece to piece: making one costs as much as a small path."""

    def __init__(self, light: Light) -> None:
        stroke: dict[str, Any] = {
            "Style": skia.Paint.kStroke_Style,
            "StrokeCap": skia.Paint.kRound_Cap,
            "StrokeJoin": skia.Paint.kRound_Join,
        }
        # One that blurs cannot be made one that does not, so there are two of each.
        self._area, self._line = (
            {soft: skia.Paint(AntiAlias=True, **style) for soft in (False, True)} for style in ({}, stroke)
        )
        self.shadow = skia.Paint(AntiAlias=True, BlendMode=_ATOP)
        edge = {"Style": skia.Paint.kStroke_Style, "StrokeWidth": 1.7, "MaskFilter": _blur(0.8)}
        alpha = 0.16 + 0.14 * light.hard
        self.dusk = skia.Paint(AntiAlias=True, BlendMode=_ATOP, Color=_argb(_DUSK, alpha), **edge)
        self.blood = skia.Paint(AntiAlias=True, BlendMode=_ATOP, Color=_argb(_BLOOD, alpha), **edge)

    def cloth(self, piece: Piece, fabric: Fabric | None, shifts: Mapping[int, tuple[float, float]]) -> Any:
        """What a piece is filled with."""
        kinds = self._line if piece.stroke else self._area
        if piece.colour is not None:
            paint = kinds[piece.blur > 0]
            paint.setColor(_argb(piece.colour, piece.alpha))
        else:
            assert fabric is not None
            alpha = fabric.alpha * piece.alpha
            if fabric.tile is not None and not piece.second:
                return _tiled(piece, fabric, alpha, shifts.get(piece.owner, (0.0, 0.0)))
            paint = kinds[piece.blur > 0]
            paint.setColor(_argb(fabric.colours[1 if piece.second else 0], alpha))
        paint.setBlendMode(_OVER if piece.owner else _ATOP)
        if piece.stroke:
            paint.setStrokeWidth(piece.stroke)
        if piece.blur:
            paint.setMaskFilter(_blur(piece.blur))
        return paint


def _tiled(piece: Piece, fabric: Fabric, alpha: float, shift: tuple[float, float]) -> Any:
    # Given to the constructor: setShader would copy the tile through its encoded form, 2 ms each time.
    tiles = shader(fabric.tile, fabric.tile_size, piece.angle, shift)
    paint = skia.Paint(AntiAlias=True, BlendMode=_OVER, Shader=tiles, Alphaf=alpha)
    if piece.stroke:
        paint.setStyle(skia.Paint.kStroke_Style)
        paint.setStrokeWidth(piece.stroke)
        paint.setStrokeCap(skia.Paint.kRound_Cap)
        paint.setStrokeJoin(skia.Paint.kRound_Join)
    if piece.blur:
        paint.setMaskFilter(_blur(piece.blur))
    return paint


def _shadow(canvas: Any, piece: Piece, brushes: _Brushes, light: Light) -> None:
    """What the piece darkens around it, on the person only."""
    paint = brushes.shadow
    paint.setColor(_argb((8, 6, 12), piece.shadow * (0.55 + 0.6 * light.hard)))
    paint.setMaskFilter(_blur(0.9 if not piece.stroke else 0.4))
    paint.setStyle(skia.Paint.kStroke_Style if piece.stroke else skia.Paint.kFill_Style)
    if piece.stroke:
        paint.setStrokeWidth(piece.stroke)
    canvas.save()
    canvas.translate(-light.side * 0.9, 0.7)
    canvas.drawPath(piece.path, paint)
    canvas.restore()


def _round(
    canvas: Any,
    piece: Piece,
    fabric: Fabric | None,
    light: Light,
    shift: tuple[float, float],
    clip: _Clip,
    brushes: _Brushes,
) -> None:
    """Grain, the roundness of what lies below, and dark edges."""
    bounds = piece.path.getBounds()
    if bounds.width() * bounds.height() < 3:
        return
    if piece.inside is None:
        clip.to(piece.path)  # left so: folds inside it come next
    else:
        canvas.save()
        canvas.clipPath(piece.path, skia.ClipOp.kIntersect, True)
    gloss = 0.12
    if fabric is not None and not piece.plain:
        gloss = fabric.gloss
        if fabric.alpha > 0.9:
            grain = shader(fabric.texture, fabric.texture_size, piece.angle, shift)
            canvas.drawPath(
                piece.path, skia.Paint(Shader=grain, BlendMode=skia.BlendMode.kOverlay, Alphaf=fabric.strength)
            )
    if piece.axis is not None:
        _gradient(canvas, piece, light, gloss)
    canvas.drawPath(piece.path, brushes.blood if piece.owner == SKIN else brushes.dusk)
    if piece.inside is not None:
        canvas.restore()


def _gradient(canvas: Any, piece: Piece, light: Light, gloss: float) -> None:
    assert piece.axis is not None
    (ax, ay), (bx, by) = piece.axis
    dx, dy = bx - ax, by - ay
    length = math.hypot(dx, dy) or 1.0
    ux, uy = dx / length, dy / length
    bounds = piece.path.getBounds()
    # Across the axis, a slanted limb's box is wider than the limb.
    wide = bounds.width() * abs(uy) + bounds.height() * abs(ux) - 2 * length * abs(ux * uy)
    half = max(wide, 1.0) * 0.54
    mx, my = bounds.centerX(), bounds.centerY()
    if abs(ux) > 0.25:
        mx, my = (ax + bx) / 2, (ay + by) / 2
    nx, ny = uy, -ux
    if nx < 0:
        nx, ny = -nx, -ny
    peak = 0.5 + 0.28 * light.side
    dark = 0.22 + 0.26 * light.hard
    left, right = dark * (1 + 0.6 * light.side), dark * (1 - 0.6 * light.side)
    dusk = _BLOOD if piece.owner == SKIN else _DUSK
    colours = [_argb(dusk, left), _argb(dusk, left * 0.3), _argb((255, 250, 240), 0.04 + 0.45 * gloss),
               _argb(dusk, right * 0.3), _argb(dusk, right)]  # fmt: skip
    places = [0.0, max(0.08, peak - 0.26), peak, min(0.92, peak + 0.26), 1.0]
    line = [skia.Point(mx - nx * half, my - ny * half), skia.Point(mx + nx * half, my + ny * half)]
    glow = skia.GradientShader.MakeLinear(line, colours, places)
    canvas.drawPath(piece.path, skia.Paint(Shader=glow, BlendMode=_ATOP))


class MaskCanvas:
    """A byte a pixel, large enough for all of the figure, on the image's own pixel grid.

    Attributes:
        window: the image's rows and columns in it.
    """

    def __init__(self, camera: Camera, pieces: Iterable[Piece]) -> None:
        height, width = camera.size
        matrix = camera.matrix()
        bounds = skia.Rect.MakeWH(width, height)
        for piece in pieces:
            if piece.owner:
                bounds.join(matrix.mapRect(piece.path.getBounds()))
        left, top = (
            max(-2 * side, math.floor(value) - 2) for side, value in ((width, bounds.left()), (height, bounds.top()))
        )
        right, low = (
            min(3 * side, math.ceil(value) + 2) for side, value in ((width, bounds.right()), (height, bounds.bottom()))
        )
        left, top, right, low = min(left, 0), min(top, 0), max(right, width), max(low, height)
        self.shape = (low - top, right - left)
        self.window = (slice(-top, height - top), slice(-left, width - left))
        self.matrix = matrix
        self.matrix.postTranslate(-left, -top)
        self._pixels = np.zeros(self.shape, dtype=np.uint8)
        info = skia.ImageInfo.Make(
            self.shape[1], self.shape[0], skia.ColorType.kAlpha_8_ColorType, skia.AlphaType.kPremul_AlphaType
        )
        self._surface = skia.Surface.MakeRasterDirect(info, self._pixels, self.shape[1])
        self._canvas = self._surface.getCanvas()
        self._canvas.setMatrix(self.matrix)
        self._area = skia.Paint(AntiAlias=False, BlendMode=skia.BlendMode.kSrc)
        self._line = skia.Paint(
            AntiAlias=False,
            BlendMode=skia.BlendMode.kSrc,
            Style=skia.Paint.kStroke_Style,
            StrokeCap=skia.Paint.kRound_Cap,
            StrokeJoin=skia.Paint.kRound_Join,
        )

    def pieces(self, pieces: Iterable[Piece], value: Any) -> Mask:
        """A mask in painter's order; `value` says what a piece writes (1..255)."""
        self._canvas.clear(0)
        clip = _Clip(self._canvas, smooth=False)
        for piece in pieces:
            if piece.owner:
                clip.to(piece.inside)
                self._draw(piece.path, value(piece), piece.stroke)
        clip.to(None)
        return self._pixels.copy()

    def region(self, path: Path) -> Mask:
        """1 inside the path."""
        self._canvas.clear(0)
        self._draw(path, 1, 0.0)
        return self._pixels.copy()

    def _draw(self, path: Path, value: int, stroke: float) -> None:
        paint = self._line if stroke else self._area
        paint.setColor(value << 24)
        if stroke:
            paint.setStrokeWidth(stroke)
        self._canvas.drawPath(path, paint)
