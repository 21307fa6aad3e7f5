"""What a material looks like close by: grey tiles that repeat, laid over the cloth; 128 changes nothing."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from vlm.synthetic.paths import skia

__all__ = ["texture"]

_SIDE = 64
_KINDS = ("weave", "denim", "leather", "suede", "knit", "cable", "wool", "fur", "silk", "velvet", "sequin",
    "straw", "quilt",
          "ribs", "waffle", "boucle")  # fmt: skip
_OF = {"cotton": "weave", "denim": "denim", "leather": "leather", "suede": "suede", "knit": "knit", "wool": "wool",
    "fur": "fur",
       "silk": "silk", "chiffon": "silk", "velvet": "velvet", "sequin": "sequin", "straw": "straw", "metal": "silk",
       "plastic": "silk", "lace": "weave"}  # fmt: skip
_STRENGTH = {"weave": 0.25, "denim": 0.5, "leather": 0.35, "suede": 0.3, "knit": 0.5, "cable": 0.8, "wool": 0.45,
    "fur": 0.85,
             "silk": 0.25, "velvet": 0.4, "sequin": 0.95, "straw": 0.7, "quilt": 0.85, "ribs": 0.8, "waffle": 0.75,
             "boucle": 0.85}  # fmt: skip


def texture(pattern: str, material: str, rng: random.Random) -> tuple[Any, float, float]:
    """(picture that repeats, its side in units, strength 0..1) of a material, or of what `pattern` "textured" shows."""
    kind = _OF.get(material, "weave")
    if pattern == "textured":
        relief = {
            "knit": ("cable", "ribs", "waffle"), "wool": ("boucle", "cable"), "leather": ("quilt", "ribs"),
            "suede": ("quilt", "ribs"), "fur": ("fur", "boucle"), "straw": ("straw",), "sequin": ("sequin",),
        }  # fmt: skip
        kind = rng.choice(relief.get(material, ("quilt", "ribs", "waffle", "boucle")))
    scale = rng.uniform(0.8, 1.25) * {"quilt": 11, "cable": 12, "ribs": 9, "waffle": 9, "fur": 12, "leather": 22,
        "silk": 30,
                                      "velvet": 24, "wool": 14, "sequin": 9, "straw": 8}.get(kind, 11)  # fmt: skip
    return _picture(kind), scale, _STRENGTH[kind] * rng.uniform(0.8, 1.15)


def _noise(seed: int, sigma: float | tuple[float, float]) -> NDArray[np.float64]:
    """Smooth noise that repeats; mean 0, deviation 1."""
    raw = np.random.default_rng(seed).normal(size=(_SIDE, _SIDE))
    soft = ndimage.gaussian_filter(raw, sigma, mode="wrap")
    return np.asarray((soft - soft.mean()) / soft.std())


@lru_cache(maxsize=len(_KINDS))
def _picture(kind: str) -> Any:
    y, x = np.mgrid[0:_SIDE, 0:_SIDE] / _SIDE * 2 * np.pi
    fine, coarse = _noise(_KINDS.index(kind), 0.7), _noise(100 + _KINDS.index(kind), 5.0)
    waves: dict[str, Callable[[], NDArray[np.float64]]] = {
        "weave": lambda: 14 * fine + 10 * coarse,
        "denim": lambda: 18 * np.sin(16 * (x + y)) + 16 * _noise(7, (6.0, 0.6)) + 22 * coarse,
        "leather": lambda: 10 * fine + 30 * coarse,
        "suede": lambda: 16 * fine + 18 * coarse,
        "knit": lambda: 26 * np.sin(8 * x) * (0.6 + 0.4 * np.cos(16 * y + 2 * np.sin(8 * x))) + 12 * fine,
        "cable": lambda: 50 * np.sin(3 * x + 1.2 * np.sin(3 * y)) * (0.55 + 0.45 * np.cos(6 * y)) + 14 * fine,
        "wool": lambda: 26 * fine + 20 * coarse,
        "fur": lambda: 46 * _noise(3, (4.0, 0.8)) + 26 * _noise(4, (8.0, 2.0)),
        "silk": lambda: 34 * _noise(5, (12.0, 4.0)) + 3 * fine,
        "velvet": lambda: 30 * _noise(6, (9.0, 5.0)) + 6 * fine,
        "sequin": lambda: 30 * np.sin(12 * x) * np.sin(12 * y) + 90 * (_noise(8, 0.9) > 1.3) - 30 * (_noise(9,
        1.0) > 1.0),
        "straw": lambda: 40 * np.sign(np.sin(8 * x)) * np.sin(8 * y) + 16 * _noise(10, (0.5, 3.0)),
        "quilt": lambda: -75 * np.maximum(_line(x + y, 2), _line(x - y,
        2)) + 26 * np.abs(np.sin(x + y) * np.sin(x - y)) + 8 * fine,
        "ribs": lambda: 48 * np.sin(6 * x) + 8 * fine,
        "waffle": lambda: 30 * (np.sin(6 * x) + np.sin(6 * y)) + 8 * fine,
        "boucle": lambda: 52 * _noise(11, 1.4) + 20 * fine,
    }  # fmt: skip
    grey = np.clip(128 + waves[kind](), 0, 255).astype(np.uint8)
    pixels = np.dstack([grey, grey, grey, np.full_like(grey, 255)])
    return skia.Image.fromarray(pixels, colorType=skia.ColorType.kRGBA_8888_ColorType).withDefaultMipmaps()


def _line(at: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """1 on thin lines, 0 between them."""
    return np.asarray(np.clip(1 - np.abs(np.sin(at * count / 2)) / 0.14, 0, 1))
