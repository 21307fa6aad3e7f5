"""The automaton of a grammar takes what the regular expression of the same grammar matches, and nothing else."""

from __future__ import annotations

import random
import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.grammar import (
    BOX,
    LOCATION,
    Choice,
    FreeText,
    Grammar,
    Literal,
    Location,
    Repeat,
    Sequence,
    compile_grammar,
)

LETTERS = "ab;ê"
LEAVES = st.one_of(st.text(LETTERS, min_size=1, max_size=2).map(Literal), st.just(Location()))


def _repeat(item: Grammar, separator: Grammar | None, least: int, more: int | None) -> Repeat:
    return Repeat(item, separator, least, None if more is None else least + more)


def _wrap(inner: st.SearchStrategy[Grammar]) -> st.SearchStrategy[Grammar]:
    several = st.lists(inner, min_size=1, max_size=3).map(tuple)
    least, more = st.integers(1, 2), st.sampled_from([0, 1, None])
    return st.one_of(
        several.map(Choice),
        several.map(Sequence),
        st.builds(_repeat, inner, st.one_of(st.none(), LEAVES), least, more),
    )


GRAMMARS = st.recursive(LEAVES, _wrap, max_leaves=5)
TEXT = st.lists(st.sampled_from([*LETTERS, "<loc_0>", "<loc_999>", "<loc_1000>", "<"]), max_size=5).map("".join)


def pattern(grammar: Grammar) -> str:
    match grammar:
        case Literal(text):
            return re.escape(text)
        case Location():
            return "<loc_(?:0|[1-9][0-9]{0,2})>"
        case FreeText():
            return r"[^\s\x00-\x1f\x7f-\x9f][\s\S]*"
        case Choice(options):
            return f"(?:{'|'.join(map(pattern, options))})"
        case Sequence(parts):
            return "".join(map(pattern, parts))
        case Repeat(item, separator, least, most):
            one = pattern(item)
            more = f"{'' if separator is None else pattern(separator)}{one}"
            return f"(?:{one}(?:{more}){{{least - 1},{'' if most is None else most - 1}}})"


def a_word_of(grammar: Grammar, rng: random.Random) -> str:
    match grammar:
        case Literal(text):
            return text
        case Location():
            return f"<loc_{rng.randrange(1000)}>"
        case FreeText():
            return "text"
        case Choice(options):
            return a_word_of(rng.choice(options), rng)
        case Sequence(parts):
            return "".join(a_word_of(part, rng) for part in parts)
        case Repeat(item, separator, least, most):
            number = rng.randint(least, least + 2 if most is None else most)
            words = [a_word_of(item, rng)]
            for _ in range(number - 1):
                words += ["" if separator is None else a_word_of(separator, rng), a_word_of(item, rng)]
            return "".join(words)


@given(GRAMMARS, TEXT)
@settings(deadline=None)
def test_accepts_what_the_regular_expression_matches(grammar: Grammar, text: str) -> None:
    assert compile_grammar(grammar).accepts(text) == (re.fullmatch(pattern(grammar), text) is not None)


@given(GRAMMARS, st.integers(0, 9), TEXT)
@settings(deadline=None)
def test_accepts_its_own_words_and_what_is_near_as_the_expression_does(grammar: Grammar, seed: int, more: str) -> None:
    automaton = compile_grammar(grammar)
    rng = random.Random(seed)
    word = a_word_of(grammar, rng)
    assert automaton.accepts(word)
    cut = rng.randrange(len(word))
    for near in (word[:cut], word[:cut] + word[cut + 1 :], word + more):
        assert automaton.accepts(near) == (re.fullmatch(pattern(grammar), near) is not None)


@given(GRAMMARS, st.integers(0, 9))
@settings(deadline=None)
def test_no_state_is_a_dead_end(grammar: Grammar, seed: int) -> None:
    automaton = compile_grammar(grammar)
    rng = random.Random(seed)
    state: int | None = automaton.start
    for _ in range(30):
        assert state is not None
        symbols = sorted(automaton.symbols(state))
        assert symbols or automaton.accepting(state)
        assert all((automaton.step(state, symbol) is not None) == (symbol in symbols) for symbol in range(LOCATION + 1))
        if not symbols:
            break
        state = automaton.step(state, rng.choice(symbols))


@given(st.text())
@settings(deadline=None, max_examples=200)
def test_free_text_is_any_text_that_begins_with_a_visible_character(text: str) -> None:
    visible = text != "" and not text[0].isspace() and unicodedata.category(text[0]) != "Cc"
    assert compile_grammar(FreeText()).accepts(text) == visible


def test_free_text_begins_with_every_character_that_strip_leaves() -> None:
    automaton = compile_grammar(FreeText())
    for code in (*range(0x3100), *range(0xD7F0, 0xD800), *range(0xE000, 0xE010), 0xFFFF, 0x10000, 0x10FFFF):
        visible = chr(code).strip() != "" and unicodedata.category(chr(code)) != "Cc"
        assert automaton.accepts(chr(code)) == visible, hex(code)


@pytest.mark.parametrize(
    "bytes_", [b"\xc3", b"\x80", b"\xc0\xaf", b"\xed\xa0\x80", b"\xe0\x80\xaf", b"\xf4\x90\x80\x80"]
)
def test_free_text_does_not_end_in_bytes_that_are_no_characters(bytes_: bytes) -> None:
    automaton = compile_grammar(FreeText())
    for before in (b"", b"a"):
        state: int | None = automaton.start
        for byte in before + bytes_:
            state = None if state is None else automaton.step(state, byte)
        assert state is None or not automaton.accepting(state)


def test_letters_of_a_location_are_letters_where_none_may_stand() -> None:
    assert compile_grammar(FreeText()).accepts("the <loc_5> label")
    assert compile_grammar(Literal("<loc_5>")).accepts("<loc_5>")
    assert not compile_grammar(Location()).accepts("<loc_1000>")
    assert compile_grammar(Location()).step(0, ord("<")) is None


def test_the_corner_that_comes_next() -> None:
    item = Sequence((Literal("coat"), BOX))
    automaton = compile_grammar(Choice((Literal("none"), Repeat(item, Literal(";"), max=3))))
    state: int | None = automaton.start
    corners = []
    for symbol in [*b"coat", *[LOCATION] * 4, *b";coat", *[LOCATION] * 4]:
        assert state is not None
        corners.append(automaton.box_corner(state))
        state = automaton.step(state, symbol)
    assert corners == [None] * 4 + [0, 1, 2, 3] + [None] * 5 + [0, 1, 2, 3]


def test_boxes_in_a_row_begin_anew() -> None:
    automaton = compile_grammar(Repeat(BOX, max=2))
    state: int | None = automaton.start
    corners = []
    for _ in range(8):
        assert state is not None
        corners.append((automaton.box_corner(state), automaton.accepting(state)))
        state = automaton.step(state, LOCATION)
    assert [corner for corner, _ in corners] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert [index for index, (_, accepting) in enumerate(corners) if accepting] == [4]
    assert state is not None
    assert (automaton.symbols(state), automaton.accepting(state)) == (frozenset(), True)


def test_equal_grammars_share_their_automaton() -> None:
    first, second = (Choice([Literal("coat"), Repeat(BOX, Literal(";"))]) for _ in range(2))  # type: ignore[arg-type]
    assert first is not second
    assert compile_grammar(first) is compile_grammar(second)
    assert compile_grammar(first) is not compile_grammar(Choice((Literal("coat"), Repeat(BOX, Literal(","))))), "other"


def test_nodes_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Literal\.text is empty; leave the node out"):
        Literal("")
    with pytest.raises(ValueError, match=r"Choice\.options is empty"):
        Choice(())
    with pytest.raises(ValueError, match=r"Sequence\.parts is empty"):
        Sequence(())
    for least, most in ((0, None), (0, 2), (3, 2), (1, 0)):
        with pytest.raises(ValueError, match=f"Repeat takes {least} to {most}; expected 1 <= min <= max"):
            Repeat(BOX, min=least, max=most)
