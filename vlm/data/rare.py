"""Rare labels count more: photos more often, by repeat factor sampling (Gupta et al., 2019, arXiv 1908.03195), and
values with a larger loss, by a power of their share (Mahajan et al., 2018, arXiv 1805.00932, sample by its root)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from tasks.base import Record
from tasks.readers.split import share

__all__ = ["MOST", "repeat_factors", "repeated_rows", "value_weights"]

MOST = 8.0
"""A label of one photo in a thousand is not seen until the model knows that photo by heart."""

Label = tuple[str, str]


def _labels(record: Record) -> frozenset[Label]:
    garments = {("garment", item.label) for item in record.objects}
    return frozenset(
        garments
        | {(name, word) for item in record.objects for name, words in item.attributes.items() for word in words}
    )


def repeat_factors(records: Iterable[Record], threshold: float) -> list[float]:
    """How often each record comes in a pass, 1 to `MOST`: sqrt(threshold / share) of its rarest label, where that is
    in fewer than a share of `threshold` of the records. Labels are garments and single values of attributes.

    Raises:
        ValueError: a threshold that is no share.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is {threshold}; expected a share in (0, 1]")
    found = [_labels(record) for record in records]
    counts = Counter(label for labels in found for label in labels)
    return [
        max([1.0, *(min(MOST, math.sqrt(threshold * len(found) / counts[label])) for label in labels)])
        for labels in found
    ]


def repeated_rows(records: Sequence[Record], threshold: float) -> list[int]:
    """Numbers of the records, each as often as it comes in a pass; what is left of a factor is decided by a hash of
    the record's id."""
    rows = []
    for number, (record, factor) in enumerate(zip(records, repeat_factors(records, threshold), strict=True)):
        whole = int(factor)
        rows += [number] * (whole + (share("repeat", record.id) < factor - whole))
    return rows


def value_weights(records: Iterable[Record], power: float) -> dict[Label, float]:
    """(attribute, value) -> factor on the losses of its tokens: share ** -power within its attribute, scaled to a mean
    of 1 over the labels of the attribute, so that attributes keep their weight against each other; at most `MOST`.

    Raises:
        ValueError: a power that is not in (0, 1]; at 1 every value of an attribute counts as much as all of another.
    """
    if not 0 < power <= 1:
        raise ValueError(f"power is {power}; expected one in (0, 1]")
    counts: dict[str, Counter[str]] = {}
    for record in records:
        for item in record.objects:
            for name, words in item.attributes.items():
                counts.setdefault(name, Counter()).update(words)
    weights = {}
    for name, words in counts.items():
        total = words.total()
        mean = sum((count / total) ** (1 - power) for count in words.values())
        weights.update({(name, word): min(MOST, (count / total) ** -power / mean) for word, count in words.items()})
    return weights
