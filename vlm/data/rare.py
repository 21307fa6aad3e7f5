"""Photos with rare labels more often: repeat factor sampling (Gupta et al., 2019, arXiv 1908.03195)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from tasks.base import Record
from tasks.readers.split import share

__all__ = ["MOST", "repeat_factors", "repeated_rows"]

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
