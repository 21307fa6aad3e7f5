"""Is the one answer the right class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datasets import Value

from tasks.metrics.bootstrap import Statistics, ratio, total
from tasks.metrics.example_metric import ExampleMetric

__all__ = ["Top1Accuracy", "statistics", "summarise"]


def statistics(prediction: str | None, reference: str) -> dict[tuple[str, ...], float]:
    """Of one image."""
    return {
        ("parsed",): float(prediction is not None),
        ("num", reference): 1,
        ("correct", reference): float(prediction == reference),
    }


def summarise(sums: Statistics) -> dict[str, Any]:
    """top1_accuracy over all; balanced_accuracy is the mean over the classes that are there."""
    classes = {name[1]: count for name, count in sums.items() if name[0] == "num" and count}
    num = sum(classes.values())
    correct = {label: sums.get(("correct", label), 0) for label in classes}
    return {
        "top1_accuracy": ratio(sum(correct.values()), num),
        "balanced_accuracy": ratio(sum(correct[label] / count for label, count in classes.items()), len(classes)),
        "parse_rate": ratio(sums.get(("parsed",), 0), num),
        "num": int(num),
        "num_classes": len(classes),
    }


class Top1Accuracy(ExampleMetric):
    """Top-1 accuracy, and its mean over classes."""

    def columns(self) -> Mapping[str, Any]:
        return {"predictions": Value("string"), "references": Value("string")}

    def values(self, columns: Mapping[str, list[Any]]) -> dict[str, Any]:
        pairs = zip(columns["predictions"], columns["references"], strict=True)
        return summarise(total(statistics(*pair) for pair in pairs))
