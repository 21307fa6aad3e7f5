"""Boxes of garments: average precision over the ranking, F1 at what the model says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Value

from tasks.boxes import Box
from tasks.metrics.bootstrap import Statistics, ratio, total
from tasks.metrics.example_metric import ExampleMetric
from tasks.metrics.grounding_accuracy import matches

__all__ = ["DetectionMAP", "average_precision", "commonest_labels", "statistics", "summarise"]

NUM_COMMONEST = 10

Item = Mapping[str, Any]
"""{"label": str, "box": (x1, y1, x2, y2) in pixels, "score": float}; a reference has no score."""


def commonest_labels(references: Sequence[Sequence[Item]], num: int = NUM_COMMONEST) -> list[str]:
    """The labels with most true boxes, by number, then by name."""
    counts = Counter(item["label"] for items in references for item in items)
    return sorted(counts, key=lambda label: (-counts[label], label))[:num]


def average_precision(
    predictions: Sequence[Sequence[Item] | None],
    references: Sequence[Sequence[Item]],
    *,
    commonest: Sequence[str] | None = None,
) -> dict[str, Any]:
    """COCO's AP over labels that have true boxes, through faster-coco-eval.

    Args:
        predictions: of every image; None could not be parsed and counts as nothing found.
        references: true boxes of every image.
        commonest: labels of `AP50_ten_commonest`; None for the ten with most true boxes here.

    Returns:
        AP50, mAP@[.5:.95], AP50_ten_commonest, and the first two by label under "labels". None without boxes.

    Raises:
        ValueError: faster-coco-eval is not installed.
    """
    counts = Counter(item["label"] for items in references for item in items)
    commonest = commonest_labels(references) if commonest is None else commonest
    by_label = _by_label(predictions, references, sorted(counts)) if counts else {}

    def mean(key: str, labels: Sequence[str]) -> float | None:
        values = [by_label[label][key] for label in labels if label in by_label]
        return ratio(sum(values), len(values))

    return {
        "AP50": mean("AP50", list(by_label)),
        "mAP@[.5:.95]": mean("mAP@[.5:.95]", list(by_label)),
        "AP50_ten_commonest": mean("AP50", commonest),
        "labels": {label: {**values, "num": counts[label]} for label, values in by_label.items()},
        "num_boxes": sum(counts.values()),
    }


def _by_label(
    predictions: Sequence[Sequence[Item] | None], references: Sequence[Sequence[Item]], labels: Sequence[str]
) -> dict[str, dict[str, float]]:
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise ValueError(
            "average precision needs faster-coco-eval; install it with `pip install 'vlm[eval]'`"
        ) from error
    categories = {label: index + 1 for index, label in enumerate(labels)}
    found = _annotations(predictions, categories)
    if not found:  # COCO.loadRes takes no empty list
        return {label: {"AP50": 0.0, "mAP@[.5:.95]": 0.0} for label in labels}
    truth = COCO(
        {
            "images": [{"id": index + 1} for index in range(len(references))],
            "categories": [{"id": index, "name": label} for label, index in categories.items()],
            "annotations": _annotations(references, categories),
        }
    )
    run = COCOeval_faster(truth, truth.loadRes(found), "bbox", print_function=_silent)
    run.params.maxDets = [100]
    run.params.areaRng, run.params.areaRngLbl = run.params.areaRng[:1], run.params.areaRngLbl[:1]  # all sizes
    run.evaluate()
    run.accumulate()
    precision_TRK = np.asarray(run.eval["precision"])[:, :, :, 0, 0]  # IoU thresholds, recalls, labels
    ap_TK = precision_TRK.mean(axis=1)
    return {
        label: {"AP50": float(ap_TK[0, k]), "mAP@[.5:.95]": float(ap_TK[:, k].mean())} for k, label in enumerate(labels)
    }


def _annotations(images: Sequence[Sequence[Item] | None], categories: Mapping[str, int]) -> list[dict[str, Any]]:
    """In COCO's form; boxes become (x, y, width, height). Labels without true boxes have no AP and are left out."""
    rows: list[dict[str, Any]] = []
    for index, items in enumerate(images):
        for item in items or ():
            if item["label"] not in categories:
                continue
            box = Box(*item["box"])
            rows.append(
                {
                    "id": len(rows) + 1,
                    "image_id": index + 1,
                    "category_id": categories[item["label"]],
                    "bbox": [box.x1, box.y1, box.width, box.height],
                    "area": box.area,
                    "iscrowd": 0,
                    "score": item.get("score", 1.0),
                }
            )
    return rows


def _silent(*_: object) -> None: ...


def statistics(prediction: Sequence[Item] | None, reference: Sequence[Item]) -> dict[tuple[str, ...], float]:
    """Of one image, for F1@0.5: a box counts where its label is right and its IoU is at least 0.5."""

    def boxes(items: Sequence[Item], label: str) -> list[Box]:
        return [Box(*item["box"]) for item in items if item["label"] == label]

    said = prediction or ()
    labels = {item["label"] for item in (*said, *reference)}
    return {
        ("num",): 1,
        ("parsed",): float(prediction is not None),
        ("said",): len(said),
        ("true",): len(reference),
        ("matched",): sum(len(matches(boxes(said, label), boxes(reference, label))) for label in labels),
    }


def summarise(sums: Statistics) -> dict[str, Any]:
    said, true, matched = (sums.get((name,), 0) for name in ("said", "true", "matched"))
    return {
        "F1@0.5": ratio(2 * matched, said + true),
        "precision@0.5": ratio(matched, said),
        "recall@0.5": ratio(matched, true),
        "parse_rate": ratio(sums.get(("parsed",), 0), sums.get(("num",), 0)),
        "num": int(sums.get(("num",), 0)),
    }


class DetectionMAP(ExampleMetric):
    """AP50, mAP@[.5:.95], both by label, AP50 of the ten commonest labels, and F1@0.5."""

    def columns(self) -> Mapping[str, Any]:
        item = {"label": Value("string"), "box": [Value("float64")]}
        return {"predictions": [{**item, "score": Value("float64")}], "references": [item]}

    def values(self, columns: Mapping[str, list[Any]]) -> dict[str, Any]:
        predictions, references = columns["predictions"], columns["references"]
        pairs = zip(predictions, references, strict=True)
        sums = total(statistics(*pair) for pair in pairs)
        return {**average_precision(predictions, references), **summarise(sums)}
