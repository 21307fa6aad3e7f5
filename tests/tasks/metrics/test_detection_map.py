from __future__ import annotations

from typing import Any

import pytest

from tasks.metrics.bootstrap import total
from tasks.metrics.detection_map import average_precision, commonest_labels, statistics, summarise


def item(label: str, *box: float, score: float = 1.0) -> dict[str, Any]:
    return {"label": label, "box": box, "score": score}


HAT, COAT = item("hat", 0, 0, 10, 10), item("coat", 20, 20, 60, 90)


@pytest.fixture(autouse=True)
def _installed() -> None:
    pytest.importorskip("faster_coco_eval")


def test_the_truth_is_perfect() -> None:
    values = average_precision([[HAT, COAT], [COAT]], [[HAT, COAT], [COAT]])
    assert values["AP50"] == pytest.approx(1.0)
    assert values["mAP@[.5:.95]"] == pytest.approx(1.0)
    assert values["labels"]["coat"]["num"] == 2


def test_by_hand() -> None:
    # Three hats; ranked: hit, miss, hit. Precision 1 up to recall 1/3, then 2/3 up to 2/3, then 0.
    # COCO reads precision at recalls 0, 0.01, ... 1: 34 points at 1, 33 at 2/3.
    found = [
        [item("hat", 0, 0, 10, 10, score=0.9)],
        [item("hat", 50, 50, 60, 60, score=0.8)],
        [item("hat", 0, 0, 10, 10, score=0.7)],
    ]
    values = average_precision(found, [[HAT], [HAT], [HAT]])
    assert values["AP50"] == pytest.approx((34 * 1 + 33 * 2 / 3) / 101)


def test_looser_boxes_cost_only_the_strict_thresholds() -> None:
    # IoU 0.72: right at 0.50 ... 0.70, wrong at 0.75 ... 0.95.
    values = average_precision([[item("hat", 0, 0, 10, 7.2)]], [[HAT]])
    assert values["AP50"] == pytest.approx(1.0)
    assert values["mAP@[.5:.95]"] == pytest.approx(0.5)


def test_labels_without_true_boxes_have_no_ap() -> None:
    values = average_precision([[HAT, COAT]], [[HAT]])
    assert values["AP50"] == pytest.approx(1.0)
    assert list(values["labels"]) == ["hat"]


def test_nothing_found_and_nothing_there() -> None:
    assert average_precision([[], None], [[HAT], [COAT]])["AP50"] == 0.0
    assert average_precision([[HAT]], [[]])["AP50"] is None
    assert average_precision([], [])["AP50"] is None


def test_ten_commonest() -> None:
    labels = [f"label {index:02}" for index in range(12)]
    references = [[item(label, 0, 0, 9, 9) for label in labels[:10]]] * 2 + [[item("label 11", 0, 0, 9, 9)]]
    assert commonest_labels(references) == labels[:10]
    values = average_precision([references[0], references[1], []], references)
    assert values["AP50_ten_commonest"] == pytest.approx(1.0)
    assert values["AP50"] == pytest.approx(10 / 11)


def test_f1_counts_label_and_place() -> None:
    found = [[HAT, item("bag", *COAT["box"])], [HAT, HAT], None]
    true = [[HAT, COAT], [HAT], [COAT]]
    values = summarise(total(statistics(*pair) for pair in zip(found, true, strict=True)))
    assert values["precision@0.5"] == pytest.approx(2 / 4)
    assert values["recall@0.5"] == pytest.approx(2 / 4)
    assert values["F1@0.5"] == pytest.approx(2 / 4)
    assert values["parse_rate"] == pytest.approx(2 / 3)
