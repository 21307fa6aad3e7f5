"""Painting skips only what would leave nothing."""

from __future__ import annotations

import random

import numpy as np
import pytest

pytest.importorskip("skia", reason="drawing needs skia-python: pip install 'vlm[synthetic]'")

from vlm.synthetic import drawing, render
from vlm.synthetic.paths import skia
from vlm.synthetic.pieces import Piece


def test_shortcuts_change_no_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every figure of some pictures, painted with and without shadows on nothing, pieces outside of the image and
    shared clips; and nothing of it lies outside of its bounds."""
    checked = []
    paint = render.paint_pieces

    def twice(canvas, pieces, fabrics, light, rng):  # type: ignore[no-untyped-def]
        state = rng.getstate()
        size, matrix = canvas.getBaseLayerSize(), canvas.getTotalMatrix()
        plain = skia.Surface(size.width(), size.height())
        plain.getCanvas().concat(matrix)
        with monkeypatch.context() as patch:
            patch.setattr(render._Painted, "may_show", lambda *_: True)
            patch.setattr(render._Painted, "any_below", lambda *_: True)
            patch.setattr(render._Clip, "to", _clip_anew)
            again = random.Random()
            again.setstate(state)
            paint(plain.getCanvas(), pieces, fabrics, light, again)
        paint(canvas, pieces, fabrics, light, rng)
        checked.append((plain.toarray(), canvas.getSurface().toarray(), pieces))

    monkeypatch.setattr(drawing, "paint_pieces", twice)
    bounds = []
    real = render.figure_bounds
    monkeypatch.setattr(drawing, "figure_bounds", lambda *args: bounds.append(real(*args)) or bounds[-1])
    for index in range(12):
        drawing.draw(21, index, size=128)
    assert len(checked) == len(bounds) == 12
    for (plain, painted, pieces), part in zip(checked, bounds, strict=True):
        assert isinstance(pieces[0], Piece)
        assert np.array_equal(plain, painted)
        outside = painted[..., 3].copy()
        outside[part.top() : part.bottom(), part.left() : part.right()] = 0
        assert painted[..., 3].any()
        assert not outside.any()


def _clip_anew(clip: render._Clip, path: object) -> None:
    """As `_Clip.to`, but also where the path is the one that is set."""
    if clip._path is not None:
        clip._canvas.restore()
    clip._path = path
    if path is not None:
        clip._canvas.save()
        clip._canvas.clipPath(path, skia.ClipOp.kIntersect, clip._smooth)
