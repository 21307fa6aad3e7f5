"""What one prompt's decoding keeps: its running sequences, its finished one, and when it is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from vlm.token_masks import Automaton, GrammarState, TokenMasks

if TYPE_CHECKING:
    from vlm.generate import Decoding

__all__ = ["Hypothesis", "Search"]


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A sequence so far; `total` is the sum of its log-probabilities."""

    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    confidences: tuple[float, ...] = ()
    total: float = 0.0
    grammar: GrammarState | None = None
    finished: bool = False


class Search:
    """Greedy, sampled or beam search for one prompt: fed the best next tokens of each running sequence,
    it says which sequences go on with which token."""

    def __init__(self, automaton: Automaton | None, decoding: Decoding, masks: TokenMasks) -> None:
        self.decoding = decoding
        self.masks = masks
        self.length_penalty = decoding.length_penalty or 0.0
        self.beams = [Hypothesis(grammar=None if automaton is None else masks.start(automaton))]
        self.best: Hypothesis | None = None
        self.done = False
        self.generator: torch.Generator | None = None
        if decoding.temperature > 0:
            self.generator = torch.Generator().manual_seed(decoding.seed)

    def running(self, beam: int) -> Hypothesis | None:
        return self.beams[beam] if beam < len(self.beams) and not self.done else None

    def advance(self, candidates: Sequence[Sequence[tuple[int, float, float]]]) -> list[tuple[int, int]]:
        """Take one step.

        Args:
            candidates: for each running sequence its (token, log-probability, confidence), best first.

        Returns:
            (parent, token) of each sequence that goes on; empty when the search is done.
        """
        width = self.decoding.num_beams
        options = [
            (beam.total + logprob, parent, token, logprob, confidence)
            for parent, (beam, best) in enumerate(zip(self.beams, candidates, strict=False))
            for token, logprob, confidence in (best[:1] if width == 1 else best)
            if logprob > float("-inf")
        ]
        options.sort(key=lambda option: -option[0])  # stable: ties go to the better parent, then the better token
        going: list[tuple[int, int]] = []
        beams: list[Hypothesis] = []
        for _, parent, token, logprob, confidence in options:
            grown = self._grow(self.beams[parent], token, logprob, confidence)
            if grown.finished:
                if self.best is None or self._rank(grown) > self._rank(self.best):
                    self.best = grown
            elif len(beams) < width:
                beams.append(grown)
                going.append((parent, token))
        self.beams = beams or self.beams
        length = len(self.beams[0].token_ids)
        self.done = not beams or length >= self.decoding.max_new_tokens or self._settled()
        return [] if self.done else going

    def result(self) -> Hypothesis:
        """The best finished sequence, or, where the limit cut every one, the best so far."""
        return self.best or self.beams[0]

    def _grow(self, beam: Hypothesis, token: int, logprob: float, confidence: float) -> Hypothesis:
        finished = token == self.masks.eos_id
        grammar = beam.grammar
        return Hypothesis(
            (*beam.token_ids, token),
            (*beam.logprobs, logprob),
            (*beam.confidences, confidence),
            beam.total + logprob,
            grammar if finished or grammar is None else self.masks.next_state(grammar, token),
            finished,
        )

    def _rank(self, hypothesis: Hypothesis) -> float:
        return hypothesis.total / float(len(hypothesis.token_ids) ** self.length_penalty)

    def _settled(self) -> bool:
        """No running sequence can still overtake the best finished one: totals only fall, and the length
        that divides them is at most the limit."""
        if self.best is None:
            return False
        longest = self.decoding.max_new_tokens if self.length_penalty > 0 else len(self.beams[0].token_ids)
        bound = self.beams[0].total / float(longest**self.length_penalty)
        return bound <= self._rank(self.best)
