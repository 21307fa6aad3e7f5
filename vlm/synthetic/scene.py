"""A record's garments as questions speak of them."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping

from tasks.base import ObjectLabel, Record
from tasks.ontology import default_ontology
from tasks.readers.wording import article, is_plural
from vlm.synthetic.facts import hidden, is_flat
from vlm.synthetic.phrases import ADJECTIVES, LENGTHS, MATERIALS, Phrase, phrases

__all__ = ["Scene", "a", "be", "do"]

_OTHER_WORDS = 0.2
"""How often a garment is called by more than its name, where there is only one of that name."""


class Scene:
    """What can be asked about, and by which words."""

    def __init__(self, record: Record, known: Iterable[Phrase] | None = None) -> None:
        """`known`: what `phrases` finds for the record's objects, where it was found already."""
        self.objects = record.objects
        self.crop = record.groups.get("crop")
        self.flat = is_flat(record)
        self.hidden = frozenset(hidden(record))
        self.labels = [item.label for item in self.objects]
        self._numbers = {id(item): number for number, item in enumerate(self.objects)}
        self.height, self.width = record.image_size
        self._phrases: list[list[str]] = [[] for _ in self.objects]
        for phrase, meant in phrases(self.objects) if known is None else known:
            if len(meant) == 1 and phrase.startswith("the "):
                self._phrases[meant[0]].append(phrase)
        self._telling: dict[tuple[int, str], list[str]] = {}

    def the(self, item: ObjectLabel, rng: random.Random, *, without: str = "") -> str | None:
        """ "the bag", "the red bag" or "the bag on the left"; None where no words mean this one alone.

        Args:
            item: one of `objects`.
            rng: draws between the ways.
            without: an attribute that the words must not tell.
        """
        number = self._numbers[id(item)]
        words = self._telling.get((number, without))
        if words is None:
            words = self._telling[number, without] = [
                phrase
                for phrase in self._phrases[number]
                if re.search(rf"\b{item.label}\b", phrase) and not _tells(phrase, without)
            ]
        if self.labels.count(item.label) == 1 and not (words and rng.random() < _OTHER_WORDS):
            return f"the {item.label}"
        return rng.choice(words) if words else None

    def there(self, thing: str, plural: bool, rng: random.Random) -> str:
        """A question for a thing with its article: "is there a red bag?"."""
        asked = [f"{'are' if plural else 'is'} there {thing}?"]
        if not self.flat:
            asked += [f"is the person wearing {thing}?"]
            if re.search(r"\b(bag|backpack|clutch)\b", thing):
                asked = [asked[0], f"is the person carrying {thing}?"]
        return rng.choice(asked)


def a(words: str, label: str) -> str:
    """With the article that its label takes."""
    return words if is_plural(label) else f"{article(words)} {words}"


def be(item: ObjectLabel) -> str:
    return "are" if is_plural(item.label) else "is"


def do(item: ObjectLabel) -> str:
    return "do" if is_plural(item.label) else "does"


_TELLING: Mapping[str, tuple[str, ...]] = {
    "colour": (*default_ontology().values["colour"], "multicoloured"),
    "pattern": tuple(ADJECTIVES.values()),
    "sleeve": ("sleeve", "sleeves", "sleeved", "sleeveless"),
    "length": tuple(LENGTHS.values()),
    "material": tuple(MATERIALS.values()),
}
_TOLD = {name: re.compile(rf"\b(?:{'|'.join(map(re.escape, words))})\b") for name, words in _TELLING.items()}


def _tells(phrase: str, attribute: str) -> bool:
    told = _TOLD.get(attribute)
    return told is not None and told.search(phrase) is not None
