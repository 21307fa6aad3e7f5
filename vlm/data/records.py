"""The record store: Record <-> rows, in JSONL and, through `datasets`, in Parquet."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.base import ObjectLabel, Provenance, Record
from tasks.boxes import Box
from tasks.readers.jsonl import from_row, read
from vlm.atomic import replacing

__all__ = [
    "columns_of",
    "features_of_records",
    "from_row",
    "read_records",
    "to_row",
    "write_jsonl",
    "write_parquet",
]


def read_records(path: str | os.PathLike[str]) -> Iterator[Record]:
    """The records of a JSONL or Parquet file or of a folder of them; image paths come out absolute.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: a row is wrong; names file and line, what is wrong, and the fix.
    """
    return read(Path(path))


def to_row(record: Record) -> dict[str, Any]:
    """JSON-ready, as in the README; what is unknown is left out. `from_row` gives the same record back."""
    row: dict[str, Any] = {
        "id": record.id,
        "image": record.image,
        "image_size": list(record.image_size),
        "captions": [
            {"text": caption.text, "detail": caption.detail, **_provenance(caption.provenance)}
            for caption in record.captions
        ],
        "objects": [_object_row(item) for item in record.objects],
        "qa": [{"question": qa.question, "answer": qa.answer, **_provenance(qa.provenance)} for qa in record.qa],
        "objects_complete": record.objects_complete,
        "boxes_complete": record.boxes_complete,
        "groups": dict(record.groups),
        "split": record.split,
        **_provenance(record.provenance),
    }
    return {name: value for name, value in row.items() if value not in ([], {}, False)}


def _object_row(item: ObjectLabel) -> dict[str, Any]:
    row = {
        "label": item.label,
        "box": None if item.box is None else _numbers(item.box),
        "attributes": {name: list(values) for name, values in item.attributes.items()},
        "phrases": list(item.phrases),
        "parts": [_numbers(part) for part in item.parts],
        **_provenance(item.provenance),
        "attribute_provenance": {
            name: _provenance(origin)["provenance"] for name, origin in item.attribute_provenance.items()
        },
    }
    return {name: value for name, value in row.items() if value not in (None, [], {})}


def _numbers(box: Box) -> list[float]:
    return list(box.xyxy)


def _provenance(provenance: Provenance | None) -> dict[str, Any]:
    if provenance is None:
        return {}
    values = {"source": provenance.source, "annotator": provenance.annotator, "score": provenance.score}
    return {"provenance": {name: value for name, value in values.items() if value is not None}}


def write_jsonl(records: Iterable[Record], path: str | os.PathLike[str]) -> int:
    """One row a line; the number of rows. Images below the file's folder are named relative to it."""
    target = Path(path)

    count = 0
    with replacing(target) as part, part.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(_placed(to_row(record), target), ensure_ascii=False) + "\n")
            count += 1
    return count


def write_parquet(records: Iterable[Record], path: str | os.PathLike[str]) -> int:
    """As `write_jsonl`. Every row has every column, and names that vary (attributes, groups) become lists of
    {"name", ...}: Parquet needs one schema."""
    from datasets import Dataset

    target = Path(path)
    rows = [columns_of(_placed(to_row(record), target)) for record in records]

    features = features_of_records()
    columns = {name: [row[name] for row in rows] for name in features}
    with replacing(target) as part:
        Dataset.from_dict(columns, features=features).to_parquet(part)
    return len(rows)


def _placed(row: dict[str, Any], target: Path) -> dict[str, Any]:
    """With the image's path as the file at `target` must name it."""
    folder = os.path.abspath(target.parent)
    image = os.path.abspath(row["image"]) if os.path.isabs(row["image"]) else None
    if image is not None and image.startswith(folder + os.sep):
        row["image"] = os.path.relpath(image, folder)
    return row


def columns_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `to_row` with every column of `features_of_records`."""

    def with_columns(values: Iterable[Mapping[str, Any]], *names: str) -> list[dict[str, Any]]:
        return [{name: value.get(name) for name in names} | {"provenance": _filled(value)} for value in values]

    names = ("label", "box", "phrases", "parts", "attributes", "attribute_provenance")
    objects = with_columns(row.get("objects", ()), *names)
    for item in objects:
        item["attributes"] = [{"name": name, "values": values} for name, values in (item["attributes"] or {}).items()]
        origins = (item["attribute_provenance"] or {}).items()
        item["attribute_provenance"] = [{"name": name, **_origin(origin)} for name, origin in origins]
        item["phrases"], item["parts"] = item["phrases"] or [], item["parts"] or []
    return {
        "id": row["id"],
        "image": row["image"],
        "image_size": row["image_size"],
        "captions": with_columns(row.get("captions", ()), "text", "detail"),
        "objects": objects,
        "qa": with_columns(row.get("qa", ()), "question", "answer"),
        "objects_complete": row.get("objects_complete", False),
        "boxes_complete": row.get("boxes_complete", False),
        "groups": [{"name": name, "value": value} for name, value in row.get("groups", {}).items()],
        "split": row["split"],
        "provenance": _filled(row),
    }


def _filled(value: Mapping[str, Any]) -> dict[str, Any] | None:
    found = value.get("provenance")
    return None if found is None else _origin(found)


def _origin(provenance: Mapping[str, Any]) -> dict[str, Any]:
    return {name: provenance.get(name) for name in ("source", "annotator", "score")}


def features_of_records() -> Any:
    """The schema of a record in Parquet, as `datasets.Features`."""
    from datasets import Features, List, Value

    text, number, flag = Value("string"), Value("float64"), Value("bool")
    provenance = {"source": text, "annotator": text, "score": number}
    return Features(
        {
            "id": text,
            "image": text,
            "image_size": List(Value("int64")),
            "captions": List({"text": text, "detail": text, "provenance": provenance}),
            "objects": List(
                {
                    "label": text,
                    "box": List(number),
                    "phrases": List(text),
                    "parts": List(List(number)),
                    "attributes": List({"name": text, "values": List(text)}),
                    "provenance": provenance,
                    "attribute_provenance": List({"name": text, **provenance}),
                }
            ),
            "qa": List({"question": text, "answer": text, "provenance": provenance}),
            "objects_complete": flag,
            "boxes_complete": flag,
            "groups": List({"name": text, "value": text}),
            "split": text,
            "provenance": provenance,
        }
    )
