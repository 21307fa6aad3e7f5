"""Questions about two garments at once: colours, lengths, places and layers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import combinations

from tasks.base import ObjectLabel
from vlm.synthetic.facts import apart, colours, goes_over, kind_of, layer, seen
from vlm.synthetic.scene import Scene, be

__all__ = ["darker", "higher", "longer", "on_side", "other_side", "same_colour", "same_pattern", "under"]

Asked = tuple[str, str]

_DARK = ("black", "navy", "burgundy", "brown")
_LIGHT = ("white", "beige", "yellow", "light blue", "pink", "silver")
_SLEEVES = (("sleeveless",), ("short",), ("elbow",), ("three-quarter",), ("long",))
_LENGTHS = (("cropped",), ("hip",), ("thigh", "mini"), ("above knee",), ("knee",), ("midi",), ("maxi", "full"))
"""Where a hem reaches, from above; of garments that hang from the shoulders, and of skirts."""
_MARGIN = 0.06
"""Share of the picture's width or height by which centres must be apart."""


def same_colour(scene: Scene, rng: random.Random) -> Iterator[Asked]:
    for first, second in _pairs(scene, rng):
        left, right = colours(first), colours(second)
        if not left or not right or {"multicolour", "transparent"} & {*left, *right}:
            continue
        if set(left) == set(right):
            answer = "yes"
        elif all(apart(one, other) for one in left for other in right):
            answer = "no"
        else:
            continue
        names = _names(scene, first, second, rng, without="colour")
        if names:
            one, other = names
            asked = (f"{be(first)} {one} the same colour as {other}?", f"do {one} and {other} have the same colour?")
            yield rng.choice(asked), answer


def same_pattern(scene: Scene, rng: random.Random) -> Iterator[Asked]:
    """Only of patterned garments: that two are plain is nothing to ask about."""
    for first, second in _pairs(scene, rng):
        left, right = seen(first, "pattern"), seen(second, "pattern")
        if left is None or right is None or {left, right} == {"solid"}:
            continue
        answer = (
            "yes" if left == right else "no" if "solid" in (left, right) and "textured" not in (left, right) else ""
        )
        names = _names(scene, first, second, rng, without="pattern")
        if answer and names:
            yield f"do {names[0]} and {names[1]} have the same pattern?", answer


def darker(scene: Scene, rng: random.Random) -> Iterator[Asked]:
    for first, second in _pairs(scene, rng):
        for dark, light in ((first, second), (second, first)):
            plain = all(seen(item, "pattern") in (None, "solid", "textured") for item in (dark, light))
            if plain and _all_in(dark, _DARK) and _all_in(light, _LIGHT):
                word, answer = rng.choice((("darker", dark), ("lighter", light)))
                yield from _which(scene, f"which is {word}", first, second, answer)


def longer(scene: Scene, rng: random.Random) -> Iterator[Asked]:
    """Hems by their labels, where the boxes agree; sleeves by their labels."""
    for first, second in _pairs(scene, rng):
        for one, other in ((first, second), (second, first)):
            from_shoulders = _from_shoulders(one) + _from_shoulders(other)
            lower = _rank(one, "length", _LENGTHS) - _rank(other, "length", _LENGTHS) >= 2 and _lower_hem(one, other)
            if from_shoulders == 2 and lower:
                yield from _which(scene, "which is longer", first, second, one)
            elif from_shoulders == 1 and lower and "skirt" in (one.label, other.label):
                yield from _which(scene, "which reaches lower", first, second, one)
            if from_shoulders == 2 and _rank(one, "sleeve", _SLEEVES) - _rank(other, "sleeve", _SLEEVES) >= 2:
                yield from _which(scene, "which has longer sleeves", first, second, one)


def on_side(scene: Scene, rng: random.Random) -> Iterator[Asked]:
    """ "is the bag to the left of the scarf?", by the centres of boxes that do not lie in each other."""
    for first, second in _pairs(scene, rng):
        if first.box is None or second.box is None or _inside(first, second) or _inside(second, first):
            continue
        shift = (second.box.x1 + second.box.x2 - first.box.x1 - first.box.x2) / 2
        clear = max(_MARGIN * scene.width, 0.5 * min(first.box.width, second.box.width))
        names = _names(scene, first, second, rng)
        if abs(shift) > clear and names:
            side = rng.choice(("left", "right"))
            yield (
                f"{be(first)} {names[0]} to the {side} of {names[1]}?",
                "yes" if (side == "left") == (shift > 0) else "no",
            )


def other_side(scene: Scene, rng: random.Random) -> Iterator[Asked]:
    """ "on which side of the picture is the bag?", where it does not reach over the middle."""
    for item in scene.objects:
        name = scene.the(item, rng)
        if item.box is None or name is None or " on the " in name:
            continue
        middle = scene.width / 2
        gap = _MARGIN / 2 * scene.width
        if item.box.x2 < middle - gap or item.box.x1 > middle + gap:
            side = "left" if item.box.x2 < middle else "right"
            yield (
                rng.choice((f"on which side of the picture {be(item)} {name}?", f"which side {be(item)} {name} on?")),
                side,
            )


def higher(scene: Scene, rng: random.Random) -> Iterator[Asked]:
    """ "is the hat above the bag?", where one ends before the other begins."""
    for first, second in _pairs(scene, rng):
        if first.box is None or second.box is None:
            continue
        above = second.box.y1 - first.box.y2 > -0.02 * scene.height
        below = first.box.y1 - second.box.y2 > -0.02 * scene.height
        names = _names(scene, first, second, rng)
        centres = abs(first.box.y1 + first.box.y2 - second.box.y1 - second.box.y2) / 2
        if names and above != below and centres > _MARGIN * scene.height:
            word = rng.choice(("above", "below"))
            yield f"{be(first)} {names[0]} {word} {names[1]}?", "yes" if (word == "above") == above else "no"


def under(scene: Scene, rng: random.Random) -> Iterator[Asked]:
    """What is worn under the coat, over the shirt, and above the skirt; only where it is one thing for certain."""
    if scene.flat:
        return
    tops = [item for item in scene.objects if kind_of(item.label) in ("upper", "whole")]
    for item in tops:
        name = scene.the(item, rng)
        inner = [other for other in tops if goes_over(item, other)]
        outer = [other for other in tops if goes_over(other, item)]
        if name is None or len(inner) + len(outer) + 1 != len(tops):
            continue
        if len(inner) == 1:
            yield rng.choice((f"what is worn under {name}?", f"what is under {name}?")), inner[0].label
        elif len(tops) == 1 and layer(item.label) > 3 and seen(item, "closure") in ("buttoned", "zipped"):
            yield f"what is worn under {name}?", "not visible"
        if len(outer) == 1:
            yield f"what is worn over {name}?", outer[0].label
    lower = [item for item in scene.objects if kind_of(item.label) == "lower"]
    if len(lower) == 1 and len(tops) == 1 and kind_of(tops[0].label) == "upper":
        top, bottom = tops[0], lower[0]
        if top.box is not None and bottom.box is not None and top.box.y1 + top.box.y2 < bottom.box.y1 + bottom.box.y2:
            for question, about, answer in (
                ("what is above {}?", bottom, top), ("what is worn with {}?", bottom, top),
                ("what is below {}?", top, bottom), ("what is worn with {}?", top, bottom),
            ):  # fmt: skip
                if name := scene.the(about, rng):
                    yield question.format(name), answer.label


# -- pairs ------------------------------------------------------------------------------------------------


def _pairs(scene: Scene, rng: random.Random) -> list[tuple[ObjectLabel, ObjectLabel]]:
    """Every two garments, each pair in one order, which the draw decides."""
    return [pair if rng.random() < 0.5 else pair[::-1] for pair in combinations(scene.objects, 2)]


def _names(
    scene: Scene, first: ObjectLabel, second: ObjectLabel, rng: random.Random, *, without: str = ""
) -> tuple[str, str] | None:
    one, other = scene.the(first, rng, without=without), scene.the(second, rng, without=without)
    if one is None or other is None or " on the " in one + other:
        return None
    return one, other


def _which(
    scene: Scene, question: str, first: ObjectLabel, second: ObjectLabel, answer: ObjectLabel
) -> Iterator[Asked]:
    """Answered by a label, so that each must be the only one of its name."""
    if all(scene.labels.count(item.label) == 1 for item in (first, second)):
        yield f"{question}, the {first.label} or the {second.label}?", answer.label


def _all_in(item: ObjectLabel, words: tuple[str, ...]) -> bool:
    return bool(colours(item)) and all(colour in words for colour in colours(item))


def _from_shoulders(item: ObjectLabel) -> bool:
    return kind_of(item.label) == "upper" or item.label == "dress"


def _rank(item: ObjectLabel, name: str, order: tuple[tuple[str, ...], ...]) -> float:
    """NaN, which is neither more nor less, where the value is unknown or has no place."""
    value = seen(item, name)
    return next((rank for rank, values in enumerate(order) if value in values), float("nan"))


def _lower_hem(one: ObjectLabel, other: ObjectLabel) -> bool:
    return one.box is None or other.box is None or one.box.y2 > other.box.y2


def _inside(inner: ObjectLabel, outer: ObjectLabel) -> bool:
    """Whether most of its width lies within the other's: left and right say little then."""
    assert inner.box is not None
    assert outer.box is not None
    across = min(inner.box.x2, outer.box.x2) - max(inner.box.x1, outer.box.x1)
    return across > 0.6 * inner.box.width
