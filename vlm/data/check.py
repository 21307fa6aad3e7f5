"""`vlm data check`: everything that is wrong with a file of records, row by row, with the fix."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.base import Record
from tasks.readers.jsonl import parse_row, record_files, rows_of
from vlm.images import open_image

__all__ = ["DESCRIPTIVE", "Problem", "check"]


DESCRIPTIVE = frozenset(
    ("annotator", "view", "skin_tone", "pose", "crop", "kind", "background", "light", "occlusion", "counterfactual")
)
"""Groups that say what a photo is like, not which photos belong together: they may be on both sides of the split."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong, and how to mend it.

    Attributes:
        line: of a JSONL file, or the row of a Parquet file, from 1; None for the whole file.
        record_id: None where the row has none.
    """

    file: Path
    line: int | None
    record_id: str | None
    problem: str
    fix: str

    def __str__(self) -> str:
        where = str(self.file) if self.line is None else f"{self.file}:{self.line}"
        name = "" if self.record_id is None else f" record {self.record_id}:"
        return f"{where}:{name} {self.problem}; {self.fix}"


def check(path: str | os.PathLike[str]) -> list[Problem]:
    """Every problem of a JSONL or Parquet file, or of all in a folder; empty where all is well.

    Besides what the reader refuses: images that are missing, broken or not of the size that their row says, ids that
    come twice, photos or groups that are on both sides of the split (all groups but those in `DESCRIPTIVE`). Pictures
    in Parquet shards are checked where they are.

    Raises:
        FileNotFoundError: nothing there.
    """
    checker = _Checker()
    for file in record_files(Path(path)):
        checker.file(file)
    return checker.problems


class _Checker:
    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.ids: dict[str, str] = {}
        self.splits: dict[tuple[str, str], tuple[str, str]] = {}
        """("photo" or a group's name, value) -> (split, where it was seen first)."""

    def file(self, file: Path) -> None:
        count = 0
        for line, row, problem in _rows(file):
            count += 1

            def report(problem: str, fix: str, line: int | None = line, row: Any = row) -> None:
                name = row.get("id") if isinstance(row, dict) else None
                self.problems.append(
                    Problem(
                        file=file, line=line, record_id=None if name is None else str(name), problem=problem, fix=fix
                    )
                )

            if problem is not None:
                report(*problem)
                continue
            packed = row["image"] if isinstance(row.get("image"), dict) else None
            if packed is not None:
                row["image"] = packed.get("path")
            record = parse_row(row, report, folder=file.parent)
            self.name(row, f"{file}:{line}", report)
            if record is not None:
                if packed is None:
                    self.image_file(record, row["image"], report)
                else:
                    self.image(record, packed.get("bytes") or b"", report)
                self.leaks(record, f"{file}:{line}", report)
        if not count:
            self.problems.append(
                Problem(file=file, line=None, record_id=None, problem="no records in it", fix="write a row a photo")
            )

    def name(self, row: dict[str, Any], where: str, report: Any) -> None:
        name = row.get("id")
        if not isinstance(name, str):
            return
        if name in self.ids:
            report(f"the id {name!r} was used before, at {self.ids[name]}", "give each record an id of its own")
        self.ids.setdefault(name, where)

    def image_file(self, record: Record, written: str, report: Any) -> None:
        if not Path(record.image).is_file():
            report(
                f"there is no image {written}",
                f"put it at {record.image}, or mend the path (it is relative to the record file)",
            )
            return
        self.image(record, record.image, report)

    def image(self, record: Record, source: str | bytes, report: Any) -> None:
        try:
            image = open_image(source)
        except ValueError as error:
            report(f"the image cannot be read: {error}", "replace the image, or drop the row")
            return
        size = (image.height, image.width)
        if size != record.image_size:
            swapped = " (it is height first)" if size == record.image_size[::-1] else ""
            report(
                f"image_size is {list(record.image_size)}, but the upright photo is {list(size)}",
                f"write {list(size)}{swapped}, and check that the boxes belong to that size",
            )

    def leaks(self, record: Record, where: str, report: Any) -> None:
        """A group on both sides of a split makes the validation too easy."""
        groups = {name: value for name, value in record.groups.items() if name not in DESCRIPTIVE}
        for name, value in {**groups, "photo": record.image}.items():
            split, first = self.splits.setdefault((name, value), (record.split, where))
            if split != record.split:
                shown = f"{name} {value!r}"
                report(
                    f"{shown} is in {record.split!r} here and in {split!r} at {first}",
                    f"put all of {shown} on one side of the split",
                )


def _rows(file: Path) -> Iterator[tuple[int | None, dict[str, Any] | None, tuple[str, str] | None]]:
    """(line, row, None) or (line, None, (problem, fix)); a broken line does not end the file."""
    if file.suffix == ".parquet":
        try:
            for where, row in rows_of(file):
                yield int(where.rsplit(":", 1)[1]), row, None
        except ValueError as error:
            yield None, None, (str(error).removeprefix(f"{file}: "), "write the file again")
        return
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                yield number, None, (f"not valid JSON ({error})", "write one JSON object a line, in UTF-8")
                continue
            if isinstance(row, dict):
                yield number, row, None
            else:
                yield number, None, (f"a {type(row).__name__}", "write one JSON object a line")
