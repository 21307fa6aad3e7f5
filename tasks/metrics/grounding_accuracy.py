"""Where a phrase is: one box, several, or nowhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Value

from tasks.boxes import Box, iou
from tasks.metrics.bootstrap import Statistics, ratio, total
from tasks.metrics.example_metric import ExampleMetric

__all__ = ["MIN_IOU", "GroundingAccuracy", "matches", "statistics", "summarise"]

MIN_IOU = 0.5


def matches(predicted: Sequence[Box], true: Sequence[Box]) -> set[int]:
    """Which predicted boxes find a true one of their own (IoU >= 0.5), best overlaps first."""
    pairs = [(iou(p, t), i, j) for i, p in enumerate(predicted) for j, t in enumerate(true)]
    found: set[int] = set()
    taken: set[int] = set()
    for overlap, i, j in sorted(pairs, key=lambda pair: -pair[0]):
        if overlap >= MIN_IOU and i not in found and j not in taken:
            found.add(i)
            taken.add(j)
    return found


def statistics(prediction: Sequence[Box] | None, reference: Sequence[Box]) -> dict[tuple[str, ...], float]:
    """Of one phrase.

    Args:
        prediction: boxes, the surest first; empty for "it is not there".
        reference: true boxes; empty where the phrase means nothing in the image.
    """
    said = list(prediction or ())
    num_matches = len(matches(said, reference))
    exact = prediction is not None and num_matches == len(said) == len(reference)
    counts: dict[tuple[str, ...], float] = {
        ("num",): 1,
        ("parsed",): float(prediction is not None),
        ("exact",): float(exact),
        ("said none",): float(prediction is not None and not said),
    }
    if not reference:
        counts["none", "num"], counts["none", "score"] = 1, float(exact)
    elif len(reference) == 1:
        hit = bool(said) and iou(said[0], reference[0]) >= MIN_IOU
        counts["one", "num"], counts["one", "score"] = 1, float(hit)
    else:
        counts["several", "num"], counts["several", "score"] = 1, 2 * num_matches / (len(said) + len(reference))
    return counts


def summarise(sums: Statistics) -> dict[str, Any]:
    """Acc@0.5 of phrases with one box (RefCOCO's), mean F1@0.5 of those with several, precision and recall of
    "none", Pr@(F1=1) of all: every box found and none made up (gRefCOCO, arXiv 2306.00968)."""
    num, score = ({kind: sums.get((kind, what), 0) for kind in ("one", "several", "none")} for what in ("num", "score"))
    return {
        "Acc@0.5": ratio(score["one"], num["one"]),
        "Acc@0.5_incl_none": ratio(score["one"] + score["none"], num["one"] + num["none"]),
        "F1@0.5": ratio(score["several"], num["several"]),
        "Pr@(F1=1)": ratio(sums.get(("exact",), 0), sums.get(("num",), 0)),
        "none_precision": ratio(score["none"], sums.get(("said none",), 0)),
        "none_recall": ratio(score["none"], num["none"]),
        "parse_rate": ratio(sums.get(("parsed",), 0), sums.get(("num",), 0)),
        "num": int(sums.get(("num",), 0)),
        **{f"num_{kind}": int(count) for kind, count in num.items()},
    }


class GroundingAccuracy(ExampleMetric):
    """Acc@0.5, F1@0.5 and "none" precision and recall. Boxes are xyxy; a prediction's surest box comes first."""

    def columns(self) -> Mapping[str, Any]:
        return {"predictions": [[Value("float64")]], "references": [[Value("float64")]]}

    def values(self, columns: Mapping[str, list[Any]]) -> dict[str, Any]:
        def boxes(rows: Sequence[Sequence[float]]) -> list[Box]:
            return [Box(*row) for row in rows]

        pairs = zip(columns["predictions"], columns["references"], strict=True)
        return summarise(total(statistics(None if said is None else boxes(said), boxes(true)) for said, true in pairs))
