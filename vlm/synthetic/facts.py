"""What follows for certain from garments of which everything is known, and what somebody might dispute."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import permutations

from tasks.base import ObjectLabel, Record
from tasks.boxes import Box
from tasks.ontology import NOT_VISIBLE, default_ontology

__all__ = [
    "CARRIED",
    "apart",
    "colours",
    "footwear",
    "goes_over",
    "hidden",
    "is_flat",
    "kind_of",
    "layer",
    "may_be_called",
    "patterns_apart",
    "seen",
    "surely_coloured",
    "surely_not_coloured",
]

_VAGUE = frozenset({"transparent", "multicolour"})
UNSAID = (NOT_VISIBLE, "not clear", "none")
CARRIED = ("bag", "backpack", "clutch")
_HEAD = ("hat", "cap", "sunglasses", "glasses", "earrings")


def _pairs(groups: Iterable[Sequence[str]]) -> frozenset[tuple[str, str]]:
    """Every two of a group, in both orders."""
    return frozenset(pair for group in groups for pair in permutations(group, 2))


_NEAR_COLOURS = _pairs(
    (
        ("black", "navy"), ("black", "grey"), ("black", "brown"), ("black", "burgundy"), ("black", "purple"),
        ("white", "beige"), ("white", "grey"), ("white", "silver"), ("white", "pink"), ("white", "light blue"),
        ("grey", "silver"), ("grey", "navy"), ("grey", "light blue"), ("grey", "beige"), ("grey", "olive"),
        ("grey", "tan"), ("grey", "brown"), ("grey", "blue"), ("grey", "teal"), ("grey", "purple"),
        ("navy", "blue", "purple"), ("navy", "teal"), ("blue", "light blue"), ("blue", "teal"),
        ("light blue", "teal"), ("light blue", "silver"), ("teal", "green"), ("green", "olive"), ("green", "yellow"),
        ("olive", "brown"), ("olive", "tan"), ("olive", "gold"), ("olive", "beige"), ("olive", "yellow"),
        ("brown", "tan", "gold"), ("brown", "burgundy"), ("brown", "orange"), ("brown", "red"), ("brown", "beige"),
        ("tan", "beige", "gold"), ("tan", "orange"), ("tan", "yellow"), ("beige", "yellow"), ("beige", "pink"),
        ("beige", "silver"), ("gold", "yellow", "orange"), ("orange", "red"), ("orange", "pink"),
        ("red", "burgundy"), ("red", "pink"), ("pink", "purple"), ("pink", "burgundy"), ("purple", "burgundy"),
        ("pink", "tan"),
    )
)  # fmt: skip
"""Pairs that two people may name differently. Everything is near to "transparent" and "multicolour"."""
_NEAR_PATTERNS = _pairs(
    (
        ("solid", "textured"), ("lace", "floral", "textured"), ("striped", "geometric", "checked"),
        ("striped", "colour block", "geometric"), ("geometric", "abstract", "graphic"), ("floral", "abstract"),
        ("animal print", "abstract", "camouflage"), ("polka dot", "geometric"), ("polka dot", "animal print"),
        ("floral", "graphic"), ("textured", "geometric"), ("textured", "abstract"), ("checked", "textured"),
        ("striped", "textured"), ("colour block", "solid"), ("colour block", "abstract"), ("solid", "lace"),
    )
)  # fmt: skip
_NEAR_NAMES = _pairs(
    (
        ("shirt", "blouse", "top"), ("shirt", "t-shirt", "polo shirt"), ("shirt", "kurta"),
        ("top", "t-shirt", "tank top", "bodysuit"), ("top", "polo shirt"), ("top", "kurta", "blouse"),
        ("top", "sweater", "cardigan"), ("top", "sweatshirt"), ("top", "vest", "tank top"), ("blouse", "t-shirt"),
        ("sweater", "sweatshirt", "hoodie", "cardigan"), ("shirt", "jacket"), ("dress", "kurta"),
        ("cardigan", "jacket"), ("cardigan", "coat"), ("hoodie", "jacket"), ("jacket", "coat", "blazer"),
        ("coat", "cape"), ("jacket", "cape"), ("vest", "jacket"), ("vest", "sweater"), ("cardigan", "blazer"),
        ("dress", "skirt"), ("dress", "jumpsuit"), ("dress", "top"), ("jumpsuit", "trousers"), ("jumpsuit", "bodysuit"),
        ("jumpsuit", "shorts"), ("shorts", "skirt"), ("trousers", "jeans", "leggings"), ("leggings", "tights"),
        ("tights", "socks"), ("dress", "coat"), ("cape", "scarf"), ("dress", "shirt"), ("dress", "blouse"),
        ("sneakers", "lace-up shoes", "loafers", "flats"), ("heels", "sandals", "flats"), ("heels", "boots"),
        ("boots", "lace-up shoes"), ("hat", "cap"), ("bag", "backpack"), ("bag", "clutch"),
        ("glasses", "sunglasses"), ("tie", "bow tie"), ("tie", "scarf"), ("bracelet", "watch"),
        *(("shoes", name) for name in ("sneakers", "sandals", "heels", "flats", "loafers", "lace-up shoes", "boots")),
    )
)  # fmt: skip
"""Garments of which one is, or may be taken for, the other."""
_LAYERS: Mapping[str, int] = {
    "coat": 5, "cape": 5, "jacket": 4, "blazer": 4, "cardigan": 3, "vest": 3,
    "hoodie": 2, "sweatshirt": 2, "sweater": 2,
    "shirt": 1, "blouse": 1, "polo shirt": 1, "kurta": 1, "dress": 1, "jumpsuit": 1,
    "t-shirt": 0, "top": 0, "tank top": 0, "bodysuit": 0,
}  # fmt: skip
"""Higher ones go over lower ones."""
OUTER = 3
"""From this layer on garments are made to be worn over others."""


def seen(item: ObjectLabel, name: str) -> str | None:
    """An attribute's dominant value; None where it is unlabelled, not visible, not clear or "none"."""
    values = item.attributes.get(name, ())
    return values[0] if values and values[0] not in UNSAID else None


def colours(item: ObjectLabel) -> tuple[str, ...]:
    return _said(item.attributes.get("colour", ()))


@lru_cache(maxsize=1024)
def _said(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(value for value in values if value not in UNSAID)


def apart(first: str, second: str) -> bool:
    """Whether nobody takes one colour for the other."""
    return first != second and not (first in _VAGUE or second in _VAGUE) and (first, second) not in _NEAR_COLOURS


def patterns_apart(first: str, second: str) -> bool:
    return first != second and (first, second) not in _NEAR_PATTERNS


def surely_coloured(item: ObjectLabel, colour: str) -> bool:
    """Whether "is it red?" is a plain yes: this colour and no other."""
    return colours(item) == (colour,) and seen(item, "pattern") in (None, "solid", "textured", "lace")


def surely_not_coloured(item: ObjectLabel, colour: str) -> bool:
    """Whether "is it red?" is a plain no: no colour like it, and no print that may hold one."""
    return _all_apart(colours(item), seen(item, "pattern"), colour)


@lru_cache(maxsize=16384)
def _all_apart(known: tuple[str, ...], pattern: str | None, colour: str) -> bool:
    few = pattern in (None, "solid", "textured", "lace") or (
        pattern in ("striped", "checked", "polka dot") and len(known) == 2
    )
    return bool(known) and few and all(apart(colour, other) for other in known)


def may_be_called(name: str, label: str) -> bool:
    """Whether somebody might call a garment of this label by that name."""
    return name == label or (name, label) in _NEAR_NAMES


def kind_of(label: str) -> str:
    """The ontology's kind: upper, whole, lower, hosiery, boots, shoes or accessories."""
    return default_ontology().kind_of(label)


def footwear(label: str) -> bool:
    return kind_of(label) in ("boots", "shoes")


def layer(label: str) -> int:
    """How far out a garment of the upper body is worn: 0 on the skin, 5 over everything; -1 for others."""
    return _LAYERS.get(label, -1)


def goes_over(outer: ObjectLabel, inner: ObjectLabel) -> bool:
    """Whether the one is certainly worn over the other, as far as their boxes do not speak against it."""
    above, below = layer(outer.label), layer(inner.label)
    if below < 0 or above <= below or not _together(outer.box, inner.box):
        return False
    open_shirt = outer.label == "shirt" and seen(outer, "closure") == "open"
    return above >= OUTER or open_shirt or (above == 2 and kind_of(inner.label) == "upper")


def _together(first: Box | None, second: Box | None) -> bool:
    """Whether the smaller box lies for more than half within the other's columns and touches its rows."""
    if first is None or second is None:
        return first is None and second is None
    across = min(first.x2, second.x2) - max(first.x1, second.x1)
    down = min(first.y2, second.y2) - max(first.y1, second.y1)
    return down > 0 and across > 0.5 * min(first.width, second.width)


def is_flat(record: Record) -> bool:
    """Whether nobody wears the garments: they lie flat or hang."""
    return record.groups.get("kind") in ("flat", "hanger") or record.groups.get("crop") == "flat"


def hidden(record: Record) -> Iterator[str]:
    """Garments of which the photo cannot show whether they are worn: it is cropped there."""
    crop = record.groups.get("crop")
    garments = default_ontology().garments
    if crop == "upper":
        yield from (name for name in garments if footwear(name) or name == "socks")
    elif crop == "lower":
        yield from _HEAD
