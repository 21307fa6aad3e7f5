"""What a task's decoder may emit: small regular grammars over bytes and locations, and their automata.

A grammar is built from the six nodes below and knows no tokenizer; `compile_grammar` makes a deterministic automaton
of it, whose symbols are the 256 bytes of UTF-8 text and `LOCATION`, which stands for any location token. Four
locations in a row are a box, and the automaton says which corner comes next, so that a decoder can keep the second
corner right of and below the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

__all__ = [
    "BOX",
    "LOCATION",
    "Automaton",
    "Choice",
    "FreeText",
    "Grammar",
    "Literal",
    "Location",
    "Repeat",
    "Sequence",
    "compile_grammar",
]

LOCATION = 256
"""The symbol of any location token; 0..255 are bytes."""


@dataclass(frozen=True, slots=True)
class Literal:
    """Exactly this text."""

    text: str

    def __post_init__(self) -> None:
        if not self.text:
            raise ValueError("Literal.text is empty; leave the node out")


@dataclass(frozen=True, slots=True)
class Location:
    """One location token."""


@dataclass(frozen=True, slots=True)
class FreeText:
    """Valid UTF-8 text, at least one character, not beginning with white space or a control character.

    So there is something left of it after `str.strip`.
    """


@dataclass(frozen=True, slots=True)
class Choice:
    """One of these."""

    options: tuple[Grammar, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", tuple(self.options))
        if not self.options:
            raise ValueError("Choice.options is empty; give at least one")


@dataclass(frozen=True, slots=True)
class Sequence:
    """All of these, one after the other."""

    parts: tuple[Grammar, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))
        if not self.parts:
            raise ValueError("Sequence.parts is empty; give at least one")


@dataclass(frozen=True, slots=True)
class Repeat:
    """`item` at least `min` and at most `max` times (None: any number), with `separator` between."""

    item: Grammar
    separator: Grammar | None = None
    min: int = 1
    max: int | None = None

    def __post_init__(self) -> None:
        if self.min < 1 or (self.max is not None and self.max < self.min):
            raise ValueError(f"Repeat takes {self.min} to {self.max}; expected 1 <= min <= max")


Grammar = Literal | Location | FreeText | Choice | Sequence | Repeat

BOX = Sequence((Location(), Location(), Location(), Location()))
"""x1, y1, x2, y2."""

# UTF-8 by its first byte: (first, last) -> ranges of the bytes that follow. Source: Unicode 15, table 3-7.
_Table = tuple[tuple[tuple[int, int], tuple[tuple[int, int], ...]], ...]
_TAIL = (0x80, 0xBF)
_UTF8: _Table = (
    ((0xC2, 0xDF), (_TAIL,)),
    ((0xE0, 0xE0), ((0xA0, 0xBF), _TAIL)),
    ((0xE1, 0xEC), (_TAIL, _TAIL)),
    ((0xED, 0xED), ((0x80, 0x9F), _TAIL)),
    ((0xEE, 0xEF), (_TAIL, _TAIL)),
    ((0xF0, 0xF0), ((0x90, 0xBF), _TAIL, _TAIL)),
    ((0xF1, 0xF3), (_TAIL, _TAIL, _TAIL)),
    ((0xF4, 0xF4), ((0x80, 0x8F), _TAIL, _TAIL)),
)
# The same for a first character: without the controls U+0080-009F and without white space, which is U+00A0, U+1680,
# U+2000-200A, U+2028-2029, U+202F, U+205F and U+3000.
_UTF8_FIRST: _Table = (
    ((0xC2, 0xC2), ((0xA1, 0xBF),)),
    ((0xC3, 0xDF), (_TAIL,)),
    ((0xE0, 0xE0), ((0xA0, 0xBF), _TAIL)),
    ((0xE1, 0xE1), ((0x80, 0x99), _TAIL)),
    ((0xE1, 0xE1), ((0x9A, 0x9A), (0x81, 0xBF))),
    ((0xE1, 0xE1), ((0x9B, 0xBF), _TAIL)),
    ((0xE2, 0xE2), ((0x80, 0x80), (0x8B, 0xA7))),
    ((0xE2, 0xE2), ((0x80, 0x80), (0xAA, 0xAE))),
    ((0xE2, 0xE2), ((0x80, 0x80), (0xB0, 0xBF))),
    ((0xE2, 0xE2), ((0x81, 0x81), (0x80, 0x9E))),
    ((0xE2, 0xE2), ((0x81, 0x81), (0xA0, 0xBF))),
    ((0xE2, 0xE2), ((0x82, 0xBF), _TAIL)),
    ((0xE3, 0xE3), ((0x80, 0x80), (0x81, 0xBF))),
    ((0xE3, 0xE3), ((0x81, 0xBF), _TAIL)),
    ((0xE4, 0xEC), (_TAIL, _TAIL)),
    *_UTF8[3:],
)


class _Nfa:
    """States with byte edges, location edges (labelled with their corner) and empty edges."""

    def __init__(self) -> None:
        self.edges: list[list[tuple[int, int, int]]] = []
        """state -> (first symbol, last symbol, target)."""
        self.empty: list[list[int]] = []
        self.corners: dict[int, int] = {}
        """State before a location -> the corner that the location is."""

    def state(self) -> int:
        self.edges.append([])
        self.empty.append([])
        return len(self.edges) - 1

    def add(self, grammar: Grammar, start: int, corner: int = 0) -> int:
        """Lay the grammar from `start` on; the state in which it ends."""
        match grammar:
            case Literal(text):
                for byte in text.encode():
                    start = self._edge(start, byte, byte)
                return start
            case Location():
                # A state of its own, so that corners of different boxes cannot meet in one.
                before = self.state()
                self.empty[start].append(before)
                self.corners[before] = corner
                return self._edge(before, LOCATION, LOCATION)
            case FreeText():
                return self._free_text(start)
            case Choice(options):
                end = self.state()
                for option in options:
                    first = self.state()
                    self.empty[start].append(first)
                    self.empty[self.add(option, first)].append(end)
                return end
            case Sequence(parts):
                run = 0
                for part in parts:
                    start = self.add(part, start, run % 4)
                    run = run + 1 if isinstance(part, Location) else 0
                return start
            case Repeat(item, separator, least, most):
                return self._repeat(item, separator, least, most, start)

    def _repeat(self, item: Grammar, separator: Grammar | None, least: int, most: int | None, start: int) -> int:
        end = self.state()
        for number in range(1, (most or least) + 1):
            if number > 1 and separator is not None:
                start = self.add(separator, start)
            first = self.state()
            self.empty[start].append(first)
            start = self.add(item, first)
            if number >= least:
                self.empty[start].append(end)
        if most is None:
            back = start if separator is None else self.add(separator, start)
            self.empty[back].append(first)
        return end

    def _free_text(self, start: int) -> int:
        end = self.state()
        self.edges[start].append((0x21, 0x7E, end))
        self._characters(start, end, _UTF8_FIRST)
        self.edges[end].append((0x00, 0x7F, end))
        self._characters(end, end, _UTF8)
        return end

    def _characters(self, start: int, end: int, table: _Table) -> None:
        """Characters of two to four bytes."""
        for (first, last), tails in table:
            here = self.state()
            self.edges[start].append((first, last, here))
            for index, (low, high) in enumerate(tails):
                after = end if index == len(tails) - 1 else self.state()
                self.edges[here].append((low, high, after))
                here = after

    def _edge(self, start: int, first: int, last: int) -> int:
        end = self.state()
        self.edges[start].append((first, last, end))
        return end

    def closure(self, states: Iterator[int] | list[int]) -> frozenset[int]:
        found: set[int] = set()
        pending = list(states)
        while pending:
            state = pending.pop()
            if state not in found:
                found.add(state)
                pending += self.empty[state]
        return frozenset(found)


class Automaton:
    """A deterministic automaton, made state by state as it is walked. State numbers mean nothing outside of it."""

    start = 0

    def __init__(self, grammar: Grammar) -> None:
        self._nfa = _Nfa()
        first = self._nfa.state()
        self._end = self._nfa.add(grammar, first)
        self._states: list[frozenset[int]] = []
        self._numbers: dict[frozenset[int], int] = {}
        self._steps: list[dict[int, int]] = []
        self._number(self._nfa.closure([first]))

    def _number(self, states: frozenset[int]) -> int:
        if states not in self._numbers:
            self._numbers[states] = len(self._states)
            self._states.append(states)
            self._steps.append({})
        return self._numbers[states]

    def _edges(self, state: int) -> Iterator[tuple[int, int, int]]:
        return (edge for inner in self._states[state] for edge in self._nfa.edges[inner])

    def step(self, state: int, symbol: int) -> int | None:
        """State after a byte or LOCATION; None where it may not come."""
        known = self._steps[state]
        if symbol not in known:
            after = self._nfa.closure([end for first, last, end in self._edges(state) if first <= symbol <= last])
            if not after:
                return None
            known[symbol] = self._number(after)
        return known[symbol]

    def accepting(self, state: int) -> bool:
        """Whether the text may end here."""
        return self._end in self._states[state]

    def symbols(self, state: int) -> frozenset[int]:
        """Bytes and LOCATION that `step` takes."""
        return frozenset(symbol for first, last, _ in self._edges(state) for symbol in range(first, last + 1))

    def box_corner(self, state: int) -> int | None:
        """Index in its box (0 x1, 1 y1, 2 x2, 3 y2) of the location that may come next; None where none may."""
        corners = {self._nfa.corners[inner] for inner in self._states[state] if inner in self._nfa.corners}
        assert len(corners) <= 1, "a grammar in which one location is two different corners"
        return next(iter(corners), None)

    def accepts(self, text: str) -> bool:
        """Whether the whole text is of the grammar; location tokens are written out."""
        from tasks.boxes import LOCATION as LOCATION_TEXT  # here, since boxes need no grammar
        from tasks.boxes import NUM_BINS

        state: int | None = self.start
        position = 0
        while position < len(text) and state is not None:
            location = LOCATION_TEXT.match(text, position)
            # Where a location may stand its text is one; elsewhere the same letters are just letters.
            if location and int(location[1]) < NUM_BINS and self.step(state, LOCATION) is not None:
                state = self.step(state, LOCATION)
                position = location.end()
                continue
            for byte in text[position].encode():
                state = None if state is None else self.step(state, byte)
            position += 1
        return state is not None and self.accepting(state)


@lru_cache(maxsize=512)
def compile_grammar(grammar: Grammar) -> Automaton:
    """The automaton of a grammar; the same object for an equal grammar, so that masks over it are found again."""
    return Automaton(grammar)
