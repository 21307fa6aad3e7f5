"""Changes to the cloth of one garment in a photo, and to its label: another colour, or a print."""

# H height, W width

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tasks.base import ObjectLabel, Provenance
from tasks.ontology import default_ontology
from vlm.synthetic.cutout import matte
from vlm.synthetic.masked_photo import MaskedPhoto
from vlm.synthetic.overprint import PRINTS, draw_print
from vlm.synthetic.recolour import PAINTS, distance, draw_paint, from_oklab, repaint, shading_of, to_oklab

__all__ = ["Work", "may_print", "may_recolour", "print_garment", "recolour_garment"]

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

_LEAST_AREA = 0.004
"""Of the photo: on less cloth a colour is hard to see, and a print impossible."""
_LEAST_PRINT_AREA = 0.015
_RECOLOURED = ("upper", "whole", "lower", "hosiery", "boots", "shoes")
_RECOLOURED_TOO = ("hat", "cap", "scarf", "tie", "bag", "backpack", "clutch", "gloves")
_PRINTED = ("upper", "whole", "lower")
_PRINTED_TOO = ("scarf", "bag", "backpack", "clutch")
_UNPRINTABLE = ("fur", "sequin", "lace", "straw", "metal", "plastic")
_PLAIN = ("solid", "textured")
_WITH_MOTIF = ("t-shirt", "top", "tank top", "sweatshirt", "sweater", "hoodie", "dress")


@dataclass(kw_only=True)
class Work:
    """A photo while it is being changed; `objects` and `sources` belong together as in MaskedPhoto.

    Attributes:
        done: what was done, in order.
        groups: facts about the new photo, e.g. {"crop": "upper"}.
        texts_hold: captions and questions of the original are still true.
    """

    pixels: NDArray[np.uint8]
    label_map: NDArray[np.uint8]
    labels: tuple[str, ...]
    objects: list[ObjectLabel]
    sources: list[str | None]
    objects_complete: bool
    done: list[str] = field(default_factory=list)
    groups: dict[str, str] = field(default_factory=dict)
    texts_hold: bool = True

    @classmethod
    def of(cls, photo: MaskedPhoto) -> Work:
        return cls(
            pixels=photo.pixels,
            label_map=photo.label_map,
            labels=photo.labels,
            objects=list(photo.record.objects),
            sources=list(photo.sources),
            objects_complete=photo.record.objects_complete,
        )

    def mask(self, index: int) -> Mask:
        """HxW, the region of one object."""
        source = self.sources[index]
        assert source is not None
        return np.asarray(self.label_map == self.labels.index(source))

    def area(self, index: int) -> float:
        """Of the region, as a share of the photo; 0 where its place is unknown or shared with another object."""
        source = self.sources[index]
        if source is None or self.sources.count(source) > 1:
            return 0.0
        return float(self.mask(index).mean())


def may_recolour(work: Work, index: int) -> bool:
    """Whether the garment is of one known colour and has a region of its own."""
    item = work.objects[index]
    colours = item.attributes.get("colour", ())
    kind = default_ontology().kind_of(item.label)
    return (
        (kind in _RECOLOURED or item.label in _RECOLOURED_TOO)
        and len(colours) == 1
        and colours[0] not in ("transparent", "multicolour")
        and item.attributes.get("pattern", ("",))[0] in _PLAIN
        and work.area(index) >= _LEAST_AREA
    )


def may_print(work: Work, index: int) -> bool:
    """Whether a print on the garment would be seen and be likely."""
    item = work.objects[index]
    kind = default_ontology().kind_of(item.label)
    return (
        may_recolour(work, index)
        and (kind in _PRINTED or item.label in _PRINTED_TOO)
        and item.attributes.get("material", ("",))[0] not in _UNPRINTABLE
        and work.area(index) >= _LEAST_PRINT_AREA
    )


def recolour_garment(
    work: Work, index: int, rng: random.Random, noise: np.random.Generator, *, colour: str | None = None
) -> None:
    """Give the garment another colour of the ontology, drawn unless it is named; shading and pattern stay."""
    item = work.objects[index]
    [before] = item.attributes["colour"]
    colour = colour or rng.choice([name for name in PAINTS if name != before])
    paint = draw_paint(colour, rng)
    _apply(work, index, lambda _: paint, noise)
    said = f"recolour {item.label} {colour}"
    work.objects[index] = replace(
        item,
        attributes={**item.attributes, "colour": (colour,)},
        phrases=(),
        provenance=Provenance(source="ccp", annotator=f"counterfactual: {said}"),
        attribute_provenance=_untouched(item),
    )
    work.done.append("recolour")
    work.texts_hold = False


def _untouched(item: ObjectLabel) -> dict[str, Provenance]:
    """Where labels came from that an edit of colour or pattern leaves alone."""
    return {name: origin for name, origin in item.attribute_provenance.items() if name not in ("colour", "pattern")}


_GROUNDS: Mapping[str, tuple[str, ...]] = {
    "camouflage": ("olive", "olive", "green", "tan", "grey", "brown"),
    "animal print": ("tan", "tan", "brown", "brown", "beige", "white", "grey", "yellow"),
}
_INKS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "camouflage": {
        "olive": ("brown", "black", "beige"), "green": ("brown", "black", "tan"), "tan": ("brown", "olive"),
        "grey": ("black", "white"), "brown": ("olive", "beige", "black"),
    },
    "animal print": {"": ("black",)},
}  # fmt: skip
_USUAL = ("white", "black", "navy", "white", "black", "grey", "beige", "blue", "red")
"""Grounds and inks that prints mostly have; the others come as often as each other."""
_WEIGHTS: Mapping[str, int] = {
    "striped": 5, "checked": 5, "polka dot": 4, "floral": 5, "animal print": 3, "camouflage": 3, "geometric": 3,
    "abstract": 2, "graphic": 4,
}  # fmt: skip
_APART: Mapping[str, float] = {"camouflage": 0.12, "animal print": 0.15}
"""Least distance between ground and ink, in OKLab; else 0.3."""
_LEAST_SHARE = 0.1
_TWO_COLOURED = ("striped", "checked", "animal print", "camouflage")


def print_garment(
    work: Work, index: int, rng: random.Random, noise: np.random.Generator, *, kind: str | None = None
) -> None:
    """Lay a print, drawn unless it is named, over the garment; pattern and colours of its label become the print's."""
    item = work.objects[index]
    kinds = [name for name in PRINTS if name != "graphic" or item.label in _WITH_MOTIF]
    kind = kind or rng.choices(kinds, [_WEIGHTS[name] for name in kinds])[0]
    mask = work.mask(index)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    # Limbs and skirts are wider than their cloth's usual run: the median row says how wide a garment is.
    width = float(np.median(mask.sum(axis=1)[rows]))
    left = float(np.median(mask.argmax(axis=1)[rows]))
    origin = (int(rows[0]), int(left if kind == "graphic" else columns[0]))

    names: list[str] = []
    shades: list[Floats] = []
    covered: list[float] = []

    def paint(lab: Floats) -> Floats:
        folds = ndimage.gaussian_filter(lab[..., 0], max(1.2, width / 40))
        slope = ndimage.gaussian_filter(ndimage.sobel(folds, axis=1), 1.0)
        bend = np.clip(slope * width * 0.12, -0.04 * width, 0.04 * width).astype(np.float32)
        # The print starts at the garment's own corner wherever that is in the photo.
        shares = _placed(kind, bend, origin, work_box, width, rng)
        names[:], shades[:] = _inks(kind, shares.shape[-1], rng)
        covered[:] = [float(shares[..., ink][inner].mean()) for ink in range(shares.shape[-1])]
        result: Floats = shares @ np.stack(shades)
        return result

    work_box = _around(mask)
    inner = mask[work_box]
    _apply(work, index, paint, noise)
    colours = _colours(kind, names, covered)
    said = f"{kind} {item.label} {' and '.join(colours)}"
    work.objects[index] = replace(
        item,
        attributes=_with_pattern(item, colours, kind),
        phrases=(),
        provenance=Provenance(source="ccp", annotator=f"counterfactual: {said}"),
        attribute_provenance=_untouched(item),
    )
    work.done.append("pattern")
    work.texts_hold = False


def _placed(
    kind: str, bend: Floats, origin: tuple[int, int], box: tuple[slice, slice], width: float, rng: random.Random
) -> Floats:
    """The print over the window `box`, begun at `origin` of the photo."""
    down, across = origin[0] - box[0].start, origin[1] - box[1].start
    below = np.pad(bend, ((0, max(0, down)), (0, max(0, across))), mode="edge")
    shares = draw_print(kind, below[: bend.shape[0], : bend.shape[1]], width, rng)
    if kind != "graphic":
        return shares
    moved = np.roll(shares, (down, across), axis=(0, 1))
    moved[:down], moved[:, :across] = shares[-1, -1], shares[-1, -1]
    return moved


def _inks(kind: str, num: int, rng: random.Random) -> tuple[list[str], list[Floats]]:
    """Names and shades of the ground and the inks, each told easily from the ground."""
    every = list(PAINTS)
    ground = rng.choice(_GROUNDS.get(kind, _USUAL if rng.random() < 0.5 else every))
    names, shades = [ground], [draw_paint(ground, rng)]
    table = _INKS.get(kind, {})
    while len(names) < num:
        pool = table.get(ground, table.get("", ())) or (_USUAL if rng.random() < 0.5 else every)
        for _ in range(20):
            name = rng.choice(pool)
            shade = draw_paint(name, rng)
            far = [distance(shade, other) for other in shades]
            if name not in names and far[0] >= _APART.get(kind, 0.3) and min(far) > 0.1:
                break
        else:
            name = "black" if shades[0][0] > 0.55 else "white"
            shade = draw_paint(name, rng)
        names.append(name)
        shades.append(shade)
    return names, shades


def _colours(kind: str, names: list[str], covered: list[float]) -> tuple[str, ...]:
    """The two colours that cover most; the second is "multicolour" where a third is seen too.

    Of a camouflage or a tartan people name the two that matter.
    """
    total: dict[str, float] = {}
    for name, share in zip(names, covered, strict=True):
        total[name] = total.get(name, 0.0) + share
    # A small motif is what people see all the same.
    first, second, *more = sorted(total, key=lambda name: -total[name])
    many = kind not in _TWO_COLOURED and more and total[more[0]] >= _LEAST_SHARE
    return (first, "multicolour" if many else second)


def _with_pattern(item: ObjectLabel, colours: tuple[str, ...], pattern: str) -> dict[str, tuple[str, ...]]:
    return {**item.attributes, "colour": colours, "pattern": (pattern,)}


_MARGIN = 8


def _around(mask: Mask) -> tuple[slice, slice]:
    """The window around a region, with room for its edge."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (
        slice(max(0, int(rows[0]) - _MARGIN), int(rows[-1]) + _MARGIN + 1),
        slice(max(0, int(columns[0]) - _MARGIN), int(columns[-1]) + _MARGIN + 1),
    )


def _apply(work: Work, index: int, paint: Callable[[Floats], Floats], noise: np.random.Generator) -> None:
    """Give the garment what `paint` makes of its hxwx3 window of the photo: one shade, or one for every pixel."""
    mask = work.mask(index)
    window = _around(mask)
    inside = mask[window]
    others = (work.label_map[window] != 0) & ~inside
    lab = to_oklab(work.pixels[window])
    alpha, pure = matte(lab, inside, forbidden=others)
    shading = shading_of(pure, inside)
    new = repaint(shading, paint(pure), noise)
    share = (alpha * shading.own)[..., None]
    pixels = work.pixels.copy()
    changed = from_oklab(lab + share * (new - pure))
    # Where nothing belongs to the garment the photo stays as it is, to the byte.
    pixels[window] = np.where(share > 0.004, changed, work.pixels[window])
    work.pixels = pixels
