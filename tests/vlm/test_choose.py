"""The next token: locations stand together, and each counts its neighbours in."""

from __future__ import annotations

import pytest
import torch

from tasks import TASKS
from tasks.grammar import Choice, Literal, compile_grammar
from vlm.api import VLM
from vlm.choose import LOCATION_WINDOW, Chooser
from vlm.generate import Decoding
from vlm.search import Search
from vlm.token_masks import TokenMasks


@pytest.mark.parametrize("index", [0, 4, 500, 995, 999])
def test_the_window_of_a_location(tiny: VLM, index: int) -> None:
    masks = tiny.family.masks  # type: ignore[attr-defined]
    logprobs = torch.randn(masks.vocab_size, generator=torch.Generator().manual_seed(0)).mul(2).log_softmax(-1)
    chosen = masks.location_ids[index]
    window = masks.location_ids[max(0, index - LOCATION_WINDOW) : index + LOCATION_WINDOW + 1]
    found = Chooser(masks, torch.empty(masks.vocab_size, 1)).confidences(
        chosen.reshape(1, 1), logprobs[chosen].reshape(1, 1), logprobs[None, masks.location_ids]
    )
    assert float(found) == pytest.approx(float(logprobs[window].logsumexp(0)), abs=1e-3)


@pytest.mark.parametrize(("window", "wanted"), [(None, "none"), (0, 700), (5, 302)])
def test_locations_together_outweigh_a_single_token(tiny: VLM, window: int | None, wanted: str | int) -> None:
    """ "none" beats every single bin, but not all of them; among them a hill beats a higher spike, with a window."""
    masks: TokenMasks = tiny.family.masks  # type: ignore[attr-defined]
    automaton = compile_grammar(TASKS["grounding"].grammar({"phrase": "the bag"}))
    search = Search(automaton, Decoding(max_new_tokens=9, location_window=window), masks)
    allowed = masks.mask(masks.start(automaton))
    none = [i for i in allowed.nonzero()[:, 0].tolist() if masks.token_bytes(i).startswith(b"n")]
    logits = torch.full((masks.vocab_size,), -20.0)
    logits[none] = 1.0
    logits[masks.location_ids[298:307]] = 0.0
    logits[masks.location_ids[700]] = 0.5
    [hypothesis] = search.beams
    # A state and an embedding of width 1, whose product the logits are.
    [[(token, logprob, confidence)]] = Chooser(masks, logits[:, None])(torch.ones(1, 1), [(search, hypothesis)])
    if isinstance(wanted, str):
        assert token in none
    else:
        assert token == masks.location_ids[wanted]
        assert logprob < confidence + 1e-6
    assert logprob == pytest.approx(float(logits.masked_fill(~allowed, -torch.inf).log_softmax(-1)[token]))


def test_the_only_token_that_may_come_is_taken_without_a_score(tiny: VLM) -> None:
    """And sequences that have a choice beside it are scored as they are alone."""
    masks: TokenMasks = tiny.family.masks  # type: ignore[attr-defined]
    table = torch.randn(masks.vocab_size, 4, generator=torch.Generator().manual_seed(0))
    bound, free_to = (
        Search(compile_grammar(grammar), Decoding(max_new_tokens=9), masks)
        for grammar in (Literal("~"), Choice((Literal("short"), Literal("long"))))
    )
    running = [(search, search.beams[0]) for search in (bound, free_to)]
    chooser, hidden = Chooser(masks, table), torch.tensor([[torch.nan] * 4, [1.0, 2.0, 3.0, 4.0]])
    [forced], free = chooser(hidden, running)
    assert masks.token_bytes(forced[0]) == b"~"
    assert forced[1:] == (0.0, 0.0)
    assert free == chooser(hidden[1:], running[1:])[0]
    assert free[0][1] < 0


def test_sequences_in_one_state_are_scored_as_each_alone(tiny: VLM) -> None:
    masks: TokenMasks = tiny.family.masks  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(1)
    table, hidden = (torch.randn(size, 4, generator=generator) for size in (masks.vocab_size, 3))
    automaton = compile_grammar(Choice((Literal("short"), Literal("long"), Literal("elbow"))))
    searches = [Search(automaton, Decoding(max_new_tokens=9), masks) for _ in range(3)]
    chooser = Chooser(masks, table)
    together = chooser(hidden, [(search, search.beams[0]) for search in searches])
    for n, search in enumerate(searches):
        [[(token, logprob, _)]] = chooser(hidden[n : n + 1], [(search, search.beams[0])])
        assert together[n][0][0] == token
        assert together[n][0][1] == pytest.approx(logprob, abs=1e-6)
