from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest

from tasks.metrics.bootstrap import bootstrap, bootstrap_images, flatten, total


def accuracy(sums: Mapping[tuple[str, ...], float]) -> dict[str, Any]:
    return {"accuracy": sums["right",] / sums["num",], "num": int(sums["num",])}


ROWS = [{("num",): 1.0, ("right",): float(index % 4 != 0)} for index in range(200)]  # 0.75


def test_interval_has_the_textbook_width() -> None:
    intervals = bootstrap(ROWS, accuracy, num_resamples=2000)
    low, high = intervals["accuracy"]
    half = 1.96 * math.sqrt(0.75 * 0.25 / 200)
    assert low == pytest.approx(0.75 - half, abs=0.01)
    assert high == pytest.approx(0.75 + half, abs=0.01)
    assert list(intervals) == ["accuracy"]  # counts have none


def test_same_seed_same_interval() -> None:
    assert bootstrap(ROWS, accuracy, num_resamples=50) == bootstrap(ROWS, accuracy, num_resamples=50)
    assert bootstrap(ROWS, accuracy, num_resamples=50) != bootstrap(ROWS, accuracy, num_resamples=50, seed=1)


def test_examples_of_an_image_stay_together() -> None:
    # 20 images of 10 equal examples vary as 20, not as 200.
    images = [{("num",): 10.0, ("right",): 10.0 * (index % 4 != 0)} for index in range(20)]
    low, high = bootstrap(images, accuracy)["accuracy"]
    few, many = high - low, 2 * 1.96 * math.sqrt(0.75 * 0.25 / 200)
    assert few > 2.5 * many


def test_what_is_undefined_in_a_resample_is_left_out_of_it() -> None:
    rows = [{("num",): 1.0}, {("num",): 1.0, ("rare",): 1.0}]
    intervals = bootstrap(rows, lambda sums: {"x": 1.0 if sums.get(("rare",)) else None}, num_resamples=100)
    assert intervals == {"x": (1.0, 1.0)}


def test_images_by_index() -> None:
    right = [index % 4 != 0 for index in range(200)]
    intervals = bootstrap_images(200, lambda drawn: {"accuracy": sum(right[i] for i in drawn) / len(drawn)})
    assert intervals["accuracy"][0] == pytest.approx(0.69, abs=0.015)


def test_of_nothing() -> None:
    assert bootstrap([], accuracy) == {}
    assert bootstrap_images(0, lambda _: {}) == {}
    assert bootstrap(ROWS, accuracy, num_resamples=0) == {}


def test_total_and_flatten() -> None:
    assert total([{("a",): 1.0}, {("a",): 2.0, ("b", "c"): 1.0}]) == {("a",): 3.0, ("b", "c"): 1.0}
    nested = {"a": 0.5, "b": {"c": 1, "num": 3, "num_d": 2, "e": None, "f": "text"}}
    assert dict(flatten(nested)) == {"a": 0.5, "b/c": 1.0}
