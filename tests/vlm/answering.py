"""Answers to the questions about a record, found from its labels without the code that asked them."""

from __future__ import annotations

import re

from tasks.base import ObjectLabel, Record
from tests.vlm.reading import (
    BAGS,
    FOOTWEAR,
    LOWER,
    NAMES,
    NUMBERS,
    ONTOLOGY,
    OUTSIDE,
    UPPER,
    WHOLE,
    WORDS,
    NotUnderstood,
    meant,
    mentions,
    over,
)

THE = r"(the .+?)"
ATTRIBUTE_QUESTIONS = {
    rf"(?:what|which) colour (?:is|are|do|does) {THE}(?: have)?": "colour",
    rf"what pattern (?:is on|is|are|do|does) {THE}(?: have)?": "pattern",
    rf"how long are the sleeves of {THE}": "sleeve",
    rf"what sleeve(?:s| length) (?:do|does) {THE} have": "sleeve",
    rf"what neckline (?:do|does) {THE} have": "neckline",
    rf"what is the neckline of {THE}": "neckline",
    rf"how long (?:is|are) {THE}": "length",
    rf"what length (?:is|are) {THE}": "length",
    rf"how (?:do|does) {THE} fit": "fit",
    rf"what fit (?:do|does) {THE} have": "fit",
    rf"what (?:is|are) {THE} made of": "material",
    rf"what material (?:is|are) {THE}": "material",
    rf"how (?:is|are) {THE} closed": "closure",
    rf"what closure (?:do|does) {THE} have": "closure",
}
PREDICATES = {
    **{word: ("pattern", word) for word in ("striped", "checked", "floral")}, "plain": ("pattern", "solid"),
    "polka dots": ("pattern", "polka dot"), "an animal print": ("pattern", "animal print"),
    "a camouflage print": ("pattern", "camouflage"), "a graphic print": ("pattern", "graphic"),
    "long sleeves": ("sleeve", "long"), "short sleeves": ("sleeve", "short"), "sleeveless": ("sleeve", "sleeveless"),
    "a hood": ("neckline", "hooded"), "open at the front": ("closure", "open"),
    "knitted": ("material", "knit"), **{f"made of {word}": ("material", word) for word in ("leather", "denim", "fur")},
    **{word: ("colour", WORDS[word][1]) for word in (*ONTOLOGY.values["colour"], "multicoloured")},
}  # fmt: skip
PREDICATE = "|".join(sorted(PREDICATES, key=len, reverse=True))
ALIKE = (
    {"black", "navy", "grey"}, {"navy", "blue", "purple"}, {"blue", "light blue", "teal"}, {"teal", "green"},
    {"green", "olive"},
    {"red", "burgundy"}, {"red", "orange"}, {"red", "pink"}, {"white", "beige", "silver", "grey"},
    {"tan", "beige", "brown", "gold"},
    {"orange", "yellow", "gold"}, {"pink", "purple", "burgundy"}, {"brown", "burgundy", "black"},
)  # fmt: skip
LIGHTNESS = {
    "black": 0, "navy": 15, "burgundy": 20, "brown": 30, "pink": 75, "light blue": 80, "beige": 85, "silver": 75,
    "yellow": 90, "white": 100,
}  # fmt: skip
LENGTHS = {"cropped": 1, "hip": 2, "thigh": 3, "mini": 3, "above knee": 4, "knee": 5, "midi": 6, "maxi": 8, "full": 8}
SLEEVES = {"sleeveless": 0, "short": 1, "elbow": 2, "three-quarter": 3, "long": 4}


HEAD = ("hat", "cap", "sunglasses", "glasses", "earrings")


THERE = r"(?:(?:is|are) there|is the person (?:wearing|carrying)) (.+)"
COUNT = r"how many (.+) are there"
PLACE = r"(?:is|are) (the .+) (to the left of|to the right of|above|below) (the .+)"
SIDE = r"(?:on which side of the picture (?:is|are) (the .+)|which side (?:is|are) (the .+) on)"
"""Questions that the labels answer and that pixels can confirm, without their question mark."""


class Reader:
    """Answers the questions from the labels; "?" where there is no one answer."""

    def __init__(self, record: Record) -> None:
        self.record, self.objects = record, record.objects
        self.labels = [item.label for item in record.objects]
        self.crop = record.groups.get("crop")

    def one(self, phrase: str) -> ObjectLabel | None:
        found = meant(phrase, self.objects)
        if not found:
            return None
        assert len(found) == 1, phrase
        return found[0]

    def sure(self, phrase: str) -> ObjectLabel:
        item = self.one(phrase)
        assert item is not None, phrase
        return item

    def answer(self, question: str) -> str:
        assert question.endswith("?"), question
        for pattern, name in ATTRIBUTE_QUESTIONS.items():
            if match := re.fullmatch(pattern, question[:-1]):
                item = self.one(match[1])
                return self.beyond(match[1]) if item is None else self.value(item, name)
        for pattern, answer in (
            (THERE, self.there),
            (COUNT, self.count),
            (rf"how many things (?:are|have) ({PREDICATE})", self.count_such),
            (rf"(?:which (?:garment|accessory) (?:is|has)|what is) ({PREDICATE})", self.which_is),
            (r"(?:is|are) (the .+) the same colour as (the .+)", lambda a, b: self.same(a, b, "colour")),
            (r"do (the .+) and (the .+) have the same (colour|pattern)", self.same),
            (
                r"which (is darker|is lighter|is longer|reaches lower|has longer sleeves), (the .+) or (the .+)",
                self.more,
            ),
            (PLACE, self.place),
            (rf"(?:is|are|do|does) {THE}(?: have)? ({PREDICATE})", self.predicate),
            (SIDE, self.side),
            (r"what is (?:worn )?(under|over|with|above|below) (the .+)", self.neighbour),
            (r"(?:what is|what|what does) .*(head|neck|feet|shoes|carry|carrying).*", self.part),
        ):
            if match := re.fullmatch(pattern, question[:-1]):
                return answer(*[group for group in match.groups() if group is not None])
        raise NotUnderstood(f"nobody knows how to answer {question!r}")

    def beyond(self, the: str) -> str:
        """Of what is not there: "not visible" only of what the picture is cut off before."""
        name = the.removeprefix("the ")
        hidden = {"upper": (*FOOTWEAR, "socks"), "lower": HEAD}.get(self.crop or "", ())
        assert name in hidden, f"{name} is nowhere, and the picture is not cut off before it"
        return "not visible"

    def value(self, item: ObjectLabel, name: str) -> str:
        values = [{"multicolour": "multicoloured"}.get(value, value) for value in item.attributes[name]]
        return " and ".join(values)

    def has(self, item: ObjectLabel, name: str, value: str) -> str:
        values = item.attributes.get(name, ())
        if name == "colour" and values != (value,):
            near = any(value == other or {value, other} <= group for other in values for group in ALIKE)
            return "?" if near or not values or "multicolour" in values or "transparent" in values else "no"
        return "yes" if values[:1] == (value,) else "?" if not values or values[0].startswith("not ") else "no"

    def predicate(self, the: str, word: str) -> str:
        return self.has(self.sure(the), *PREDICATES[word])

    def there(self, thing: str) -> str:
        ((label, number, words),) = mentions(thing)
        assert number == 1 and len(words) <= 1, thing
        alike = [item for item in self.objects if item.label == label]
        if not words:
            return "yes" if alike else "no"
        same = [self.has(item, *WORDS[words[0]]) for item in alike]
        return "yes" if "yes" in same else "no" if set(same) == {"no"} else "?"

    def count(self, name: str) -> str:
        number = self.labels.count(NAMES[name])
        return next(word for word, value in NUMBERS.items() if value == number)

    def count_such(self, word: str) -> str:
        found = [self.has(item, *PREDICATES[word]) for item in self.objects]
        assert "?" not in found
        return next(said for said, value in NUMBERS.items() if value == found.count("yes"))

    def which_is(self, word: str) -> str:
        found = [self.has(item, *PREDICATES[word]) for item in self.objects]
        assert "?" not in found
        (label,) = (label for label, fit in zip(self.labels, found, strict=True) if fit == "yes")
        return label

    def same(self, first: str, second: str, name: str) -> str:
        one, other = (set(self.sure(the).attributes[name]) for the in (first, second))
        near = any(len({a, b} & group) == 2 for a in one for b in other for group in ALIKE)
        return "yes" if one == other else "?" if one & other or near else "no"

    def more(self, what: str, first: str, second: str) -> str:
        items = [self.sure(the) for the in (first, second)]
        order, name = {
            "is darker": (LIGHTNESS, "colour"), "is lighter": (LIGHTNESS, "colour"), "is longer": (LENGTHS, "length"),
            "reaches lower": (LENGTHS, "length"), "has longer sleeves": (SLEEVES, "sleeve"),
        }[what]  # fmt: skip
        ranks = [max(order[value] for value in item.attributes[name]) for item in items]
        assert ranks[0] != ranks[1]
        return items[ranks.index(min(ranks) if what == "is darker" else max(ranks))].label

    def place(self, first: str, way: str, second: str) -> str:
        one, other = self.sure(first).box, self.sure(second).box
        assert one is not None and other is not None
        right = one.x1 + one.x2 - other.x1 - other.x2
        down = one.y1 + one.y2 - other.y1 - other.y2
        shift = {"to the left of": -right, "to the right of": right, "above": -down, "below": down}[way]
        height, width = self.record.image_size
        assert abs(shift) > 0.05 * (height if way in ("above", "below") else width), (first, way, second)
        return "yes" if shift > 0 else "no"

    def side(self, the: str) -> str:
        box = self.sure(the).box
        assert box is not None
        middle = self.record.image_size[1] / 2
        return "left" if box.x2 < middle else "right" if box.x1 > middle else "?"

    def neighbour(self, way: str, the: str) -> str:
        item = self.sure(the)
        tops = [other for other in self.objects if other.label in (*UPPER, *WHOLE)]
        if way in ("under", "over"):
            found = [other for other in tops if (over(item, other) if way == "under" else over(other, item))]
            hidden = way == "under" and tops == [item] and item.label in OUTSIDE
        else:
            upper = [other for other in tops if other.label in UPPER]
            found = [o for o in self.objects if o.label in LOWER] if item.label in UPPER else upper
            assert len(tops) == 1
            hidden = False
        return "not visible" if hidden else found[0].label if len(found) == 1 else "?"

    def part(self, where: str) -> str:
        where = {"shoes": "feet", "carrying": "carry"}.get(where, where)
        names = {"head": ("hat", "cap"), "neck": ("scarf",), "feet": FOOTWEAR, "carry": BAGS}[where]
        found = [label for label in self.labels if label in names]
        if found:
            return found[0] if len(found) == 1 else "?"
        cut = {"head": "lower", "feet": "upper"}.get(where)
        return "not visible" if self.crop == cut else "none" if self.crop == "full" else "?"
