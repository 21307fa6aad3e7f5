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

from vlm.search import Hypothesis, Search
from vlm.token_masks import Allowed, TokenMasks

__all__ = ["LOCATION_WINDOW", "Candidate", "Chooser", "Running"]

LOCATION_WINDOW = 10
"""A location's confidence is the probability of landing within this many bins of it. A thousand bins share
the mass of one edge, and the model is trained on targets spread over several, so the probability of the
exact bin says little; within +-10 bins is within 1 % of the image's side."""

FEW = 512
"""Most tokens, locations apart, that are picked out of the vocabulary: for more, all of it is faster."""

Candidate = tuple[int, float, float]
"""Token, log-probability and confidence."""

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
        ids_NU: token of each column, -1 for none; None where the columns are the vocabulary.
        locations: the columns of the locations, by bin; None where no location is allowed.
    """

    logits_NU: Tensor
    ids_NU: Tensor | None
    locations: slice | Tensor | None


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

    def __call__(self, hidden_ND: Tensor, running: Sequence[Running]) -> list[list[Candidate]]:
        """For each sequence its candidates, best first."""
        allowed = [None if h.grammar is None else self.masks.allowed_in(h.grammar) for _, h in running]
        kinds = [self._kind(item) for item in allowed]
        found: list[list[Candidate]] = [[] for _ in running]
        for n, (item, (search, _)) in enumerate(zip(allowed, running, strict=True)):
            if _is_forced(item, search):
                assert item is not None
                kinds[n], found[n] = _Kind.FORCED, [(item.first, 0.0, 0.0)]
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
        if allowed is None or len(allowed.others) > FEW:
            return _Kind.ALL
        return _Kind.LOCATIONS if allowed.locations else _Kind.FEW_TOKENS

    # -- scores --------------------------------------------------------------------------------------

    def _score(
        self, kind: _Kind, hidden_ND: Tensor, running: Sequence[Running], allowed: Sequence[Allowed | None]
    ) -> _Scores:
        if kind is _Kind.ALL:
            return self._score_all(hidden_ND, running, allowed)
        few = self._score_few(hidden_ND, [item.others for item in allowed if item is not None])
        if kind is _Kind.FEW_TOKENS:
            return few
        if self._locations_LD is None:
            self._locations_LD = self.table_VD[self.location_ids_L]
        logits_NL = F.linear(hidden_ND, self._locations_LD).float()
        lowest = [h.grammar.lowest_bin for _, h in running if h.grammar is not None]
        if any(lowest):
            logits_NL.masked_fill_(self.bins_L < torch.tensor(lowest).to(self.bins_L)[:, None], -torch.inf)
        assert few.ids_NU is not None
        ids_NL = self.location_ids_L.expand(len(hidden_ND), -1)
        return _Scores(
            torch.cat([logits_NL, few.logits_NU], dim=1),
            torch.cat([ids_NL, few.ids_NU], dim=1),
            slice(0, len(self.bins_L)),
        )

    def _score_few(self, hidden_ND: Tensor, token_ids: Sequence[Tensor]) -> _Scores:
        first = token_ids[0]
        if all(ids is first for ids in token_ids):  # all in one state of one grammar, as when attributes are told
            ids_U = first.to(self.table_VD.device)
            logits_NU = F.linear(hidden_ND, self.table_VD[ids_U]).float()
            return _Scores(logits_NU, ids_U.expand(len(token_ids), -1), None)
        ids_NU = pad_sequence(list(token_ids), batch_first=True, padding_value=-1).to(self.table_VD.device)
        logits_NU = (self.table_VD[ids_NU.clamp(min=0)] @ hidden_ND[:, :, None])[..., 0].float()
        if len({len(ids) for ids in token_ids}) > 1:
            logits_NU = logits_NU.masked_fill(ids_NU < 0, -torch.inf)
        return _Scores(logits_NU, ids_NU, None)

    def _score_all(self, hidden_ND: Tensor, running: Sequence[Running], allowed: Sequence[Allowed | None]) -> _Scores:
        return self._restrict(F.linear(hidden_ND, self.table_VD).float(), running, allowed)

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
        ids_NK = columns_NK if scores.ids_NU is None else scores.ids_NU.gather(-1, columns_NK)
        ids, chosen = ids_NK.tolist(), chosen_NK.tolist()
        confidences = chosen
        if scores.locations is not None and any(self.masks.is_location(token) for part in ids for token in part):
            confidences = self.confidences(ids_NK, chosen_NK, logprobs_NU[:, scores.locations]).tolist()
        return [list(zip(*part, strict=True)) for part in zip(ids, chosen, confidences, strict=True)]

    def confidences(self, ids_NK: Tensor, chosen_NK: Tensor, locations_NL: Tensor) -> Tensor:
        """What was `chosen`, but a location counts its neighbours among `locations` in; all are log-probabilities."""
        bins_NK = self.location_bins_V[ids_NK]
        mass_NK = _mass_near(bins_NK, locations_NL.exp(), LOCATION_WINDOW).clamp(max=1.0)
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
        window_R1 = torch.tensor(list(windows.values()), device=columns_NK.device)[:, None]
        logprobs_RU = logprobs_NU if len(rows) == len(running) else logprobs_NU[rows]
        logprobs_RL = logprobs_RU[:, locations]
        together_R = logprobs_RL.logsumexp(-1)
        others_RU = logprobs_RU.clone()
        others_RU[:, locations] = -torch.inf
        other_R, column_R = others_RU.max(-1)
        mass_RL = (logprobs_RL - together_R[:, None]).exp()
        within_RL = _mass_near(self.bins_L.expand_as(mass_RL), mass_RL, window_R1)
        within_RL = within_RL.masked_fill(logprobs_RL == -torch.inf, -1.0)
        # Of a plateau (few bins hold all there is) the middle, which is where the mass lies.
        best_RL = within_RL >= within_RL.amax(-1, keepdim=True) - 1e-6
        middle_R1 = best_RL.sum(-1, keepdim=True) // 2
        bin_R = (best_RL.cumsum(-1) <= middle_R1).sum(-1)
        located_R = bin_R if isinstance(locations, slice) else self.location_ids_L[bin_R]
        columns_NK[rows, 0] = torch.where(other_R >= together_R, column_R, located_R)

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


def _is_forced(allowed: Allowed | None, search: Search) -> bool:
    """Whether one token may come, which then has all the probability. A third of the steps over attributes are such.

    Sampling draws for it all the same, so that seeds keep their meaning.
    """
    if allowed is None or allowed.locations or len(allowed.others) != 1:
        return False
    return search.decoding.num_beams == 1 and search.generator is None


def _argmax(x_NU: Tensor) -> Tensor:
    """Column of each row's largest, N x 1. On a CPU numpy's is the faster one: 15 against 104 microseconds for 16 rows
    of 6,144."""
    if x_NU.device.type == "cpu":
        return torch.from_numpy(x_NU.numpy().argmax(-1))[:, None]
    return x_NU.argmax(-1, keepdim=True)


def _mass_near(bins: Tensor, mass: Tensor, window: int | Tensor) -> Tensor:
    """What lies within `window` bins of each of `bins`; the last dimension of `mass` is the locations'."""
    cumulative = F.pad(mass.cumsum(-1), (1, 0))
    last = cumulative.shape[-1] - 1
    low, high = (bins - window).clamp(0, last), (bins + window + 1).clamp(0, last)
    return cumulative.gather(-1, high) - cumulative.gather(-1, low)
