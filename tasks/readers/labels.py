"""Our labels' words, checked against the ontology, and the labels by rule that fill what they leave open."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tasks.base import ObjectLabel, Provenance
from tasks.ontology import attributes_of, default_ontology
from tasks.readers.raw import read_rows

__all__ = ["WEAK", "WeakLabel", "known_garment", "read_attributes", "read_weak", "with_weak"]

WEAK = "weak.jsonl"
"""Beside the annotations; made by `python -m vlm.data.weak --labels`."""
_AGAIN = "delete the file and run `python -m vlm.data.weak --labels` again"


@dataclass(frozen=True, kw_only=True)
class WeakLabel:
    """A row of weak.jsonl: an attribute's value that a labelling function gave.

    Attributes:
        where: file and line, for errors.
        index: of the object in its record.
        garment: the object's label when the row was made.
        function: its name.
        precision: how often the function was right on photos that it was not chosen by.
    """

    where: str
    index: int
    garment: str
    attribute: str
    value: str
    function: str
    precision: float


def known_garment(label: str, where: str) -> str:
    """The label itself.

    Raises:
        ValueError: it is not in the ontology.
    """
    garments = default_ontology().garments
    if label not in garments:
        raise ValueError(f"{where}: unknown garment {label!r}; known: {', '.join(garments)}")
    return label


def read_attributes(row: Mapping[str, Any], label: str, where: str) -> dict[str, tuple[str, ...]]:
    """The attributes in `row` that the ontology has for this garment; others (a heel's closure) are left out.

    Raises:
        ValueError: a value is not in the ontology.
    """
    ontology = default_ontology()
    found: dict[str, tuple[str, ...]] = {}
    for name in ontology.attributes_of(label):
        if row.get(name) is None:
            continue
        values = (row[name],) if isinstance(row[name], str) else tuple(row[name])
        for value in values:
            if value not in ontology.values[name]:
                raise ValueError(
                    f"{where}: unknown {name} {value!r} of {label}; known: {', '.join(ontology.values[name])}"
                )
        if values:
            found[name] = values
    return found


# -- labels by rule ------------------------------------------------------------------------------------------


def read_weak(path: Path, ids: Collection[str]) -> dict[str, list[WeakLabel]]:
    """Photo id -> its labels by rule; empty where the file is missing.

    Args:
        ids: the photos that there are.

    Raises:
        ValueError: a row is broken or of an unknown photo; names file and line.
    """
    found: dict[str, list[WeakLabel]] = {}
    if not path.is_file():
        return found
    for where, row in read_rows(path):
        if row.get("id") not in ids:
            raise ValueError(f"{where}: no photo {row.get('id')!r} in this data set; {_AGAIN}")
        found.setdefault(row["id"], []).append(_weak_label(row, where))
    return found


def _weak_label(row: Mapping[str, Any], where: str) -> WeakLabel:
    texts, fields = ("id", "garment", "attribute", "value", "function"), ("object", "precision")
    if set(row) != {*texts, *fields} or not all(isinstance(row[name], str) and row[name] for name in texts):
        raise ValueError(
            f"{where}: {dict(row)}; expected texts in {', '.join(texts)}, a whole number in object and a share in "
            f"precision; {_AGAIN}"
        )
    index, share = row["object"], row["precision"]
    if not isinstance(index, int) or isinstance(index, bool) or index < 0:
        raise ValueError(f"{where}: object is {index!r}; expected its number in the photo, from 0; {_AGAIN}")
    if not isinstance(share, (int, float)) or isinstance(share, bool) or not 0 < share <= 1:
        raise ValueError(f"{where}: precision is {share!r}; expected a share in (0, 1]; {_AGAIN}")
    garment, name = known_garment(row["garment"], where), row["attribute"]
    if name not in attributes_of(garment):
        raise ValueError(f"{where}: {garment} has no {name!r}; it has: {', '.join(attributes_of(garment))}")
    read_attributes({name: row["value"]}, garment, where)
    return WeakLabel(
        where=where,
        index=index,
        garment=garment,
        attribute=name,
        value=row["value"],
        function=row["function"],
        precision=float(share),
    )


def with_weak(
    objects: Sequence[ObjectLabel], labels: Sequence[WeakLabel], *, source: str, split: str
) -> tuple[ObjectLabel, ...]:
    """The objects of a training photo; what they leave open is filled from the labels by rule, each with its
    provenance. What is annotated stays as it is.

    Raises:
        ValueError: the photo is not for training, or an object is not the one that was labelled; names file and line.
    """
    found = list(objects)
    for label in labels:
        if split != "train":
            raise ValueError(f"{label.where}: its photo is in the {split} split; labels by rule are for training only")
        item = found[label.index] if label.index < len(found) else None
        if item is None or item.label != label.garment:
            there = "nothing" if item is None else item.label
            raise ValueError(
                f"{label.where}: object {label.index} is {there}; expected {label.garment}: its photo was annotated "
                f"anew; {_AGAIN}"
            )
        if label.attribute in item.attributes:
            continue
        attributes = {**item.attributes, label.attribute: (label.value,)}
        origin = Provenance(source=source, annotator=f"weak: {label.function}", score=label.precision)
        found[label.index] = replace(
            item,
            attributes={name: attributes[name] for name in attributes_of(item.label) if name in attributes},
            attribute_provenance={**item.attribute_provenance, label.attribute: origin},
        )
    return tuple(found)
