"""CIDEr-D: agreement of captions with references in words that tell images apart."""

# N n-gram sizes 1..4

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Value

from tasks.metrics.bootstrap import Statistics, ratio, total
from tasks.metrics.example_metric import ExampleMetric

__all__ = ["CiderD", "scores", "statistics", "summarise", "tokenise"]

MAX_N = 4
SIGMA = 6.0
"""Standard deviation, in words, of the penalty on a difference in length."""

NGram = tuple[str, ...]
_WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")


def tokenise(text: str) -> list[str]:
    """Lower-case words without punctuation; "t-shirt" is one. The published tokenizer (Stanford PTB) needs
    Java and parts some words otherwise, so compare scores only with scores made here."""
    return _WORD.findall(text.lower())


def scores(predictions: Sequence[str | None], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of every image, 0 to 10; None scores 0.

    Rare n-grams weigh more: rarity is counted over the images' references, so that an image's score depends on
    the others, and a single image scores 0.

    Source: Vedantam et al., arXiv 1411.5726; a port of tylin/coco-caption's cider_scorer.py, which clips and
    penalises as CIDEr-D does (it counts a caption's length in pairs of words).
    """
    counted = [[_ngrams(text) for text in texts] for texts in references]
    frequency = Counter(ngram for texts in counted for ngram in {ngram for counts in texts for ngram in counts})
    log_num = math.log(len(references)) if references else 0.0

    def vector(counts: Counter[NGram]) -> list[dict[NGram, float]]:
        weights: list[dict[NGram, float]] = [{} for _ in range(MAX_N)]
        for ngram, count in counts.items():
            weights[len(ngram) - 1][ngram] = count * (log_num - math.log(max(1, frequency[ngram])))
        return weights

    values = []
    for prediction, texts in zip(predictions, counted, strict=True):
        if prediction is None or not texts:
            values.append(0.0)
            continue
        said = _ngrams(prediction)
        similar = [_similarity(vector(said), vector(true)) * _length_penalty(said, true) for true in texts]
        values.append(10 * sum(similar) / len(similar))
    return values


def _ngrams(text: str) -> Counter[NGram]:
    words = tokenise(text)
    return Counter(tuple(words[i : i + n]) for n in range(1, MAX_N + 1) for i in range(len(words) - n + 1))


def _similarity(said_N: Sequence[Mapping[NGram, float]], true_N: Sequence[Mapping[NGram, float]]) -> float:
    """Cosine of every size, mean over sizes; what is said more often than in the reference counts no more."""
    cosines = []
    for said, true in zip(said_N, true_N, strict=True):
        norms = math.hypot(*said.values()) * math.hypot(*true.values())
        shared = sum(min(weight, true[ngram]) * true[ngram] for ngram, weight in said.items() if ngram in true)
        cosines.append(shared / norms if norms else 0.0)
    return sum(cosines) / MAX_N


def _length_penalty(said: Counter[NGram], true: Counter[NGram]) -> float:
    difference = _num_pairs(said) - _num_pairs(true)
    return math.exp(-(difference**2) / (2 * SIGMA**2))


def _num_pairs(counts: Counter[NGram]) -> int:
    return sum(count for ngram, count in counts.items() if len(ngram) == 2)


def statistics(prediction: str | None, score: float) -> dict[tuple[str, ...], float]:
    """Of one image, whose score came from `scores` over the whole corpus."""
    return {("num",): 1, ("parsed",): float(prediction is not None), ("score",): score}


def summarise(sums: Statistics) -> dict[str, Any]:
    num = sums.get(("num",), 0)
    return {
        "CIDEr-D": ratio(sums.get(("score",), 0), num),
        "parse_rate": ratio(sums.get(("parsed",), 0), num),
        "num": int(num),
    }


class CiderD(ExampleMetric):
    """CIDEr-D (0 to 10) of captions against one or more references each."""

    def columns(self) -> Mapping[str, Any]:
        return {"predictions": Value("string"), "references": [Value("string")]}

    def values(self, columns: Mapping[str, list[Any]]) -> dict[str, Any]:
        predictions = columns["predictions"]
        found = scores(predictions, columns["references"])
        return summarise(total(statistics(*pair) for pair in zip(predictions, found, strict=True)))
