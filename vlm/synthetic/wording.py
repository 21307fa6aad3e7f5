"""Language for a record of which every garment is known: captions, questions and referring phrases.

Nothing is said that the labels do not hold, and what they leave open (a sleeve under a coat) is not told.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tasks.base import ObjectLabel, Record, TextLabel
from tasks.readers.wording import join
from vlm.synthetic.facts import CARRIED, colours, footwear, goes_over, is_flat, kind_of, seen
from vlm.synthetic.nouns import Noun, noun
from vlm.synthetic.phrases import phrases, with_phrases
from vlm.synthetic.questions import questions

__all__ = ["MAX_WORDS", "describe_record"]

MAX_WORDS = {"brief": 24, "detailed": 60}
_AIM = 44
"""Words of a detailed caption above which details are left out."""
_HEAD_TO_TOE = (
    "hat", "cap", "sunglasses", "glasses", "earrings", "scarf", "necklace", "tie", "bow tie", "belt", "gloves",
    "watch", "bracelet", "ring", "bag", "backpack", "clutch",
)  # fmt: skip
_STRIKING = ("bag", "hat", "scarf", "backpack", "clutch", "sunglasses", "cap", "glasses", "belt", "tie")
"""Accessories that a brief caption may name."""
_WHO = ("a person", "someone", "someone", "the person")
_THEM = ("the person", "they")
_WHERE = {
    "street": "on a street", "park": "in a park", "room": "in a room", "beach": "on a beach", "studio": "in a studio",
    "wall": "in front of a wall", "white": "against a white background",
}  # fmt: skip
_LYING = {"table": "on a table", "floor": "on the floor", "bed": "on a bed"}
_POSES = {
    "walking": "walks", "sitting": "sits", "hand on hip": "stands with a hand on one hip",
    "hands on hips": "stands with hands on hips", "arms crossed": "stands with crossed arms",
    "hands in pockets": "stands with hands in pockets", "arms raised": "stands with raised arms",
}  # fmt: skip
"""Backgrounds and poses by their names in a record's groups; of others nothing is told."""


def describe_record(record: Record, rng: random.Random) -> Record:
    """The record with captions, questions and phrases where it has none; what it has already stays.

    Args:
        record: with `objects_complete`; garments with attributes ("not visible" where nobody can tell) and boxes.
        rng: draws words and questions. The same record and state give the same language.

    Raises:
        ValueError: objects may be missing, so that nothing could be denied or counted.
    """
    if not record.objects_complete:
        raise ValueError(
            f"record {record.id}: objects_complete is false; describe only records that list every garment"
        )
    # One generator each: what a record brings along does not change the rest.
    for_captions, for_questions, for_phrases = (random.Random(rng.getrandbits(64)) for _ in range(3))
    captions = record.captions or _captions(record, for_captions)
    known = tuple(phrases(record.objects))
    qa = record.qa or questions(record, for_questions, known)
    objects = with_phrases(record.objects, for_phrases, worn=not is_flat(record), known=known)
    return replace(record, captions=captions, qa=qa, objects=objects)


def _captions(record: Record, rng: random.Random) -> tuple[TextLabel, ...]:
    if not record.objects:
        return ()
    say = _Caption(record)
    return tuple(
        TextLabel(text=_sentence_case(text), detail=detail, provenance=record.provenance)
        for detail, text in (("brief", say.brief(rng)), ("detailed", say.detailed(rng)))
    )


def _sentence_case(text: str) -> str:
    return ". ".join(part[:1].upper() + part[1:] for part in text.split(". "))


def _num_words(text: str) -> int:
    return len(text.split())


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Part of an outfit that is told together: a coat over a shirt, or the boots.

    Attributes:
        items: outermost first; more than one only where each lies over the next.
        num: how many there are of a single item that looks the same.
    """

    items: tuple[ObjectLabel, ...]
    num: int = 1

    def noun(self, rng: random.Random, *, extras: int, most_after: int = 1, colour: bool = True) -> Noun:
        first, *inner = (
            noun(item, rng, extras=extras, most_after=most_after, colour=colour, num=self.num) for item in self.items
        )
        if not inner:
            return first
        return Noun(text=f"{first.text} over {join([item.text for item in inner])}", plural=first.plural)


class _Caption:
    """A record's garments in the order in which they are told, and the sentences about them."""

    def __init__(self, record: Record) -> None:
        self.flat = is_flat(record)
        self.groups = record.groups
        self.hanging = self.groups.get("kind") == "hanger"
        # One garment and no word of a person: it may be worn or not.
        self.bare = len(record.objects) == 1 and not {"kind", "crop", "pose"} & set(self.groups)
        clothes = [item for item in record.objects if kind_of(item.label) != "accessories"]
        self.tops = _layered([item for item in clothes if kind_of(item.label) in ("upper", "whole")], self.flat)
        self.lower = _alike([item for item in clothes if kind_of(item.label) in ("lower", "hosiery")])
        self.shoes = _alike([item for item in clothes if footwear(item.label)])
        others = [item for item in record.objects if kind_of(item.label) == "accessories"]
        others.sort(key=lambda item: _HEAD_TO_TOE.index(item.label) if item.label in _HEAD_TO_TOE else 0)
        self.worn = _alike([item for item in others if item.label not in CARRIED])
        self.carried = _alike([item for item in others if item.label in CARRIED])

    # -- brief ---------------------------------------------------------------------------------------------

    def brief(self, rng: random.Random) -> str:
        """One sentence with the main garments."""
        main = self.main()
        striking = [part for part in (*self.worn, *self.carried) if part.items[0].label in _STRIKING]
        striking = striking or ([] if main else self.everything()[:4])
        room = max(0, (3 if main else 4) - len(main))
        room += rng.choice((0, 1)) if main and not self.flat else 0
        named = rng.sample(striking, min(len(striking), room))
        named.sort(key=striking.index)
        seed = rng.getrandbits(64)
        parts = [*main, *named]
        extras = rng.choice((0, 0, 1))
        while _num_words(text := self.one_sentence(parts, extras, random.Random(seed))) > MAX_WORDS["brief"]:
            if extras:
                extras = 0
            elif len(parts) > 1:
                parts.pop()
            elif len(parts[0].items) > 1:
                parts = [replace(parts[0], items=parts[0].items[:-1])]
            else:
                break
        return text

    def everything(self) -> list[_Part]:
        return [*self.tops, *self.lower, *self.shoes, *self.worn, *self.carried]

    def main(self) -> list[_Part]:
        return [*self.tops, *(part for part in self.lower if kind_of(part.items[0].label) == "lower"), *self.shoes]

    def one_sentence(self, parts: Sequence[_Part], extras: int, rng: random.Random) -> str:
        if self.flat or self.bare:
            return self.laid_out(parts, extras, rng)
        colour = self.all_one_colour(parts)
        if colour and rng.random() < 0.6:
            things = [part.noun(rng, extras=extras, colour=not self.is_main(part)).text for part in parts]
            return (
                f"{rng.choice(_WHO)} {rng.choice(('dressed all', 'all', 'dressed'))} in {colour} wears {join(things)}."
            )
        nouns = [part.noun(rng, extras=extras) for part in parts]
        things = [item.text for item in nouns]
        who = rng.choice(_WHO)
        ways = [f"{who} in {join(things)}.", f"{who} wearing {join(things)}.", f"{who} wears {join(things)}."]
        if len(things) > 1:
            first, rest = things[0], join(things[1:])
            ways += [
                f"{who} in {first} with {rest}.",
                f"{who} pairs {first} with {rest}.",
                f"{first} worn with {rest}.",
                f"an outfit of {join(things)}.",
                f"{who} wears {first} with {rest}.",
                f"{first}, paired with {rest}.",
            ]
        return _plain_choice(ways, things[0], rng)

    def is_main(self, part: _Part) -> bool:
        return kind_of(part.items[0].label) != "accessories"

    def all_one_colour(self, parts: Sequence[_Part]) -> str | None:
        """The one colour of all clothes and shoes, if they are told all and are more than one."""
        clothes = [item for part in (*self.tops, *self.lower, *self.shoes) for item in part.items]
        told = [item for part in parts for item in part.items]
        if len(clothes) < 2 or not all(item in told for item in clothes):
            return None
        found = {colours(item) for item in clothes}
        plain = all(seen(item, "pattern") in (None, "solid", "textured") for item in clothes)
        (only,) = found if len(found) == 1 else [()]
        return only[0] if plain and len(only) == 1 and only[0] not in ("transparent", "multicolour") else None

    def laid_out(self, parts: Sequence[_Part], extras: int, rng: random.Random) -> str:
        """Garments that nobody wears."""
        alone = sum(len(part.items) for part in parts) == 1
        things = join([part.noun(rng, extras=extras, most_after=4 if alone else 1).text for part in parts])
        if self.bare:
            return f"{things}."
        if self.hanging:
            view = rng.choice(("on a hanger", "hanging on a hanger" if alone else "hanging up", "on a hanger"))
            return rng.choice((f"{things} {view}.", f"{things}, {view}.", f"{things}, shown {view}."))
        view = rng.choice(("laid flat", "laid flat", "photographed flat", "lying flat"))
        surface = _LYING.get(self.groups.get("background", ""))
        if surface and rng.random() < 0.5:
            view = f"{rng.choice(('laid flat', 'lying'))} {surface}"
        return rng.choice((f"{things} {view}.", f"{things}, {view}."))

    # -- detailed ------------------------------------------------------------------------------------------

    def detailed(self, rng: random.Random) -> str:
        """Two or three sentences: the clothes, then shoes and accessories; as many details as there is room for."""
        seed = rng.getrandbits(64)
        told = self.everything()
        extras = 4
        while _num_words(text := self.sentences(told, extras, random.Random(seed))) > (
            _AIM if extras else MAX_WORDS["detailed"]
        ):
            if extras:
                extras -= 1
            elif len(told) > 1:
                # Accessories go first, and of those the carried ones last.
                told.remove(next((part for part in reversed(told) if part in self.worn), told[-1]))
            else:
                break
        return text

    def sentences(self, told: Sequence[_Part], extras: int, rng: random.Random) -> str:
        if self.flat or self.bare:
            return self.laid_out(told, extras, rng)
        clothes = [part for part in told if part in self.tops or part in self.lower]
        rest = [part for part in told if part in self.shoes or part in self.worn]
        carried = [part for part in told if part in self.carried]
        if not clothes:
            return f"{rng.choice(_WHO)} wears {join([part.noun(rng, extras=extras).text for part in told])}."
        said = [self.clothes_sentence(clothes, extras, rng)]
        small = 0 if len(rest) + len(carried) > 3 else min(extras, 1)
        if rest and carried and rng.random() < 0.5:
            rest, carried = [*rest, *carried], []
        if rest:
            said.append(self.finish([part.noun(rng, extras=small) for part in rest], rng))
        if carried:
            things = join([part.noun(rng, extras=small).text for part in carried])
            who = rng.choice(_THEM)
            have = rng.choice(("carry", "have") if who == "they" else ("carries", "has"))
            said.append(rng.choice((f"{who} {have} {things}.", f"{who} also {have} {things}.")))
        setting = self.setting(rng)
        return " ".join([*said, *([setting] if setting else [])])

    def setting(self, rng: random.Random) -> str | None:
        """ "they walk on a street.", now and then, of a whole person."""
        where = _WHERE.get(self.groups.get("background", ""))
        if where is None or self.groups.get("crop") != "full" or rng.random() < 0.4:
            return None
        verb, _, how = _POSES.get(self.groups.get("pose", ""), "stands").partition(" ")
        who = rng.choice(_THEM)
        return " ".join(filter(None, (who, verb[:-1] if who == "they" else verb, where, how))) + "."

    def clothes_sentence(self, clothes: Sequence[_Part], extras: int, rng: random.Random) -> str:
        nouns = [part.noun(rng, extras=extras) for part in clothes]
        who = rng.choice((*_WHO, "the person"))
        first, rest = nouns[0], [item.text for item in nouns[1:]]
        be = "are" if first.plural else "is"
        if not rest:
            return rng.choice((f"{who} wears {first.text}.", f"{who} is dressed in {first.text}."))
        ways = [
            f"{who} wears {first.text} with {join(rest)}.",
            f"{who} wears {join([first.text, *rest])}.",
            f"{first.text} {be} worn with {join(rest)}.",
            f"{first.text} {be} paired with {join(rest)}.",
            f"the outfit pairs {first.text} with {join(rest)}.",
        ]
        return _plain_choice(ways, first.text, rng)

    def finish(self, nouns: Sequence[Noun], rng: random.Random) -> str:
        things = join([item.text for item in nouns])
        one = len(nouns) == 1 and not nouns[0].plural
        ways = [
            f"{things} {'completes' if one else 'complete'} the outfit.",
            f"{things} {'finishes' if one else 'finish'} the look.",
            f"the outfit is completed by {things}.",
            rng.choice((f"the person also wears {things}.", f"they also wear {things}.")),
        ]
        return rng.choice(ways)


def _plain_choice(ways: Sequence[str], first: str, rng: random.Random) -> str:
    """One of the ways; without a second "with" right after a garment that is told with one."""
    doubled = f"{first} with " if " with " in first else None
    return rng.choice([way for way in ways if doubled is None or doubled not in way])


def _layered(items: Sequence[ObjectLabel], flat: bool) -> list[_Part]:
    """Garments of the upper body in stacks: each is over the next. What certainly lies over most comes first."""
    left = list(items)
    parts = []
    while left:
        outer = max(left, key=lambda item: sum(goes_over(item, other) for other in left))
        left.remove(outer)
        stack = [outer]
        while not flat:
            under = [item for item in left if goes_over(stack[-1], item)]
            # Of several below, the one that is over all the others is next.
            following = [item for item in under if all(goes_over(item, o) for o in under if o is not item)]
            if not following:
                break
            stack.append(following[0])
            left.remove(following[0])
        parts.append(_Part(items=tuple(stack)))
    return parts


def _alike(items: Sequence[ObjectLabel]) -> list[_Part]:
    """One part a garment, but things of which the same is known are told as one: "two black bags"."""
    groups: list[list[ObjectLabel]] = []
    for item in items:
        same = (group for group in groups if (group[0].label, group[0].attributes) == (item.label, item.attributes))
        group = next(same, None)
        if group is None:
            groups.append([item])
        else:
            group.append(item)
    return [_Part(items=(group[0],), num=len(group)) for group in groups]
