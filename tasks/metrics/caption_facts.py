"""Whether what captions claim of garments, their colours and patterns is so: precision of the facts read from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Value

from tasks.base import ObjectLabel
from tasks.facts import is_true, read_facts
from tasks.metrics.bootstrap import Statistics, ratio, total
from tasks.metrics.example_metric import ExampleMetric

__all__ = ["CaptionFacts", "statistics", "summarise"]

KINDS = ("garment", "colour", "pattern")


def statistics(
    prediction: str | None, objects: Sequence[ObjectLabel], *, complete: bool
) -> dict[tuple[str, ...], float]:
    """Of one caption: see `tasks.facts`. Facts that the labels say nothing about are not counted."""
    counts: dict[tuple[str, ...], float] = {("num",): 1}
    for fact in read_facts(prediction or ""):
        right = is_true(fact, objects, complete=complete)
        if right is not None:
            kind = fact.attribute or "garment"
            counts[kind, "said"] = counts.get((kind, "said"), 0) + 1
            counts[kind, "right"] = counts.get((kind, "right"), 0) + right
    return counts


def summarise(sums: Statistics) -> dict[str, Any]:
    """Precision over all facts, and of each kind; "num" counts captions, "num_facts" what they claim."""
    said, right = ({kind: sums.get((kind, what), 0) for kind in KINDS} for what in ("said", "right"))
    return {
        "precision": ratio(sum(right.values()), sum(said.values())),
        **{f"precision_{kind}": ratio(right[kind], said[kind]) for kind in KINDS},
        "facts_per_caption": ratio(sum(said.values()), sums.get(("num",), 0)),
        "num": int(sums.get(("num",), 0)),
        "num_facts": int(sum(said.values())),
    }


class CaptionFacts(ExampleMetric):
    """Precision of the garments, colours and patterns that captions name; references list everything worn."""

    def columns(self) -> Mapping[str, Any]:
        worn = {"label": Value("string"), "colour": [Value("string")], "pattern": [Value("string")]}
        return {"predictions": Value("string"), "references": [worn]}

    def values(self, columns: Mapping[str, list[Any]]) -> dict[str, Any]:
        def objects(rows: Sequence[Mapping[str, Any]]) -> list[ObjectLabel]:
            return [
                ObjectLabel(
                    label=row["label"],
                    attributes={name: tuple(row[name]) for name in ("colour", "pattern") if row.get(name)},
                )
                for row in rows
            ]

        pairs = zip(columns["predictions"], columns["references"], strict=True)
        return summarise(total(statistics(said, objects(true), complete=True) for said, true in pairs))
