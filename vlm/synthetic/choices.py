"""How often what is drawn: weights of garments, values and surroundings.

The weights follow what street and catalogue photos show, lifted where a value is so rare that a model would never
learn it. What a garment is given a weight for is also what it can be drawn with.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TypeVar

from tasks.ontology import attributes_of, default_ontology
from vlm.synthetic import garment_values

__all__ = ["agreed", "drawable", "hangs", "maybe", "possible", "slot_of", "value", "weighted"]

_Key = TypeVar("_Key", bound=str)
Weights = Mapping[str, float]


def _even(words: str, weight: float = 1.0) -> dict[str, float]:
    return {word.strip(): weight for word in words.split(",")}


KINDS: Weights = {"person": 0.72, "flat": 0.18, "hanger": 0.10}
CROPS: Weights = {"full": 0.66, "upper": 0.22, "lower": 0.12}
POSES: Weights = {
    "standing": 5, "walking": 4, "hand on hip": 2, "hands on hips": 1.5, "arms crossed": 1, "sitting": 1.2,
    "turned": 2, "arms raised": 0.7, "hands in pockets": 2, "hands in front": 1.5, "hand at face": 1.5,
    "hands behind": 1, "legs crossed": 1.5, "one arm out": 1,
}  # fmt: skip
BUILDS: Weights = {"slim": 3, "regular": 4, "broad": 2, "curvy": 2, "large": 1.2, "small": 0.7}
HAIR: Weights = {
    "long": 4, "shoulder": 3, "bob": 2, "short": 3, "crop": 1.5, "curly": 1.5, "afro": 1, "bun": 1.5, "ponytail": 1.5,
    "bald": 0.5, "fringe": 1, "braids": 0.8,
}  # fmt: skip
BACKGROUNDS: Weights = {
    "street": 4, "wall": 2, "park": 2, "room": 1.2, "studio": 1.5, "white": 1.5, "clutter": 1.5, "beach": 0.6,
}  # fmt: skip
FLAT_BACKGROUNDS: Weights = {"white": 4, "table": 2, "floor": 2, "bed": 1.5, "studio": 1, "wall": 1.5}
LIGHTS: Weights = {
    "overcast": 4, "sun from the left": 2, "sun from the right": 2, "warm evening": 1.2, "lamps": 1, "flash": 1,
    "dim": 0.6,
}  # fmt: skip

TOPS: Weights = {
    "t-shirt": 5, "shirt": 5, "blouse": 3.5, "top": 3, "sweater": 3.5, "tank top": 1.6, "sweatshirt": 1.4,
    "hoodie": 1.3,
    "polo shirt": 1.2, "kurta": 1, "cardigan": 0.9,
}  # fmt: skip
LOWER: Weights = {"trousers": 5, "skirt": 5, "jeans": 4, "shorts": 2.2, "leggings": 1}
WHOLE: Weights = {"dress": 6, "jumpsuit": 1.3}
MID: Weights = {"sweater": 3, "vest": 2, "cardigan": 2}
OUTER: Weights = {"coat": 4, "jacket": 4, "blazer": 3, "cardigan": 1.6, "vest": 0.9, "cape": 0.8}
SHOES: Weights = {
    "boots": 5, "heels": 4, "sandals": 3, "sneakers": 3, "lace-up shoes": 2, "flats": 1.3, "loafers": 1.2, "shoes": 0.6,
}  # fmt: skip
EXTRAS: Mapping[str, Weights] = {
    "hand": {"bag": 0.42, "clutch": 0.15},
    "back": {"backpack": 0.07},
    "eyes": {"sunglasses": 0.26, "glasses": 0.12},
    "head": {"hat": 0.13, "cap": 0.07},
    "neck": {"scarf": 0.12},
    "chest": {"necklace": 0.16},
    "collar": {"tie": 0.04, "bow tie": 0.025},
    "waist": {"belt": 0.18},
    "wrist": {"bracelet": 0.16},
    "other wrist": {"watch": 0.1},
    "hands": {"gloves": 0.05},
    "ears": {"earrings": 0.08},
    "finger": {"ring": 0.05},
}
FLAT: Weights = {
    **{label: weight for table in (TOPS, OUTER, LOWER, WHOLE) for label, weight in table.items()},
    "bodysuit": 0.6,
    **{label: weight * 0.7 for label, weight in SHOES.items()},
    **dict.fromkeys(("hat", "cap", "scarf", "bag", "backpack", "clutch", "belt", "tie", "gloves", "socks"), 1.0),
    **dict.fromkeys(("bow tie", "sunglasses", "glasses", "necklace", "bracelet", "watch", "earrings"), 0.6),
    "ring": 0.5,
    "tights": 0.5,
}
COMMON: Weights = {label: FLAT.get(label, 0.4) for label in default_ontology().garments}

_SLOTS = {
    **dict.fromkeys((*TOPS, "bodysuit"), "top"),
    **dict.fromkeys(("coat", "jacket", "blazer", "vest", "cape"), "outer"),
    **dict.fromkeys((*WHOLE, "bodysuit"), "whole"),
    **dict.fromkeys(LOWER, "lower"),
    "tights": "legwear",
    "socks": "legwear",
    **dict.fromkeys(SHOES, "feet"),
    **{label: slot for slot, labels in EXTRAS.items() for label in labels},
}
LAYERS: Mapping[str, int] = {
    slot: number
    for number, slot in enumerate(
        ("legwear", "lower", "top", "whole", "feet", "mid", "collar", "chest", "waist", "outer", "back", "neck",
        "wrist",
         "other wrist", "finger", "hands", "ears", "eyes", "head", "hand")
    )
}  # fmt: skip


def weighted(rng: random.Random, weights: Mapping[_Key, float]) -> _Key:
    names = list(weights)
    return rng.choices(names, [weights[name] for name in names])[0]


def maybe(rng: random.Random, chances: Weights) -> str | None:
    """One of the names, each with its probability, or None."""
    at = rng.random()
    for name, chance in chances.items():
        at -= chance
        if at < 0:
            return name
    return None


def slot_of(label: str) -> str:
    return _SLOTS[label]


def _weights(label: str, name: str) -> Weights:
    kind = default_ontology().kind_of(label)
    if name == "colour":
        every: Weights = {**garment_values.COLOURS, "gold": 0.7, "silver": 0.7, "transparent": 0.0, "multicolour": 0.0}
        return garment_values.OF_GARMENT.get(label, every)
    if name == "pattern":
        return garment_values.PATTERNS.get(
            label, garment_values.PLAIN if kind in ("shoes", "boots") else garment_values.PRINTS
        )
    if name == "fit":
        return garment_values.FITS.get(label, {"regular": 5, "loose": 3, "tight": 1.5})
    table = {
        "sleeve": garment_values.SLEEVES,
        "neckline": garment_values.NECKS,
        "length": garment_values.LENGTHS,
        "material": garment_values.MATERIALS,
        "closure": garment_values.CLOSURES,
    }
    return table[name][label]


def drawable(label: str, name: str) -> tuple[str, ...]:
    """Values of an attribute that a garment can be drawn with; empty where it has no such attribute."""
    if name not in attributes_of(label):
        return ()
    if name == "colour":
        return default_ontology().values["colour"]
    return tuple(value for value, weight in _weights(label, name).items() if weight > 0)


def possible(label: str, name: str, value: str) -> bool:
    return value in drawable(label, name)


def hangs(label: str) -> bool:
    """Whether it can hang on a hanger."""
    return slot_of(label) in ("top", "outer", "whole", "lower")


def value(rng: random.Random, label: str, name: str) -> str:
    """One of the values that the garment can have."""
    return weighted(rng, _weights(label, name))


def agreed(
    rng: random.Random, label: str, found: dict[str, tuple[str, ...]], wanted: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """The values with contradictions taken out; what is wanted stays."""

    def let(name: str, word: str) -> None:
        if name in found and name not in wanted and possible(label, name, word):
            found[name] = (word,)

    def of(name: str) -> str:
        return found.get(name, ("",))[0]

    material = of("material")
    if "colour" not in wanted and label not in garment_values.OF_GARMENT:
        if material in garment_values.OF_MATERIAL and "material" in found:
            found["colour"] = (weighted(rng, garment_values.OF_MATERIAL[material]),)
        elif of("colour") in ("gold", "silver") and material not in ("leather", "silk", "sequin", "metal"):
            found["colour"] = (weighted(rng, garment_values.COLOURS),)
    if of("pattern") == "lace":
        let("material", "lace")
    if of("material") == "lace":
        let("pattern", "lace")
    if of("material") in ("sequin", "fur", "metal", "straw"):
        let("pattern", "solid")
    if of("neckline") in ("halter",):
        let("sleeve", "sleeveless")
    if of("sleeve") == "strapless":
        let("neckline", "off-shoulder")
    if of("neckline") in ("collared", "lapel", "hooded", "crew", "turtleneck") and of("closure") == "wrapped":
        let("neckline", "lapel" if label == "coat" else "v-neck")
    if of("sleeve") == "strapless" and of("neckline") != "off-shoulder":
        let("sleeve", "sleeveless")
    if of("closure") == "none" and label in ("vest", "cape") and of("neckline") == "lapel":
        let("closure", "buttoned")
    return found
