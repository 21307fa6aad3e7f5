"""All that is labelled and said of a drawn picture, against its id mask and its scene, by other code than drew it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tasks.boxes import Box
from tests.vlm.answering import COUNT, PLACE, SIDE, THERE, Reader
from tests.vlm.reading import (
    NAMES,
    NUMBERS,
    NotUnderstood,
    check_caption,
    check_phrase,
    check_setting,
    mentions,
    tokens,
)
from vlm.data.records import to_row
from vlm.synthetic.drawing import Drawn, draw

UNSEEN = {"not visible", "not clear"}
SPECK = 0.0002
"""Share of the picture's pixels; less of a garment may be left out, and tells nothing of its material."""
_NEVER_WHOLE = ("bodysuit", "cape")
"""Lying flat, these hide what a wearer would show."""
_TWO_COLOURED = (("colour block",), ("graphic",))
"""Patterns of which only one colour may be seen; the label is "solid" then."""


@dataclass(kw_only=True)
class Checked:
    """What was found in pictures.

    Attributes:
        texts: number of captions, phrases and questions.
        unread: those that nobody understands.
        hidden: number of attributes that cannot be seen.
        faults: what is wrong, each with its picture's id.
    """

    scenes: int = 0
    objects: int = 0
    texts: int = 0
    unread: list[str] = field(default_factory=list)
    hidden: int = 0
    faults: list[str] = field(default_factory=list)

    def add(self, other: Checked) -> None:
        self.scenes += other.scenes
        self.objects += other.objects
        self.texts += other.texts
        self.unread += other.unread
        self.hidden += other.hidden
        self.faults += other.faults

    def summary(self) -> str:
        return (
            f"{self.scenes} scenes, {self.objects} garments, {self.hidden} attributes not seen; {self.texts} texts, "
            f"{len(self.unread)} not understood; {len(self.faults)} faults"
        )


def check_scenes(seed: int, start: int, stop: int, size: int) -> tuple[Checked, dict[int, str]]:
    """(what was found in the pictures [start, stop), index -> digest of the picture and all that is known of it)."""
    found, digests = Checked(), {}
    for index in range(start, stop):
        picture = draw(seed, index, size=size)
        found.add(check_picture(picture))
        digests[index] = digest(picture)
    return found, digests


def digest(picture: Drawn) -> str:
    whole = hashlib.sha256(json.dumps(to_row(picture.record)).encode())
    whole.update(picture.image.tobytes())
    whole.update(picture.id_mask.tobytes())
    return whole.hexdigest()


def check_picture(picture: Drawn) -> Checked:
    """What is wrong with one picture; nothing is raised."""
    check = _Check(picture)
    if len(check.numbers) == len(check.objects):
        check.boxes()
        check.attributes()
        check.language()
    return check.found


def around(mask: NDArray[np.bool_]) -> Box:
    rows, columns = np.nonzero(mask)
    return Box(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


class _Check:
    def __init__(self, picture: Drawn) -> None:
        self.record, self.mask, self.worn = picture.record, picture.id_mask, picture.scene.garments
        self.objects = self.record.objects
        self.reader = Reader(self.record)
        self.found = Checked(scenes=1, objects=len(self.objects))
        self.least = max(1, SPECK * self.mask.size)
        self.numbers = list(self.joined())

    def wrong(self, said: str) -> None:
        self.found.faults.append(f"{self.record.id}: {said}")

    def joined(self) -> Iterator[int]:
        """For every object its number in the mask: the record keeps the scene's order."""
        number = 0
        for item in self.objects:
            later = range(number + 1, len(self.worn) + 1)
            same = [n for n in later if self.worn[n - 1].label == item.label and (self.mask == n).any()]
            if not same:
                self.wrong(f"the {item.label} has no pixels")
                return
            number = same[0]
            yield number

    def pixels(self, the: str) -> NDArray[np.bool_]:
        """HxW, of the one garment that the words mean."""
        item = self.reader.sure(the)
        place = next(place for place, other in enumerate(self.objects) if other is item)
        return np.asarray(self.mask == self.numbers[place])

    # -- labels ----------------------------------------------------------------------------------------------

    def boxes(self) -> None:
        """A box is exactly around its pixels, the parts of a pair share them out, and nothing seen is left out."""
        for number, item in zip(self.numbers, self.objects, strict=True):
            mine = self.mask == number
            if item.box != around(mine):
                self.wrong(f"the {item.label}'s box is {item.box}; its pixels fill {around(mine)}")
            left = mine.copy()
            for part in item.parts:
                x1, y1, x2, y2 = (int(value) for value in part.xyxy)
                left[y1:y2, x1:x2] = False
            if item.parts and (left.any() or len(item.parts) != 2):
                self.wrong(f"the {item.label}'s {len(item.parts)} parts leave {left.sum()} of its pixels out")
        for number, worn in enumerate(self.worn, start=1):
            pixels = int((self.mask == number).sum())
            if number not in self.numbers and pixels > self.least:
                self.wrong(f"{pixels} pixels of the {worn.label} are seen, and it is not listed")

    def attributes(self) -> None:
        """What is told of a garment is what it was to be, or that nobody can see it."""
        for number, item in zip(self.numbers, self.objects, strict=True):
            meant = self.worn[number - 1].attributes
            if set(item.attributes) != set(meant):
                self.wrong(f"the {item.label} has {sorted(item.attributes)}; expected {sorted(meant)}")
                continue
            two = meant["pattern"] in _TWO_COLOURED
            for name, values in item.attributes.items():
                if two and (name == "colour" or (name == "pattern" and values == ("solid",))):
                    continue  # which of its colours are seen is the cloth's matter
                if values == meant[name]:
                    continue
                if not UNSEEN & set(values):
                    self.wrong(f"the {item.label}'s {name} is {values}; it was to be {meant[name]}")
                    continue
                self.found.hidden += 1
                self.hidden(item.label, name, values, self.mask == number)

    def hidden(self, label: str, name: str, values: tuple[str, ...], mine: NDArray[np.bool_]) -> None:
        """Something must be in the way of what nobody can see: the picture's edge, or other pixels that touch it."""
        if values == ("not clear",):
            if mine.sum() > self.least:
                self.wrong(f"the {label}'s {name} is not clear in {mine.sum()} pixels")
            return
        if self.record.groups["kind"] != "person" and label not in _NEVER_WHOLE:
            self.wrong(f"the {label}'s {name} is not visible, though it lies alone")
        framed = np.pad(mine, 1)
        others = np.pad(self.mask != 0, 1, constant_values=True) & ~framed
        grown = np.zeros_like(framed)
        for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
            grown |= np.roll(framed, step, axis)
        if not (grown & others).any():
            self.wrong(f"the {label}'s {name} is not visible, and nothing is in the way")

    # -- language --------------------------------------------------------------------------------------------

    def language(self) -> None:
        for caption in self.record.captions:
            worn = check_setting(caption.text, self.record)
            self.read(
                caption.text, lambda text: check_caption(text, self.record), lambda _, said=worn: self.layers(said)
            )
        for phrase in sorted({phrase for item in self.objects for phrase in item.phrases}):
            self.read(phrase, lambda text: check_phrase(text, self.objects), self.layers, self.sides)
        for qa in self.record.qa:
            self.read(qa.question, lambda text, said=qa.answer: self.answered(text, said))

    def read(self, text: str, *checks: Callable[[str], object]) -> None:
        self.found.texts += 1
        try:
            for check in checks:
                check(text)
        except NotUnderstood as error:
            self.found.unread.append(f"{self.record.id}: {error}")
        except (AssertionError, LookupError, ValueError, StopIteration) as error:
            self.wrong(f"{text!r}: {type(error).__name__} {error}")

    def layers(self, text: str) -> None:
        """ "A over B" and "B under A" only of garments that are put on in this order."""
        if not re.search(r"\b(over|under)\b", text):
            return
        last, way = "", ""
        for token in tokens(text.replace(" under ", " over ")):
            if token in NAMES:
                if way:
                    self.over(*((last, NAMES[token]) if " over " in text else (NAMES[token], last)))
                last, way = NAMES[token], ""
            elif token == "over":
                way = token

    def over(self, outer: str, inner: str) -> None:
        pairs = [(one, other) for one in self.worn for other in self.worn]
        fits = [one.label == outer and other.label == inner and one.layer > other.layer for one, other in pairs]
        assert any(fits), f"no {outer} is worn over a {inner}"

    def sides(self, phrase: str) -> None:
        """ "the bag on the left" is the one whose pixels are further left."""
        match = re.fullmatch(r"the (.+) on the (left|right)", phrase)
        if match is None:
            return
        ((label, _, _),) = mentions(f"the {match[1]}")
        alike = [place for place, item in enumerate(self.objects) if item.label == label]
        middles = [np.nonzero(self.mask == self.numbers[place])[1].mean() for place in alike]
        wanted = alike[middles.index(min(middles) if match[2] == "left" else max(middles))]
        assert phrase in self.objects[wanted].phrases, "its pixels are on the other side"

    def answered(self, question: str, said: str) -> None:
        """First by the labels, then, for what has a place or a number, by the pixels."""
        right = self.reader.answer(question)
        assert right == said, f"answered {said!r}; the labels say {right!r}"
        for pattern, check in (
            (PLACE, self.placed),
            (SIDE, self.on_side),
            (COUNT, self.counted),
            (THERE, self.there),
            (r"what is (?:worn )?(under|over) (the .+)", self.layered),
        ):
            if match := re.fullmatch(pattern, question[:-1]):
                check(said, *[group for group in match.groups() if group is not None])

    def placed(self, said: str, first: str, way: str, second: str) -> None:
        axis = 0 if way in ("above", "below") else 1
        one, other = (np.nonzero(self.pixels(the))[axis].mean() for the in (first, second))
        assert (said == "yes") == ((one < other) == (way in ("above", "to the left of"))), "the pixels say otherwise"

    def on_side(self, said: str, the: str) -> None:
        columns, half = np.nonzero(self.pixels(the))[1], self.mask.shape[1] / 2
        assert (columns < half).all() if said == "left" else (columns >= half).all(), "it has pixels on both sides"

    def seen(self, label: str) -> int:
        """Garments of this label with more pixels than a speck, or listed."""
        numbers = [number for number, worn in enumerate(self.worn, start=1) if worn.label == label]
        return sum(n in self.numbers or int((self.mask == n).sum()) > self.least for n in numbers)

    def counted(self, said: str, names: str) -> None:
        number = self.seen(NAMES[names])
        assert NUMBERS[said] == number, f"{number} are in the mask"

    def there(self, said: str, thing: str) -> None:
        ((label, _, words),) = mentions(thing)
        number = self.seen(label)
        assert (number > 0 or said == "no") and (number == 0 or words or said == "yes"), f"{number} are in the mask"

    def layered(self, said: str, way: str, the: str) -> None:
        if said != "not visible":
            label = self.reader.sure(the).label
            self.over(*((label, said) if way == "under" else (said, label)))
