"""Attributes of garments, attribute by attribute, against the answer that is always the commonest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Value

from tasks.metrics.bootstrap import Statistics, ratio, total
from tasks.metrics.example_metric import ExampleMetric

__all__ = ["NOT_VISIBLE", "AttributeAccuracy", "statistics", "summarise"]

NOT_VISIBLE = "not visible"


def statistics(
    prediction: Sequence[str] | None, reference: Sequence[str], attribute: str
) -> dict[tuple[str, ...], float]:
    """Of one attribute of one garment.

    Args:
        prediction: values, the dominant one first; None or empty where the model gave none.
        reference: likewise. The class is its first value, and the first value said must be that one.
        attribute: its name.
    """
    true, said = reference[0], prediction[0] if prediction else None
    return {
        (attribute, "parsed"): float(bool(prediction)),
        (attribute, "num", true): 1,
        (attribute, "correct", true): float(said == true),
        (attribute, "shared"): float(bool(set(prediction or ()) & set(reference))),
        (attribute, "said not visible"): float(said == NOT_VISIBLE),
    }


def summarise(sums: Statistics) -> dict[str, Any]:
    """Values of every attribute under "attributes", and means over attributes.

    Of an attribute: `accuracy` of the first value; `balanced_accuracy`, its mean over the classes that are
    there; what the commonest answer would reach in both; `shared_accuracy` (any value in common, for colours);
    precision and recall of "not visible".
    """
    names = sorted({name[0] for name in sums})
    attributes = {name: values for name in names if (values := _attribute(sums, name))["num"]}
    num = sum(values["num"] for values in attributes.values())
    parsed = sum(sums.get((name, "parsed"), 0) for name in attributes)

    def mean(key: str) -> float | None:
        return ratio(sum(values[key] for values in attributes.values()), len(attributes))

    return {
        "attributes": attributes,
        "mean_accuracy": mean("accuracy"),
        "mean_balanced_accuracy": mean("balanced_accuracy"),
        "mean_majority_balanced_accuracy": mean("majority_balanced_accuracy"),
        "parse_rate": ratio(parsed, num),
        "num": int(num),
    }


def _attribute(sums: Statistics, attribute: str) -> dict[str, Any]:
    classes = {name[2]: count for name, count in sums.items() if name[:2] == (attribute, "num") and count}
    correct = {label: sums.get((attribute, "correct", label), 0) for label in classes}
    num = sum(classes.values())
    hidden = correct.get(NOT_VISIBLE, 0)
    return {
        "accuracy": ratio(sum(correct.values()), num),
        "balanced_accuracy": ratio(sum(correct[label] / count for label, count in classes.items()), len(classes)),
        "majority_accuracy": ratio(max(classes.values(), default=0), num),
        "majority_balanced_accuracy": ratio(1, len(classes)),
        "shared_accuracy": ratio(sums.get((attribute, "shared"), 0), num),
        "not_visible_precision": ratio(hidden, sums.get((attribute, "said not visible"), 0)),
        "not_visible_recall": ratio(hidden, classes.get(NOT_VISIBLE, 0)),
        "parse_rate": ratio(sums.get((attribute, "parsed"), 0), num),
        "num": int(num),
        "num_classes": len(classes),
        "num_not_visible": int(classes.get(NOT_VISIBLE, 0)),
    }


class AttributeAccuracy(ExampleMetric):
    """Accuracy and balanced accuracy of every attribute, beside the majority answer's."""

    def columns(self) -> Mapping[str, Any]:
        return {"predictions": [Value("string")], "references": [Value("string")], "attributes": Value("string")}

    def values(self, columns: Mapping[str, list[Any]]) -> dict[str, Any]:
        rows = zip(columns["predictions"], columns["references"], columns["attributes"], strict=True)
        return summarise(total(statistics(*row) for row in rows))
