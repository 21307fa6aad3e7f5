"""Our labels' words, checked against the ontology."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.ontology import default_ontology

__all__ = ["known_garment", "read_attributes"]


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
