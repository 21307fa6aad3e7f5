"""The one decoding loop: many prompts over many images in lockstep, grammar-masked, every token scored.

Images come in already encoded; rows of packed prompts share them. A prompt's result does not depend on
what else is in the batch: prompts only see their own image, and samplers have generators of their own.
"""

# B rows, P slots (running sequences of a row), N running sequences, T target tokens of a row, D width, V vocabulary,
# M memory tokens of a row

from __future__ import annotations

import codecs
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlm.choose import Chooser
from vlm.processor import pack
from vlm.search import Candidate, Hypothesis, Search
from vlm.token_masks import Automaton, Run, TokenMasks

__all__ = ["Decoding", "Generated", "Job", "decode_bytes", "generate", "score_candidates"]

MAX_PROMPTS = 64
"""Most prompts packed into one row; an image with more takes several rows, over the same features."""

MAX_SCORED_ROWS = 8
"""Most rows of candidates that go through the vocabulary at a time."""

PADDING = -1

Slot = tuple[int, int]
"""A job and which of its beams."""

Going = dict[int, list[tuple[int, list[int]]]]
"""For every job that goes on what `Search.go` gives."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoding:
    """How to choose tokens.

    Attributes:
        max_new_tokens: limit on generated tokens, the end token included.
        num_beams: 1 for greedy or sampling, more for beam search.
        temperature: 0 for greedy or beam search, above 0 for sampling.
        top_p: sampling only: the smallest set of tokens with this much probability is drawn from.
        seed: sampling only: the draws are a function of it.
        length_penalty: beam search only: finished sequences rank by log-probability / length ** penalty; None for the
            checkpoint's own, which in ours is 0.
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
    length_penalty: float | None = None
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
        if self.length_penalty is not None and not (math.isfinite(self.length_penalty) and self.length_penalty >= 0):
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
    weights, bos_id = model.step_weights(), model.config.decoder_start_token_id
    memory = _memory(
        model,
        features,
        [jobs[row[0]].image for row in rows],
        [[jobs[i].prompt_ids for i in row] for row in rows],
        weights.table_VD,
    )
    searches = [Search(job.automaton, job.decoding, masks) for job in jobs]
    # A job's slots are neighbours: one, or its beams.
    grid = [[(i, beam) for i in row for beam in range(jobs[i].decoding.num_beams)] for row in rows]
    segments = _padded([[row.index(i) + 1 for i, _ in slots] for row, slots in zip(rows, grid, strict=True)], PADDING)
    device = memory.segments_BM.device
    state = model.start_decode(memory, segments.to(device), weights)
    chooser = Chooser(masks, weights.table_VD)
    going: Going = {job: [(0, [bos_id, *search.forced()])] for job, search in enumerate(searches)}
    while any(not search.done for search in searches):
        feeds = _feeds(grid, searches, going)
        hidden_FD = _feed(model, state, grid, feeds)
        going = _choose(hidden_FD, feeds, chooser)
        before, grid = grid, _compact(grid, searches)
        if grid:
            _move(state, before, grid, going)
    return [_finish(search.result(), masks) for search in searches]


def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


@dataclass(frozen=True, slots=True)
class _Feed:
    """What a running sequence is fed.

    Attributes:
        start: position of the first token.
        token_ids: tokens that are taken.
        run: tokens that will probably be. They go along, as a token more in a step costs less than a step more, and
            where another is taken they are written over.
    """

    search: Search
    hypothesis: Hypothesis
    start: int
    token_ids: list[int]
    run: Run


def _feeds(grid: Sequence[Sequence[Slot]], searches: Sequence[Search], going: Going) -> dict[Slot, _Feed]:
    """By slot, in the grid's order; nothing for those of jobs that are done, and of beams that there are not yet."""
    feeds = {}
    for job, beam in itertools.chain.from_iterable(grid):
        search = searches[job]
        hypothesis = search.running(beam)
        if hypothesis is not None:
            token_ids = going[job][beam][1]
            start = len(hypothesis.token_ids) + 1 - len(token_ids)
            feeds[job, beam] = _Feed(search, hypothesis, start, token_ids, search.run())
    return feeds


def _feed(model: Any, state: Any, grid: Sequence[Sequence[Slot]], feeds: dict[Slot, _Feed]) -> Tensor:
    """The decoder's states from which tokens are chosen, F x D: of every feed that of its last taken token, then those
    of its run."""
    width = max(map(len, grid))
    places = [b * width + p for b, row in enumerate(grid) for p, slot in enumerate(row) if slot in feeds]
    lengths = [len(feed.token_ids) + len(feed.run) for feed in feeds.values()]
    if set(lengths) == {1} and all(feed.start == state.position for feed in feeds.values()):
        token_ids = [model.config.pad_token_id] * (len(grid) * width)
        for place, feed in zip(places, feeds.values(), strict=True):
            token_ids[place] = feed.token_ids[0]
        token_ids_BP = torch.tensor(token_ids, device=state.cross_mask.device).view(len(grid), width)
        hidden, chosen_at = model.decode_step(token_ids_BP, state).flatten(0, 1), places
    else:
        runs: list[tuple[int, Sequence[int]]] = [(0, ())] * (len(grid) * width)
        chosen_at = []
        for place, feed, fed in zip(places, feeds.values(), itertools.accumulate(lengths), strict=True):
            runs[place] = feed.start, [*feed.token_ids, *(token for token, _ in feed.run)]
            chosen_at += range(fed - len(feed.run) - 1, fed)
        hidden = model.decode_runs(runs, state)
    return hidden if len(chosen_at) == len(hidden) else hidden[chosen_at]


def _choose(hidden_FD: Tensor, feeds: dict[Slot, _Feed], chooser: Chooser) -> Going:
    running, jobs, runs = [], [], {}
    for (job, _), feed in feeds.items():
        runs[job] = feed.run
        for hypothesis in (feed.hypothesis, *(Hypothesis(grammar=grammar) for _, grammar in feed.run)):
            running.append((feed.search, hypothesis))
            jobs.append(job)
    candidates: dict[int, list[list[Candidate]]] = {}
    for job, best in zip(jobs, chooser(hidden_FD, running), strict=True):
        candidates.setdefault(job, []).append(best)
    searches = {job: feed.search for (job, _), feed in feeds.items()}
    return {job: searches[job].go(best, runs[job]) for job, best in candidates.items()}


def _compact(grid: list[list[Slot]], searches: Sequence[Search]) -> list[list[Slot]]:
    """The grid without finished jobs; as it is where that would spare less than an eighth, as moving costs a copy."""
    running = [[slot for slot in row if not searches[slot[0]].done] for row in grid]
    running = [row for row in running if row]
    if not running:
        return []
    area = len(running) * max(map(len, running))
    return running if area <= 7 / 8 * len(grid) * max(map(len, grid)) else grid


def _move(state: Any, before: Sequence[Sequence[Slot]], after: Sequence[Sequence[Slot]], going: Going) -> None:
    """Bring the caches into the order of the grid `after`, each beam with the history of the one it comes from."""

    def parent(slot: Slot) -> Slot:
        job, beam = slot
        beams = going.get(job, ())
        return job, beams[beam][0] if beam < len(beams) else beam

    if after is before and all(slot == parent(slot) for row in after for slot in row):
        return  # moving the caches costs a copy
    places = {slot: (b, p) for b, row in enumerate(before) for p, slot in enumerate(row)}
    parents = [[places[parent(slot)][1] for slot in row] for row in after]
    device = state.cross_mask.device
    rows = torch.tensor([places[row[0]][0] for row in after], device=device)
    state.select(rows, _padded(parents, 0).to(device))


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


def _memory(
    model: Any,
    features: Any,
    images: Sequence[int],
    prompts: Sequence[Sequence[Sequence[int]]],
    table_VD: Tensor | None = None,
) -> Any:
    device = features.hidden_BID.device
    selected = features.select(torch.tensor(list(images), dtype=torch.long, device=device))
    packed = (part.to(device) for part in pack(prompts, model.config.pad_token_id))
    return model.encode_prompts(selected, *packed, table_VD=table_VD)


def _finish(hypothesis: Hypothesis, masks: TokenMasks) -> Generated:
    text, spans = decode_bytes((masks.token_bytes(token) for token in hypothesis.token_ids), hypothesis.finished)
    return Generated(
        text=text,
        token_ids=hypothesis.token_ids,
        logprobs=hypothesis.logprobs,
        confidences=hypothesis.confidences,
        spans=spans,
        truncated=not hypothesis.finished,
    )


def decode_bytes(tokens: Iterable[bytes], finished: bool) -> tuple[str, tuple[tuple[int, int], ...]]:
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
