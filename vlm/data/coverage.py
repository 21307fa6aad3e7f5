"""`vlm data coverage`: which declared combinations of garments, attributes and scenes the records show, and which not.

What counts is declared in configs/coverage/outfit.yaml. Skin tone is read from records' groups only, where drawn
pictures have it; the judgements on real photos are for audits and never reach a record.
"""

from __future__ import annotations

import itertools
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tasks.base import ObjectLabel, Record
from tasks.ontology import NOT_VISIBLE, Ontology, default_ontology
from tasks.readers import READERS
from vlm.atomic import write_text
from vlm.data.records import read_records
from vlm.shipped import config_file

__all__ = [
    "Coverage",
    "Cross",
    "CrossCount",
    "Grid",
    "cells_from_plan",
    "count",
    "load_grid",
    "read_named",
    "write_plan",
]

Cell = tuple[str, ...]

_GRID = Path("coverage", "outfit.yaml")
GARMENT = "garment"
UNKNOWN = ("not clear", NOT_VISIBLE)


@dataclass(frozen=True, kw_only=True)
class Cross:
    """Cells to be filled, of one axis or of several crossed.

    Attributes:
        axes: "garment", attributes of it, or names of `Grid.groups`; of garments and groups not both.
        cells: the combinations that count, a value an axis.
        wanted: examples from which a cell is filled.
        planned: whether a plan may ask for its cells.
        sums: name of another scale and its values, each the sum of some cells of a single axis.
    """

    axes: tuple[str, ...]
    cells: tuple[Cell, ...]
    wanted: int
    planned: bool = True
    sums: tuple[str, Mapping[str, tuple[str, ...]]] | None = None

    @property
    def name(self) -> str:
        return " x ".join(self.axes)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """All crosses. `groups`: axis of records -> the group of a record that tells its value."""

    crosses: tuple[Cross, ...]
    groups: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class CrossCount:
    """How often each cell of a cross was seen.

    Attributes:
        counts: cell -> examples; every declared cell is there.
        unknown: examples of which an axis is unlabelled or not visible.
        elsewhere: examples outside of the declared cells.
    """

    cross: Cross
    counts: Mapping[Cell, int]
    unknown: int = 0
    elsewhere: int = 0

    def filled(self) -> list[Cell]:
        return [cell for cell, num in self.counts.items() if num >= self.cross.wanted]

    def thin(self) -> list[Cell]:
        return [cell for cell, num in self.counts.items() if 0 < num < self.cross.wanted]

    def empty(self) -> list[Cell]:
        return [cell for cell, num in self.counts.items() if num == 0]

    def sums(self) -> tuple[str, dict[str, int]] | None:
        """Another scale's name and its counts, e.g. Fitzpatrick types from Monk tones."""
        if self.cross.sums is None:
            return None
        name, parts = self.cross.sums
        return name, {value: sum(self.counts[(part,)] for part in of) for value, of in parts.items()}


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """What records show of a grid's cells."""

    crosses: tuple[CrossCount, ...]
    num_records: int
    num_objects: int
    unknown_groups: tuple[str, ...] = field(default=())
    """Axes of whole records that no record tells anything about."""

    def plan(self) -> list[dict[str, Any]]:
        """The cells that lack examples, emptiest first: {"cell": {"garment": "coat"}, "have", "wanted", "missing"}.

        Every cell stands for itself: one picture may serve in several crosses, so that filling the plan fills
        more than it asks for.
        """
        rows = []
        for found in self.crosses:
            if not found.cross.planned:
                continue
            for cell in [*found.empty(), *found.thin()]:
                have, wanted = found.counts[cell], found.cross.wanted
                named = dict(zip(found.cross.axes, cell, strict=True))
                rows.append({"cell": named, "have": have, "wanted": wanted, "missing": wanted - have})
        return sorted(rows, key=lambda row: row["have"] / row["wanted"])

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; cells as "coat, navy"."""
        crosses: dict[str, Any] = {}
        for found in self.crosses:
            row: dict[str, Any] = {
                "cells": len(found.counts),
                "filled": len(found.filled()),
                "thin": len(found.thin()),
                "empty": len(found.empty()),
                "wanted": found.cross.wanted,
                "unknown": found.unknown,
                "elsewhere": found.elsewhere,
                "counts": {", ".join(cell): num for cell, num in found.counts.items()},
            }
            if sums := found.sums():
                row[sums[0]] = sums[1]
            crosses[found.cross.name] = row
        return {
            "num_records": self.num_records,
            "num_objects": self.num_objects,
            "unknown": list(self.unknown_groups),
            "crosses": crosses,
        }


# -- the grid ---------------------------------------------------------------------------------------------


def load_grid(path: str | os.PathLike[str] | None = None) -> Grid:
    """Read a grid; the project's own for None.

    Raises:
        ValueError: not of this form, or a word that the ontology has not or does not allow there; names the file.
        FileNotFoundError: nothing there.
    """
    file = config_file(_GRID) if path is None else Path(path)
    try:
        return _grid(yaml.safe_load(file.read_text(encoding="utf-8")), default_ontology())
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: is not YAML: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file}: is not a coverage grid: {error!r}; see configs/{_GRID}") from error
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _grid(found: Mapping[str, Any], ontology: Ontology) -> Grid:
    wanted = _wanted(found, 1, "the grid")
    groups = {str(name): str(row["group"]) for name, row in found["axes"].items()}
    crosses = []
    for name, row in found["axes"].items():
        values = _words(row["values"], name)
        sums = row.get("sums")
        if sums is not None:
            of = {str(value): _words(parts, f"sums of {name}") for value, parts in sums["of"].items()}
            unknown = sorted({part for parts in of.values() for part in parts} - set(values))
            if unknown:
                raise ValueError(f"sums of {name} name {unknown[0]!r}; expected values of {name}: {', '.join(values)}")
            sums = (str(sums["name"]), of)
        crosses.append(
            Cross(
                axes=(str(name),),
                cells=tuple((value,) for value in values),
                wanted=_wanted(row, wanted, name),
                planned=bool(row.get("planned", True)),
                sums=sums,
            )
        )
    for name, row in found["crosses"].items():
        axes = tuple(str(name).split(" x "))
        known = (GARMENT, *ontology.values, *groups)
        wrong = [axis for axis in axes if axis not in known]
        if wrong:
            raise ValueError(f"{name}: there is no axis {wrong[0]!r}; known: {', '.join(known)}")
        if 0 < sum(axis in groups for axis in axes) < len(axes):
            raise ValueError(f"{name}: crosses garments with whole records; cross one or the other")
        cells = dict.fromkeys(
            cell for block in row["cells"] for cell in _cells(block, axes, str(name), ontology, groups)
        )
        crosses.append(Cross(axes=axes, cells=tuple(cells), wanted=_wanted(row, wanted, name)))
    return Grid(crosses=tuple(crosses), groups=groups)


def _cells(
    block: Mapping[str, Any], axes: tuple[str, ...], name: str, ontology: Ontology, groups: Mapping[str, str]
) -> Iterable[Cell]:
    """All combinations of a block's values, each of them checked."""
    values: dict[str, tuple[str, ...]] = dict.fromkeys(axes, ())
    for axis, words in block.items():
        if axis == "kinds" and GARMENT in axes:
            for kind in _words(words, name):
                if kind not in ontology.kinds:
                    raise ValueError(f"{name}: there is no kind {kind!r}; known: {', '.join(ontology.kinds)}")
                values[GARMENT] += ontology.kinds[kind]
        elif axis in axes:
            values[axis] += _words(words, f"{axis} of {name}")
        else:
            raise ValueError(f"{name}: a block names {axis!r}; expected {', '.join(axes)} (or kinds, for garment)")
    for axis in axes:
        known = tuple(ontology.garments) if axis == GARMENT else ontology.values.get(axis, values[axis])
        wrong = [value for value in values[axis] if value not in known]
        if wrong or not values[axis]:
            problem = f"there is no {axis} {wrong[0]!r}" if wrong else f"a block names no {axis}"
            raise ValueError(f"{name}: {problem}; use some of: {', '.join(known)}")
    if GARMENT in axes:
        for garment, axis in itertools.product(values[GARMENT], axes):
            if axis != GARMENT and axis not in ontology.attributes_of(garment):
                raise ValueError(
                    f"{name}: {garment} has no {axis}; it has: {', '.join(ontology.attributes_of(garment))}"
                )
    return itertools.product(*(values[axis] for axis in axes))


def _words(found: Any, at: Any) -> tuple[str, ...]:
    if not isinstance(found, list):
        raise ValueError(f"{at}: {found!r} is not a list of words")
    wrong = [word for word in found if not isinstance(word, str)]
    if wrong:
        raise ValueError(f"{at}: {wrong[0]!r} is not a word; put it in quotes")
    return tuple(found)


def _wanted(row: Mapping[str, Any], default: int, at: Any) -> int:
    wanted = row.get("wanted", default)
    if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 1:
        raise ValueError(f"wanted of {at} is {wanted!r}; expected a whole number from 1")
    return wanted


# -- counting ---------------------------------------------------------------------------------------------


def read_named(path: str) -> Iterable[Record]:
    """The records of a file or folder, or those of a reader by its name: ccp, clothing, products.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: a row is wrong.
    """
    if path in READERS and path != "jsonl" and not Path(path).exists():
        return READERS[path](None)
    return read_records(path)


def count(records: Iterable[Record], grid: Grid) -> Coverage:
    """Count the records' objects and groups into the grid's cells."""
    counters = [_Counter(cross) for cross in grid.crosses]
    num_records = num_objects = 0
    told: set[str] = set()
    for record in records:
        num_records += 1
        num_objects += len(record.objects)
        scene = {axis: _scene_value(record, group) for axis, group in grid.groups.items()}
        told |= {axis for axis, value in scene.items() if value is not None}
        for counter in counters:
            if counter.cross.axes[0] in grid.groups:
                counter.add(tuple(scene[axis] for axis in counter.cross.axes))
            else:
                for item in record.objects:
                    counter.add_object(item)
    return Coverage(
        crosses=tuple(counter.result() for counter in counters),
        num_records=num_records,
        num_objects=num_objects,
        unknown_groups=tuple(axis for axis in grid.groups if axis not in told),
    )


def _scene_value(record: Record, group: str) -> str | None:
    """What a record's groups tell; crop and occlusion also follow from what else is known."""
    if group == "crop" and record.groups.get("kind") in ("flat", "hanger"):
        return "flat"
    if group in record.groups:
        return record.groups[group]
    if group == "occlusion":
        if "occlusion" in record.groups.get("counterfactual", "").split("+"):
            return "object in front"
        values = [value for item in record.objects for values in item.attributes.values() for value in values]
        return None if not values else "details hidden" if NOT_VISIBLE in values else "nothing hidden"
    return None


class _Counter:
    def __init__(self, cross: Cross) -> None:
        self.cross = cross
        self.cells = frozenset(cross.cells)
        self.garments = (
            frozenset(cell[cross.axes.index(GARMENT)] for cell in cross.cells) if GARMENT in cross.axes else None
        )
        self.counts: Counter[Cell] = Counter()
        self.unknown = self.elsewhere = 0

    def add(self, cell: tuple[str | None, ...]) -> None:
        if None in cell:
            self.unknown += 1
        elif cell in self.cells:
            self.counts[cell] += 1  # type: ignore[index]  # has no None
        else:
            self.elsewhere += 1

    def add_object(self, item: ObjectLabel) -> None:
        """Garments of which the cross declares nothing say nothing about it."""
        if self.garments is None or item.label in self.garments:
            self.add(tuple(item.label if axis == GARMENT else _dominant(item, axis) for axis in self.cross.axes))

    def result(self) -> CrossCount:
        counts = {cell: self.counts[cell] for cell in self.cross.cells}
        return CrossCount(cross=self.cross, counts=counts, unknown=self.unknown, elsewhere=self.elsewhere)


def _dominant(item: ObjectLabel, name: str) -> str | None:
    values = item.attributes.get(name, ())
    return None if not values or values[0] in UNKNOWN else values[0]


# -- the plan ---------------------------------------------------------------------------------------------


def write_plan(coverage: Coverage, path: str | os.PathLike[str]) -> int:
    """One row of `Coverage.plan` a line; the number of rows."""
    rows = coverage.plan()
    write_text(Path(path), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return len(rows)


def cells_from_plan(path: str | os.PathLike[str]) -> list[dict[str, str]]:
    """The cells of a plan, each as often as it lacks examples, in rounds: the first n of them are as even as n can be.

    They go one by one into the wardrobe: `draw(seed, index, cell=cells[index])`.

    Raises:
        ValueError: a row is no row of a plan; names file and line.
        FileNotFoundError: nothing there.
    """
    rows: list[tuple[dict[str, str], int]] = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            cell, missing = row["cell"], row["missing"]
            if not isinstance(missing, int) or not all(isinstance(value, str) for value in cell.values()):
                raise TypeError(f"cell {cell!r} and missing {missing!r} are not words and a number")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path}:{number}: is not a row of a plan ({error}); write it with `vlm data coverage PATH --plan`"
            ) from error
        rows.append((dict(cell), missing))
    rounds: Sequence[int] = range(max((missing for _, missing in rows), default=0))
    return [dict(cell) for done in rounds for cell, missing in rows if missing > done]
