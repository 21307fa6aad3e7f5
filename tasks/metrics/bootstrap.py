"""Sums of sufficient statistics, and how far they would move with other images."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["Interval", "Statistics", "bootstrap", "bootstrap_images", "flatten", "ratio", "total"]

Statistics = Mapping[tuple[str, ...], float]
"""Named counts that add up over examples, images and processes."""

Interval = tuple[float, float]


def total(statistics: Iterable[Statistics]) -> dict[tuple[str, ...], float]:
    """The sum of all; a name that is missing counts 0."""
    summed: dict[tuple[str, ...], float] = defaultdict(float)
    for counts in statistics:
        for name, count in counts.items():
            summed[name] += count
    return dict(summed)


def ratio(numerator: float, denominator: float) -> float | None:
    """None where nothing was counted: neither 0 nor 1 would be true."""
    return numerator / denominator if denominator else None


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """("attributes/colour/accuracy", 0.7), ... of a nested result, without counts (`num...`) and None."""
    for name, value in values.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from flatten(value, path + "/")
        elif isinstance(value, (int, float)) and not name.startswith("num"):
            yield path, float(value)


def bootstrap(
    statistics: Sequence[Statistics],
    summarise: Callable[[Statistics], Mapping[str, Any]],
    *,
    num_resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """Percentile intervals over images.

    Args:
        statistics: one element an image, which holds the sum over the image's examples, so that examples
            of one image stay together.
        summarise: sum of statistics -> (nested) values.

    Returns:
        Path of a value, as in `flatten` -> (low, high). Values that some resamples leave undefined
        (a class that was not drawn) take their interval from the others.
    """
    if not statistics:
        return {}
    names = sorted({name for counts in statistics for name in counts})
    counts_IN = np.array([[counts.get(name, 0.0) for name in names] for counts in statistics])
    num = len(statistics)
    weights_RI = np.random.default_rng(seed).multinomial(num, [1 / num] * num, size=num_resamples)
    sums_RN = weights_RI @ counts_IN
    return _intervals((summarise(dict(zip(names, map(float, row), strict=True))) for row in sums_RN), confidence)


def bootstrap_images(
    num_images: int,
    compute: Callable[[Sequence[int]], Mapping[str, Any]],
    *,
    num_resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """As `bootstrap`, for values that are no function of a sum: `compute` gets the images drawn, by index."""
    if not num_images:
        return {}
    drawn_RI = np.random.default_rng(seed).integers(num_images, size=(num_resamples, num_images))
    return _intervals((compute(row.tolist()) for row in drawn_RI), confidence)


def _intervals(resamples: Iterable[Mapping[str, Any]], confidence: float) -> dict[str, Interval]:
    values: dict[str, list[float]] = defaultdict(list)
    for result in resamples:
        for path, value in flatten(result):
            if math.isfinite(value):
                values[path].append(value)
    tail = (1 - confidence) / 2
    bounds = {path: np.quantile(found, [tail, 1 - tail]) for path, found in values.items()}
    return {path: (float(low), float(high)) for path, (low, high) in bounds.items()}
