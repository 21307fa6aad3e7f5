"""Garments, attributes and their values, as configs/ontology/outfit.yaml names them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import yaml

__all__ = ["NOT_VISIBLE", "Ontology", "attributes_of", "default_ontology", "load_ontology"]

NOT_VISIBLE = "not visible"

_FOLDERS = (Path(__file__).parent / "_configs", Path(__file__).parent.parent / "configs")
"""In a wheel, and in a checkout."""


@dataclass(frozen=True, kw_only=True)
class Ontology:
    """What can be worn and what can be said of it.

    Attributes:
        values: attribute -> its values. The order of the attributes is the order in which they are asked for.
        kinds: kind of garment -> its garments, e.g. "shoes".
        garments: garment -> attributes that apply to it, in the order of `values`.
        num_values: attribute -> most values it takes, where more than one.

    Raises:
        ValueError: a word that is empty or stands twice, or an attribute without values.
    """

    values: Mapping[str, tuple[str, ...]]
    kinds: Mapping[str, tuple[str, ...]]
    garments: Mapping[str, tuple[str, ...]]
    num_values: Mapping[str, int]

    def __post_init__(self) -> None:
        for name, words in {**self.values, "garments": tuple(g for kind in self.kinds.values() for g in kind)}.items():
            twice = sorted({word for word in words if words.count(word) > 1})
            if twice or not all(words) or not words:
                raise ValueError(f"ontology: {name} has {'twice ' + twice[0] if twice else 'an empty word or none'}")
        for garment, attributes in self.garments.items():
            unknown = [name for name in attributes if name not in self.values]
            if unknown:
                raise ValueError(
                    f"ontology: {garment} has an unknown attribute {unknown[0]!r}; known: {', '.join(self.values)}"
                )

    def attributes_of(self, garment: str | None) -> tuple[str, ...]:
        """Attributes that apply to a garment; all there are for None, a garment that nobody has named.

        Raises:
            ValueError: an unknown garment.
        """
        if garment is None:
            return tuple(self.values)
        if garment not in self.garments:
            raise ValueError(f"unknown garment {garment!r}; known: {', '.join(self.garments)}")
        return self.garments[garment]

    def kind_of(self, garment: str) -> str:
        """The kind that a known garment belongs to."""
        return self._kinds_of[garment]

    @cached_property
    def _kinds_of(self) -> dict[str, str]:
        return {garment: kind for kind, garments in self.kinds.items() for garment in garments}


def load_ontology(path: str | Path) -> Ontology:
    """Read an ontology.

    Raises:
        ValueError: the file is not of this form; names it.
    """
    try:
        found: Any = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        values = {str(name): _words(words) for name, words in found["values"].items()}
        kinds = {str(kind): _words(row["garments"]) for kind, row in found["kinds"].items()}
        garments = {
            garment: tuple(name for name in values if name in row["attributes"])
            + tuple(name for name in row["attributes"] if name not in values)  # refused below
            for row in found["kinds"].values()
            for garment in _words(row["garments"])
        }
        num_values = {str(name): int(num) for name, num in found.get("num_values", {}).items()}
        return Ontology(values=values, kinds=kinds, garments=garments, num_values=num_values)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: is not an ontology: {error!r}; see configs/ontology/outfit.yaml") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: is not YAML: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _words(found: Any) -> tuple[str, ...]:
    if not isinstance(found, list):  # a text would fall into its letters
        raise TypeError(f"{found!r} is not a list of words")
    return tuple(map(str, found))


@lru_cache(maxsize=1)
def default_ontology() -> Ontology:
    """The project's own; read once."""
    files = [folder / "ontology" / "outfit.yaml" for folder in _FOLDERS]
    for file in files:
        if file.is_file():
            return load_ontology(file)
    raise FileNotFoundError(f"no ontology at {' or '.join(map(str, files))}; install the package again")


def attributes_of(garment: str | None) -> tuple[str, ...]:
    """`Ontology.attributes_of` of the default ontology."""
    return default_ontology().attributes_of(garment)
