"""Decoding for families whose model is an encoder-decoder of transformers.

transformers' own `generate` drives the model, its cache and its beams, with all that the checkpoint's
generation_config.json asks for, so that the tokens are its tokens. What is ours hangs in as a logits processor:
grammars, samplers with generators of their own, a limit for every sequence, and a log-probability of every token.
Many prompts run together, each over its own row of encoder outputs.
"""

# N sequences (beams of one job are neighbours), R rows of memory, M memory tokens, D width, T target tokens,
# V vocabulary

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.modeling_outputs import BaseModelOutput

from vlm.choose import Chooser
from vlm.generate import Decoding, Generated, decode_bytes
from vlm.model.losses import shift_right
from vlm.search import Search
from vlm.token_masks import Automaton, GrammarState, TokenMasks

__all__ = ["Memory", "TransformersJob", "capped", "decode", "score_targets"]

Prefix = tuple[int, tuple[int, ...]]
"""A job and what one of its beams has said so far."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Encoder outputs, one prompt a row, padded on the right.

    Attributes:
        hidden_RMD: the outputs.
        mask_RM: 1 where there is something, 0 for padding.
    """

    hidden_RMD: Tensor
    mask_RM: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Memory]) -> Memory:
        """All rows of the parts, the shorter padded."""
        longest = max(part.mask_RM.shape[1] for part in parts)
        missing = [longest - part.mask_RM.shape[1] for part in parts]
        hidden = [F.pad(part.hidden_RMD, (0, 0, 0, more)) for part, more in zip(parts, missing, strict=True)]
        mask = [F.pad(part.mask_RM, (0, more)) for part, more in zip(parts, missing, strict=True)]
        return cls(torch.cat(hidden), torch.cat(mask))

    def select(self, rows: Sequence[int]) -> Memory:
        if list(rows) == list(range(len(self.hidden_RMD))):
            return self
        index = torch.tensor(list(rows), device=self.mask_RM.device)
        return Memory(self.hidden_RMD[index], self.mask_RM[index])

    def arguments(self) -> dict[str, Any]:
        return {
            "encoder_outputs": BaseModelOutput(last_hidden_state=self.hidden_RMD),
            "attention_mask": self.mask_RM,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class TransformersJob:
    """One sequence to decode. Jobs that run together have equal `num_beams`, and with beams equal limits.

    Attributes:
        row: of the memory.
        automaton: what may be emitted; None for anything.
    """

    row: int
    automaton: Automaton | None
    decoding: Decoding


@torch.inference_mode()
def decode(
    model: Any, masks: TokenMasks, memory: Memory, jobs: Sequence[TransformersJob], settings: dict[str, Any]
) -> list[Generated]:
    """Decode all jobs in one batch.

    Args:
        model: in eval mode, with transformers' `generate`.
        settings: of `GenerationConfig`, in place of the checkpoint's own.
    """
    config = model.generation_config
    bos_id = settings.get("forced_bos_token_id", config.forced_bos_token_id)
    eos_id = settings.get("forced_eos_token_id", config.forced_eos_token_id)
    decoding = jobs[0].decoding
    limit = max(job.decoding.max_new_tokens for job in jobs)
    options: dict[str, Any] = {"num_beams": decoding.num_beams}
    if decoding.num_beams == 1:
        options["early_stopping"] = False  # else transformers warns that it does nothing
    elif decoding.length_penalty is not None:
        options["length_penalty"] = decoding.length_penalty
    chooser = Chooser(masks, model.get_output_embeddings().weight)
    kind = _Greedy if decoding.num_beams == 1 else _Beams
    hook = kind(jobs, chooser, None if bos_id is None else int(bos_id), _first(eos_id))
    with _memory_stays(model):
        sequences = model.generate(
            **memory.select([job.row for job in jobs]).arguments(),
            do_sample=False,  # samplers have generators of their own, see `Chooser`
            max_new_tokens=limit + 1,  # never reached: every job has its own limit, at which `hook` forces the end
            logits_processor=LogitsProcessorList([hook]),
            stopping_criteria=StoppingCriteriaList([_Stop(hook)]),
            **{**options, **settings},
        )
    return hook.results(sequences)


def _first(token_ids: Any) -> int | None:
    return token_ids[0] if isinstance(token_ids, (list, tuple)) else token_ids


@contextmanager
def _memory_stays(model: Any) -> Iterator[None]:
    """While in it, beam search moves what beams said, not the memory's keys and values: the beams of a prompt share
    them, and they are hundreds of megabytes a step. `_reorder_cache` is transformers' own hook for it."""
    model._reorder_cache = _reorder
    try:
        yield
    finally:
        del model._reorder_cache


def _reorder(cache: Any, beams: Tensor) -> Any:
    cache.self_attention_cache.reorder_cache(beams)
    return cache


class _Stop(StoppingCriteria):
    def __init__(self, hook: _Greedy | _Beams) -> None:
        self.hook = hook

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        return self.hook.stopped(input_ids)


class _Greedy(LogitsProcessor):
    """Greedy search and sampling: chooses itself, as in our own loop, and lets `generate` see nothing else."""

    def __init__(
        self, jobs: Sequence[TransformersJob], chooser: Chooser, bos_id: int | None, end_id: int | None
    ) -> None:
        self.jobs, self.chooser, self.masks = jobs, chooser, chooser.masks
        self.bos_id, self.end_id = bos_id, end_id
        self.searches = [Search(job.automaton, job.decoding, self.masks) for job in jobs]
        self.closed = [False] * len(jobs)
        self.step = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step, self.step = self.step, self.step + 1
        if step == 0 and self.bos_id is not None:
            return scores  # a processor of transformers has left nothing else
        running = [n for n, search in enumerate(self.searches) if not search.done]
        if not running:
            return scores
        beams = [(self.searches[n], self.searches[n].beams[0]) for n in running]
        chosen = self.chooser.from_logits(scores if len(running) == len(scores) else scores[running], beams)
        tokens = []
        for n, candidates in zip(running, chosen, strict=True):
            token, search = candidates[0][0], self.searches[n]
            last = step + 1 >= self.jobs[n].decoding.max_new_tokens
            if last and self.end_id is not None and token != self.masks.eos_id:
                token, self.closed[n] = self.end_id, True
            else:
                search.advance([candidates])
            search.done = search.done or last
            tokens.append(token)
        scores[running, tokens] = torch.inf
        return scores

    def stopped(self, input_ids: Tensor) -> Tensor:
        return torch.tensor([search.done for search in self.searches], device=input_ids.device)

    def results(self, sequences: Tensor) -> list[Generated]:
        found = []
        for search, closed in zip(self.searches, self.closed, strict=True):
            said = search.result()
            first = [] if self.bos_id is None else [self.bos_id]
            last = [self.end_id] if closed and self.end_id is not None else []
            before, after = [0.0] * len(first), [0.0] * len(last)  # there was no choice
            found.append(
                _generated(
                    self.masks,
                    [*first, *said.token_ids, *last],
                    [*before, *said.logprobs, *after],
                    [*before, *said.confidences, *after],
                    truncated=not said.finished,
                )
            )
        return found


@dataclass(slots=True)
class _Trace:
    """What a beam said: log-probabilities and confidences of its tokens, and where its grammar is.

    `end` is the log-probability of ending here; `ends` that it would, were it not forced to. `row` is its place among
    the sequences of the step that it was in.
    """

    logprobs: tuple[float, ...] = ()
    confidences: tuple[float, ...] = ()
    grammar: GrammarState | None = None
    alive: bool = True
    row: int = 0
    end: float = 0.0
    ends: bool = True


@dataclass
class _Beams(LogitsProcessor):
    """Beam search: transformers chooses, and this follows. Beams are known by what they have said so far, since
    `generate` tells nobody which beam came from which before it is over."""

    jobs: Sequence[TransformersJob]
    chooser: Chooser
    bos_id: int | None
    end_id: int | None
    traces: dict[Prefix, _Trace] = field(default_factory=dict)
    step: int = 0
    last_NV: Tensor | None = None

    def __post_init__(self) -> None:
        self.masks = self.chooser.masks
        self.num_beams = self.jobs[0].decoding.num_beams
        self.limit = self.jobs[0].decoding.max_new_tokens
        assert all(job.decoding.max_new_tokens == self.limit for job in self.jobs)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        start = input_ids.shape[1] - self.step
        said = [(n // self.num_beams, tuple(ids)) for n, ids in enumerate(input_ids[:, start:].tolist())]
        self._follow(said)
        if self.step or self.bos_id is None:
            scores = self._restrict(scores, said)
        self.last_NV = scores.log_softmax(-1)
        for prefix, end in zip(said, self.last_NV[:, self.masks.eos_id].tolist(), strict=True):
            self.traces[prefix].end = end
        if self.step + 1 == self.limit and self.end_id is not None:
            for prefix, token in zip(said, scores.argmax(-1).tolist(), strict=True):
                if token != self.masks.eos_id:  # there is no choice
                    self.traces[prefix].ends, self.traces[prefix].end = False, 0.0
            scores = torch.full_like(scores, -torch.inf)
            scores[:, self.end_id] = 0.0
        self.step += 1
        return scores

    def _follow(self, said: Sequence[Prefix]) -> None:
        """Traces of beams that have one token more than in the step before."""
        if self.step == 0:
            for number, job in enumerate(self.jobs):
                grammar = None if job.automaton is None else self.masks.start(job.automaton)
                self.traces[number, ()] = _Trace(grammar=grammar, row=number * self.num_beams)
            return
        new = [(n, job, ids) for n, (job, ids) in enumerate(said) if (job, ids) not in self.traces]
        parents = [self.traces[job, ids[:-1]] for _, job, ids in new]
        scored = self._scores([parent.row for parent in parents], [ids[-1] for _, _, ids in new])
        for (n, job, ids), parent, (logprob, confidence) in zip(new, parents, scored, strict=True):
            alive, grammar = parent.alive and logprob > -torch.inf, parent.grammar
            forced = self.step == 1 and self.bos_id is not None
            if alive and grammar is not None and not forced and ids[-1] != self.masks.eos_id:
                grammar = self.masks.next_state(grammar, ids[-1])
            self.traces.setdefault(
                (job, ids),
                _Trace((*parent.logprobs, logprob), (*parent.confidences, confidence), grammar, alive, n),
            )

    def _scores(self, rows: Sequence[int], tokens: Sequence[int]) -> list[tuple[float, float]]:
        """Log-probability and confidence that the last step gave each token in its row."""
        if not rows:
            return []
        assert self.last_NV is not None
        part_NV = self.last_NV[list(rows)]
        ids_N1 = torch.tensor(tokens, device=part_NV.device)[:, None]
        chosen_N1 = part_NV.gather(1, ids_N1)
        near_N1 = self.chooser.confidences(ids_N1, chosen_N1, part_NV[:, self.chooser.location_ids_L])
        return list(zip(chosen_N1[:, 0].tolist(), near_N1[:, 0].tolist(), strict=True))

    def _restrict(self, scores: Tensor, said: Sequence[Prefix]) -> Tensor:
        traces = [self.traces[prefix] for prefix in said]
        bound = [n for n, trace in enumerate(traces) if trace.grammar is not None and trace.alive]
        if bound:
            allowed = torch.stack([self.masks.mask(g) for n in bound if (g := traces[n].grammar) is not None])
            scores = scores.clone()
            scores[bound] = scores[bound].masked_fill(~allowed.to(scores.device), -torch.inf).log_softmax(-1)
        return scores

    def stopped(self, input_ids: Tensor) -> Tensor:
        return torch.full((len(input_ids),), self.step >= self.limit, device=input_ids.device)

    def results(self, sequences: Tensor) -> list[Generated]:
        found = []
        for number, row in enumerate(sequences[:, 1:].tolist()):
            ids = self._until_end(row)
            trace = self.traces[number, tuple(ids[:-1])]
            finished = ids[-1] == self.masks.eos_id
            logprob, confidence = trace.end, trace.end
            if not finished:
                [(logprob, confidence)] = self._scores([trace.row], ids[-1:])
            found.append(
                _generated(
                    self.masks,
                    ids,
                    [*trace.logprobs, logprob],
                    [*trace.confidences, confidence],
                    truncated=not (finished and trace.ends),
                )
            )
        return found

    def _until_end(self, row: Sequence[int]) -> list[int]:
        """Without the padding that a longer neighbour made."""
        end = row.index(self.masks.eos_id) + 1 if self.masks.eos_id in row else self.limit
        return list(row[:end])


def _generated(
    masks: TokenMasks,
    token_ids: Sequence[int],
    logprobs: Sequence[float],
    confidences: Sequence[float],
    *,
    truncated: bool,
) -> Generated:
    text, spans = decode_bytes((masks.token_bytes(token) for token in token_ids), not truncated)
    return Generated(text, tuple(token_ids), tuple(logprobs), tuple(confidences), spans, truncated)


def capped(logits: Tensor, softcap: float | None) -> Tensor:
    """Between -`softcap` and `softcap`; as they are with None."""
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


@torch.inference_mode()
def score_targets(
    model: Any,
    memory: Memory,
    rows: Sequence[int],
    targets: Sequence[Sequence[int]],
    num_given: int,
    softcap: float | None = None,
) -> list[float]:
    """Log-probability of each target (ending with eos) over its row of the memory, by teacher forcing.

    Args:
        num_given: how many of the first tokens are given and not counted.
        softcap: of the logits, where the model has one.
    """
    device = memory.mask_RM.device
    pad_id, start_id = model.generation_config.pad_token_id, model.generation_config.decoder_start_token_id
    if start_id is None:  # as `generate` does
        start_id = model.generation_config.bos_token_id
    labels_NT = pad_sequence([torch.tensor(list(ids)) for ids in targets], batch_first=True, padding_value=-100)
    inputs_NT = shift_right(labels_NT, start_id, pad_id)
    hidden_NTD = model.model(
        **memory.select(rows).arguments(), decoder_input_ids=inputs_NT.to(device), use_cache=False
    ).last_hidden_state
    labels_NT[:, :num_given] = -100
    counted_NT = labels_NT >= 0
    logits = capped(model.get_output_embeddings()(hidden_NTD[counted_NT.to(device)]).float(), softcap)
    chosen = logits.log_softmax(-1).gather(1, labels_NT[counted_NT].to(device)[:, None])[:, 0].double().cpu()
    return [float(part.sum()) for part in chosen.split(counted_NT.sum(1).tolist())]
