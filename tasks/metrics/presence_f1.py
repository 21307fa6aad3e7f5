"""Which garments are there, whatever their number and place: F1 over sets of labels."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from datasets import Value

from tasks.metrics.bootstrap import Statistics, ratio, total
from tasks.metrics.example_metric import ExampleMetric

__all__ = ["PresenceF1", "statistics", "summarise"]


def statistics(prediction: Collection[str] | None, reference: Collection[str]) -> dict[tuple[str, ...], float]:
    """Of one image; labels are compared as sets."""
    said, true = set(prediction or ()), set(reference)
    counts: dict[tuple[str, ...], float] = {("num",): 1, ("parsed",): float(prediction is not None)}
    counts.update({("true positive", label): 1 for label in said & true})
    counts.update({("false positive", label): 1 for label in said - true})
    counts.update({("false negative", label): 1 for label in true - said})
    return counts


def summarise(sums: Statistics) -> dict[str, Any]:
    """micro_F1 counts all labels alike; macro_F1 is the mean over the labels that were there or were said."""
    by_label: dict[str, list[float]] = {}
    kinds = ("true positive", "false positive", "false negative")
    for name, count in sums.items():
        if name[0] in kinds and count:
            by_label.setdefault(name[1], [0.0, 0.0, 0.0])[kinds.index(name[0])] += count
    hits, extra, missed = (sum(counts[i] for counts in by_label.values()) for i in range(3))
    scores = [2 * h / (2 * h + e + m) for h, e, m in by_label.values()]
    return {
        "micro_F1": ratio(2 * hits, 2 * hits + extra + missed),
        "micro_precision": ratio(hits, hits + extra),
        "micro_recall": ratio(hits, hits + missed),
        "macro_F1": ratio(sum(scores), len(scores)),
        "parse_rate": ratio(sums.get(("parsed",), 0), sums.get(("num",), 0)),
        "num": int(sums.get(("num",), 0)),
    }


class PresenceF1(ExampleMetric):
    """Micro and macro F1 of the sets of labels found in images."""

    def columns(self) -> Mapping[str, Any]:
        return {"predictions": [Value("string")], "references": [Value("string")]}

    def values(self, columns: Mapping[str, list[Any]]) -> dict[str, Any]:
        pairs = zip(columns["predictions"], columns["references"], strict=True)
        return summarise(total(statistics(*pair) for pair in pairs))
