"""Questions that a record's garments answer for certain, with answers in the ontology's words."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping

from tasks.base import QA, ObjectLabel, Record
from tasks.ontology import NOT_VISIBLE, default_ontology
from tasks.readers.wording import colour_words, is_plural, plural_of
from vlm.synthetic import compare
from vlm.synthetic.facts import (
    CARRIED,
    colours,
    footwear,
    kind_of,
    may_be_called,
    patterns_apart,
    seen,
    surely_coloured,
    surely_not_coloured,
)
from vlm.synthetic.phrases import ADJECTIVES, HAS, Phrase
from vlm.synthetic.scene import Scene, a, be, do

__all__ = ["NUM_QUESTIONS", "questions"]

NUM_QUESTIONS = 8
NUM_ATTRIBUTES = 3
"""Most of a record's questions that plainly ask for an attribute; `tasks.vqa` draws such questions too."""
NUM_WORDS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_RARELY = 0.15
"""How often a kind is asked of which the garments have only a "yes" or only a "no": mostly the one that is always to be
had (no two colours are the same), so that the question would give the answer away."""
_COUNT_ONE = 0.3
"""How often a garment that is there once is counted."""

Asked = tuple[str, str]
Ask = Callable[[Scene, random.Random], Iterable[Asked]]


def questions(record: Record, rng: random.Random, known: Iterable[Phrase] | None = None) -> tuple[QA, ...]:
    """Up to NUM_QUESTIONS of different kinds; where both "yes" and "no" are to be had, each is as likely.

    Args:
        record: with `objects_complete`.
        rng: draws kinds, wordings and answers.
        known: what `phrases` finds for the record's objects, where it was found already.
    """
    scene = Scene(record, known)
    chosen: dict[str, str] = {}
    pools: dict[str, list[Asked]] = {}
    kinds = [*KINDS, *(["attribute"] * (NUM_ATTRIBUTES - 1))]
    rng.shuffle(kinds)
    for kind in kinds:
        if len(chosen) == NUM_QUESTIONS:
            break
        if kind not in pools:
            pools[kind] = list(dict.fromkeys(KINDS[kind](scene, rng)))
        pool = [pair for pair in pools[kind] if pair[0] not in chosen]
        yes, no = ([pair for pair in pool if pair[1] == answer] for answer in ("yes", "no"))
        if yes or no:
            if not yes or not no:
                pool = pool if rng.random() < _RARELY else []
            else:
                pool = rng.choice((yes, no))
        if pool:
            question, answer = rng.choice(pool)
            chosen[question] = answer
    return tuple(
        QA(question=question, answer=answer, provenance=record.provenance) for question, answer in chosen.items()
    )


# -- attributes -------------------------------------------------------------------------------------------

_OPEN: Mapping[str, tuple[str, ...]] = {
    "colour": ("what colour {be} {the}?", "what colour {be} {the}?", "which colour {do} {the} have?"),
    "pattern": ("what pattern {do} {the} have?", "what pattern {be} {the}?", "what pattern is on {the}?"),
    "sleeve": (
        "how long are the sleeves of {the}?", "what sleeve length {do} {the} have?", "what sleeves {do} {the} have?",
    ),
    "neckline": ("what neckline {do} {the} have?", "what is the neckline of {the}?"),
    "length": ("how long {be} {the}?", "what length {be} {the}?"),
    "fit": ("how {do} {the} fit?", "what fit {do} {the} have?"),
    "material": ("what {be} {the} made of?", "what material {be} {the}?"),
    "closure": ("how {be} {the} closed?", "what closure {do} {the} have?"),
}  # fmt: skip
_UNASKED = {"fit": (NOT_VISIBLE,), "material": ("not clear",), "closure": ("none",)}
_MATERIALS_APART = {
    "leather": ("knit", "wool", "denim", "fur", "lace", "chiffon", "straw"),
    "denim": ("leather", "knit", "fur", "lace", "chiffon", "silk", "velvet", "sequin"),
    "fur": ("leather", "denim", "cotton", "silk", "lace", "chiffon", "sequin", "metal"),
    "knit": ("leather", "denim", "silk", "chiffon", "sequin", "straw", "metal"),
}
_HOODLESS = ("crew", "v-neck", "scoop", "square", "turtleneck", "off-shoulder", "halter", "cowl", "lapel")


def _attribute(scene: Scene, rng: random.Random) -> Iterator[Asked]:
    for item in scene.objects:
        for name, values in item.attributes.items():
            if not values or values[0] in _UNASKED.get(name, ()):
                continue
            the = scene.the(item, rng, without=name)
            if the is not None:
                answer = colour_words(tuple(values)) if name == "colour" else values[0]
                yield rng.choice(_OPEN[name]).format(be=be(item), do=do(item), the=the), answer
    for name in sorted(scene.hidden) if not scene.flat and scene.objects else ():
        if name in ("shoes", "sunglasses", "hat") and not any(may_be_called(name, label) for label in scene.labels):
            yield f"what colour {'are' if is_plural(name) else 'is'} the {name}?", NOT_VISIBLE


def _pattern_is(scene: Scene, rng: random.Random) -> Iterator[Asked]:
    """ "is the shirt striped?": no of a pattern that something else has, where there is one."""
    worn = {seen(item, "pattern") for item in scene.objects}
    for item in scene.objects:
        pattern, the = seen(item, "pattern"), scene.the(item, rng, without="pattern")
        if pattern is None or the is None:
            continue
        others = [word for word in ADJECTIVES if patterns_apart(word, pattern)]
        others = [word for word in others if word in worn] or rng.sample(others, min(1, len(others)))
        for word in (pattern, *others):
            if word in ADJECTIVES:
                yield _asked(HAS[word], the, item), "yes" if word == pattern else "no"


def _asked(said: str, the: str, item: ObjectLabel) -> str:
    """ "has a hood" -> "does the coat have a hood?"."""
    verb, rest = said.split(" ", 1)
    return f"{do(item)} {the} have {rest}?" if verb == "has" else f"{be(item)} {the} {rest}?"


def _shape_is(scene: Scene, rng: random.Random) -> Iterator[Asked]:
    for item in scene.objects:
        if (sleeve := seen(item, "sleeve")) and (the := scene.the(item, rng, without="sleeve")):
            for word in ("long", "short"):
                if sleeve == word or sleeve in ("long", "short", "sleeveless", "strapless"):
                    yield f"{do(item)} {the} have {word} sleeves?", "yes" if sleeve == word else "no"
            if sleeve != "strapless":
                yield f"{be(item)} {the} sleeveless?", "yes" if sleeve == "sleeveless" else "no"
        the = scene.the(item, rng)
        neckline, closure = seen(item, "neckline"), seen(item, "closure")
        if the and (neckline == "hooded" or neckline in _HOODLESS) and item.label != "hoodie":
            yield f"{do(item)} {the} have a hood?", "yes" if neckline == "hooded" else "no"
        if the and closure and kind_of(item.label) in ("upper", "whole"):
            yield f"{be(item)} {the} open at the front?", "yes" if closure == "open" else "no"


def _material_is(scene: Scene, rng: random.Random) -> Iterator[Asked]:
    for item in scene.objects:
        material, the = seen(item, "material"), scene.the(item, rng, without="material")
        if material is None or the is None or (item.label, material) == ("jeans", "denim"):
            continue
        for word, others in _MATERIALS_APART.items():
            if material == word or (material in others and item.label != "jeans"):
                word_said = "knitted" if word == "knit" else f"made of {word}"
                yield f"{be(item)} {the} {word_said}?", "yes" if material == word else "no"


# -- colours ------------------------------------------------------------------------------------------------


def _colour_is(scene: Scene, rng: random.Random) -> Iterator[Asked]:
    """ "is the coat red?": no of a colour that something else has, where there is one."""
    for item in scene.objects:
        the = scene.the(item, rng, without="colour")
        if the is None:
            continue
        for colour in _asked_colours(scene, item, rng):
            if surely_coloured(item, colour):
                yield f"{be(item)} {the} {colour_words((colour,))}?", "yes"
            elif surely_not_coloured(item, colour):
                yield f"{be(item)} {the} {colour_words((colour,))}?", "no"


def _asked_colours(scene: Scene, item: ObjectLabel, rng: random.Random) -> list[str]:
    worn = {colour for other in scene.objects for colour in colours(other)}
    elsewhere = sorted(colour for colour in worn if surely_not_coloured(item, colour))
    if not elsewhere:
        every = default_ontology().values["colour"]
        elsewhere = [colour for colour in every if surely_not_coloured(item, colour)]
        elsewhere = rng.sample(elsewhere, min(1, len(elsewhere)))
    return [*colours(item)[:1], *elsewhere]


def _such_a_thing(scene: Scene, rng: random.Random) -> Iterator[Asked]:
    """ "is there a red bag?": of garments that are there, in their colour or pattern or in another's."""
    for label in dict.fromkeys(scene.labels):
        called = [item for item in scene.objects if may_be_called(label, item.label)]
        for colour in {colour: None for item in called for colour in _asked_colours(scene, item, rng)}:
            thing = a(f"{colour_words((colour,))} {label}", label)
            if any(item.label == label and surely_coloured(item, colour) for item in called):
                yield scene.there(thing, is_plural(label), rng), "yes"
            elif all(surely_not_coloured(item, colour) for item in called):
                yield scene.there(thing, is_plural(label), rng), "no"
        for pattern in sorted(
            {seen(item, "pattern") or "" for item in scene.objects} & (ADJECTIVES.keys() - {"solid"})
        ):
            thing = a(f"{ADJECTIVES[pattern]} {label}", label)
            found = [seen(item, "pattern") for item in called]
            if any(item.label == label and seen(item, "pattern") == pattern for item in called):
                yield scene.there(thing, is_plural(label), rng), "yes"
            elif all(other is not None and patterns_apart(pattern, other) for other in found):
                yield scene.there(thing, is_plural(label), rng), "no"


# -- whether it is there, and how many ----------------------------------------------------------------------


def _existence(scene: Scene, rng: random.Random) -> Iterator[Asked]:
    """No of garments of the kinds that are worn, but which nobody would call one of those."""
    garments = default_ontology().garments
    kinds = {kind_of(label) for label in scene.labels}
    absent = [
        name
        for name in garments
        if kind_of(name) in kinds
        and name not in scene.hidden
        and not any(may_be_called(name, label) for label in scene.labels)
    ]
    worn = list(dict.fromkeys(scene.labels))
    for names, answer in ((rng.sample(absent, min(len(worn), len(absent))), "no"), (worn, "yes")):
        for name in names:
            yield scene.there(a(name, name), is_plural(name), rng), answer


def _count(scene: Scene, rng: random.Random) -> Iterator[Asked]:
    for label in dict.fromkeys(scene.labels):
        num = scene.labels.count(label)
        if num == 1 and rng.random() > _COUNT_ONE:
            continue
        if not is_plural(label) and sum(may_be_called(label, other) for other in scene.labels) == num:
            yield f"how many {plural_of(label)} are there?", _number(num)
    for pattern in ("striped", "checked", "floral", "polka dot", "camouflage"):
        found = [seen(item, "pattern") for item in scene.objects]
        if pattern in found and all(p == pattern or (p and patterns_apart(pattern, p)) for p in found):
            said = HAS[pattern].replace("is ", "are ").replace("has ", "have ")
            yield f"how many things {said}?", _number(found.count(pattern))
    for colour in sorted({colour for item in scene.objects for colour in colours(item)}):
        sure = [surely_coloured(item, colour) for item in scene.objects]
        unsure = [item for item, yes in zip(scene.objects, sure, strict=True) if not yes]
        if any(sure) and all(surely_not_coloured(item, colour) for item in unsure):
            yield f"how many things are {colour}?", _number(sum(sure))


def _number(num: int) -> str:
    return NUM_WORDS[num] if num < len(NUM_WORDS) else str(num)


def _which(scene: Scene, rng: random.Random) -> Iterator[Asked]:
    """ "which garment is striped?", answered by the one garment that is."""
    for item in scene.objects:
        others = [other for other in scene.objects if other is not item]
        thing = "accessory" if kind_of(item.label) == "accessories" else "garment"
        if not others or footwear(item.label):
            continue
        for colour in colours(item)[:1]:
            if surely_coloured(item, colour) and all(surely_not_coloured(other, colour) for other in others):
                yield rng.choice((f"which {thing} is {colour}?", f"what is {colour}?")), item.label
        pattern = seen(item, "pattern")
        if pattern in ADJECTIVES and pattern != "solid":
            found = [seen(other, "pattern") for other in others]
            if all(other is not None and patterns_apart(pattern, other) for other in found):
                yield f"which {thing} {HAS[pattern]}?", item.label


_PLACES: tuple[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]], ...] = (
    (("what is on the head?", "what is on the person's head?"), ("hat", "cap"), ("sunglasses", "glasses", "scarf")),
    (("what is around the neck?", "what is worn around the neck?"), ("scarf",), ("necklace", "tie", "bow tie")),
    (("what is the person carrying?", "what does the person carry?"), CARRIED, ()),
    (
        ("what is on the feet?", "what is on the person's feet?", "what shoes does the person wear?"),
        tuple(label for label in default_ontology().garments if footwear(label)),
        ("socks", "tights"),
    ),
)
"""(questions, what may be there, what else somebody might name)."""


def _place(scene: Scene, rng: random.Random) -> Iterator[Asked]:
    """What is on the head, on the feet, around the neck, and carried."""
    if scene.flat:
        return
    for asked, names, disputed in _PLACES:
        there = [label for label in scene.labels if label in names]
        if there == ["shoes"]:
            continue  # shoes are what is on the feet, whatever they are
        if len(there) == 1:
            yield rng.choice(asked), there[0]
        elif not there and scene.hidden & set(names):
            yield rng.choice(asked), NOT_VISIBLE
        elif not there and scene.crop == "full" and not set(disputed) & set(scene.labels):
            yield rng.choice(asked), "none"


KINDS: Mapping[str, Ask] = {
    "attribute": _attribute,
    "pattern is": _pattern_is,
    "shape is": _shape_is,
    "material is": _material_is,
    "colour is": _colour_is,
    "such a thing": _such_a_thing,
    "existence": _existence,
    "count": _count,
    "which": _which,
    "place": _place,
    "same colour": compare.same_colour,
    "same pattern": compare.same_pattern,
    "darker": compare.darker,
    "longer": compare.longer,
    "left or right of": compare.on_side,
    "side": compare.other_side,
    "above or below": compare.higher,
    "under": compare.under,
}
"""Kind -> all that can be asked of it; a kind's questions are all open, or all answered by yes and no."""
