"""The one decoding loop: many prompts over many images in lockstep, grammar-masked, every token scored.

Images come in already encoded; rows of packed prompts share them. A prompt's result does not depend on
what else is in the batch: prompts only see their own image, and samplers have generators of their own.
"""

# B rows, P slots (running sequences of a row), S prompt tokens of a row, T target tokens of a row,
# K candidates kept per slot, V vocabulary, L locations

from __future__ import annotations

import codecs
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vlm.processor import pack
from vlm.search import Hypothesis, Search
from vlm.token_masks import Automaton, TokenMasks

__all__ = ["Decoding", "Generated", "Job", "generate", "score_candidates"]

MAX_PROMPTS = 64
"""Most prompts packed into one row; an image with more takes several rows, over the same features."""

MAX_SCORED_ROWS = 8
"""Most rows of candidates that go through the vocabulary at a time."""

LOCATION_WINDOW = 10
"""A location's confidence is the probability of landing within this many bins of it. A thousand bins share
the mass of one edge, and the model is trained on targets spread over several, so the probability of the
exact bin says little; within +-10 bins is within 1 % of the image's side."""

PADDING = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoding:
    """How to choose tokens.

    Attributes:
        max_new_tokens: limit on generated tokens, the end token included.
        num_beams: 1 for greedy or sampling, more for beam search.
        temperature: 0 for greedy or beam search, above 0 for sampling.
        top_p: sampling only: the smallest set of tokens with this much probability is drawn from.
        seed: sampling only: the draws are a function of it.
        length_penalty: beam search only: finished sequences rank by log-probability / length ** penalty.
        location_window: greedy search only: what the thousand locations say together decides whether one comes at
            all, and the one with the most probability within this many bins of it is taken; None lets every location
            stand for itself, as a plain argmax does (and as sampling and beam search do).

    Raises:
        ValueError: a number out of its range, or beams together with a temperature.
    """

    max_new_tokens: int
    num_beams: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    length_penalty: float = 0.0
    location_window: int | None = 30

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}; expected at least 1")
        if self.num_beams < 1:
            raise ValueError(f"num_beams is {self.num_beams}; expected at least 1 (1 is greedy)")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature is {self.temperature}; expected 0 (greedy) or above")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; expected above 0 and at most 1")
        if not (math.isfinite(self.length_penalty) and self.length_penalty >= 0):
            raise ValueError(f"length_penalty is {self.length_penalty}; expected 0 (rank by probability) or above")
        if self.location_window is not None and self.location_window < 0:
            raise ValueError(f"location_window is {self.location_window}; expected 0 or more bins, or None")
        if self.num_beams > 1 and self.temperature > 0:
            raise ValueError("num_beams > 1 and temperature > 0 exclude each other; choose beam search or sampling")


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One prompt about one image.

    Attributes:
        image: the image's row in the features.
        prompt_ids: the prompt's tokens.
        automaton: what may be emitted; None for anything.
    """

    image: int
    prompt_ids: Sequence[int]
    automaton: Automaton | None
    decoding: Decoding


@dataclass(frozen=True, slots=True)
class Generated:
    """A sequence and how sure the decoder was of every part of it.

    Attributes:
        text: without the end token.
        token_ids: the end token included, unless `truncated`.
        logprobs: of each token among those the grammar allowed.
        confidences: the same, but a location counts its neighbours in (`LOCATION_WINDOW`).
        spans: characters [start, end) of `text` that each token touches.
        truncated: the token limit cut the sequence.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    confidences: tuple[float, ...]
    spans: tuple[tuple[int, int], ...]
    truncated: bool

    @property
    def logprob(self) -> float:
        """Log-probability of the whole sequence."""
        return sum(self.logprobs)

    def span_score(self, start: int, end: int) -> tuple[float, int]:
        """(sum of confidences, number of tokens) over characters [start, end): a `tasks.base.SpanScorer`."""
        chosen = [
            confidence
            for confidence, (first, last) in zip(self.confidences, self.spans, strict=True)
            if first < end and last > start
        ]
        return sum(chosen), len(chosen)


@torch.inference_mode()
def generate(model: Any, masks: TokenMasks, features: Any, jobs: Sequence[Job]) -> list[Generated]:
    """Decode all jobs over encoded images.

    Args:
        model: a `OneLookModel`, in eval mode.
        features: its `encode_images`.

    Returns:
        One result a job, in order.
    """
    if not jobs:
        return []
    rows = _rows([job.image for job in jobs])
    memory = _memory(
        model, features, [jobs[row[0]].image for row in rows], [[jobs[i].prompt_ids for i in r] for r in rows]
    )
    device = memory.segments_BM.device
    searches = [Search(job.automaton, job.decoding, masks) for job in jobs]

    # A job's slots are neighbours: one, or its beams.
    slots = [[(i, beam) for i in row for beam in range(jobs[i].decoding.num_beams)] for row in rows]
    width = max(map(len, slots), default=0)
    segments = torch.full((len(rows), width), PADDING)
    for b, (row, row_slots) in enumerate(zip(rows, slots, strict=True)):
        segments[b, : len(row_slots)] = torch.tensor([row.index(i) + 1 for i, _ in row_slots])
    state = model.start_decode(memory, segments.to(device))
    chooser = _Chooser(masks, device)
    pad_id, bos_id = model.config.pad_token_id, model.config.decoder_start_token_id
    token_ids = torch.where(segments == PADDING, pad_id, bos_id)
    while not all(search.done for search in searches):
        logits_BPV = model.decode_step(token_ids.to(device), state)
        running = [[searches[i].running(beam) for i, beam in row] for row in slots]
        candidates = chooser(logits_BPV, running, [[searches[i] for i, _ in row] for row in slots])
        token_ids = torch.full_like(token_ids, pad_id)
        beam_index = torch.arange(width).repeat(len(rows), 1)
        for b, row_slots in enumerate(slots):
            first = 0
            while first < len(row_slots):
                search = searches[row_slots[first][0]]
                count = search.decoding.num_beams
                if not search.done:
                    for beam, (parent, token) in enumerate(search.advance(candidates[b][first : first + count])):
                        token_ids[b, first + beam] = token
                        beam_index[b, first + beam] = first + parent
                first += count
        if bool((beam_index != torch.arange(width)).any()):  # moving the caches costs a copy
            state.reorder(beam_index.to(device))
    return [_finish(search.result(), masks) for search in searches]


@torch.inference_mode()
def score_candidates(
    model: Any, features: Any, prompts: Sequence[tuple[int, Sequence[int], Sequence[Sequence[int]]]]
) -> list[list[float]]:
    """Teacher-forced log-probabilities, not bound to any grammar, in one batch.

    Args:
        prompts: (image's row in the features, prompt tokens, candidates as target tokens ending with eos).

    Returns:
        For each prompt, the total log-probability of each of its candidates.
    """
    if not any(targets for _, _, targets in prompts):
        return [[] for _ in prompts]
    # A candidate is a packed pair of prompt and target, as in training: the prompt is repeated, the image is not.
    pairs = [_Pair(image, prompt, target) for image, prompt, targets in prompts for target in targets]
    rows = _rows([pair.image for pair in pairs])
    totals: dict[int, float] = {}
    for start in range(0, len(rows), MAX_SCORED_ROWS):
        part = rows[start : start + MAX_SCORED_ROWS]
        scores = _score_rows(model, features, [[pairs[i] for i in row] for row in part])
        totals.update(zip((i for row in part for i in row), scores, strict=True))
    ordered = (totals[i] for i in range(len(pairs)))
    return [list(itertools.islice(ordered, len(targets))) for _, _, targets in prompts]


@dataclass(frozen=True, slots=True)
class _Pair:
    image: int
    prompt: Sequence[int]
    target: Sequence[int]


def _score_rows(model: Any, features: Any, rows: Sequence[Sequence[_Pair]]) -> list[float]:
    memory = _memory(model, features, [row[0].image for row in rows], [[pair.prompt for pair in row] for row in rows])
    device = memory.segments_BM.device
    bos_id, pad_id = model.config.decoder_start_token_id, model.config.pad_token_id
    shifted = [[[bos_id, *pair.target[:-1]] for pair in row] for row in rows]
    inputs_BT, segments_BT, positions_BT = (part.to(device) for part in pack(shifted, pad_id))
    labels_BT = pack([[pair.target for pair in row] for row in rows], pad_id)[0].to(device)
    hidden_BTD = model.decode(inputs_BT, segments_BT, positions_BT, memory)
    valid_BT = segments_BT != PADDING
    logprobs_NV = model.logits(hidden_BTD[valid_BT]).log_softmax(-1)
    chosen_N = logprobs_NV.gather(1, labels_BT[valid_BT][:, None])[:, 0].double().cpu()
    return [float(part.sum()) for part in chosen_N.split([len(pair.target) for row in rows for pair in row])]


def _rows(images: Sequence[int]) -> list[list[int]]:
    """Indices grouped by image, at most MAX_PROMPTS a row."""
    by_image: dict[int, list[int]] = {}
    for index, image in enumerate(images):
        by_image.setdefault(image, []).append(index)
    return [
        indices[start : start + MAX_PROMPTS]
        for indices in by_image.values()
        for start in range(0, len(indices), MAX_PROMPTS)
    ]


def _memory(model: Any, features: Any, images: Sequence[int], prompts: Sequence[Sequence[Sequence[int]]]) -> Any:
    device = features.hidden_BID.device
    selected = features.select(torch.tensor(list(images), dtype=torch.long, device=device))
    packed = (part.to(device) for part in pack(prompts, model.config.pad_token_id))
    return model.encode_prompts(selected, *packed)


class _Chooser:
    """Logits to each slot's best (or drawn) next tokens: (token, log-probability, confidence)."""

    def __init__(self, masks: TokenMasks, device: torch.device) -> None:
        self.masks = masks
        self.location_ids_L = masks.location_ids.to(device)
        self.location_bins_V = masks.location_bins.to(device)
        self.free_V = torch.ones(masks.vocab_size, dtype=torch.bool)

    def __call__(
        self,
        logits_BPV: Tensor,
        running: Sequence[Sequence[Hypothesis | None]],
        searches: Sequence[Sequence[Search]],
    ) -> list[list[list[tuple[int, float, float]]]]:
        _, width, vocabulary = logits_BPV.shape
        device = logits_BPV.device
        masked_BPV = logits_BPV
        if any(h is not None and h.grammar is not None for row in running for h in row):
            allowed = [[self._mask(h) for h in row] + [self.free_V] * (width - len(row)) for row in running]
            allowed_BPV = torch.stack([torch.stack(row) for row in allowed]).to(device)
            masked_BPV = logits_BPV.masked_fill(~allowed_BPV, -torch.inf)
        # The log of the sum is all that a log-softmax needs: it is taken off only where something was chosen.
        total_BP1 = masked_BPV.logsumexp(-1, keepdim=True)
        beams = max(search.decoding.num_beams for row in searches for search in row)
        # Twice the beams: even if every beam's best token is the end, as many go on.
        best = 1 if beams == 1 else min(2 * beams, vocabulary)
        ids_BPK = masked_BPV.argmax(-1, keepdim=True) if best == 1 else masked_BPV.topk(best, dim=-1).indices
        self._locate(ids_BPK, masked_BPV, running, searches)
        self._sample(ids_BPK, masked_BPV, running, searches)
        chosen_BPK = masked_BPV.gather(-1, ids_BPK) - total_BP1
        confidence_BPK = self._confidences(ids_BPK, chosen_BPK, masked_BPV, total_BP1)
        parts = zip(ids_BPK.tolist(), chosen_BPK.tolist(), confidence_BPK.tolist(), strict=True)
        return [[list(zip(*slot, strict=True)) for slot in zip(*row, strict=True)] for row in parts]

    def _mask(self, hypothesis: Hypothesis | None) -> Tensor:
        if hypothesis is None or hypothesis.grammar is None:
            return self.free_V
        return self.masks.mask(hypothesis.grammar)

    def _confidences(self, ids_BPK: Tensor, chosen_BPK: Tensor, logits_BPV: Tensor, total_BP1: Tensor) -> Tensor:
        bins_BPK = self.location_bins_V[ids_BPK]
        if bool((bins_BPK < 0).all()):
            return chosen_BPK
        mass_BPL = (logits_BPV[..., self.location_ids_L] - total_BP1).exp()
        mass = _mass_near(bins_BPK, mass_BPL, LOCATION_WINDOW).clamp(max=1.0)
        # The difference of two sums can round below the bin's own probability.
        windowed = torch.maximum(mass.log(), chosen_BPK)
        return torch.where(bins_BPK < 0, chosen_BPK, windowed)

    def _locate(
        self,
        ids_BPK: Tensor,
        masked_BPV: Tensor,
        running: Sequence[Sequence[Hypothesis | None]],
        searches: Sequence[Sequence[Search]],
    ) -> None:
        """Put the location that greedy search takes first, where locations together outweigh every other token.

        One edge's probability is spread over many bins, so that a plain argmax takes "none", or the end, however
        unlikely, before any of them.
        """
        for b, (row, row_searches) in enumerate(zip(running, searches, strict=True)):
            for p, (hypothesis, search) in enumerate(zip(row, row_searches, strict=True)):
                window = search.decoding.location_window
                if hypothesis is None or hypothesis.grammar is None or hypothesis.grammar.corner is None:
                    continue
                if window is None or search.decoding.num_beams > 1 or search.decoding.temperature > 0:
                    continue
                logits_V = masked_BPV[b, p]
                logits_L = logits_V[self.location_ids_L]
                together = logits_L.logsumexp(-1)
                if hypothesis.grammar.corner == 0:  # inside a box nothing but locations may come
                    others_V = logits_V.index_fill(0, self.location_ids_L, -torch.inf)
                    if bool(others_V.max() >= together):
                        ids_BPK[b, p, 0] = others_V.argmax()
                        continue
                bins_L = torch.arange(len(logits_L), device=logits_L.device)
                within_L = _mass_near(bins_L, (logits_L - together).exp(), window).masked_fill(
                    logits_L == -torch.inf, -1.0
                )
                # Of a plateau (few bins hold all there is) the middle, which is where the mass lies.
                best = (within_L >= within_L.max() - 1e-6).nonzero()[:, 0]
                ids_BPK[b, p, 0] = self.location_ids_L[best[len(best) // 2]]

    @staticmethod
    def _sample(
        ids_BPK: Tensor,
        masked_BPV: Tensor,
        running: Sequence[Sequence[Hypothesis | None]],
        searches: Sequence[Sequence[Search]],
    ) -> None:
        """Put a drawn token first in the slots that sample. One uniform number a draw, from the job's own
        generator, so that neighbours in the batch change nothing."""
        for b, (row, row_searches) in enumerate(zip(running, searches, strict=True)):
            for p, (hypothesis, search) in enumerate(zip(row, row_searches, strict=True)):
                if hypothesis is None or search.generator is None:
                    continue
                draw = float(torch.rand((), generator=search.generator, dtype=torch.float64))
                probabilities, order = (
                    (masked_BPV[b, p].double() / search.decoding.temperature)
                    .softmax(-1)
                    .sort(descending=True, stable=True)
                )
                cumulative = probabilities.cumsum(-1)
                # The nucleus: every token that starts below top_p, so at least the first.
                size = int((cumulative - probabilities < search.decoding.top_p).sum())
                size = max(1, min(size, int((probabilities > 0).sum())))
                index = int(torch.searchsorted(cumulative[:size], draw * cumulative[size - 1], right=True))
                ids_BPK[b, p, 0] = order[min(index, size - 1)]


def _mass_near(bins: Tensor, mass: Tensor, window: int) -> Tensor:
    """What lies within `window` bins of each of `bins`; the last dimension of `mass` is the locations'."""
    cumulative = F.pad(mass.cumsum(-1), (1, 0))
    last = cumulative.shape[-1] - 1
    low, high = (bins - window).clamp(0, last), (bins + window + 1).clamp(0, last)
    return cumulative.gather(-1, high) - cumulative.gather(-1, low)


def _finish(hypothesis: Hypothesis, masks: TokenMasks) -> Generated:
    text, spans = _decode_bytes((masks.token_bytes(token) for token in hypothesis.token_ids), hypothesis.finished)
    return Generated(
        text=text,
        token_ids=hypothesis.token_ids,
        logprobs=hypothesis.logprobs,
        confidences=hypothesis.confidences,
        spans=spans,
        truncated=not hypothesis.finished,
    )


def _decode_bytes(tokens: Iterable[bytes], finished: bool) -> tuple[str, tuple[tuple[int, int], ...]]:
    """Text of the tokens and the characters [start, end) that each touches. A character may span several
    tokens; half a character at the end of a cut sequence is dropped."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = ""
    spans = []
    for data in tokens:
        start = len(text)
        text += decoder.decode(data)
        pending = 1 if decoder.getstate()[0] else 0
        spans.append((start, len(text) + pending if data else start))
    if finished:
        text += decoder.decode(b"", final=True)
    return text, tuple((min(start, len(text)), min(end, len(text))) for start, end in spans)
