"""A mask allows exactly the tokens whose bytes the grammar takes, and what follows it always parses."""

from __future__ import annotations

import codecs
import random

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tasks import TASKS
from tasks.base import escape
from tasks.grammar import Choice, FreeText, Literal, Location, Repeat, Sequence, compile_grammar
from vlm.processor import OneLookProcessor
from vlm.token_masks import LOCATION, GrammarState, TokenMasks

BOX = Sequence((Location(), Location(), Location(), Location()))


@pytest.fixture(scope="module")
def masks(tiny_processor: OneLookProcessor) -> TokenMasks:
    return TokenMasks(tiny_processor.tokenizer)


def walk(masks: TokenMasks, state: GrammarState, rng: random.Random, limit: int) -> tuple[list[int], bool]:
    """Random allowed tokens; (tokens without eos, whether eos came)."""
    tokens: list[int] = []
    while len(tokens) < limit:
        token = rng.choice(masks.mask(state).nonzero()[:, 0].tolist())
        if token == masks.eos_id:
            return tokens, True
        tokens.append(token)
        state = masks.next_state(state, token)
    return tokens, False


def spell(masks: TokenMasks, tokens: list[int]) -> bytes:
    return b"".join(map(masks.token_bytes, tokens))


@pytest.mark.parametrize("text", ["a tan t-shirt", "crêpe — 裙子 👗 \n\t", "coat<loc_5><loc_999>", " \u00ad\x00\x7f"])
def test_token_bytes_spell_the_text(masks: TokenMasks, tiny_processor: OneLookProcessor, text: str) -> None:
    assert spell(masks, tiny_processor.encode_prompt(text)) == text.encode()


def test_mask_is_what_stepping_byte_by_byte_allows(masks: TokenMasks) -> None:
    automaton = compile_grammar(Choice((Literal("none"), Repeat(Sequence((Literal("coat"), BOX)), Literal(";")))))
    rng = random.Random(0)
    state = automaton.start
    for _ in range(30):
        allowed = masks.allowed(automaton, state)
        for token in range(masks.vocab_size):
            if token == masks.eos_id:
                expected = automaton.accepting(state)
            elif masks.location_bins[token] >= 0:
                expected = automaton.step(state, LOCATION) is not None
            else:
                here: int | None = state
                for byte in masks.token_bytes(token):
                    here = None if here is None else automaton.step(here, byte)
                expected = here is not None and masks.token_bytes(token) != b""
            assert bool(allowed[token]) == expected, masks.token_bytes(token)
        following = [t for t in allowed.nonzero()[:, 0].tolist() if t != masks.eos_id]
        if not following:
            break
        state = masks.advance(automaton, state, rng.choice(following))


def test_masks_are_cached(masks: TokenMasks) -> None:
    automaton = compile_grammar(FreeText())
    assert masks.allowed(automaton, automaton.start) is masks.allowed(automaton, automaton.start)


def test_tokens_and_locations_make_the_mask(masks: TokenMasks) -> None:
    automaton = compile_grammar(Choice((Literal("none"), Repeat(Sequence((Literal("coat"), BOX)), Literal(";")))))
    rng = random.Random(1)
    state = masks.start(automaton)
    located = 0
    for _ in range(20):
        allowed = masks.allowed_in(state)
        mask = torch.zeros(masks.vocab_size, dtype=torch.bool)
        mask[allowed.others] = True
        mask[masks.location_ids] |= allowed.locations
        assert torch.equal(mask, allowed.mask)
        located += allowed.locations
        following = [t for t in masks.mask(state).nonzero()[:, 0].tolist() if t != masks.eos_id]
        if not following:
            break
        state = masks.next_state(state, rng.choice(following))
    assert located


def test_free_text_has_no_special_tokens_and_is_valid_utf8(masks: TokenMasks, tiny_processor: OneLookProcessor) -> None:
    automaton = compile_grammar(FreeText())
    special = torch.tensor([i for t, i in tiny_processor.tokenizer.get_added_vocab().items() if t != "<eos>"])
    rng = random.Random(0)
    for _ in range(100):
        tokens, _ = walk(masks, masks.start(automaton), rng, 30)
        assert not set(tokens) & set(special.tolist())
        # Only a last character can be unfinished.
        text = codecs.getincrementaldecoder("utf-8")("strict").decode(spell(masks, tokens))
        assert text
    start = masks.allowed(automaton, automaton.start)
    assert not start[special].any()
    assert not start[masks.eos_id]


def test_second_corner_is_never_left_of_or_above_the_first(masks: TokenMasks) -> None:
    automaton = compile_grammar(Repeat(BOX, min=1, max=3))
    rng = random.Random(0)
    for _ in range(50):
        tokens, _ = walk(masks, masks.start(automaton), rng, 12)
        bins = masks.location_bins[tokens].tolist()
        for start in range(0, len(bins) - 3, 4):
            x1, y1, x2, y2 = bins[start : start + 4]
            assert x2 >= x1
            assert y2 >= y1


def test_advance_refuses_what_is_not_allowed(masks: TokenMasks, tiny_processor: OneLookProcessor) -> None:
    automaton = compile_grammar(Literal("none"))
    [letter] = tiny_processor.encode_prompt("x")
    for token in (letter, masks.eos_id, int(masks.location_ids[3])):
        with pytest.raises(ValueError, match="not allowed"):
            masks.advance(automaton, automaton.start, token)


INPUTS = {
    "caption": {"detail": "brief"},
    "vqa": {"question": "what colour are the boots?"},
    "grounding": {"phrase": "the red bag"},
    "detection": {},
    "attributes": {"garment": "coat", "box": None, "attributes": ("colour", "pattern", "sleeve")},
}


@pytest.mark.parametrize("name", sorted(TASKS))
def test_whatever_the_masks_allow_the_task_parses(masks: TokenMasks, name: str) -> None:
    task = TASKS[name]
    inputs = INPUTS[name]
    automaton = compile_grammar(task.grammar(inputs))
    rng = random.Random(0)
    for _ in range(60):
        tokens, finished = walk(masks, masks.start(automaton), rng, 40)
        text = spell(masks, tokens).decode("utf-8", "ignore")
        task.parse(text, inputs, (640, 480), truncated=not finished)


def test_every_target_is_allowed(masks: TokenMasks, tiny_processor: OneLookProcessor) -> None:
    """The tokens of a right answer, as training sees them, pass the mask one after the other."""
    targets = {
        "caption": "A woman in a crêpe dress.",
        "vqa": escape("the <loc_5> label"),
        "grounding": "<loc_1><loc_2><loc_1><loc_2><loc_0><loc_0><loc_999><loc_999>",
        "detection": "coat<loc_100><loc_200><loc_300><loc_400>;boots<loc_1><loc_2><loc_3><loc_4>",
        "attributes": "colour: tan, brown; pattern: solid; sleeve: not visible",
    }
    for name, target in targets.items():
        state = masks.start(compile_grammar(TASKS[name].grammar(INPUTS[name])))
        for token in tiny_processor.encode_target(target):
            assert masks.mask(state)[token], (name, masks.token_bytes(token))
            if token != masks.eos_id:
                state = masks.next_state(state, token)


def test_tokenizers_that_cannot_spell_every_byte_are_refused() -> None:
    def build(vocabulary: dict[str, int]) -> PreTrainedTokenizerFast:
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")

    with pytest.raises(ValueError, match="lacks 254 of the 256"):
        TokenMasks(build({"a": 0, "b": 1}))
    with pytest.raises(ValueError, match="not byte-level"):
        TokenMasks(build({"▁a": 0}))
    alphabet = {letter: i for i, letter in enumerate(pre_tokenizers.ByteLevel.alphabet())}
    assert TokenMasks(build(alphabet)).vocab_size == 257
