"""What an evaluation measures: sources, measures and limits, read from configs/eval."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from tasks.base import Record
from tasks.readers import READERS
from vlm.probes import MEASURES
from vlm.shipped import CONFIGS
from vlm.synthetic.wardrobe_test import write_part

__all__ = ["MAKERS", "SourceSettings", "Suite", "choose_records", "load_suite", "read_sources"]

MAKERS: Mapping[str, Callable[[Path], object]] = {"wardrobe_test": write_part}
"""Draw a test set into a folder; what is there already is kept."""


@dataclass(frozen=True, kw_only=True)
class SourceSettings:
    """What is measured on one source.

    Attributes:
        reader: name in `tasks.readers.READERS`.
        measures: some of `vlm.probes.MEASURES`.
        split: which records.
        path: for readers that need one; the data root otherwise.
        limit: at most so many records, drawn by a hash of their ids; None for all.
        by: groups to split the headlines by, such as skin_tone (see `vlm.audit`).
        alternatives: words beside its own by which each detected garment is ranked too (average precision of these is
            told beside the one of the words that are said); 0 for none.
        closer: attributes of garments with boxes are told from a closer look as well (see `vlm.closer`).
        make: name in `MAKERS` of what draws the records at `path` where they are not there yet.

    Raises:
        ValueError: an unknown reader, measure or maker, a limit below 1, or a negative number of alternatives.
    """

    reader: str
    measures: tuple[str, ...] = MEASURES
    split: str = "validation"
    path: str | None = None
    limit: int | None = None
    by: tuple[str, ...] = ()
    make: str | None = None
    alternatives: int = 0
    closer: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "measures", tuple(self.measures))
        object.__setattr__(self, "by", tuple(self.by))
        if self.reader not in READERS:
            raise ValueError(f"unknown reader {self.reader!r}; known: {', '.join(READERS)}")
        for name in self.measures:
            if name not in MEASURES:
                raise ValueError(f"unknown measure {name!r}; known: {', '.join(MEASURES)}")
        if self.make is not None and (self.make not in MAKERS or self.path is None):
            raise ValueError(
                f"make is {self.make!r} with path {self.path!r}; expected a path and one of: {', '.join(MAKERS)}"
            )
        if self.alternatives < 0:
            raise ValueError(f"alternatives is {self.alternatives}; expected 0 for none, or a number of words")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit is {self.limit}; expected at least 1 record, or null for all")


@dataclass(frozen=True, kw_only=True)
class Suite:
    """What is measured: sources by name, and how. `num_resamples` is of the bootstrap; 0 for no intervals."""

    sources: Mapping[str, SourceSettings]
    seed: int = 0
    batch_size: int = 16
    num_resamples: int = 1000

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("sources is empty; name at least one")
        if self.batch_size < 1 or self.num_resamples < 0:
            raise ValueError(
                f"batch_size is {self.batch_size} and num_resamples {self.num_resamples}; expected at least 1 and 0"
            )


def load_suite(name_or_path: str | os.PathLike[str]) -> Suite:
    """`configs/eval/NAME.yaml`, or a YAML file by its path.

    Raises:
        ValueError: no such suite (the known ones are listed), or a wrong field in it.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        known = {file.stem: file for folder in CONFIGS for file in sorted((folder / "eval").glob("*.yaml"))}
        if path.name not in known:
            raise ValueError(f"unknown suite {str(name_or_path)!r}; known: {', '.join(sorted(known))}, or a YAML file")
        path = known[path.name]
    if not path.is_file():
        raise ValueError(f"{path}: no such file; name a suite or its YAML file")
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        values = _known_fields(Suite, found)
        sources = {
            name: SourceSettings(**_known_fields(SourceSettings, row)) for name, row in values["sources"].items()
        }
        return Suite(**{**values, "sources": sources})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: {error}; expected the fields of configs/eval/validation.yaml") from error


def _known_fields(kind: type, values: Any) -> dict[str, Any]:
    known = [field.name for field in fields(kind)]
    for name in values:
        if name not in known:
            raise ValueError(f"unknown field {name!r}; known: {', '.join(known)}")
    return dict(values)


def read_sources(suite: Suite, data_root: str | os.PathLike[str] | None = None) -> dict[str, list[Record]]:
    """Source -> all of its records, of every split."""

    def root(settings: SourceSettings) -> Path | None:
        place = settings.path or data_root
        return None if place is None else Path(place)

    for settings in suite.sources.values():
        if settings.make is not None and settings.path is not None:
            MAKERS[settings.make](Path(settings.path))
    return {name: list(READERS[settings.reader](root(settings))) for name, settings in suite.sources.items()}


def choose_records(rows: Sequence[Record], suite: Suite, name: str, limit: int | None = None) -> list[Record]:
    """Those of the source's split, at most `limit` (and the suite's own limit), in the order of the source.

    Raises:
        ValueError: the split is empty.
    """
    settings = suite.sources[name]
    chosen = [record for record in rows if record.split == settings.split]
    if not chosen:
        splits = ", ".join(sorted({record.split for record in rows})) or "none at all"
        raise ValueError(f"source {name} has no records in split {settings.split!r}; there are: {splits}")
    limits = [number for number in (limit, settings.limit) if number is not None]
    if not limits or len(chosen) <= min(limits):
        return chosen
    drawn = sorted(chosen, key=lambda record: hashlib.sha256(f"{suite.seed}:{record.id}".encode()).digest())
    kept = {record.id for record in drawn[: min(limits)]}
    return [record for record in chosen if record.id in kept]
