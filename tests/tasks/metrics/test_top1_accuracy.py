from __future__ import annotations

import pytest

from tasks.metrics.bootstrap import total
from tasks.metrics.top1_accuracy import statistics, summarise


def test_by_hand() -> None:
    pairs = [("hat", "hat"), ("hat", "hat"), ("dress", "hat"), ("hat", "dress"), (None, "shirt")]
    values = summarise(total(statistics(*pair) for pair in pairs))
    assert values["top1_accuracy"] == pytest.approx(2 / 5)
    assert values["balanced_accuracy"] == pytest.approx((2 / 3 + 0 + 0) / 3)
    assert values["parse_rate"] == pytest.approx(4 / 5)
    assert (values["num"], values["num_classes"]) == (5, 3)


def test_of_nothing() -> None:
    assert summarise({})["top1_accuracy"] is None
