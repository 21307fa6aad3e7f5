"""Referring phrases: each means exactly the garments that carry it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from tasks.base import ObjectLabel
from tasks.readers.wording import colour_words
from vlm.synthetic.facts import (
    CARRIED,
    apart,
    colours,
    footwear,
    goes_over,
    kind_of,
    may_be_called,
    patterns_apart,
    seen,
    surely_coloured,
    surely_not_coloured,
)

__all__ = ["ADJECTIVES", "HAS", "LENGTHS", "MATERIALS", "MOST_PHRASES", "Phrase", "phrases", "with_phrases"]

MOST_PHRASES = 4
"""Most phrases of one garment."""
_MARGIN = 1.0
"""Two alike stand on the left and on the right where their centres are further apart than this share of their mean
width."""
ADJECTIVES = {
    "striped": "striped", "checked": "checked", "polka dot": "polka-dot", "floral": "floral",
    "animal print": "animal-print", "camouflage": "camouflage", "graphic": "graphic-print", "solid": "plain",
}  # fmt: skip
HAS = {
    "striped": "is striped", "checked": "is checked", "polka dot": "has polka dots", "floral": "is floral",
    "animal print": "has an animal print", "camouflage": "has a camouflage print", "graphic": "has a graphic print",
    "solid": "is plain",
}  # fmt: skip
"""A pattern as what is said of one garment."""
LENGTHS = {"cropped": "cropped", "mini": "mini", "knee": "knee-length", "midi": "midi", "maxi": "long"}
_SLEEVES = {"short": "short-sleeved", "long": "long-sleeved", "sleeveless": "sleeveless"}
_SLEEVE_ORDER = ("sleeveless", "short", "elbow", "three-quarter", "long")
_LENGTH_ORDER = ("cropped", "hip", "thigh", "mini", "above knee", "knee", "midi", "maxi", "full")
MATERIALS = {"leather": "leather", "denim": "denim", "fur": "fur", "knit": "knitted", "straw": "straw"}

Phrase = tuple[str, tuple[int, ...]]
"""Words, and the numbers of the objects that they mean."""
Test = Callable[[ObjectLabel], bool | None]
"""Whether a phrase fits a garment: surely, surely not, or None where one may dispute it."""


def with_phrases(
    objects: Sequence[ObjectLabel], rng: random.Random, *, worn: bool = True, known: Iterable[Phrase] | None = None
) -> tuple[ObjectLabel, ...]:
    """The objects, those without phrases with up to MOST_PHRASES drawn ones.

    A phrase that one of them means goes to every object that it means, or to none. `worn`: someone wears them.
    `known`: their `phrases`, where they were found already.
    """
    if any(item.phrases for item in objects):
        return tuple(objects)  # others' phrases and ours could mean different things by the same words
    chosen: list[list[str]] = [[] for _ in objects]
    known = phrases(objects) if known is None else known
    found = [(phrase, meant) for phrase, meant in known if worn or not phrase.startswith("what is worn")]
    # Short ones and those that need a look at the others, in equal measure.
    rng.shuffle(found)
    for phrase, meant in found:
        if all(len(chosen[number]) < MOST_PHRASES for number in meant):
            for number in meant:
                chosen[number].append(phrase)
    return tuple(replace(item, phrases=tuple(said)) for item, said in zip(objects, chosen, strict=True))


def phrases(objects: Sequence[ObjectLabel]) -> Iterator[Phrase]:
    """Phrases and the numbers of all the objects that each means; none that may be understood in two ways."""
    seen_before = set()
    for phrase, test in _candidates(objects):
        if phrase in seen_before:
            continue
        seen_before.add(phrase)
        meant = []
        for number, item in enumerate(objects):
            fits = test(item)
            if fits is None:
                break
            if fits:
                meant.append(number)
        else:
            if len(meant) > phrase.endswith((" clothes", " bags")):
                yield phrase, tuple(meant)
    yield from _sides(objects)


def _candidates(objects: Sequence[ObjectLabel]) -> Iterator[tuple[str, Test]]:
    for item in objects:
        label, known = item.label, colours(item)
        if known:
            yield f"the {colour_words(known[:1])} {label}", _both(_named(label), _coloured(known[0]))
        if len(known) == 2:
            yield f"the {colour_words(known)} {label}", _both(_named(label), _coloured_both(known))
        pattern = seen(item, "pattern") or ""
        # "the plain coat" says something only where there is another one.
        others = any(other is not item and may_be_called(label, other.label) for other in objects)
        if (word := ADJECTIVES.get(pattern)) and (others or pattern != "solid"):
            test = _valued("pattern", pattern)
            yield f"the {word} {label}", _both(_named(label), test)
            if known and pattern != "solid":
                yield f"the {colour_words(known[:1])} {word} {label}", _both(_named(label), test, _coloured(known[0]))
        if word := _SLEEVES.get(sleeve := seen(item, "sleeve") or ""):
            yield f"the {word} {label}", _both(_named(label), _valued("sleeve", sleeve))
            yield f"the {label} with {_sleeve_noun(sleeve)}", _both(_named(label), _valued("sleeve", sleeve))
        if (word := LENGTHS.get(length := seen(item, "length") or "")) and not footwear(label):
            yield f"the {word} {label}", _both(_named(label), _valued("length", length))
        material = seen(item, "material") or ""
        if material in MATERIALS and (label, material) != ("jeans", "denim"):
            yield f"the {MATERIALS[material]} {label}", _both(_named(label), _valued("material", material))
        if known and kind_of(label) != "accessories":
            yield f"the {colour_words(known[:1])} clothes", _both(_clothing, _coloured(known[0]))
        yield from _layers(item, objects)
    yield "what is worn on the feet", lambda item: footwear(item.label) or (None if _feet(item) else False)
    yield "what is worn on the head", lambda item: item.label in ("hat", "cap") or (None if _face(item) else False)
    yield "the bags", lambda item: item.label in CARRIED
    yield "the headwear", lambda item: item.label in ("hat", "cap")
    yield "the footwear", lambda item: footwear(item.label)
    yield (
        "the jewellery",
        lambda item: (
            item.label in ("necklace", "bracelet", "earrings", "ring") or (None if item.label == "watch" else False)
        ),
    )


def _layers(item: ObjectLabel, objects: Sequence[ObjectLabel]) -> Iterator[tuple[str, Test]]:
    """ "the shirt under the coat", where there is one coat and what is under it is sure."""
    for outer in objects:
        alone = sum(may_be_called(outer.label, other.label) for other in objects) == 1
        if alone and goes_over(outer, item):
            yield f"the {item.label} under the {outer.label}", _both(_named(item.label), _under(outer))
        elif goes_over(item, outer) and sum(may_be_called(outer.label, other.label) for other in objects) == 1:
            yield f"the {item.label} over the {outer.label}", _both(_named(item.label), _over(outer))


def _sides(objects: Sequence[ObjectLabel]) -> Iterator[Phrase]:
    """ "the bag on the left", where there are two bags side by side."""
    for label in dict.fromkeys(item.label for item in objects):
        alike = [number for number, item in enumerate(objects) if item.label == label]
        if len(alike) != 2 or sum(may_be_called(label, item.label) for item in objects) != 2:
            continue
        left, right = (objects[number].box for number in alike)
        if left is None or right is None:
            continue
        shift = (right.x1 + right.x2 - left.x1 - left.x2) / 2
        if abs(shift) > _MARGIN * (left.width + right.width) / 2:
            first, second = alike if shift > 0 else reversed(alike)
            yield f"the {label} on the left", (first,)
            yield f"the {label} on the right", (second,)


# -- whether it fits: True, False, or None for "one may dispute it" ---------------------------------------


def _both(*tests: Test) -> Test:
    """All of them: one that surely fails settles it."""

    def every(item: ObjectLabel) -> bool | None:
        sure = True
        for test in tests:
            fits = test(item)
            if fits is False:
                return False
            sure = sure and fits is not None
        return True if sure else None

    return every


def _named(label: str) -> Test:
    return lambda item: True if item.label == label else None if may_be_called(label, item.label) else False


def _clothing(item: ObjectLabel) -> bool | None:
    kind = kind_of(item.label)
    return True if kind in ("upper", "whole", "lower") else None


def _coloured(colour: str) -> Test:
    """By its dominant colour; a second colour of the kind makes it disputable for other garments."""

    def test(item: ObjectLabel) -> bool | None:
        known = colours(item)
        if known[:1] == (colour,):
            return True if len(known) == 1 or surely_coloured(item, colour) or apart(*known[:2]) else None
        return False if surely_not_coloured(item, colour) else None

    return test


def _coloured_both(both: tuple[str, ...]) -> Test:
    def test(item: ObjectLabel) -> bool | None:
        if colours(item) == both:
            return True
        return False if any(surely_not_coloured(item, colour) for colour in both) else None

    return test


def _valued(name: str, value: str) -> Test:
    def test(item: ObjectLabel) -> bool | None:
        if name not in item.attributes and name in ("pattern", "material"):
            return None
        found = seen(item, name)
        if found == value:
            return True
        if found is None:
            return None
        if name == "pattern":
            return False if patterns_apart(value, found) else None
        order = {"sleeve": _SLEEVE_ORDER, "length": _LENGTH_ORDER}.get(name)
        if order and value in order and found in order:
            return False if abs(order.index(value) - order.index(found)) > 1 else None
        return None

    return test


def _under(outer: ObjectLabel) -> Test:
    return lambda item: False if item is outer else True if goes_over(outer, item) else _tops_only(item)


def _over(inner: ObjectLabel) -> Test:
    return lambda item: False if item is inner else True if goes_over(item, inner) else _tops_only(item)


def _tops_only(item: ObjectLabel) -> bool | None:
    return None if kind_of(item.label) in ("upper", "whole") else False


def _feet(item: ObjectLabel) -> bool:
    return item.label in ("socks", "tights")


def _face(item: ObjectLabel) -> bool:
    return item.label in ("sunglasses", "glasses", "earrings")


def _sleeve_noun(sleeve: str) -> str:
    return {"short": "short sleeves", "long": "long sleeves", "sleeveless": "no sleeves"}[sleeve]
