"""Decoder states to the next tokens: what the grammar allows is scored, and the best (or a drawn one) is taken.

The product with the whole vocabulary is the largest of a decoding step, and most of what it gives a grammar then
forbids: inside a list of attributes a few dozen tokens are allowed. So a sequence's state meets only the tokens that
may follow, unless they are many.
"""

# N sequences, U columns (tokens that are scored), K candidates kept per sequence, V vocabulary, L locations, D width,
# R sequences that may go on with a location

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vlm.search import Candidate, Hypothesis, Search
from vlm.token_masks import Allowed, TokenMasks

__all__ = ["LOCATION_WINDOW", "Chooser", "Running"]

LOCATION_WINDOW = 10
"""A location's confidence is the probability of landing within this many bins of it. A thousand bins share
the mass of one edge, and the model is trained on targets spread over several, so the probability of the
exact bin says little; within +-10 bins is within 1 % of the image's side."""

FEW = 512
"""Most tokens, locations apart, that are picked out of the vocabulary at every step: for more, all of it is faster."""

PART_USES = 3
"""After so many steps in one state of free text its tokens are picked out for all that follow: two thirds of the
vocabulary, the largest thing that a step reads."""

Running = tuple[Search, Hypothesis]


class _Kind(IntEnum):
    """Which tokens of the vocabulary meet a sequence's state."""

    FEW_TOKENS = 0
    LOCATIONS = 1  # and few others
    ALL = 2
    FORCED = 3  # one token: nothing is to be scored


@dataclass
class _Scores:
    """Logits of N sequences, -inf where a token is not allowed.

    Attributes:
        ids_NU: tokens of each sequence's columns, the last of which may be padding; None where the columns are the
            vocabulary.
        locations: the columns of the locations, by bin; None where no location is allowed. As a slice they come first.
    """

    logits_NU: Tensor
    ids_NU: list[list[int]] | None
    locations: slice | Tensor | None


@dataclass
class _Part:
    """A part of the vocabulary that is scored again and again."""

    allowed: Allowed  # kept, so that its id stays its own
    uses: int = 0
    table_UD: Tensor | None = None


class Chooser:
    """Decoder states to each sequence's best (or drawn) next tokens.

    Args:
        table_VD: the tied embedding, which scores a state against every token.
    """

    def __init__(self, masks: TokenMasks, table_VD: Tensor) -> None:
        device = table_VD.device
        self.masks = masks
        self.table_VD = table_VD
        self.location_ids_L = masks.location_ids.to(device)
        self.location_bins_V = masks.location_bins.to(device)
        self.bins_L = torch.arange(len(self.location_ids_L), device=device)
        self._locations_LD: Tensor | None = None
        self._location_ids: list[int] = masks.location_ids.tolist()
        self._reach: dict[int, tuple[Tensor, Tensor]] = {}
        self._parts: dict[int, _Part] = {}

    def __call__(self, hidden_ND: Tensor, running: Sequence[Running]) -> list[list[Candidate]]:
        """For each sequence its candidates, best first."""
        allowed = [None if h.grammar is None else self.masks.allowed_in(h.grammar) for _, h in running]
        kinds = [self._kind(item) for item in allowed]
        found: list[list[Candidate]] = [[] for _ in running]
        for n, (item, (search, _)) in enumerate(zip(allowed, running, strict=True)):
            if item is not None and item.only >= 0 and search.greedy:
                kinds[n], found[n] = _Kind.FORCED, [(item.only, 0.0, 0.0)]
        for kind in {*kinds} - {_Kind.FORCED}:
            members = [n for n, other in enumerate(kinds) if other is kind]
            part_ND = hidden_ND if len(members) == len(kinds) else hidden_ND[members]
            part = [running[n] for n in members]
            scores = self._score(kind, part_ND, part, [allowed[n] for n in members])
            for n, candidates in zip(members, self.choose(scores, part), strict=True):
                found[n] = candidates
        return found

    def from_logits(self, logits_NV: Tensor, running: Sequence[Running]) -> list[list[Candidate]]:
        """As a call, from logits over the whole vocabulary that a model has given."""
        allowed = [None if h.grammar is None else self.masks.allowed_in(h.grammar) for _, h in running]
        return self.choose(self._restrict(logits_NV.float(), running, allowed), running)

    @staticmethod
    def _kind(allowed: Allowed | None) -> _Kind:
        if allowed is None or len(allowed.ids) > FEW:
            return _Kind.ALL
        return _Kind.LOCATIONS if allowed.locations else _Kind.FEW_TOKENS

    # -- scores --------------------------------------------------------------------------------------

    def _score(
        self, kind: _Kind, hidden_ND: Tensor, running: Sequence[Running], allowed: Sequence[Allowed | None]
    ) -> _Scores:
        if kind is _Kind.ALL:
            return self._score_all(hidden_ND, running, allowed)
        known = [item for item in allowed if item is not None]
        if kind is _Kind.FEW_TOKENS:
            few_NU = self._score_few(hidden_ND, [item.others for item in known])
            return _Scores(few_NU, [item.ids for item in known], None)
        if self._locations_LD is None:
            self._locations_LD = self.table_VD[self.location_ids_L]
        logits_NL = F.linear(hidden_ND, self._locations_LD).float()
        lowest = [h.grammar.lowest_bin for _, h in running if h.grammar is not None]
        if any(lowest):
            logits_NL.masked_fill_(self.bins_L < torch.tensor(lowest).to(self.bins_L)[:, None], -torch.inf)
        columns = slice(0, len(self.bins_L))
        if not any(item.ids for item in known):
            return _Scores(logits_NL, [self._location_ids] * len(known), columns)
        few_NU = self._score_few(hidden_ND, [item.others for item in known])
        ids_NU = [[*self._location_ids, *item.ids] for item in known]
        return _Scores(torch.cat([logits_NL, few_NU], dim=1), ids_NU, columns)

    def _score_few(self, hidden_ND: Tensor, token_ids: Sequence[Tensor]) -> Tensor:
        first = token_ids[0]
        if all(ids is first for ids in token_ids):  # all in one state of one grammar, as when attributes are told
            return F.linear(hidden_ND, self.table_VD[first.to(self.table_VD.device)]).float()
        ids_NU = pad_sequence(list(token_ids), batch_first=True, padding_value=-1).to(self.table_VD.device)
        logits_NU = (self.table_VD[ids_NU.clamp(min=0)] @ hidden_ND[:, :, None])[..., 0].float()
        if len({len(ids) for ids in token_ids}) > 1:
            logits_NU = logits_NU.masked_fill(ids_NU < 0, -torch.inf)
        return logits_NU

    def _score_all(self, hidden_ND: Tensor, running: Sequence[Running], allowed: Sequence[Allowed | None]) -> _Scores:
        first = allowed[0]
        if first is not None and not first.locations and all(item is first for item in allowed):
            part_UD = self._part(first)
            if part_UD is not None:
                return _Scores(F.linear(hidden_ND, part_UD).float(), [first.ids] * len(allowed), None)
        return self._restrict(F.linear(hidden_ND, self.table_VD).float(), running, allowed)

    def _part(self, allowed: Allowed) -> Tensor | None:
        """The embeddings of what is allowed, for a state that comes often."""
        part = self._parts.setdefault(id(allowed), _Part(allowed))
        part.uses += 1
        if part.table_UD is None and part.uses >= PART_USES:
            part.table_UD = self.table_VD[allowed.others.to(self.table_VD.device)]
        return part.table_UD

    def _restrict(self, logits_NV: Tensor, running: Sequence[Running], allowed: Sequence[Allowed | None]) -> _Scores:
        if any(item is not None for item in allowed):
            free_V = torch.ones(self.masks.vocab_size, dtype=torch.bool)
            masks = [free_V if h.grammar is None else self.masks.mask(h.grammar) for _, h in running]
            logits_NV = logits_NV.masked_fill(~torch.stack(masks).to(logits_NV.device), -torch.inf)
        located = any(item is None or item.locations for item in allowed)
        return _Scores(logits_NV, None, self.location_ids_L if located else None)

    # -- choice --------------------------------------------------------------------------------------

    def choose(self, scores: _Scores, running: Sequence[Running]) -> list[list[Candidate]]:
        logprobs_NU = scores.logits_NU.log_softmax(-1)
        beams = max([search.decoding.num_beams for search, _ in running])
        # Twice the beams: even if every beam's best token is the end, as many go on.
        best = min(2 * beams, logprobs_NU.shape[1])
        columns_NK = _argmax(logprobs_NU) if beams == 1 else logprobs_NU.topk(best, dim=-1).indices
        if scores.locations is not None:
            self._locate(columns_NK, logprobs_NU, scores.locations, running)
        self._sample(columns_NK, logprobs_NU, running)
        chosen_NK = logprobs_NU.gather(-1, columns_NK)
        ids, chosen = columns_NK.tolist(), chosen_NK.tolist()
        if scores.ids_NU is not None:
            ids = [
                [tokens[column] if column < len(tokens) else -1 for column in part]
                for part, tokens in zip(ids, scores.ids_NU, strict=True)
            ]
        confidences = chosen
        if scores.locations is not None and any(self.masks.is_location(token) for part in ids for token in part):
            ids_NK = torch.tensor(ids, device=columns_NK.device)
            confidences = self.confidences(ids_NK, chosen_NK, logprobs_NU[:, scores.locations]).tolist()
        return [list(zip(*part, strict=True)) for part in zip(ids, chosen, confidences, strict=True)]

    def confidences(self, ids_NK: Tensor, chosen_NK: Tensor, locations_NL: Tensor) -> Tensor:
        """What was `chosen`, but a location counts its neighbours among `locations` in; all are log-probabilities."""
        bins_NK = self.location_bins_V[ids_NK]
        reach = _reach(bins_NK, LOCATION_WINDOW, len(self.bins_L))
        mass_NK = _between(_cumulative(locations_NL.exp()), *reach).clamp(max=1.0)
        # The difference of two sums can round below the bin's own probability.
        windowed_NK = torch.maximum(mass_NK.log(), chosen_NK)
        return torch.where(bins_NK < 0, chosen_NK, windowed_NK)

    def _locate(
        self, columns_NK: Tensor, logprobs_NU: Tensor, locations: slice | Tensor, running: Sequence[Running]
    ) -> None:
        """Put the location that greedy search takes first, where locations together outweigh every other token.

        One edge's probability is spread over many bins, so that a plain argmax takes "none", or the end, however
        unlikely, before any of them.
        """
        windows = {n: window for n, item in enumerate(running) if (window := self._window(*item)) is not None}
        if not windows:
            return
        rows = list(windows)
        logprobs_RU = logprobs_NU if len(rows) == len(running) else logprobs_NU[rows]
        other_R1, column_R1 = self._best_other(logprobs_RU, locations)
        logprobs_RL = logprobs_RU[:, locations]
        cumulative_RL = _cumulative(logprobs_RL.exp())
        together_R1 = cumulative_RL[:, -1:]
        within_RL = _between(cumulative_RL, *self._reach_of_all(list(windows.values())))
        within_RL = within_RL.masked_fill(logprobs_RL == -torch.inf, -1.0)
        # Of a plateau (few bins hold all there is) the middle, which is where the mass lies.
        best_RL = within_RL >= within_RL.amax(-1, keepdim=True) - 1e-6 * together_R1
        so_far_RL = best_RL.cumsum(-1)
        bin_R1 = (so_far_RL <= so_far_RL[:, -1:] // 2).sum(-1, keepdim=True)
        located_R1 = bin_R1 if isinstance(locations, slice) else self.location_ids_L[bin_R1]
        columns_NK[rows, :1] = torch.where(other_R1.exp() >= together_R1, column_R1, located_R1)

    def _best_other(self, logprobs_RU: Tensor, locations: slice | Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability and column of each row's best token that is no location."""
        if isinstance(locations, slice):
            if locations.stop == logprobs_RU.shape[1]:  # within a box nothing else comes
                return logprobs_RU.new_full((1, 1), -torch.inf), self.bins_L[:1]
            best_R1, column_R1 = logprobs_RU[:, locations.stop :].max(-1, keepdim=True)
            return best_R1, column_R1 + locations.stop
        others_RU = logprobs_RU.clone()
        others_RU[:, locations] = -torch.inf
        return others_RU.max(-1, keepdim=True)

    def _reach_of_all(self, windows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """`_reach` of every bin, a row for each window."""
        for window in {*windows} - {*self._reach}:
            self._reach[window] = _reach(self.bins_L, window, len(self.bins_L))
        low_RL, high_RL = (torch.stack(parts) for parts in zip(*(self._reach[w] for w in windows), strict=True))
        return low_RL, high_RL

    def _window(self, search: Search, hypothesis: Hypothesis) -> int | None:
        """Of greedy search, where a location may come."""
        decoding, grammar = search.decoding, hypothesis.grammar
        if decoding.num_beams > 1 or decoding.temperature > 0 or grammar is None:
            return None
        return decoding.location_window if self.masks.allowed_in(grammar).locations else None

    @staticmethod
    def _sample(columns_NK: Tensor, logprobs_NU: Tensor, running: Sequence[Running]) -> None:
        """Put a drawn token first in the sequences that sample. One uniform number a draw, from the job's own
        generator, so that neighbours in the batch change nothing."""
        for n, (search, _) in enumerate(running):
            if search.generator is None:
                continue
            draw = float(torch.rand((), generator=search.generator, dtype=torch.float64))
            probabilities, order = (
                (logprobs_NU[n].double() / search.decoding.temperature).softmax(-1).sort(descending=True, stable=True)
            )
            cumulative = probabilities.cumsum(-1)
            # The nucleus: every token that starts below top_p, so at least the first.
            size = int((cumulative - probabilities < search.decoding.top_p).sum())
            size = max(1, min(size, int((probabilities > 0).sum())))
            index = int(torch.searchsorted(cumulative[:size], draw * cumulative[size - 1], right=True))
            columns_NK[n, 0] = order[min(index, size - 1)]


def _argmax(x_NU: Tensor) -> Tensor:
    """Column of each row's largest, N x 1. On a CPU numpy's is the faster one: 15 against 104 microseconds for 16 rows
    of 6,144."""
    if x_NU.device.type == "cpu":
        return torch.from_numpy(x_NU.numpy().argmax(-1))[:, None]
    return x_NU.argmax(-1, keepdim=True)


def _cumulative(mass: Tensor) -> Tensor:
    """What lies below each bin, with what lies below the end: one column more."""
    return F.pad(mass.cumsum(-1), (1, 0))


def _reach(bins: Tensor, window: int, num_bins: int) -> tuple[Tensor, Tensor]:
    """The first bin within `window` of each of `bins`, and the first above it that is not."""
    return (bins - window).clamp(0, num_bins), (bins + window + 1).clamp(0, num_bins)


def _between(cumulative: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return cumulative.gather(-1, high) - cumulative.gather(-1, low)
