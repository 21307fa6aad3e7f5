"""Cloth: a colour, a pattern and a material, as tiles that shaders repeat over a garment.

Colours are drawn from `recolour.PAINTS`, ranges of OKLab in which a colour's word is beyond doubt and which do not
touch: navy (lightness 0.21..0.30, chroma above 0.04, hue 256..274) never looks black (chroma below 0.012). Denim has
ranges of its own, duller. Light and folds are laid over the cloth later and shift all colours alike.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from vlm.synthetic import patterns
from vlm.synthetic.paths import skia
from vlm.synthetic.pieces import Colour
from vlm.synthetic.recolour import PAINTS, Paint, from_oklab
from vlm.synthetic.textures import texture
from vlm.synthetic.wardrobe_scene import Worn

__all__ = ["Fabric", "make_fabric", "paint"]

_MORE: Mapping[str, Paint] = {
    "gold": Paint(light=(0.66, 0.80), chroma=(0.085, 0.13), hue=(80, 92)),
    "silver": Paint(light=(0.70, 0.86), chroma=(0.0, 0.012), hue=(220, 280)),
    "transparent": Paint(light=(0.80, 0.92), chroma=(0.0, 0.02), hue=(180, 260)),
}
_DENIM: Mapping[str, Paint] = {
    "blue": Paint(light=(0.40, 0.55), chroma=(0.055, 0.10), hue=(248, 264)),
    "navy": Paint(light=(0.24, 0.33), chroma=(0.035, 0.065), hue=(258, 274)),
    "light blue": Paint(light=(0.68, 0.82), chroma=(0.03, 0.065), hue=(240, 258)),
}
_SHEER: Mapping[str, float] = {"chiffon": 0.8, "lace": 0.9}
_NEUTRAL = ("black", "white", "grey", "navy", "beige", "brown", "tan")
_PAIRS = ("black white", "navy white", "black red", "white red", "white blue", "beige brown", "grey black",
    "white pink",
          "green white", "navy red", "yellow black", "pink red", "teal white", "burgundy beige", "white light blue",
          "navy beige", "orange navy", "grey white", "black grey", "olive beige", "purple white")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Fabric:
    """What a garment is cut from.

    Attributes:
        worn: the garment, its colours as the cloth has them, dominant first.
        colours: sRGB of the first and the second colour.
        names: their words; the second counts where the pattern shows it.
        tile: repeating picture of the pattern, or None for one colour.
        tile_size: its side in units.
        texture: grey repeating picture of the material; 128 changes nothing.
        strength: of the texture, 0..1.
        alpha: below 1 where skin shines through.
        gloss: of highlights, 0..1.
    """

    worn: Worn
    colours: tuple[Colour, Colour]
    names: tuple[str, str]
    tile: Any
    tile_size: float
    texture: Any
    texture_size: float
    strength: float
    alpha: float
    gloss: float


def paint(colour: str, rng: random.Random, material: str = "") -> Colour:
    """sRGB of a shade that the colour's word fits."""
    ranges = _DENIM.get(colour) if material == "denim" else None
    ranges = ranges or _MORE.get(colour) or PAINTS[colour]
    light, chroma = rng.uniform(*ranges.light), rng.uniform(*ranges.chroma)
    hue = math.radians(rng.uniform(*ranges.hue))
    lab = np.array([light, chroma * math.cos(hue), chroma * math.sin(hue)], dtype=np.float32)
    red, green, blue = from_oklab(lab)
    return (int(red), int(green), int(blue))


def _partner(colour: str, rng: random.Random, *, loud: bool = False) -> str:
    """A second colour that stands out from the first."""
    pairs = [pair.split(" ", 1) for pair in _PAIRS]
    fitting = [b if a == colour else a for a, b in pairs if colour in (a, b)]
    if fitting and rng.random() < 0.5:
        return rng.choice(fitting)
    dark = {"black", "navy", "brown", "burgundy", "olive", "purple"}
    others = [name for name in (PAINTS if loud else _NEUTRAL) if name != colour]
    if colour in dark:
        others = [name for name in others if name not in dark]
    elif colour in ("white", "beige", "silver", "transparent", "yellow", "light blue"):
        others = [name for name in others if name not in ("white", "beige", "light blue", "yellow")]
    close = {"grey": ("silver",), "tan": ("beige", "brown", "gold"), "beige": ("tan",), "gold": ("tan", "yellow"),
             "red": ("orange", "burgundy"), "orange": ("red", "tan"), "blue": ("navy", "purple", "teal"),
             "teal": ("green", "blue"), "green": ("teal", "olive"), "pink": ("light blue",),
             "silver": ("grey",)}  # fmt: skip
    return rng.choice([name for name in others if name not in close.get(colour, ())])


def make_fabric(worn: Worn, rng: random.Random) -> Fabric:
    """Cut cloth for a garment; its attributes come back with the second colour that the pattern brings."""
    attributes = dict(worn.attributes)
    first = attributes["colour"][0]
    pattern, material = attributes["pattern"][0], attributes.get("material", ("",))[0]
    names = [first]
    if first == "multicolour":
        names = ["multicolour"]
    base = "white" if first == "multicolour" else first
    if material == "lace" and pattern != "lace":
        material = "cotton"
    ground = paint(base, rng, material)
    second_name = base
    second = ground
    if pattern not in ("solid", "textured", "lace") or first == "multicolour":
        second_name = _partner(
            base, rng, loud=pattern in ("graphic", "colour block", "floral", "abstract", "geometric")
        )
        if pattern == "camouflage":
            second_name = {"olive": "brown", "green": "brown"}.get(base, "olive" if base != "olive" else "brown")
        if pattern == "animal print" and base in ("tan", "beige", "brown", "white", "grey"):
            second_name = "black"
        second = paint(second_name, rng)
    elif pattern in ("solid", "textured") and worn.slot not in ("legwear",) and rng.random() < 0.06:
        second_name = _partner(base, rng)  # trimmings: buttons and hems, too small to be named
        second = paint(second_name, rng)
    many = [ground, second]
    if first == "multicolour" or pattern in ("floral", "abstract", "camouflage") or rng.random() < 0.2:
        many += [paint(name, rng) for name in rng.sample(list(PAINTS), 3 if first == "multicolour" else 1)]
    if pattern == "camouflage":
        many = [ground, second, paint("black", rng), paint("beige", rng)]
    tile, size, shares = None, 1.0, [1.0]
    if first == "multicolour" and pattern in ("solid", "textured", "lace"):
        pattern_drawn = "abstract"
        attributes["pattern"] = ("abstract",)
    else:
        pattern_drawn = pattern
    if pattern_drawn not in ("solid", "textured", "colour block", "graphic"):
        small = worn.slot in ("feet", "legwear", "collar", "hand", "hands", "head", "waist", "neck", "eyes", "wrist")
        tile, size, shares = patterns.tile(pattern_drawn, many, rng, small=small)
        if len(shares) > 1 and shares[1] > 0.07 and pattern_drawn != "lace":
            names.append(second_name)
            if shares[1] > shares[0] + 0.03:
                names.reverse()
            if first == "multicolour":
                names = ["multicolour"]
    grain, grain_size, strength = texture(pattern_drawn if pattern_drawn == "textured" else "", material, rng)
    alpha = _SHEER.get(material, 1.0)
    if material == "chiffon" and worn.slot not in ("top", "whole", "lower", "neck"):
        alpha = 1.0
    if worn.label == "tights":
        alpha = rng.choice([0.55, 0.75, 0.95, 1.0])
    if first == "transparent":
        alpha = 0.4
    gloss = {"leather": 0.5, "silk": 0.45, "metal": 0.9, "plastic": 0.6, "sequin": 0.7, "velvet": 0.3}.get(
        material, 0.1
    )
    attributes["colour"] = tuple(dict.fromkeys(names))[:2]
    return Fabric(
        worn=replace(worn, attributes=attributes),
        colours=(ground, second),
        names=(first, second_name),
        tile=tile,
        tile_size=size,
        texture=grain,
        texture_size=grain_size,
        strength=strength,
        alpha=alpha,
        gloss=gloss * rng.uniform(0.7, 1.2),
    )


@lru_cache(maxsize=1)
def sampling() -> Any:
    """Linear, with mipmaps: fine patterns fade instead of flickering."""
    return skia.SamplingOptions(skia.FilterMode.kLinear, skia.MipmapMode.kLinear)


def shader(tile: Any, size: float, angle: float, at: Sequence[float]) -> Any:
    """The tile repeated, `size` units wide, turned and shifted."""
    matrix = skia.Matrix().setRotate(angle)
    matrix.preTranslate(at[0], at[1])
    matrix.preScale(size / tile.width(), size / tile.width())
    return tile.makeShader(skia.TileMode.kRepeat, skia.TileMode.kRepeat, sampling(), matrix)
