"""Noun phrases of garments: "a loose black v-neck sweater", "a pair of brown leather ankle boots"."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tasks.base import ObjectLabel
from tasks.readers.wording import article, colour_words, is_plural, join, plural_of
from vlm.synthetic.facts import colours, footwear, kind_of, seen

__all__ = ["Noun", "noun"]

_PATTERNS = {
    "striped": "striped", "checked": "checked", "polka dot": "polka-dot", "floral": "floral",
    "animal print": "animal-print", "camouflage": "camouflage", "colour block": "colour-block", "lace": "lace",
    "textured": "textured", "graphic": "graphic-print", "geometric": "geometric-print", "abstract": "abstract-print",
}  # fmt: skip
_MOTIFS = {
    "striped": ("stripes",), "polka dot": ("dots", "polka dots"), "checked": ("checks",),
    "graphic": ("a graphic print", "a printed motif"), "geometric": ("a geometric print", "a geometric pattern"),
    "abstract": ("an abstract print", "an abstract pattern"), "floral": ("a floral print", "a flower print"),
    "camouflage": ("a camouflage print",), "animal print": ("an animal print",),
}  # fmt: skip
_SLEEVES = {
    "short": ("short-sleeved", "short sleeves"),
    "long": ("long-sleeved", "long sleeves"),
    "sleeveless": ("sleeveless", None),
    "strapless": ("strapless", None),
    "elbow": (None, "elbow-length sleeves"),
    "three-quarter": (None, "three-quarter sleeves"),
}
_NECKLINES = {
    "crew": ("crew-neck", ("a crew neck", "a round neck")),
    "v-neck": ("v-neck", ("a v-neck", "a v-shaped neckline")),
    "scoop": ("scoop-neck", ("a scoop neck", "a scooped neckline")),
    "square": ("square-neck", ("a square neckline",)),
    "turtleneck": ("turtleneck", ("a turtleneck", "a high neck")),
    "collared": ("collared", ("a collar",)),
    "lapel": (None, ("lapels",)),
    "hooded": ("hooded", ("a hood",)),
    "off-shoulder": ("off-shoulder", ("an off-shoulder neckline",)),
    "halter": ("halter-neck", ("a halter neck",)),
    "cowl": ("cowl-neck", ("a cowl neck",)),
}
_LENGTHS = {
    "cropped": "cropped", "short": "short", "thigh": "thigh-length", "mini": "mini", "above knee": "above-the-knee",
    "knee": "knee-length", "midi": "midi", "maxi": "maxi", "ankle": "ankle-length", "knee-high": "knee-high",
    "over-the-knee": "over-the-knee",
}  # fmt: skip
_MATERIALS = {"knit": "knitted", "wool": "wool", "sequin": "sequinned", "metal": "metal"}
_GOES_WITHOUT_SAYING = {
    ("neckline", "hooded"): ("hoodie",), ("neckline", "collared"): ("shirt", "polo shirt", "blouse"),
    ("neckline", "lapel"): ("blazer",), ("sleeve", "sleeveless"): ("tank top", "vest"),
    ("sleeve", "long"): ("coat", "jacket", "blazer", "sweater", "hoodie", "cardigan", "sweatshirt"),
    ("closure", "buttoned"): ("shirt", "blouse", "polo shirt"), ("material", "denim"): ("jeans",),
    ("material", "knit"): ("sweater", "cardigan", "tights", "socks", "leggings"),
    ("material", "metal"): ("necklace", "bracelet", "watch", "earrings", "ring", "glasses", "sunglasses"),
    ("material", "plastic"): ("glasses", "sunglasses"), ("fit", "tight"): ("leggings", "tights", "bodysuit"),
}  # fmt: skip
"""What the garment's word says already."""
_TWO_TONED = ("striped", "polka dot", "graphic")
"""Patterns of which the dominant colour is the ground and the second the motif."""
_PAIRS = ("trousers", "jeans", "shorts", "boots", "sneakers", "sandals", "heels", "loafers", "sunglasses", "gloves")


@dataclass(frozen=True, kw_only=True)
class Noun:
    """A noun phrase with its article; `plural` says which verb it takes."""

    text: str
    plural: bool


def the_colours(item: ObjectLabel) -> str:
    """ "black and white", "multicoloured", or nothing."""
    return colour_words(colours(item))


def noun(
    item: ObjectLabel, rng: random.Random, *, extras: int = 0, most_after: int = 1, colour: bool = True, num: int = 1
) -> Noun:
    """What the garment looks like, in words of the labels and no others.

    Args:
        item: the garment.
        rng: draws between ways of saying the same, and which of the details are told.
        extras: how many details to tell (fit, sleeves, neckline, material, closure) besides colour, pattern, length.
        most_after: most things after "with"; more of them would swallow what follows in a list.
        colour: whether to name the colour.
        num: that many alike, told as one: "two black bags".
    """
    words = _Words(item, rng, room=most_after)
    words.pattern(colour)
    words.length()
    details = {
        "fit": words.fit,
        "sleeve": words.sleeve,
        "neckline": words.neckline,
        "material": words.material,
        "closure": words.closure,
    }
    known = [name for name in details if words.says_more(name)]
    for name in rng.sample(known, min(extras, len(known))):
        details[name](item.attributes[name][0])
    return words.phrase(num)


class _Words:
    """The words before and after the garment's own, by their place: "loose long black striped v-neck silk midi"."""

    def __init__(self, item: ObjectLabel, rng: random.Random, *, room: int) -> None:
        self.item, self.rng, self.room = item, rng, room
        self.front: list[str] = []
        self.hues: list[str] = []
        self.shape: list[str] = []
        self.stuff: list[str] = []
        self.close: list[str] = []
        self.after: list[str] = []

    def says_more(self, name: str) -> bool:
        """Whether the attribute is known and is not what the garment's word says already."""
        value = seen(self.item, name)
        return value is not None and self.item.label not in _GOES_WITHOUT_SAYING.get((name, value), ())

    def with_(self, thing: str) -> bool:
        """Put it after "with", if there is room."""
        if len(self.after) < self.room:
            self.after.append(thing)
            return True
        return False

    def pattern(self, colour: bool) -> None:
        """Pattern and colours: "black and white striped" or "black ... with white stripes"."""
        pattern, known = seen(self.item, "pattern"), colours(self.item)
        if pattern == "solid" or pattern is None:
            plain = pattern == "solid" and kind_of(self.item.label) != "accessories" and self.rng.random() < 0.08
            self.hues += ["plain"] * plain
            self.hues += [colour_words(known)] * (colour and bool(known))
            return
        if colour and len(known) == 2 and pattern in _TWO_TONED and self.rng.random() < 0.3:
            motif = self.rng.choice(_MOTIFS[pattern])
            bare = motif.removeprefix("a ").removeprefix("an ")
            second = colour_words(known[1:])
            if self.with_(f"{article(second)} {second} {bare}" if bare != motif else f"{second} {bare}"):
                self.hues.append(known[0])
                return
        self.hues += [colour_words(known)] * (colour and bool(known))
        if pattern in _MOTIFS and self.rng.random() < 0.2 and self.with_(self.rng.choice(_MOTIFS[pattern])):
            return
        self.hues.append(_PATTERNS[pattern])

    def length(self) -> None:
        value = seen(self.item, "length")
        upper = kind_of(self.item.label) == "upper"
        word = "thigh-length" if upper and value == "mini" else _LENGTHS.get(value or "")
        if word is None:
            return
        if footwear(self.item.label):
            self.close.append("ankle" if value == "ankle" else word)
        elif value in ("mini", "midi", "maxi") and self.item.label in ("skirt", "dress"):
            self.close.append(word)
        elif value == "maxi":
            self.front.append(self.rng.choice(("long", "ankle-length")))
        else:
            (self.front if self.rng.random() < 0.5 else self.shape).append(word)

    def fit(self, value: str) -> None:
        lower = kind_of(self.item.label) == "lower" and self.item.label != "skirt"
        words = {"tight": ("slim", "skinny", "tight") if lower else ("fitted", "close-fitting"), "loose": ("loose",)}
        if value in words:
            self.front.insert(0, self.rng.choice(words[value]))

    def sleeve(self, value: str) -> None:
        adjective, thing = _SLEEVES[value]
        if adjective and (thing is None or self.rng.random() < 0.6):
            (self.front if self.rng.random() < 0.5 else self.shape).append(adjective)
        elif thing:
            self.with_(thing)

    def neckline(self, value: str) -> None:
        adjective, things = _NECKLINES[value]
        if adjective and self.rng.random() < 0.5:
            self.shape.append(adjective)
        else:
            self.with_(self.rng.choice(things))

    def material(self, value: str) -> None:
        if not (value == "lace" and seen(self.item, "pattern") == "lace"):
            self.stuff.append(_MATERIALS.get(value, value))

    def closure(self, value: str) -> None:
        if value == "open":
            self.front.insert(0, "open")
        elif value == "wrapped":
            self.close.insert(0, "wrap")
        elif self.rng.random() < 0.5:
            self.front.insert(0, {"buttoned": "buttoned", "zipped": "zipped"}[value])
        else:
            self.with_({"buttoned": "buttons", "zipped": "a zip"}[value])

    def phrase(self, num: int) -> Noun:
        label = self.item.label
        before = [*self.front, *self.hues, *self.shape, *self.stuff, *self.close]
        text = " ".join([*before, label if num == 1 else plural_of(label)])
        plural = num > 1 or is_plural(label)
        if num > 1:
            text = f"{_NUMBERS[num] if num < len(_NUMBERS) else 'several'} {'pairs of ' * is_plural(label)}{text}"
        elif not plural:
            text = f"{article(text)} {text}"
        elif label in _PAIRS and self.rng.random() < 0.1:
            text, plural = f"a pair of {text}", False
        return Noun(text=text + (f" with {join(self.after)}" if self.after else ""), plural=plural)


_NUMBERS = ("", "", "two", "three", "four", "five")
