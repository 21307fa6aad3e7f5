from __future__ import annotations

import pytest

from tasks.metrics.attribute_accuracy import statistics, summarise
from tasks.metrics.bootstrap import total


def test_by_hand() -> None:
    rows = [
        (["black"], ["black"], "colour"),
        (["black"], ["black", "white"], "colour"),
        (["white", "black"], ["black", "white"], "colour"),  # both colours, the wrong one first
        (["black"], ["red"], "colour"),
        (["not visible"], ["not visible"], "sleeve"),
        (["not visible"], ["long"], "sleeve"),
        (None, ["not visible"], "sleeve"),
    ]
    values = summarise(total(statistics(*row) for row in rows))
    colour, sleeve = values["attributes"]["colour"], values["attributes"]["sleeve"]
    assert colour["accuracy"] == pytest.approx(2 / 4)
    assert colour["balanced_accuracy"] == pytest.approx((2 / 3 + 0) / 2)
    assert colour["shared_accuracy"] == pytest.approx(3 / 4)
    assert colour["majority_accuracy"] == pytest.approx(3 / 4)
    assert colour["majority_balanced_accuracy"] == pytest.approx(1 / 2)
    assert colour["not_visible_recall"] is None
    assert sleeve["not_visible_precision"] == pytest.approx(1 / 2)
    assert sleeve["not_visible_recall"] == pytest.approx(1 / 2)
    assert sleeve["parse_rate"] == pytest.approx(2 / 3)
    assert values["mean_balanced_accuracy"] == pytest.approx((1 / 3 + (1 / 2 + 0) / 2) / 2)
    assert values["num"] == 7


def test_majority_answer_scores_as_the_majority_columns_say() -> None:
    references = ["solid"] * 7 + ["striped"] * 2 + ["floral"]
    values = summarise(total(statistics(["solid"], [true], "pattern") for true in references))
    pattern = values["attributes"]["pattern"]
    assert pattern["accuracy"] == pattern["majority_accuracy"] == pytest.approx(0.7)
    assert pattern["balanced_accuracy"] == pattern["majority_balanced_accuracy"] == pytest.approx(1 / 3)


def test_an_attribute_that_was_not_answered_is_wrong() -> None:
    assert summarise(statistics([], ["long"], "sleeve"))["attributes"]["sleeve"]["accuracy"] == 0.0
