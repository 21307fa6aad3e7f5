"""What a caption claims: garments, and the colours and patterns that it gives them.

Read by rule from the words of the ontology and a few others that mean the same; what cannot be read claims nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from tasks.base import ObjectLabel
from tasks.ontology import default_ontology
from tasks.readers.wording import plural_of

__all__ = ["Fact", "is_true", "read_facts"]


@dataclass(frozen=True, slots=True)
class Fact:
    """A garment is there (`attribute` and `value` are None), or has a colour or pattern."""

    garment: str
    attribute: str | None = None
    value: str | None = None


_GARMENTS = {
    "tee": "t-shirt", "tshirt": "t-shirt", "pants": "trousers", "jumper": "sweater", "pullover": "sweater",
    "handbag": "bag", "purse": "bag", "tote": "bag", "rucksack": "backpack", "trench": "coat", "parka": "coat",
    "overcoat": "coat", "pumps": "heels", "trainers": "sneakers", "bangle": "bracelet", "pantyhose": "tights",
    "stockings": "tights", "beanie": "hat", "gown": "dress", "waistcoat": "vest", "gilet": "vest",
}  # fmt: skip
_COLOURS = {
    "multicoloured": "multicolour", "multicolored": "multicolour", "multicolor": "multicolour", "gray": "grey",
    "cream": "beige", "khaki": "beige", "camel": "tan", "maroon": "burgundy", "wine": "burgundy",
    "mustard": "yellow", "turquoise": "teal", "golden": "gold", "coral": "pink", "pale blue": "light blue",
    "navy blue": "navy", "sky blue": "light blue", "clear": "transparent", "ivory": "white",
}  # fmt: skip
_PATTERNS = {
    "stripes": "striped", "stripe": "striped", "checks": "checked", "check": "checked", "plaid": "checked",
    "tartan": "checked", "gingham": "checked", "polka dots": "polka dot", "polka dotted": "polka dot",
    "dotted": "polka dot", "spotted": "polka dot", "flowers": "floral", "flowered": "floral", "leopard": "animal print",
    "snakeskin": "animal print", "zebra": "animal print", "camo": "camouflage", "colour blocked": "colour block",
    "plain": "solid", "lacy": "lace",
}  # fmt: skip
_BOUNDARIES = frozenset(
    {
        "a", "an", "the", "his", "her", "their", "its", "with", "over", "under", "in", "of", "on", "to", "from",
        "at", "by", "for", "wear", "wears", "wearing", "worn", "carry", "carries", "carrying", "hold", "holds",
        "holding", "pair", "pairs", "paired", "has", "have", "is", "are", "and", "or", "but", "beneath",
        "underneath", "atop", "plus", "while", "matching",
    }
)  # fmt: skip
"""Words before which nothing is said about the garment that follows them."""
_WORDS = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*|[,.;:]")
_ONE_TERM = re.compile(r"(polka|animal|colour|light)-(dots?|dotted|print|blocked|block|blue)\b")


def read_facts(text: str) -> tuple[Fact, ...]:
    """Every claim once, in the order of the garments.

    An adjective counts for the garment that ends its noun phrase ("a black and white striped shirt"), a pattern after
    "with" for the one before it ("a shirt with stripes"). Of two garments side by side the last is meant ("a shirt
    dress" is a dress). What is said of a whole outfit ("all in black") is no claim about a garment.
    """
    return tuple(dict.fromkeys(_read(_tokens(text))))


def is_true(fact: Fact, objects: Sequence[ObjectLabel], *, complete: bool) -> bool | None:
    """Whether the labels bear a fact out; None where they do not say.

    Args:
        objects: of the picture.
        complete: everything worn is among them, so that what is not there is wrong.
    """
    found = [item for item in objects if item.label == fact.garment]
    if not found:
        return False if complete else None
    if fact.attribute is None:
        return True
    # Lace is both a pattern and a material, and annotators choose.
    names = ("pattern", "material") if fact.value == "lace" else (fact.attribute,)
    known = [item for item in found if fact.attribute in item.attributes]
    if not known:
        return None
    return any(fact.value in item.attributes.get(name, ()) for item in known for name in names)


@lru_cache(maxsize=1)
def _terms() -> Mapping[str, tuple[str, str]]:
    """Words -> (what they name, the ontology's word)."""
    ontology = default_ontology()
    terms: dict[str, tuple[str, str]] = {}
    for label in ontology.garments:
        terms[label] = terms[plural_of(label)] = ("garment", label)
    for attribute, synonyms in (("colour", _COLOURS), ("pattern", _PATTERNS)):
        terms.update({value: (attribute, value) for value in ontology.values[attribute]})
        terms.update({word: (attribute, value) for word, value in synonyms.items()})
    terms.update({word: ("garment", label) for word, label in _GARMENTS.items()})
    return terms


def _tokens(text: str) -> list[str]:
    """Words, with those that make one term together."""
    words = _WORDS.findall(_ONE_TERM.sub(r"\1 \2", text.lower()))
    terms, tokens = _terms(), []
    while words:
        two = " ".join(words[:2])
        take = 2 if two in terms else 1
        tokens.append(two if take == 2 else words[0])
        del words[:take]
    return tokens


def _read(tokens: Sequence[str]) -> Iterator[Fact]:
    kinds = [_terms().get(token, ("", "")) for token in tokens]
    garment = None
    for place, (kind, value) in enumerate(kinds):
        following = kinds[place + 1][0] if place + 1 < len(kinds) else ""
        if kind == "garment" and following != "garment" and not (value == "top" and tokens[place - 1] == "on"):
            garment = value
            yield Fact(garment)
            for attribute, said in _adjectives(tokens, kinds, place):
                yield Fact(garment, attribute, said)
        elif kind == "pattern" and garment and _after_with(tokens, kinds, place):
            yield Fact(garment, kind, value)


def _adjectives(tokens: Sequence[str], kinds: Sequence[tuple[str, str]], place: int) -> Iterator[tuple[str, str]]:
    """Colours and patterns of the noun phrase that ends at `place`."""
    for at in range(place - 1, -1, -1):
        if kinds[at][0] in ("colour", "pattern"):
            yield kinds[at]
        joins = tokens[at] == "and" and at > 0 and kinds[at - 1][0] == kinds[at + 1][0] == "colour"
        if not joins and (tokens[at] in _BOUNDARIES or not tokens[at][0].isalnum()):
            return
        # A garment further back ends the phrase, but the first of two side by side belongs to it.
        if kinds[at][0] == "garment" and at < place - 1:
            return


def _after_with(tokens: Sequence[str], kinds: Sequence[tuple[str, str]], place: int) -> bool:
    """Whether the pattern at `place` stands in "with (a) ... stripes" and no garment ends that phrase."""
    for kind, token in zip(kinds[place + 1 :], tokens[place + 1 :], strict=True):
        if kind[0] == "garment":
            return False
        if token in _BOUNDARIES or not token[0].isalnum():
            break
    for at in range(place - 1, -1, -1):
        if tokens[at] == "with":
            return True
        if kinds[at][0] == "garment" or not tokens[at][0].isalnum():
            return False
    return False
