"""What one prompt's decoding keeps: its running sequences, its finished one, and when it is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from vlm.token_masks import Automaton, GrammarState, Run, TokenMasks

if TYPE_CHECKING:
    from vlm.generate import Decoding

__all__ = ["Candidate", "Hypothesis", "Search"]

Candidate = tuple[int, float, float]
"""Token, log-probability and confidence."""


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

    @property
    def greedy(self) -> bool:
        """Whether it takes the best token and no other. Sampling draws even where one token may come, so that seeds
        keep their meaning, and beams are compared token by token."""
        return self.decoding.num_beams == 1 and self.generator is None

    def run(self) -> Run:
        """Tokens that a greedy search will probably go on with, though it has not taken them."""
        grammar = self.beams[0].grammar
        if grammar is None or not self.greedy:
            return ()
        return self.masks.run(grammar)[: self.decoding.max_new_tokens - len(self.beams[0].token_ids) - 1]

    def forced(self) -> list[int]:
        """Take the tokens that alone may come, and thus have all the probability, as long as there are such."""
        taken: list[int] = []
        while not self.done and self.greedy and (grammar := self.beams[0].grammar) is not None:
            only = self.masks.allowed_in(grammar).only
            if only < 0:
                break
            self.advance([[(only, 0.0, 0.0)]])
            taken.append(only)
        return taken

    def go(self, candidates: Sequence[Sequence[Candidate]], run: Run) -> list[tuple[int, list[int]]]:
        """Take a step, or as many as a run turns out to be right.

        Args:
            candidates: for each running sequence those that `advance` takes; of a greedy search also for the run: after
                each of its tokens the next.

        Returns:
            Of each sequence that goes on the parent, and the tokens that the model has not seen; empty when the search
            is done.
        """
        if not self.greedy:
            return [(parent, [token]) for parent, token in self.advance(candidates)]
        likely = [*(token for token, _ in run), None]
        for best, token in zip(candidates, likely, strict=True):
            going = self.advance([best])
            if not going or going[0][1] != token:
                break
        unseen = [token for _, token in going]
        unseen += self.forced()
        return [] if self.done else [(0, unseen)]

    def advance(self, candidates: Sequence[Sequence[Candidate]]) -> list[tuple[int, int]]:
        """Take one step.

        Args:
            candidates: for each running sequence its own, best first.

        Returns:
            (parent, token) of each sequence that goes on; empty when the search is done.
        """
        width = self.decoding.num_beams
        if width == 1:
            return self._advance_alone(*candidates[0][0])
        options = [
            (beam.total + logprob, parent, token, logprob, confidence)
            for parent, (beam, best) in enumerate(zip(self.beams, candidates, strict=False))
            for token, logprob, confidence in best
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

    def _advance_alone(self, token: int, logprob: float, confidence: float) -> list[tuple[int, int]]:
        """`advance` without beams, which most searches do and every step waits for."""
        if not logprob > float("-inf"):  # nothing may come
            self.done = True
            return []
        grown = self._grow(self.beams[0], token, logprob, confidence)
        if grown.finished:
            self.best = grown
        else:
            self.beams = [grown]
        self.done = grown.finished or len(grown.token_ids) >= self.decoding.max_new_tokens
        return [] if self.done else [(0, token)]

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
