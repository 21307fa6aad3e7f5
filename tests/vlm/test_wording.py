"""Language of known garments: all that is said is read again here, by other means, and looked up in the labels."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from tasks import TASKS
from tasks.base import QA, ObjectLabel, Record, TextLabel
from tasks.boxes import Box
from tasks.ontology import default_ontology
from vlm.synthetic.wording import MAX_WORDS, describe_record

NUM_RECORDS = 1000
FIRST = (0, *(pytest.param(first, marks=pytest.mark.slow) for first in (1000, 2000, 3000)))
"""Numbers of the records that are drawn and read; the later thousands only in the long run of the tests."""
ONTOLOGY = default_ontology()
UPPER, WHOLE, LOWER = (ONTOLOGY.kinds[kind] for kind in ("upper", "whole", "lower"))
FOOTWEAR = (*ONTOLOGY.kinds["boots"], *ONTOLOGY.kinds["shoes"])
ACCESSORIES = ONTOLOGY.kinds["accessories"]
BAGS = ("bag", "backpack", "clutch")

# -- records ----------------------------------------------------------------------------------------------


def make_records(num: int, first: int = 0) -> list[Record]:
    return [make_record(number) for number in range(first, first + num)]


def make_record(number: int) -> Record:
    """Half of them dressed, with boxes where such things are; half of them anything anywhere."""
    rng = random.Random(f"record {number}")
    groups: dict[str, str] = {}
    style = rng.choice(("person", "person", "anything", "flat", "hanger", "bare"))
    if style == "person":
        groups = {"kind": "person", "crop": rng.choice(("full", "full", "upper", "lower"))}
        groups["background"] = rng.choice(("street", "park", "wall", "white", "clutter"))
        groups["pose"] = rng.choice(("standing", "walking", "arms crossed", "sitting", "turned"))
        objects = tuple(dressed(rng, groups["crop"]))
        if rng.random() < 0.15:
            plain = {"colour": (rng.choice(("black", "white", "navy", "light blue")),), "pattern": ("solid",)}
            objects = tuple(replace(item, attributes={**item.attributes, **plain}) for item in objects)
    elif style == "anything":
        labels = rng.choices(list(ONTOLOGY.garments), k=rng.randint(0, 9))
        objects = tuple(garment(label, anywhere(rng), rng) for label in labels)
    else:
        groups = {} if style == "bare" else {"kind": style, "background": rng.choice(("table", "bed", "white"))}
        label = rng.choice(list(ONTOLOGY.garments))
        objects = tuple(garment(label, anywhere(rng), rng) for _ in range(rng.choice((1, 1, 1, 2))))
    return Record(
        id=str(number), image="a.jpg", image_size=(600, 400), objects=objects, objects_complete=True, groups=groups
    )


def anywhere(rng: random.Random) -> Box | None:
    x1, y1 = rng.uniform(0, 380), rng.uniform(0, 580)
    return rng.choice((Box(x1, y1, rng.uniform(x1 + 5, 400), rng.uniform(y1 + 5, 600)),) * 5 + (None,))


def dressed(rng: random.Random, crop: str) -> Iterator[ObjectLabel]:
    def at(label: str, x1: float, y1: float, x2: float, y2: float) -> ObjectLabel:
        x, y = rng.uniform(-10, 10), rng.uniform(-10, 10)
        return garment(label, Box(x1 + x, y1 + y, x2 + x, y2 + y), rng)

    if rng.random() < 0.5:
        yield at(rng.choice(("coat", "jacket", "blazer", "cape")), 100, 110, 300, 400)
    if rng.random() < 0.3:
        yield at(rng.choice(("cardigan", "vest", "sweater", "hoodie")), 105, 110, 295, 320)
    if rng.random() < 0.2:
        yield at(rng.choice(WHOLE), 120, 120, 280, 430)
    else:
        yield at(rng.choice(("shirt", "t-shirt", "blouse", "top", "tank top")), 115, 115, 285, 310)
        yield at(rng.choice(LOWER), 120, 290, 280, 500)
    if crop != "upper" and rng.random() < 0.9:
        yield at(rng.choice(FOOTWEAR), 130, 540, 270, 585)
    places = {"hat": (160, 15, 240, 60), "sunglasses": (175, 65, 225, 80), "scarf": (160, 100, 240, 210)}
    places |= {"belt": (140, 290, 260, 305), "watch": (300, 300, 312, 312), "necklace": (170, 110, 230, 160)}
    for label, place in places.items():
        if rng.random() < 0.3 and not (crop == "lower" and label in ("hat", "sunglasses")):
            yield at(label, *place)
    for place in ((15, 300, 95, 420), (305, 300, 385, 420)):
        if rng.random() < 0.35:
            yield at(rng.choice(("bag", "bag", "clutch", "backpack")), *place)


def garment(label: str, box: Box | None, rng: random.Random) -> ObjectLabel:
    attributes: dict[str, tuple[str, ...]] = {}
    for name in ONTOLOGY.garments[label]:
        if rng.random() < 0.1:
            continue
        words: Sequence[str] = ONTOLOGY.values[name]
        if rng.random() < 0.5:  # so that garments have something in common
            words = {"pattern": ("solid",), "colour": ("black", "white", "red", "blue")}.get(name, words)
        attributes[name] = tuple(rng.sample(words, min(len(words), 1 + (name == "colour" and rng.random() < 0.3))))
    return ObjectLabel(label=label, box=box, attributes=attributes)


@cache
def described(first: int = 0) -> list[Record]:
    return [describe_record(record, random.Random(record.id)) for record in make_records(NUM_RECORDS, first)]


# -- reading noun phrases again ----------------------------------------------------------------------------

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
    assert "".join(found).replace(" ", "") == text.lower().replace(" ", ""), f"cannot read all of {text!r}: {found}"
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


# -- captions ----------------------------------------------------------------------------------------------

SETTING = re.compile(
    r"(?:The person|They) (stand|walk|sit)s? (on a street|in a park|in front of a wall|against a white background)"
    r"( with crossed arms)?\."
)
PLACES = {"street": "on a street", "park": "in a park", "wall": "in front of a wall"}
PLACES["white"] = "against a white background"


@pytest.mark.parametrize("first", FIRST)
def test_captions_say_what_is_worn_and_nothing_else(first: int) -> None:
    numbers = []
    for record in described(first):
        for caption in record.captions:
            text = check_setting(caption.text, record)
            left = list(record.objects)
            found = list(mentions(text))
            assert found, caption.text
            for label, number, words in sorted(found, key=lambda mention: -len(mention[2])):
                fitting = [item for item in left if item.label == label and fits(item, words)][:number]
                assert len(fitting) == number, f"{caption.text!r}: {words} {label} is not in {record.objects}"
                left = [item for item in left if not any(item is other for other in fitting)]
            check_layers(text, record)
            numbers.append(len(found))
    assert len(numbers) > NUM_RECORDS
    assert sum(numbers) / len(numbers) > 2.5


def check_setting(text: str, record: Record) -> str:
    """The text without the sentence about the place, which must be the record's."""
    match = SETTING.search(text)
    if match is None:
        return text
    assert match[2] == PLACES[record.groups["background"]]
    assert match[1] == {"walking": "walk", "sitting": "sit"}.get(record.groups["pose"], "stand")
    assert bool(match[3]) == (record.groups["pose"] == "arms crossed")
    assert record.groups["crop"] == "full"
    return SETTING.sub("", text).strip()


def check_layers(text: str, record: Record) -> None:
    last = above = ""
    for token in tokens(text):
        if token in NAMES:
            pairs = [(first.label, second.label) for first in record.objects for second in record.objects
                     if over(first, second)]  # fmt: skip
            assert not above or (above, NAMES[token]) in pairs, text
            last, above = NAMES[token], ""
        elif token == "over":
            above = last


def test_one_colour_for_all_clothes() -> None:
    found = 0
    for record in described():
        for caption in record.captions:
            if match := re.search(r"(?:all|dressed) in ([a-z ]+) wears", caption.text):
                found += 1
                clothes = [item for item in record.objects if item.label not in ACCESSORIES]
                assert {item.attributes["colour"] for item in clothes} == {(match[1],)}
    assert found > 2


@pytest.mark.parametrize("first", FIRST)
def test_captions_are_short_and_name_all_clothes_of_a_person(first: int) -> None:
    for record in described(first):
        for caption in record.captions:
            assert len(caption.text.split()) <= MAX_WORDS[caption.detail], caption.text
            assert re.fullmatch(r"[A-Z].*\.", caption.text)
            assert " a a" not in caption.text and " an b" not in caption.text and "  " not in caption.text
        if record.groups.get("kind") == "person":
            text = check_setting(record.captions[1].text, record)
            clothes = sorted(item.label for item in record.objects if item.label not in ACCESSORIES)
            named = sorted(label for label, number, _ in mentions(text) for _ in range(number))
            assert [label for label in named if label not in ACCESSORIES] == clothes
    lengths = [len(r.captions[1].text.split()) for r in described(first) if r.groups.get("kind") == "person"]
    assert 25 <= sum(lengths) / len(lengths) <= 45


def test_captions_vary() -> None:
    record = replace(make_record(3), captions=())
    texts = {describe_record(record, random.Random(seed)).captions[1].text for seed in range(20)}
    assert len(texts) > 15


def test_garments_that_nobody_wears() -> None:
    for record in described():
        for caption in record.captions:
            said = re.search(r"person|someone|outfit|wear|worn|paired|they ", caption.text, re.I)
            assert bool(said) == (
                record.groups.get("kind") == "person" or (not record.groups and len(record.objects) > 1)
            )
            assert ("hanger" in caption.text or "hanging" in caption.text) == (record.groups.get("kind") == "hanger")
            if record.groups.get("kind") == "flat":
                assert re.search(r"(laid|photographed|lying) (flat|on)", caption.text)


# -- phrases -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", FIRST)
def test_a_phrase_means_exactly_the_objects_that_carry_it(first: int) -> None:
    number = distinguishing = 0
    for record in described(first):
        for phrase in {phrase for item in record.objects for phrase in item.phrases}:
            carriers = [item for item in record.objects if phrase in item.phrases]
            found = meant(phrase, record.objects)
            assert len(found) == len(carriers) and all(any(a is b for b in carriers) for a in found), (phrase, record)
            number += 1
            assert not (record.groups.get("kind") in ("flat", "hanger") and "worn" in phrase)
            distinguishing += len(carriers) < sum(item.label == carriers[0].label for item in record.objects)
    assert number > NUM_RECORDS
    assert distinguishing > 50


# -- questions ---------------------------------------------------------------------------------------------

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
        assert question.endswith("?")
        for pattern, name in ATTRIBUTE_QUESTIONS.items():
            if match := re.fullmatch(pattern, question[:-1]):
                item = self.one(match[1])
                return "not visible" if item is None else self.value(item, name)
        for pattern, answer in (
            (r"(?:is|are) there (.+)", self.there),
            (r"is the person (?:wearing|carrying) (.+)", self.there),
            (r"how many (.+) are there", self.count),
            (rf"how many things (?:are|have) ({PREDICATE})", self.count_such),
            (rf"(?:which (?:garment|accessory) (?:is|has)|what is) ({PREDICATE})", self.which_is),
            (r"(?:is|are) (the .+) the same colour as (the .+)", lambda a, b: self.same(a, b, "colour")),
            (r"do (the .+) and (the .+) have the same (colour|pattern)", self.same),
            (
                r"which (is darker|is lighter|is longer|reaches lower|has longer sleeves), (the .+) or (the .+)",
                self.more,
            ),
            (r"(?:is|are) (the .+) (to the left of|to the right of|above|below) (the .+)", self.place),
            (rf"(?:is|are|do|does) {THE}(?: have)? ({PREDICATE})", self.predicate),
            (r"(?:on which side of the picture (?:is|are) (the .+)|which side (?:is|are) (the .+) on)", self.side),
            (r"what is (?:worn )?(under|over|with|above|below) (the .+)", self.neighbour),
            (r"(?:what is|what|what does) .*(head|neck|feet|shoes|carry|carrying).*", self.part),
        ):
            if match := re.fullmatch(pattern, question[:-1]):
                return answer(*[group for group in match.groups() if group is not None])
        raise AssertionError(f"nobody knows how to answer {question!r}")

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
        assert number == 1
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
        assert abs(shift) > 20
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


@pytest.mark.parametrize("first", FIRST)
def test_every_answer_follows_from_the_labels(first: int) -> None:
    number = 0
    for record in described(first):
        reader = Reader(record)
        assert len({qa.question for qa in record.qa}) == len(record.qa) <= 8
        for qa in record.qa:
            assert reader.answer(qa.question) == qa.answer, (qa, record)
            number += 1
    assert number > 4 * NUM_RECORDS


def test_yes_and_no_are_balanced_in_every_kind_of_question() -> None:
    answers: dict[str, list[str]] = {}
    for record in described():
        if record.groups.get("kind") == "person":
            for qa in record.qa:
                if qa.answer in ("yes", "no"):
                    answers.setdefault(kind_of_question(qa.question), []).append(qa.answer)
    every = [answer for found in answers.values() for answer in found]
    assert 0.44 <= every.count("yes") / len(every) <= 0.56
    for kind, found in answers.items():
        if len(found) > 60:
            assert 0.3 <= found.count("yes") / len(found) <= 0.7, (kind, len(found))
    assert len(answers) >= 5


def kind_of_question(question: str) -> str:
    for word in ("same", "left", "right", "above", "below", "there", "person", "sleeves", "made"):
        if re.search(rf"\b{word}\b", question):
            return word
    return "is"


def test_all_kinds_of_answers_come() -> None:
    answers = [qa.answer for record in described() for qa in record.qa]
    for answer in ("yes", "no", "two", "not visible", "none", "left", "right", "striped", "black", "coat", "long"):
        assert answers.count(answer) >= 3, answer


def test_nothing_is_denied_beyond_the_edge_of_the_photo() -> None:
    for record in described():
        crop = record.groups.get("crop")
        beyond = {"upper": (*FOOTWEAR, "socks"), "lower": ("hat", "cap", "sunglasses", "glasses")}.get(crop or "", ())
        for qa in record.qa:
            if qa.answer == "no" and (match := re.search(r"(?:there|wearing) (?:an? )?([a-z -]+)\?", qa.question)):
                assert match[1] not in beyond, qa


# -- as a whole ---------------------------------------------------------------------------------------------


def test_same_record_and_state_same_language() -> None:
    for record in make_records(40):
        first, second = (describe_record(record, random.Random(5)) for _ in range(2))
        assert first == second
        assert replace(first, captions=(), qa=(), objects=record.objects) == record


def test_what_a_record_brings_along_stays_and_changes_nothing_else() -> None:
    record = make_record(3)
    plain = describe_record(record, random.Random(1))
    caption, qa = TextLabel(text="A photo."), QA(question="who is it?", answer="someone")
    kept = describe_record(replace(record, captions=(caption,), qa=(qa,)), random.Random(1))
    assert (kept.captions, kept.qa, kept.objects) == ((caption,), (qa,), plain.objects)
    named = tuple(replace(item, phrases=("this one",)) for item in record.objects)
    kept = describe_record(replace(record, objects=named), random.Random(1))
    assert (kept.captions, kept.qa, kept.objects) == (plain.captions, plain.qa, named)


def test_a_record_that_may_lack_garments_is_refused() -> None:
    with pytest.raises(ValueError, match="record 3: objects_complete is false"):
        describe_record(replace(make_record(3), objects_complete=False), random.Random(0))


def test_nothing_worn() -> None:
    empty = Record(id="1", image="a.jpg", image_size=(60, 40), objects_complete=True)
    assert describe_record(empty, random.Random(0)) == empty


def test_tasks_take_the_language() -> None:
    record = described()[3]
    for name in ("caption", "vqa", "grounding"):
        for example in TASKS[name].examples(record, random.Random(0)):
            assert TASKS[name].prompt(example.inputs, record.image_size)
            assert TASKS[name].target(example.label, record.image_size)
