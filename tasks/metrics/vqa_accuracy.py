"""Answers to questions: exact match against few references, VQA accuracy against many annotators."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Value

from tasks.metrics.bootstrap import Statistics, ratio, total
from tasks.metrics.example_metric import ExampleMetric

__all__ = ["VQAAccuracy", "normalise", "statistics", "summarise", "vqa_accuracy"]

NUM_AGREEING = 3
"""Annotators who must have given an answer for it to count fully; up to as many references are not voted on."""

_ARTICLES = {"a", "an", "the"}
_NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5"}
_NUMBERS |= {"six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"}
_DROPPED = re.compile(r"['’]|(?<=\d),(?=\d)|(?<!\d)\.|\.(?!\d)")
_SPACED = re.compile(r"[;:/\[\]\"{}()=+\\_\-><@`,?!]")


def normalise(answer: str) -> str:
    """What is compared: lower case, no articles, number words as digits, no punctuation.

    Source: VQA evaluation (GT-Vision-Lab/VQA, vqaEval.py). There a table puts apostrophes into contractions;
    here they are taken out of both sides, which matches the same answers. Punctuation always parts words.
    """
    words = _SPACED.sub(" ", _DROPPED.sub("", answer.lower())).split()
    return " ".join(_NUMBERS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(prediction: str, references: Sequence[str]) -> float:
    """min(1, others who agree / 3), averaged over leaving out each annotator in turn (arXiv 1505.00468)."""
    said = normalise(prediction)
    agrees = [normalise(reference) == said for reference in references]
    return sum(min(1.0, (sum(agrees) - own) / NUM_AGREEING) for own in agrees) / len(agrees)


def statistics(prediction: str | None, references: Sequence[str]) -> dict[tuple[str, ...], float]:
    """Of one question. With up to three references any of them is right; with more they vote."""
    counts: dict[tuple[str, ...], float] = {("num",): 1, ("parsed",): float(prediction is not None)}
    if len(references) > NUM_AGREEING:
        counts["annotators", "num"] = 1
        counts["annotators", "score"] = 0.0 if prediction is None else vqa_accuracy(prediction, references)
        return counts
    accepted = {normalise(reference) for reference in references}
    kind = "yes_no" if accepted <= {"yes", "no"} else "other"
    counts[kind, "num"] = 1
    counts[kind, "score"] = float(prediction is not None and normalise(prediction) in accepted)
    return counts


def summarise(sums: Statistics) -> dict[str, Any]:
    """exact_match, also apart for yes/no and other answers; or VQA accuracy."""
    num, score = (
        {kind: sums.get((kind, what), 0) for kind in ("yes_no", "other", "annotators")} for what in ("num", "score")
    )
    return {
        "exact_match": ratio(score["yes_no"] + score["other"], num["yes_no"] + num["other"]),
        "exact_match_yes_no": ratio(score["yes_no"], num["yes_no"]),
        "exact_match_other": ratio(score["other"], num["other"]),
        "VQA accuracy (10 annotators)": ratio(score["annotators"], num["annotators"]),
        "parse_rate": ratio(sums.get(("parsed",), 0), sums.get(("num",), 0)),
        "num": int(sums.get(("num",), 0)),
        "num_yes_no": int(num["yes_no"]),
    }


class VQAAccuracy(ExampleMetric):
    """Exact match after normalisation (one reference), or VQA accuracy (10 annotators)."""

    def columns(self) -> Mapping[str, Any]:
        return {"predictions": Value("string"), "references": [Value("string")]}

    def values(self, columns: Mapping[str, list[Any]]) -> dict[str, Any]:
        pairs = zip(columns["predictions"], columns["references"], strict=True)
        return summarise(total(statistics(*pair) for pair in pairs))
