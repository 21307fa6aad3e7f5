"""What a drawn picture shows, counted in its masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tasks.base import ObjectLabel, Provenance
from tasks.boxes import Box
from tasks.ontology import NOT_VISIBLE, default_ontology
from vlm.synthetic.fabric import Fabric
from vlm.synthetic.pieces import SKIN, Piece, Probe
from vlm.synthetic.render import PART, MaskCanvas

__all__ = ["LEAST_FRACTION", "LEAST_PIXELS", "Seen", "label_objects", "look"]

LEAST_FRACTION = 0.12
LEAST_PIXELS = 0.0002
"""A garment of which less than this fraction of itself and of the image's pixels is seen is left out."""
_LEAST_SECOND = 0.07
"""Share of a garment's pixels below which a second colour is not named."""
Bytes = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the masks say of a garment.

    Attributes:
        pixels: visible ones.
        fraction: of its own pixels, those outside the image included, that are visible.
        box, parts: around the visible pixels; the parts are those of a pair whose both parts are seen.
        shows: attribute -> whether any of its places is seen, for attributes that have places.
        second: share of the second colour of a colour block.
    """

    pixels: int
    fraction: float
    box: Box | None
    parts: tuple[Box, ...]
    shows: Mapping[str, bool]
    second: float


def look(
    canvas: MaskCanvas, pieces: Sequence[Piece], probes: Sequence[Probe], fabrics: Mapping[int, Fabric]
) -> tuple[Bytes, dict[int, Seen]]:
    """(id mask of the image, garment's number -> what is seen of it).

    The id mask is HxW: 0 background, garment numbers from 1, 250 skin, 251 hair, 252 furniture.
    """
    whole = canvas.pieces(pieces, lambda piece: piece.owner + PART * (piece.part if piece.owner < PART else 0))
    window = np.ascontiguousarray(whole[canvas.window])
    counts = np.bincount(window.ravel(), minlength=256).tolist()
    places = ndimage.find_objects(window, max_label=255)
    ground = {SKIN: window == SKIN, 0: window == 0}
    tones = None
    if any(fabric.worn.attributes["pattern"] == ("colour block",) for fabric in fabrics.values()):
        tones = canvas.pieces(pieces, lambda piece: 2 if piece.second else 1)[canvas.window]
    found = {}
    for owner in fabrics:
        mine = [piece for piece in pieces if piece.owner == owner]
        alone = canvas.pieces(mine, lambda _: 1)
        total = _count(alone)
        pixels = counts[owner] + counts[owner + PART]
        shown = window == owner
        if counts[owner + PART]:
            shown |= window == owner + PART
        halves = tuple(_box(place) for place in (places[owner - 1], places[owner + PART - 1]) if place is not None)
        second = 0.0
        if tones is not None and pixels:
            second = float(((tones == 2) & shown).sum() / pixels)
        shows: dict[str, bool] = {}
        for probe in probes:
            if probe.owner == owner:
                shows[probe.attribute] = shows.get(probe.attribute, False) or _shows(
                    canvas, probe, alone, shown, ground
                )
        found[owner] = Seen(
            pixels=pixels,
            fraction=pixels / total if total else 0.0,
            box=_around(halves),
            parts=halves if len(halves) > 1 else (),
            shows=shows,
            second=second,
        )
    if any(counts[PART + 1 : SKIN]):
        np.subtract(window, PART, out=window, where=(window > PART) & (window < SKIN))
    return window, found


def _shows(
    canvas: MaskCanvas, probe: Probe, alone: Bytes, shown: NDArray[np.bool_], ground: Mapping[int, NDArray[np.bool_]]
) -> bool:
    """`shown`: where the image shows the garment; `ground`: where it shows skin (SKIN) and nothing (0)."""
    place = canvas.region(probe.path)
    own = place & alone
    inside = own[canvas.window].view(np.bool_)
    # Before the cloth at a shoulder without a sleeve hangs the bare arm: that is what is to be seen there.
    bare = probe.skin and probe.attribute == "sleeve"
    total, seen = _count(own), _count(inside & (shown | ground[SKIN] if bare else shown))
    if probe.own:
        return total > 0 and seen >= max(1, probe.share * total)
    if total and seen < 0.35 * total:
        return False
    everything = _count(place)
    # Bare skin, or nothing at all where nobody wears it: no other garment lies there.
    clear = shown | ground[SKIN] | ground[0] if probe.skin else shown
    return everything > 0 and _count(place[canvas.window].view(np.bool_) & clear) >= probe.share * everything


def _count(mask: NDArray[np.uint8] | NDArray[np.bool_]) -> int:
    """Ones of a mask of zeros and ones; numpy counts bytes as truth values ten times faster than it adds them."""
    return int(np.count_nonzero(mask.view(np.bool_)))


def _box(place: tuple[slice, slice]) -> Box:
    rows, columns = place
    return Box(float(columns.start), float(rows.start), float(columns.stop), float(rows.stop))


def _around(boxes: Sequence[Box]) -> Box | None:
    if not boxes:
        return None
    return Box(
        min(box.x1 for box in boxes),
        min(box.y1 for box in boxes),
        max(box.x2 for box in boxes),
        max(box.y2 for box in boxes),
    )


def label_objects(
    fabrics: Mapping[int, Fabric], seen: Mapping[int, Seen], image_pixels: int, provenance: Provenance
) -> tuple[ObjectLabel, ...]:
    """The garments that are seen, with what is seen of each."""
    objects = []
    for owner, fabric in fabrics.items():
        sight = seen[owner]
        hardly = sight.fraction < LEAST_FRACTION and sight.pixels < LEAST_PIXELS * image_pixels
        if sight.box is None or hardly:
            continue
        objects.append(
            ObjectLabel(
                label=fabric.worn.label,
                box=sight.box,
                attributes=_attributes(fabric, sight, image_pixels),
                parts=sight.parts,
                provenance=provenance,
            )
        )
    return tuple(objects)


def _attributes(fabric: Fabric, sight: Seen, image_pixels: int) -> dict[str, tuple[str, ...]]:
    values = default_ontology().values
    found = dict(fabric.worn.attributes)
    for name in found:
        hidden = not sight.shows.get(name, True)
        if name == "fit":
            hidden = sight.fraction < 0.25
        if hidden and NOT_VISIBLE in values[name]:
            found[name] = (NOT_VISIBLE,)
    if "material" in found and sight.pixels < LEAST_PIXELS * image_pixels:
        found["material"] = ("not clear",)
    pattern = found["pattern"]
    if pattern == ("colour block",):
        first, second = fabric.names
        if min(sight.second, 1 - sight.second) < _LEAST_SECOND:  # only one of its colours is seen
            found["pattern"], found["colour"] = ("solid",), (second if sight.second > 0.5 else first,)
        else:
            found["colour"] = (first, second) if sight.second <= 0.5 else (second, first)
    elif pattern == ("graphic",):
        if sight.shows.get("pattern", False):
            found["colour"] = fabric.names
        else:
            found["pattern"] = ("solid",)
    return found
