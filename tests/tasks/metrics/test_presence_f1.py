from __future__ import annotations

import pytest

from tasks.metrics.bootstrap import total
from tasks.metrics.presence_f1 import statistics, summarise


def test_by_hand() -> None:
    sums = total(
        [
            statistics(["coat", "boots", "boots"], ["coat", "boots", "bag"]),  # a label said twice counts once
            statistics(["coat", "hat"], ["coat"]),
        ]
    )
    values = summarise(sums)
    assert values["micro_precision"] == pytest.approx(3 / 4)
    assert values["micro_recall"] == pytest.approx(3 / 4)
    assert values["micro_F1"] == pytest.approx(3 / 4)
    assert values["macro_F1"] == pytest.approx((1 + 1 + 0 + 0) / 4)  # coat, boots, bag, hat
    assert values["num"] == 2


def test_unparseable_misses_everything() -> None:
    values = summarise(statistics(None, ["coat"]))
    assert values["micro_F1"] == 0.0
    assert values["parse_rate"] == 0.0


def test_nothing_there_and_nothing_said_is_undefined() -> None:
    assert summarise(statistics([], []))["micro_F1"] is None
    assert summarise({})["parse_rate"] is None


def test_statistics_add_up_over_processes() -> None:
    pairs = [(["coat"], ["coat", "hat"]), (["bag"], ["bag"]), ([], ["hat"])]
    rows = [statistics(*pair) for pair in pairs]
    assert summarise(total([total(rows[:1]), total(rows[1:])])) == summarise(total(rows))
