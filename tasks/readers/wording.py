"""Captions out of labels, in words that vary from photo to photo."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

__all__ = ["article", "colour_words", "describe", "is_plural", "join", "plural_of"]

_PLURAL = frozenset(
    {
        "trousers", "jeans", "shorts", "leggings", "tights", "pants", "socks", "boots", "sneakers", "sandals",
        "flip-flops", "heels", "wedges", "flats", "loafers", "clogs", "shoes", "sunglasses", "glasses", "gloves",
        "earrings", "wristbands",
    }
)  # fmt: skip
_PATTERNS = {
    "striped": "striped",
    "checked": "checked",
    "polka dot": "polka-dot",
    "floral": "floral",
    "animal print": "animal-print",
    "camouflage": "camouflage",
    "colour block": "colour-block",
    "lace": "lace",
    "textured": "textured",
}
_PRINTS = {
    "graphic": ("a graphic print", "a printed motif", "a graphic"),
    "geometric": ("a geometric print", "a geometric pattern"),
    "abstract": ("an abstract print", "an abstract pattern"),
}
_SLEEVES = {
    "short": ("short sleeves", "short-sleeved"),
    "elbow": ("elbow-length sleeves", "elbow-sleeved"),
    "three-quarter": ("three-quarter sleeves", "three-quarter-sleeved"),
    "long": ("long sleeves", "long-sleeved"),
    "sleeveless": ("no sleeves", "sleeveless"),
    "strapless": (None, "strapless"),
}
_NECKLINES = {
    "crew": ("a crew neck", "a round neck"),
    "v-neck": ("a v-neck", "a v-shaped neckline"),
    "scoop": ("a scoop neck", "a scooped neckline"),
    "square": ("a square neckline",),
    "turtleneck": ("a turtleneck", "a high neck"),
    "collared": ("a collar",),
    "lapel": ("lapels",),
    "hooded": ("a hood",),
    "off-shoulder": ("an off-shoulder neckline", "bare shoulders"),
    "halter": ("a halter neck",),
    "cowl": ("a cowl neck",),
}
_LENGTHS = {
    "cropped": "cropped",
    "thigh": "thigh-length",
    "mini": "mini",
    "above knee": "above-the-knee",
    "knee": "knee-length",
    "midi": "midi",
    "maxi": "maxi",
    "ankle": "ankle",
    "knee-high": "knee-high",
    "over-the-knee": "over-the-knee",
}
_CLOSURES = {
    "open": ("an open front",),
    "buttoned": ("buttons", "a button fastening"),
    "zipped": ("a zip", "a zip fastening"),
    "wrapped": ("a wrapped front",),
}


def is_plural(noun: str) -> bool:
    """Whether it takes "are" and no article; its last word decides."""
    return noun.split()[-1] in _PLURAL


def plural_of(noun: str) -> str:
    if is_plural(noun):
        return noun
    return {"scarf": "scarves"}.get(noun, noun + ("es" if noun.endswith(("s", "ch", "x")) else "s"))


def article(words: str) -> str:
    return "an" if words[0] in "aeio" or words.startswith("un") else "a"


def join(texts: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    *first, last = texts
    return (", ".join(first) + " and " if first else "") + last


def colour_words(colours: tuple[str, ...]) -> str:
    return " and ".join("multicoloured" if colour == "multicolour" else colour for colour in colours)


def describe(item: str, attributes: Mapping[str, tuple[str, ...]], rng: random.Random, who: str = "") -> str:
    """A noun phrase with everything that is labelled: "a black t-shirt with short sleeves and a crew neck".

    Args:
        item: garment word.
        attributes: name -> values; "not visible", "none" and what goes without saying are left out.
        rng: draws between ways of saying the same.
        who: "men's", "women's", ..., or nothing.
    """
    value = {name: values[0] for name, values in attributes.items()}
    before: list[str] = [who] if who else []
    details: list[str] = []
    sleeve_noun, sleeve_adjective = _SLEEVES.get(value.get("sleeve", ""), (None, None))
    if sleeve_adjective and (sleeve_noun is None or rng.random() < 0.5):
        before.append(sleeve_adjective)
    elif sleeve_noun:
        details.append(sleeve_noun)
    colour = colour_words(attributes.get("colour", ()))
    if colour:
        before.insert(rng.choice((0, len(before))) if not who else len(before), colour)
    pattern = value.get("pattern", "")
    if pattern in _PATTERNS:
        before.append(_PATTERNS[pattern])
    elif pattern in _PRINTS:
        details.insert(0, rng.choice(_PRINTS[pattern]))
    elif pattern == "solid" and rng.random() < 0.3:
        before.insert(1 if who else 0, "plain")
    if value.get("length") in _LENGTHS:
        before.append(_LENGTHS[value["length"]])
    if value.get("neckline") in _NECKLINES and not (item == "hoodie" and value["neckline"] == "hooded"):
        details.append(rng.choice(_NECKLINES[value["neckline"]]))
    if value.get("closure") in _CLOSURES:
        details.append(rng.choice(_CLOSURES[value["closure"]]))
    words = " ".join([*before, item])
    phrase = words if is_plural(item) else f"{article(words)} {words}"
    if details:
        phrase += f" with {join(details)}"
    return phrase
