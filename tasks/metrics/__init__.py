"""One file a metric; each is an `evaluate.Metric` that `evaluate.load(metric_path(name))` opens offline.

Every module also gives its parts as plain functions, for intervals and for summing over processes:
`statistics(prediction, reference, ...)` are the sufficient statistics of one example, which add up, and
`summarise(total)` turns their sum into values. A prediction that could not be parsed is None and scores zero.

This package itself imports nothing: `evaluate` comes in with the metric that needs it.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["METRICS", "metric_path"]

METRICS = (
    "attribute_accuracy",
    "caption_facts",
    "cider_d",
    "detection_map",
    "grounding_accuracy",
    "presence_f1",
    "top1_accuracy",
    "vqa_accuracy",
)


def metric_path(name: str) -> str:
    """The file that `evaluate.load` takes.

    Raises:
        ValueError: no such metric.
    """
    if name not in METRICS:
        raise ValueError(f"unknown metric {name!r}; known: {', '.join(METRICS)}")
    return str(Path(__file__).parent / f"{name}.py")
