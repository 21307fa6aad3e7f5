"""Splits that do not depend on the order of the rows, on Python's hash or on global state."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Mapping

__all__ = ["balanced_groups", "draw_ids", "share"]


def share(*keys: str | int) -> float:
    """A number in [0, 1) that is a function of the keys alone."""
    digest = hashlib.sha256(":".join(str(key) for key in keys).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def draw_ids(ids: Iterable[str], num: int, *, seed: int | str) -> frozenset[str]:
    """`num` of the ids."""
    return frozenset(sorted(ids, key=lambda name: (share(seed, name), name))[:num])


def balanced_groups(
    classes: Mapping[str, Counter[str]], num: int, *, max_group: int, trials: int, seed: int
) -> frozenset[str]:
    """Groups that together have about `num` members, with the class shares of the whole.

    Args:
        classes: group -> class -> number of members.
        num: members wanted; never more are given.
        max_group: larger groups are not taken, so that no single one decides what is measured.
        trials: random orders tried; the one whose class counts are nearest to the whole's wins.
    """
    total: Counter[str] = sum(classes.values(), Counter())
    wanted = {name: num * count / total.total() for name, count in total.items()}
    small = sorted(name for name, counts in classes.items() if counts.total() <= max_group)
    rng = random.Random(seed)
    best: tuple[float, list[str]] | None = None
    for _ in range(trials):
        taken: list[str] = []
        counts: Counter[str] = Counter()
        for name in rng.sample(small, len(small)):
            if counts.total() + classes[name].total() <= num:
                taken.append(name)
                counts += classes[name]
        distance = sum(abs(counts[name] - count) for name, count in wanted.items())
        if best is None or distance < best[0]:
            best = (distance, taken)
    return frozenset(best[1] if best else ())
