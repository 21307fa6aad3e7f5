"""Which labelling functions are used, and the labels that they give to training photos.

Functions are fitted and chosen on one half of ccp's training photos and measured again on the other half; used are
those that reach the limits on both. Of a data set that has annotations of its own for what a function says, they
decide there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from tasks.base import Record
from tasks.ontology import attributes_of
from tasks.readers.labels import read_attributes
from tasks.readers.raw import read_rows
from tasks.readers.split import share
from vlm.atomic import write_text
from vlm.data.label_functions import (
    LabelFunction,
    Photo,
    PlainPhoto,
    Precision,
    annotated,
    label_functions,
    precision,
)

__all__ = [
    "Limits",
    "Measured",
    "fits",
    "halves",
    "load_limits",
    "measure",
    "rows_of",
    "second_opinions",
    "usable",
    "write_rows",
]

_SALT = "weak labels"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a function must reach to be used.

    Attributes:
        min_precision: share of its labels that are right.
        min_given: labels that this was measured on.
        refused: names of functions that are not used, whatever they reach.

    Raises:
        ValueError: a number is out of range.
    """

    min_precision: float
    min_given: int
    refused: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.min_precision <= 1 or self.min_given < 1:
            raise ValueError(
                f"min_precision is {self.min_precision} and min_given {self.min_given}; expected a share in (0, 1] and "
                "at least 1"
            )


def load_limits(path: Path) -> Limits:
    """The limits in a YAML file.

    Raises:
        ValueError: one is missing, unknown or out of range; names the file.
    """
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or set(found) - {"refused"} != {"min_precision", "min_given"}:
        raise ValueError(f"{path}: expected min_precision, min_given and perhaps refused; see configs/weak.yaml")
    refused = found.pop("refused", None) or []
    if not isinstance(refused, list) or not all(isinstance(name, str) for name in refused):
        raise ValueError(f"{path}: refused is {refused!r}; expected a list of functions' names")
    try:
        return Limits(**found, refused=tuple(refused))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A labelling function and how often it was right.

    Attributes:
        chosen: on the half of the photos that it was fitted and chosen on.
        held_out: on the other half.
    """

    function: LabelFunction
    chosen: Precision
    held_out: Precision

    def reaches(self, limits: Limits) -> bool:
        """Whether it may be used: on both halves."""
        return all(half.reaches(limits.min_precision, limits.min_given) for half in (self.chosen, self.held_out))


def halves(photos: Iterable[Photo]) -> tuple[list[Photo], list[Photo]]:
    """(photos to choose by, photos to measure on), by a hash of the record's id."""
    chosen: list[Photo] = []
    held_out: list[Photo] = []
    for photo in photos:
        (chosen if share(_SALT, photo.record.id) < 0.5 else held_out).append(photo)
    return chosen, held_out


def measure(
    photos: Iterable[Photo], fit: Callable[[Sequence[Photo]], Sequence[LabelFunction]] = label_functions
) -> list[Measured]:
    """The functions that `fit` makes of one half of the photos, measured on both."""
    chosen, held_out = halves(photos)
    return [
        Measured(function=function, chosen=precision(function, chosen), held_out=precision(function, held_out))
        for function in fit(chosen)
    ]


def usable(measured: Iterable[Measured], limits: Limits) -> list[Measured]:
    """Those that may be used."""
    return [found for found in measured if found.reaches(limits) and found.function.name not in limits.refused]


def fits(used: Iterable[Measured], photos: Sequence[Photo], limits: Limits) -> dict[str, tuple[LabelFunction, float]]:
    """Name -> (function, its precision) of those that may label another data set.

    Where the data set's own annotations tell, as many as `min_given` of them, the precision is that on them, and must
    reach the limit as well; else it is that on the held-out half.
    """
    found = {}
    for one in used:
        own = precision(one.function, photos)
        told = own.value if own.given >= limits.min_given else one.held_out.value
        if told >= limits.min_precision:
            found[one.function.name] = (one.function, told)
    return found


def rows_of(
    photos: Iterable[Photo], functions: Mapping[str, tuple[LabelFunction, float]]
) -> Iterator[dict[str, str | int | float]]:
    """Rows of weak.jsonl: labels for what nobody has annotated in training photos.

    Args:
        functions: name -> (function, its precision). Where several tell something of one garment, the most precise
            one is asked.
    """
    ranked = sorted(functions.values(), key=lambda pair: (-pair[1], pair[0].name))
    for photo in photos:
        if photo.record.split != "train":
            continue
        for index, item in enumerate(photo.record.objects):
            known = annotated(item)
            for name in attributes_of(item.label):
                if name in known:
                    continue
                said = ((function.label(photo, index), function, value) for function, value in ranked
                        if function.attribute == name)  # fmt: skip
                best = next((found for found in said if found[0] is not None), None)
                if best is not None and best[0] is not None:
                    yield {
                        "id": photo.record.id,
                        "object": index,
                        "garment": item.label,
                        "attribute": name,
                        "value": best[0],
                        "function": best[1].name,
                        "precision": round(best[2], 4),
                    }


def write_rows(rows: Iterable[Mapping[str, str | int | float]], path: Path) -> list[Mapping[str, str | int | float]]:
    """Write weak.jsonl whole; the rows that were written."""
    kept = list(rows)
    write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
    return kept


def second_opinions(records: Iterable[Record], path: Path) -> list[Photo]:
    """Photos that were annotated twice, with only what the first annotation left open and the second tells.

    Labels are given where an annotation is silent, and it may be silent because there is nothing to tell: these few
    garments measure precision just there. Garments that a photo has twice are passed over.

    Args:
        records: with the first annotation.
        path: rows of the second one.
    """
    second = {row["id"]: (where, row["items"]) for where, row in read_rows(path)}
    found: list[Photo] = []
    for record in records:
        if record.id not in second:
            continue
        where, items = second[record.id]
        objects = []
        for item in record.objects:
            again: list[Mapping[str, Any]] = [other for other in items if other["item"] == item.label]
            alone = len(again) == 1 and sum(other.label == item.label for other in record.objects) == 1
            told = read_attributes(again[0], item.label, where) if alone else {}
            silent = {name: values for name, values in told.items() if name not in annotated(item)}
            objects.append(replace(item, attributes=silent, attribute_provenance={}))
        found.append(PlainPhoto(record=replace(record, objects=tuple(objects))))
    return found
