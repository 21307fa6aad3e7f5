"""The project's own records: JSON rows (see the README) in JSONL or Parquet files -> Record."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.base import QA, ObjectLabel, Provenance, Record, TextLabel
from tasks.boxes import Box, ImageSize
from tasks.caption import DETAILS
from tasks.ontology import default_ontology
from tasks.readers.raw import read_rows

__all__ = ["Report", "from_row", "parse_row", "read", "record_files", "rows_of"]

Report = Callable[[str, str], None]
"""Called with what is wrong and how to mend it."""

SUFFIXES = (".jsonl", ".parquet")
SPLITS = ("train", "validation")
_OUTSIDE = 1.0
"""Pixels that a box may reach beyond the image: other tools count the last pixel in or out."""


def read(root: Path | None = None) -> Iterator[Record]:
    """The records of a JSONL or Parquet file, or of all such files in a folder, in the order of their names.

    Image paths are relative to the file that names them; they come out absolute.

    Raises:
        FileNotFoundError: no such file, or none in the folder.
        ValueError: a row is wrong; names file and line, what is wrong, and the fix.
    """
    if root is None:
        raise ValueError("the reader jsonl needs a file or folder of records; set `path` of the source")
    for file in record_files(Path(root)):
        for where, row in rows_of(file):
            yield from_row(row, where, folder=file.parent)


def record_files(path: Path) -> list[Path]:
    """The record files that a path means: itself, or those in the folder by name."""
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and not file.name.startswith("."))
        if not found:
            raise FileNotFoundError(f"{path}: no record files in this folder; expected *.jsonl or *.parquet")
        return found
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file or folder; expected records in JSONL or Parquet")
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: records are read from {' and '.join(SUFFIXES)} files; rename or convert it")
    return [path]


def rows_of(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """("file:line", row); in Parquet files the line is the row's number from 1.

    Raises:
        ValueError: a line is no JSON object, or the file is no Parquet.
    """
    if file.suffix != ".parquet":
        yield from read_rows(file)
        return
    from pyarrow import ArrowException, parquet  # comes with datasets; only Parquet files need it

    number = 0
    try:
        with parquet.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{file}:{number}", row
    except ArrowException as error:
        raise ValueError(f"{file}: not readable as Parquet ({error}); write it again") from error


def from_row(row: Mapping[str, Any], where: str, *, folder: Path | None = None) -> Record:
    """A row as `Record`.

    Args:
        row: as in the README; attributes and groups may also be lists of {"name", "values"}, as Parquet keeps them.
        where: file and line, for errors.
        folder: relative image paths are joined to it.

    Raises:
        ValueError: the first thing that is wrong with the row, and the fix.
    """

    def fail(problem: str, fix: str) -> None:
        raise ValueError(f"{where}: {problem}; {fix}")

    record = parse_row(row, fail, folder=folder)
    assert record is not None  # `fail` has raised otherwise
    return record


def parse_row(row: Mapping[str, Any], report: Report, *, folder: Path | None = None) -> Record | None:
    """As `from_row`, but everything that is wrong goes to `report`; None where no record can be made of the rest."""
    parser = _Row(report)
    parser.known_fields(row, Record.__dataclass_fields__, "the row")
    name = parser.text(row, "id", "the row")
    image = parser.text(row, "image", "the row")
    size = parser.image_size(row.get("image_size"))
    if name is None or image is None or size is None:
        return None
    objects = tuple(parser.each(row, "objects", lambda item, at: parser.object_label(item, at, size)))
    boxes_complete = parser.flag(row, "boxes_complete")
    if boxes_complete:
        for number, item in enumerate(objects):
            if item.box is None:
                report(
                    f'boxes_complete is true, but objects[{number}] ("{item.label}") has no box',
                    'give it its box, or set "boxes_complete": false',
                )
    split = row.get("split") or "train"
    if split not in SPLITS:
        report(f"split is {split!r}", f"use one of: {', '.join(SPLITS)}")
        return None
    return Record(
        id=name,
        image=image if folder is None else str(Path(os.path.abspath(folder / image))),
        image_size=size,
        captions=tuple(parser.each(row, "captions", parser.caption)),
        objects=objects,
        qa=tuple(parser.each(row, "qa", parser.question)),
        objects_complete=parser.flag(row, "objects_complete"),
        boxes_complete=boxes_complete,
        groups=parser.groups(row.get("groups")),
        split=split,
        provenance=parser.provenance(row, "the row"),
    )


class _Row:
    """The parts of a row. A part that is wrong is reported and left out."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def known_fields(self, value: Mapping[str, Any], known: Iterable[str], at: str) -> None:
        for name in value:
            if name not in known:
                self.report(f"{at} has an unknown field {name!r}", f"rename or drop it; known: {', '.join(known)}")

    def text(self, value: Mapping[str, Any], name: str, at: str) -> str | None:
        found = value.get(name)
        if not isinstance(found, str) or not found.strip():
            shown = "missing" if found is None else f"{found!r}"
            self.report(f"{name} of {at} is {shown}", f"give {name} a text that is not empty")
            return None
        return found

    def flag(self, value: Mapping[str, Any], name: str) -> bool:
        found = value.get(name)
        if found not in (None, True, False):
            self.report(f"{name} is {found!r}", "write true or false")
        return found is True

    def image_size(self, value: Any) -> ImageSize | None:
        if (
            not isinstance(value, (list, tuple))
            or len(value) != 2
            or not all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in value)
        ):
            shown = "missing" if value is None else f"{value!r}"
            self.report(f"image_size is {shown}", "write [height, width] of the upright photo in whole pixels")
            return None
        return (value[0], value[1])

    def each(self, row: Mapping[str, Any], name: str, parse: Callable[[Mapping[str, Any], str], Any]) -> Iterator[Any]:
        values = row.get(name)
        if values is None:
            return
        if not isinstance(values, (list, tuple)):
            self.report(f"{name} is a {type(values).__name__}", f"write {name} as a list")
            return
        for number, value in enumerate(values):
            at = f"{name}[{number}]"
            if not isinstance(value, Mapping):
                self.report(f"{at} is {value!r}", "write it as an object with named fields")
                continue
            parsed = parse(value, at)
            if parsed is not None:
                yield parsed

    def caption(self, value: Mapping[str, Any], at: str) -> TextLabel | None:
        self.known_fields(value, TextLabel.__dataclass_fields__, at)
        text = self.text(value, "text", at)
        detail = value.get("detail") or "brief"
        if detail not in DETAILS:
            self.report(f"detail of {at} is {detail!r}", f"use one of: {', '.join(DETAILS)}")
            return None
        return None if text is None else TextLabel(text=text, detail=detail, provenance=self.provenance(value, at))

    def question(self, value: Mapping[str, Any], at: str) -> QA | None:
        self.known_fields(value, QA.__dataclass_fields__, at)
        question, answer = self.text(value, "question", at), self.text(value, "answer", at)
        if question is None or answer is None:
            return None
        return QA(question=question, answer=answer, provenance=self.provenance(value, at))

    def object_label(self, value: Mapping[str, Any], at: str, size: ImageSize) -> ObjectLabel | None:
        self.known_fields(value, ObjectLabel.__dataclass_fields__, at)
        label = self.text(value, "label", at)
        if label is None:
            return None
        garments = default_ontology().garments
        if label not in garments:
            self.report(f"{at} has an unknown garment {label!r}", f"use one of: {', '.join(garments)}")
            return None
        at = f"{at} ({label})"
        box = None if value.get("box") is None else self.box(value["box"], f"box of {at}", size)
        if value.get("box") is not None and box is None:
            return None
        parts = [self.box(part, f"parts of {at}", size) for part in self.listed(value, "parts", at)]
        phrases = self.listed(value, "phrases", at)
        for phrase in phrases:
            if not isinstance(phrase, str) or not phrase.strip():
                self.report(f"phrases of {at} hold {phrase!r}", "write phrases as texts that are not empty")
        return ObjectLabel(
            label=label,
            box=box,
            attributes=self.attributes(value.get("attributes"), label, at),
            phrases=tuple(phrase for phrase in phrases if isinstance(phrase, str) and phrase.strip()),
            parts=tuple(part for part in parts if part is not None),
            provenance=self.provenance(value, at),
            attribute_provenance=self.attribute_provenance(value, at),
        )

    def attribute_provenance(self, value: Mapping[str, Any], at: str) -> dict[str, Provenance]:
        found = value.get("attribute_provenance")
        if not found:
            return {}
        if isinstance(found, (list, tuple)) and all(isinstance(item, Mapping) and "name" in item for item in found):
            found = {item["name"]: {name: told for name, told in item.items() if name != "name"} for item in found}
        if not isinstance(found, Mapping):
            self.report(f"attribute_provenance of {at} is {found!r}", 'write {"material": {"source": ...}}')
            return {}
        attributes = dict(self.pairs(value.get("attributes"), "values", f"attributes of {at}"))
        told: dict[str, Provenance] = {}
        for name, origin in found.items():
            if name not in attributes:
                self.report(
                    f"{at} has a provenance of {name!r}, but no such attribute", f"give {name} its values, or drop it"
                )
                continue
            provenance = self.provenance({"provenance": origin}, f"{name} of {at}")
            if provenance is not None:
                told[name] = provenance
        return told

    def listed(self, value: Mapping[str, Any], name: str, at: str) -> list[Any]:
        found = value.get(name)
        if found is None:
            return []
        if not isinstance(found, (list, tuple)):
            self.report(f"{name} of {at} is {found!r}", f"write {name} as a list")
            return []
        return list(found)

    def box(self, value: Any, at: str, size: ImageSize) -> Box | None:
        numbers = isinstance(value, (list, tuple)) and all(
            isinstance(number, (int, float)) and not isinstance(number, bool) and math.isfinite(number)
            for number in value
        )
        if not numbers or len(value) != 4:
            self.report(f"{at} is {value!r}", "write [x1, y1, x2, y2] in pixels")
            return None
        x1, y1, x2, y2 = (float(number) for number in value)
        if x2 < x1 or y2 < y1:
            self.report(f"{at} has swapped corners: {value}", "write the top-left corner first: [x1, y1, x2, y2]")
            return None
        if x1 == x2 or y1 == y2:
            self.report(f"{at} is empty: {value}", "give it a width and a height, or leave the box out")
            return None
        height, width = size
        if min(x1, y1) < -_OUTSIDE or x2 > width + _OUTSIDE or y2 > height + _OUTSIDE:
            self.report(
                f"{at} reaches outside the image: {value}; the image is {width} wide and {height} high",
                "clip it, and check that it is in pixels of the upright photo at the size of image_size",
            )
            return None
        return Box(x1, y1, x2, y2)

    def attributes(self, value: Any, label: str, at: str) -> dict[str, tuple[str, ...]]:
        ontology = default_ontology()
        known = ontology.attributes_of(label)
        found: dict[str, tuple[str, ...]] = {}
        for name, values in self.pairs(value, "values", f"attributes of {at}"):
            if name not in known:
                self.report(
                    f"{at} has an attribute {name!r} that it cannot have", f"drop it; {label} has: {', '.join(known)}"
                )
                continue
            if isinstance(values, str):
                values = [values]
            if not isinstance(values, (list, tuple)) or not values:
                self.report(f"{name} of {at} is {values!r}", "write a list of values, or leave the attribute out")
                continue
            wrong = [word for word in values if word not in ontology.values[name]]
            if wrong:
                self.report(
                    f"{at} has an unknown {name} {wrong[0]!r}", f"use one of: {', '.join(ontology.values[name])}"
                )
                continue
            found[name] = tuple(values)
        # In the ontology's order, whatever the row's: Parquet and JSON give the same record.
        return {name: found[name] for name in known if name in found}

    def groups(self, value: Any) -> dict[str, str]:
        found = {}
        for name, group in self.pairs(value, "value", "groups"):
            if not isinstance(group, str):
                self.report(f"group {name!r} is {group!r}", "write groups as texts")
                continue
            found[name] = group
        return found

    def pairs(self, value: Any, field: str, at: str) -> list[tuple[str, Any]]:
        """{name: x} or [{"name": name, field: x}] -> [(name, x)]."""
        if value is None:
            return []
        if isinstance(value, Mapping):
            return list(value.items())
        if isinstance(value, (list, tuple)) and all(
            isinstance(item, Mapping) and isinstance(item.get("name"), str) and field in item for item in value
        ):
            return [(item["name"], item[field]) for item in value]
        self.report(f"{at} are {value!r}", 'write them as {"name": ...}')
        return []

    def provenance(self, value: Mapping[str, Any], at: str) -> Provenance | None:
        found = value.get("provenance")
        if found is None:
            return None
        at = f"provenance of {at}"
        if not isinstance(found, Mapping):
            self.report(f"{at} is {found!r}", 'write {"source": ..., "annotator": ..., "score": ...}')
            return None
        self.known_fields(found, Provenance.__dataclass_fields__, at)
        source = self.text(found, "source", at)
        annotator, score = found.get("annotator"), found.get("score")
        if annotator is not None and not isinstance(annotator, str):
            self.report(f"annotator in {at} is {annotator!r}", "write a text or leave it out")
            return None
        if score is not None and not (isinstance(score, (int, float)) and 0 <= score <= 1):
            self.report(f"score in {at} is {score!r}", "write a probability in [0, 1] or leave it out")
            return None
        return None if source is None else Provenance(source=source, annotator=annotator, score=score)
