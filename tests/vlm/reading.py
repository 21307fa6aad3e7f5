"""What captions and referring phrases say, read again without the code that wrote them.

Own tables of words and own rules; `answering` does the same for questions. What nobody can read raises NotUnderstood,
what is wrong an AssertionError that quotes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from tasks.base import ObjectLabel, Record
from tasks.ontology import default_ontology

ONTOLOGY = default_ontology()
UPPER, WHOLE, LOWER = (ONTOLOGY.kinds[kind] for kind in ("upper", "whole", "lower"))
FOOTWEAR = (*ONTOLOGY.kinds["boots"], *ONTOLOGY.kinds["shoes"])
ACCESSORIES = ONTOLOGY.kinds["accessories"]
BAGS = ("bag", "backpack", "clutch")


class NotUnderstood(AssertionError):
    """A form of words that the tables have not."""


# -- noun phrases -------------------------------------------------------------------------------------------

WORDS: dict[str, tuple[str, Any]] = {
    **{colour: ("colour", colour) for colour in ONTOLOGY.values["colour"]},
    "multicoloured": ("colour", "multicolour"),
    **{word: ("pattern", word) for word in ("striped", "checked", "floral", "camouflage", "textured")},
    **{word: ("pattern", name) for word, name in (
        ("polka-dot", "polka dot"), ("animal-print", "animal print"), ("colour-block", "colour block"),
        ("graphic-print", "graphic"), ("geometric-print", "geometric"), ("abstract-print", "abstract"),
        ("plain", "solid"), ("stripes", "striped"), ("dots", "polka dot"), ("polka dots", "polka dot"),
        ("checks", "checked"), ("a graphic print", "graphic"), ("graphic print", "graphic"),
        ("a printed motif", "graphic"), ("printed motif", "graphic"), ("a geometric print", "geometric"),
        ("a geometric pattern", "geometric"), ("an abstract print", "abstract"), ("an abstract pattern", "abstract"),
        ("a floral print", "floral"), ("a flower print", "floral"), ("a camouflage print", "camouflage"),
        ("an animal print", "animal print"),
    )},
    "lace": ("lace", "lace"),
    **{word: ("sleeve", name) for word, name in (
        ("short-sleeved", "short"), ("short sleeves", "short"), ("long-sleeved", "long"), ("long sleeves", "long"),
        ("sleeveless", "sleeveless"), ("strapless", "strapless"), ("elbow-length sleeves", "elbow"),
        ("three-quarter sleeves", "three-quarter"), ("no sleeves", "sleeveless"),
    )},
    **{word: ("neckline", name) for word, name in (
        ("crew-neck", "crew"), ("a crew neck", "crew"), ("a round neck", "crew"), ("v-neck", "v-neck"),
        ("a v-neck", "v-neck"), ("a v-shaped neckline", "v-neck"), ("scoop-neck", "scoop"), ("a scoop neck", "scoop"),
        ("a scooped neckline", "scoop"), ("square-neck", "square"), ("a square neckline", "square"),
        ("turtleneck", "turtleneck"), ("a turtleneck", "turtleneck"), ("a high neck", "turtleneck"),
        ("collared", "collared"), ("a collar", "collared"), ("lapels", "lapel"), ("hooded", "hooded"),
        ("a hood", "hooded"), ("off-shoulder", "off-shoulder"), ("an off-shoulder neckline", "off-shoulder"),
        ("halter-neck", "halter"), ("a halter neck", "halter"), ("cowl-neck", "cowl"), ("a cowl neck", "cowl"),
    )},
    **{word: ("length", name) for word, name in (
        ("cropped", "cropped"), ("short", "short"), ("thigh-length", ("thigh", "mini")), ("mini", "mini"),
        ("above-the-knee", "above knee"), ("knee-length", "knee"), ("midi", "midi"), ("maxi", "maxi"),
        ("long", "maxi"), ("ankle-length", ("ankle", "maxi")), ("ankle", "ankle"), ("knee-high", "knee-high"),
        ("over-the-knee", "over-the-knee"),
    )},
    **{word: ("fit", name) for word, name in (
        ("slim", "tight"), ("skinny", "tight"), ("tight", "tight"), ("fitted", "tight"), ("close-fitting", "tight"),
        ("loose", "loose"),
    )},
    **{word: ("material", word) for word in ONTOLOGY.values["material"] if word not in ("lace", "not clear")},
    "knitted": ("material", "knit"), "sequinned": ("material", "sequin"),
    **{word: ("closure", name) for word, name in (
        ("open", "open"), ("buttoned", "buttoned"), ("buttons", "buttoned"), ("zipped", "zipped"), ("a zip", "zipped"),
        ("wrap", "wrapped"),
    )},
}  # fmt: skip
LAST_WORDS = (
    "sleeves", " neck", "neckline", " collar", "lapels", " hood", "stripes", "dots", "checks", " print", "motif",
    "pattern", "buttons", " zip", "a turtleneck", "a v-neck",
)  # fmt: skip
AFTER = {word for word in WORDS if word.endswith(LAST_WORDS)}
"""What stands after "with"."""
NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9}
PLURALS = {
    {"scarf": "scarves", "watch": "watches", "clutch": "clutches", "dress": "dresses"}.get(label, f"{label}s"): label
    for label in ONTOLOGY.garments
}
NAMES = {**PLURALS, **{label: label for label in ONTOLOGY.garments}}
FILLING = (
    "a person", "someone", "the person", "they", "the outfit", "an outfit of", "in", "wearing", "wears", "wear",
    "pairs of", "pairs", "a pair of", "with", "worn", "paired", "is", "are", "and", "also", "dressed all", "dressed",
    "all", "completes", "complete", "finishes", "finish", "the look", "completed by", "carry", "carries", "has", "have",
    "over", "laid flat", "photographed flat", "lying flat", "lying", "on a hanger", "hanging up", "hanging", "shown",
    "on a table", "on the floor", "on a bed", "a", "an", "the", ",", ".",
)  # fmt: skip
TOKENS = re.compile(
    "|".join(
        rf"(?<![\w-]){re.escape(word)}(?![\w-])" if word[-1].isalpha() else re.escape(word)
        for word in sorted({*WORDS, *NAMES, *FILLING, *NUMBERS}, key=len, reverse=True)
    )
)


def tokens(text: str) -> list[str]:
    found = TOKENS.findall(text.lower())
    if "".join(found).replace(" ", "") != text.lower().replace(" ", ""):
        raise NotUnderstood(f"cannot read all of {text!r}: {found}")
    return found


def fits(item: ObjectLabel, words: Sequence[str]) -> bool:
    """Whether each of the words stands in the garment's labels."""
    for word in words:
        name, value = WORDS[word]
        labels = {"lace": ("pattern", "material")}.get(name, (name,))
        values = (value,) if isinstance(value, str) else value
        if not any(set(values) & set(item.attributes.get(label, ())) for label in labels):
            return False
    return True


def mentions(text: str) -> Iterator[tuple[str, int, list[str]]]:
    """(garment, how many, words about it) for every garment named; "all in black" counts for every one of them."""
    pending: list[str] = []
    found: list[tuple[str, int, list[str]]] = []
    number = 1
    said = tokens(text)
    for place, token in enumerate(said):
        if token in NAMES:
            found.append((NAMES[token], number, pending))
            pending, number = [], 1
        # "with a v-neck, ..." but not "with a v-neck sweater".
        elif token in AFTER and "with" in said[:place] and not {*WORDS, *NAMES} & set(said[place + 1 : place + 2]):
            found[-1][2].extend([*pending, token])
            pending = []
        elif token in WORDS:
            pending.append(token)
        elif token in NUMBERS:
            number = NUMBERS[token]
        elif token == "wears":
            pending = []  # the colour of the whole outfit: see `all_in`
    assert not pending, f"{pending} belong to nothing in {text!r}"
    yield from found


def meant(phrase: str, objects: Sequence[ObjectLabel]) -> list[ObjectLabel]:
    """The objects that "the red bag on the left" means."""
    if phrase in WHOLE_PHRASES:
        return [item for item in objects if item.label in WHOLE_PHRASES[phrase]]
    side = re.fullmatch(r"the (.+) on the (left|right)", phrase)
    if side and side[1] in ONTOLOGY.garments:
        alike = sorted((item for item in objects if item.label == side[1]), key=lambda item: item.box.x1 + item.box.x2)
        assert len(alike) == 2
        return alike[:1] if side[2] == "left" else alike[1:]
    layers = re.fullmatch(r"(the .+) (under|over) (the .+)", phrase)
    if layers:
        (other,) = meant(layers[3], objects)
        candidates = [item for item in meant(layers[1], objects) if item is not other]
        if layers[2] == "under":
            return [item for item in candidates if over(other, item)]
        return [item for item in candidates if over(item, other)]
    if phrase.endswith(" clothes"):
        (word,) = tokens(phrase.removeprefix("the ").removesuffix(" clothes"))
        clothes = [item for item in objects if item.label in (*UPPER, *WHOLE, *LOWER)]
        return [item for item in clothes if item.attributes.get("colour", ())[:1] == (WORDS[word][1],)]
    ((label, number, words),) = mentions(phrase)
    assert number == 1
    return [item for item in objects if item.label == label and fits(item, words)]


WHOLE_PHRASES: dict[str, tuple[str, ...]] = {
    "what is worn on the feet": FOOTWEAR, "the footwear": FOOTWEAR, "what is worn on the head": ("hat", "cap"),
    "the headwear": ("hat", "cap"), "the bags": BAGS, "the jewellery": ("necklace", "bracelet", "earrings", "ring"),
}  # fmt: skip
OUTSIDE = ("coat", "cape", "jacket", "blazer", "cardigan", "vest")
MIDDLE = ("hoodie", "sweatshirt", "sweater")


def over(outer: ObjectLabel, inner: ObjectLabel) -> bool:
    """By hand: what goes over what, and only where their boxes meet."""
    if outer.box and inner.box:
        across = min(outer.box.x2, inner.box.x2) > max(outer.box.x1, inner.box.x1)
        if not across or min(outer.box.y2, inner.box.y2) <= max(outer.box.y1, inner.box.y1):
            return False
    thin = [name for name in (*UPPER, *WHOLE) if name not in (*OUTSIDE, *MIDDLE)]
    order = (("coat", "cape"), ("jacket", "blazer"), ("cardigan", "vest"), MIDDLE, thin)
    level = {name: number for number, names in enumerate(order) for name in names}
    if outer.label not in level or inner.label not in level or (outer.label in MIDDLE and inner.label in WHOLE):
        return False
    if outer.label == "shirt" and inner.label in thin:
        return outer.attributes.get("closure") == ("open",) and inner.label in (
            "t-shirt",
            "top",
            "tank top",
            "bodysuit",
        )
    return level[outer.label] < level[inner.label]


def check_phrase(phrase: str, objects: Sequence[ObjectLabel]) -> None:
    """It must mean exactly the objects that carry it."""
    carriers = [item for item in objects if phrase in item.phrases]
    found = meant(phrase, objects)
    same = len(found) == len(carriers) and all(any(item is other for other in carriers) for item in found)
    assert same, f"{phrase!r} is carried by {carriers} and means {found}"


# -- captions -----------------------------------------------------------------------------------------------

PLACES = {
    "street": "on a street", "park": "in a park", "room": "in a room", "beach": "on a beach", "studio": "in a studio",
    "wall": "in front of a wall", "white": "against a white background",
}  # fmt: skip
POSES = {
    "walking": "walk", "sitting": "sit", "hand on hip": "stand with a hand on one hip",
    "hands on hips": "stand with hands on hips", "arms crossed": "stand with crossed arms",
    "hands in pockets": "stand with hands in pockets", "arms raised": "stand with raised arms",
}  # fmt: skip
SETTING = re.compile(
    rf"(?:The person|They) (stand|walk|sit)s?( with [a-z ]+?)? ({'|'.join(PLACES.values())})( with [a-z ]+?)?\.$"
)
ALL_IN = re.compile(r"(?:all|dressed) in ([a-z ]+?) wears")


def check_caption(caption: str, record: Record) -> int:
    """Every garment that it names, with all that it says of it, must be in the record, and no more of them than there
    are; the number of garments named.

    Raises:
        NotUnderstood: it cannot be read.
        AssertionError: it says something else than the record.
    """
    text = check_setting(caption, record)
    left = list(record.objects)
    found = list(mentions(text))
    assert found, caption
    for label, number, words in sorted(found, key=lambda mention: -len(mention[2])):
        fitting = [item for item in left if item.label == label and fits(item, words)][:number]
        assert len(fitting) == number, f"{caption!r}: {words} {label} is not in {record.objects}"
        left = [item for item in left if not any(item is other for other in fitting)]
    check_layers(text, record)
    if match := ALL_IN.search(caption):
        clothes = [item for item in record.objects if item.label not in ACCESSORIES]
        assert {item.attributes["colour"] for item in clothes} == {(match[1],)}, caption
    check_wearing(caption, record)
    return len(found)


def check_setting(text: str, record: Record) -> str:
    """The text without the sentence about the place, which must be the record's."""
    match = SETTING.search(text)
    if match is None:
        return text
    assert match[3] == PLACES[record.groups["background"]], text
    assert match[1] + (match[2] or match[4] or "") == POSES.get(record.groups["pose"], "stand"), text
    assert record.groups["crop"] == "full", text
    return SETTING.sub("", text).strip()


def check_layers(text: str, record: Record) -> None:
    """What it says to be worn over something else must be."""
    last = above = ""
    for token in tokens(text):
        if token in NAMES:
            pairs = [(first.label, second.label) for first in record.objects for second in record.objects
                     if over(first, second)]  # fmt: skip
            assert not above or (above, NAMES[token]) in pairs, text
            last, above = NAMES[token], ""
        elif token == "over":
            above = last


def check_wearing(caption: str, record: Record) -> None:
    """A person, a hanger and a garment laid flat are told where they are, and nowhere else."""
    kind = record.groups.get("kind")
    said = re.search(r"person|someone|outfit|wear|worn|paired|they ", caption, re.I)
    assert bool(said) == (kind == "person" or (not record.groups and len(record.objects) > 1)), caption
    assert ("hanger" in caption or "hanging" in caption) == (kind == "hanger"), caption
    assert bool(re.search(r"(laid|photographed|lying) (flat|on)", caption)) == (kind == "flat"), caption
