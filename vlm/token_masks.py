"""Which tokens a grammar lets the decoder emit next.

A task's grammar speaks of bytes and locations and knows no tokenizer. Here the vocabulary becomes a
trie over its tokens' bytes, and a state's mask is found by walking trie and automaton together; masks
are kept, so a state is walked once.
"""

# V vocabulary

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from tasks.boxes import LOCATION as LOCATION_TEXT

__all__ = ["LOCATION", "Allowed", "Automaton", "GrammarState", "TokenMasks"]

LOCATION = 256
"""The grammar's symbol for any location token; 0..255 are bytes."""

_MAX_AUTOMATA = 64  # attributes have a grammar for each set asked; the masks of old ones are dropped
_MAX_RUN = 16


class Automaton(Protocol):
    """What `tasks.grammar.compile_grammar` gives: deterministic, over bytes and LOCATION."""

    @property
    def start(self) -> int: ...

    def step(self, state: int, symbol: int) -> int | None: ...

    def accepting(self, state: int) -> bool: ...

    def symbols(self, state: int) -> frozenset[int]: ...

    def box_corner(self, state: int) -> int | None:
        """Index in its box (0 x1, 1 y1, 2 x2, 3 y2) of the location that may come next; None where none may."""


@dataclass(frozen=True, slots=True)
class GrammarState:
    """Where one running sequence is: the automaton's state and the bins chosen in the box it is in."""

    automaton: Automaton
    state: int
    corners: tuple[int, ...] = ()

    @property
    def corner(self) -> int | None:
        return self.automaton.box_corner(self.state)

    @property
    def lowest_bin(self) -> int:
        """Smallest bin the next location may take: the second corner is not left of or above the first."""
        corner = self.corner
        return self.corners[corner - 2] if corner in (2, 3) else 0


@dataclass(frozen=True, slots=True)
class Allowed:
    """What may be emitted in a state.

    Attributes:
        mask: V bool.
        others: token ids that are no locations, in rising order; among them eos where the text may end.
        ids: the same as a list, which is read far faster.
        locations: whether a location may come. All of them, or none: `TokenMasks.mask` leaves out swapped corners.
        only: the token that alone may come; -1 where there are several.
        likely: where the text can go on in one way only, the longest token of it, which is how a tokenizer writes
            such text (it may end instead); -1 where there is a choice.
    """

    mask: Tensor
    others: Tensor
    ids: list[int]
    locations: bool
    only: int
    likely: int


Run = tuple[tuple[int, GrammarState], ...]
"""Tokens, each with the state after it."""


@dataclass(slots=True)
class _Known:
    """What was found of an automaton's states."""

    allowed: dict[int, Allowed] = field(default_factory=dict)
    runs: dict[int, Run] = field(default_factory=dict)


@dataclass(slots=True)
class _Node:
    children: dict[int, _Node] = field(default_factory=dict)
    token_ids: list[int] = field(default_factory=list)


def _byte_alphabet() -> dict[str, int]:
    """Character -> byte of the byte-level alphabet: printable Latin-1 stands for itself, the other
    bytes for the characters from U+0100 on. Source: GPT-2's encoder."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""Stands for a space in a vocabulary of characters (SentencePiece's)."""

_ALPHABET = _byte_alphabet()
_FALLBACK_BYTE = "<0x%02X>"
_FALLBACK_BYTES = {_FALLBACK_BYTE % byte: bytes([byte]) for byte in range(256)}


def _byte_level_bytes(token: str) -> bytes:
    if not all(character in _ALPHABET for character in token):
        raise ValueError(f"token {token!r} is not byte-level; a byte-level BPE tokenizer is needed")
    return bytes(_ALPHABET[character] for character in token)


def _character_bytes(token: str) -> bytes:
    return _FALLBACK_BYTES[token] if token in _FALLBACK_BYTES else token.replace(_SPACE, " ").encode()


class TokenMasks:
    """Masks over one tokenizer's vocabulary.

    Args:
        tokenizer: a BPE tokenizer of transformers, byte-level, or over characters with bytes to fall back on
            (`<0x0A>`; Gemma's). Its added tokens are special, and those of the form `<loc_n>` are locations.
        vocab_size: width of the masks where the model's is larger than the tokenizer's.

    Raises:
        ValueError: the vocabulary is of neither kind, lacks some byte (a grammar could then run into
            a state that no token leaves), or has no end-of-sequence token.
    """

    def __init__(self, tokenizer: Any, vocab_size: int | None = None) -> None:
        vocabulary: dict[str, int] = tokenizer.get_vocab()
        added = set(tokenizer.get_added_vocab()) | set(tokenizer.all_special_tokens)
        if tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has no eos_token; a grammar-bound sequence could not end")
        self.eos_id: int = tokenizer.eos_token_id
        self.vocab_size = max(vocab_size or 0, max(vocabulary.values()) + 1)
        over_characters = _FALLBACK_BYTE % 0 in vocabulary
        token_bytes = _character_bytes if over_characters else _byte_level_bytes
        self._root = _Node()
        self._bytes: dict[int, bytes] = {}
        bins = torch.full((self.vocab_size,), -1, dtype=torch.long)
        for token, token_id in vocabulary.items():
            location = LOCATION_TEXT.fullmatch(token)
            if location:
                bins[token_id] = int(location[1])
            elif token not in added:
                self._add(token_bytes(token), token_id)
        missing = 256 - len({data[0] for data in self._bytes.values() if len(data) == 1})
        if missing:
            raise ValueError(
                f"the tokenizer lacks {missing} of the 256 single bytes; train it with the byte-level initial alphabet"
            )
        if over_characters:  # Gemma's runs of spaces and newlines are added tokens: no grammar has them, but texts do
            for token_id, one in tokenizer.added_tokens_decoder.items():
                if not one.special and bins[token_id] < 0:
                    self._bytes[token_id] = _character_bytes(one.content)
        self.location_bins: Tensor = bins
        """V: the bin of each location token, -1 for the others."""
        order = bins[bins >= 0].argsort()
        self.location_ids: Tensor = (bins >= 0).nonzero()[:, 0][order]
        """Token ids of the locations, by bin."""
        self._bins: list[int] = bins.tolist()  # an element of a list is read far faster than one of a tensor
        self._known: OrderedDict[Automaton, _Known] = OrderedDict()

    def _add(self, data: bytes, token_id: int) -> None:
        if not data:
            return
        self._bytes[token_id] = data
        node = self._root
        for byte in data:
            node = node.children.setdefault(byte, _Node())
        node.token_ids.append(token_id)

    def is_location(self, token_id: int) -> bool:
        return self._bins[token_id] >= 0

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes a token stands for; a location's are those of its name, a special token's none."""
        location = self._bins[token_id]
        return f"<loc_{location}>".encode() if location >= 0 else self._bytes.get(token_id, b"")

    def allowed(self, automaton: Automaton, state: int) -> Tensor:
        """V bool: tokens all of whose bytes the automaton takes from `state`; eos where it may end."""
        return self.allowed_in(GrammarState(automaton, state)).mask

    def allowed_in(self, state: GrammarState) -> Allowed:
        """What the automaton allows, whatever box is being written; found once for a state of it, then kept."""
        allowed = self._of(state.automaton).allowed
        if state.state not in allowed:
            mask = self._walk(state.automaton, state.state)
            others = (mask & (self.location_bins < 0)).nonzero()[:, 0]
            locations = state.automaton.step(state.state, LOCATION) is not None
            ids = others.tolist()
            only = ids[0] if len(ids) == 1 and not locations else -1
            likely = -1 if locations else self._likely(ids)
            allowed[state.state] = Allowed(mask, others, ids, locations, only, likely)
        return allowed[state.state]

    def run(self, state: GrammarState) -> Run:
        """The likely tokens from a state on, in which the grammar leaves no choice but how to cut them, or to end."""
        runs = self._of(state.automaton).runs
        if state.state not in runs:
            run: list[tuple[int, GrammarState]] = []
            after = state
            while len(run) < _MAX_RUN and (token := self.allowed_in(after).likely) >= 0:
                after = self.next_state(after, token)
                run.append((token, after))
            runs[state.state] = tuple(run)
        return runs[state.state]

    def _of(self, automaton: Automaton) -> _Known:
        known = self._known.get(automaton)
        if known is None:
            known = self._known[automaton] = _Known()
            while len(self._known) > _MAX_AUTOMATA:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(automaton)
        return known

    def _likely(self, token_ids: Sequence[int]) -> int:
        texts = {token: self._bytes[token] for token in token_ids if token != self.eos_id}
        longest = max(texts, key=lambda token: len(texts[token]), default=-1)
        return longest if all(texts[longest].startswith(text) for text in texts.values()) else -1

    def _walk(self, automaton: Automaton, state: int) -> Tensor:
        mask = torch.zeros(self.vocab_size, dtype=torch.bool)
        token_ids: list[int] = []
        pending = [(self._root, state)]
        while pending:
            node, here = pending.pop()
            token_ids += node.token_ids
            symbols = automaton.symbols(here)
            for byte in node.children.keys() & symbols:
                after = automaton.step(here, byte)
                if after is not None:
                    pending.append((node.children[byte], after))
        mask[token_ids] = True
        if automaton.step(state, LOCATION) is not None:
            mask[self.location_ids] = True
        if automaton.accepting(state):
            mask[self.eos_id] = True
        assert mask.any(), "an automaton's state must accept or lead on"
        return mask

    def advance(self, automaton: Automaton, state: int, token_id: int) -> int:
        """State after a token that `allowed` allows (not eos).

        Raises:
            ValueError: the token is not allowed here.
        """
        after: int | None = state
        if self._bins[token_id] >= 0:
            after = automaton.step(state, LOCATION)
        elif token_id not in self._bytes:
            after = None
        else:
            for byte in self._bytes[token_id]:
                after = automaton.step(after, byte) if after is not None else None
        if after is None:
            raise ValueError(f"token {token_id} ({self.token_bytes(token_id)!r}) is not allowed in state {state}")
        return after

    def start(self, automaton: Automaton) -> GrammarState:
        return GrammarState(automaton, automaton.start)

    def mask(self, state: GrammarState) -> Tensor:
        """V bool: `allowed`, without locations that would swap the corners of the box being written."""
        allowed = self.allowed(state.automaton, state.state)
        lowest = state.lowest_bin
        if lowest == 0:
            return allowed
        return allowed & ((self.location_bins < 0) | (self.location_bins >= lowest))

    def next_state(self, state: GrammarState, token_id: int) -> GrammarState:
        """State after a token that `mask` allows (not eos)."""
        after = self.advance(state.automaton, state.state, token_id)
        location = self._bins[token_id]
        if location < 0:
            return GrammarState(state.automaton, after)
        corners = (*state.corners, location) if state.corner else (location,)
        return GrammarState(state.automaton, after, corners)
