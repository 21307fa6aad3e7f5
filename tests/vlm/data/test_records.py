"""The record store: nothing is lost on the way to a file and back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tasks.base import QA, ObjectLabel, Provenance, Record, TextLabel
from tasks.boxes import Box
from vlm.data.records import from_row, read_records, to_row, write_jsonl, write_parquet

FULL = Record(
    id="crêpe/1",
    image="photos/1.jpg",
    image_size=(80, 60),
    captions=(
        TextLabel(text="Crêpe 裙子", provenance=Provenance(source="s", annotator="a", score=0.7)),
        TextLabel(text="More.", detail="detailed"),
    ),
    objects=(
        ObjectLabel(
            label="boots",
            box=Box(1, 2.25, 30, 40),
            attributes={"colour": ("tan", "red"), "pattern": ("solid",)},
            phrases=("the boots", "tan boots"),
            parts=(Box(1, 2.25, 10, 40), Box(20, 3, 30, 40)),
            provenance=Provenance(source="s"),
            attribute_provenance={"pattern": Provenance(source="s", annotator="weak: by rule", score=0.95)},
        ),
        ObjectLabel(label="hat", box=Box(0, 0, 1, 1)),
    ),
    qa=(QA(question="is it <loc_5>?", answer="no", provenance=Provenance(source="s", score=0.0)),),
    objects_complete=True,
    boxes_complete=True,
    groups={"contributor": "12", "place": "street"},
    split="validation",
    provenance=Provenance(source="s", annotator="a"),
)
BARE = Record(id="2", image="photos/2.jpg", image_size=(10, 20))


def test_rows_round_trip() -> None:
    for record in (FULL, BARE):
        assert from_row(to_row(record), "here") == record
    assert to_row(BARE) == {"id": "2", "image": "photos/2.jpg", "image_size": [10, 20], "split": "train"}


@pytest.mark.parametrize("name", ["records.jsonl", "records.parquet"])
def test_files_round_trip(name: str, tmp_path: Path) -> None:
    write = write_jsonl if name.endswith("jsonl") else write_parquet
    # One that lies below the file's folder is named relative to it, so that both can move together.
    placed = replace(FULL, id="3", image=str(tmp_path / "photos" / "3.jpg"))
    assert write([FULL, BARE, placed], tmp_path / name) == 3
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (tmp_path / name).rename(moved / name)
    found = list(read_records(moved / name))
    assert [record.image for record in found] == [str(moved / "photos" / f"{n}.jpg") for n in (1, 2, 3)]
    assert [replace(record, image="") for record in found] == [
        replace(record, image="") for record in (FULL, BARE, placed)
    ]
    assert [path.name for path in moved.iterdir()] == [name]


def test_parquet_opens_in_datasets(tmp_path: Path) -> None:
    from datasets import Dataset

    write_parquet([FULL, BARE], tmp_path / "x.parquet")
    table = Dataset.from_parquet(str(tmp_path / "x.parquet"), cache_dir=str(tmp_path / "cache"))
    assert table["id"][:] == ["crêpe/1", "2"]
    assert table[0]["objects"][0]["attributes"][0] == {"name": "colour", "values": ["tan", "red"]}


def test_empty_parquet_keeps_its_columns(tmp_path: Path) -> None:
    write_parquet([], tmp_path / "x.parquet")
    assert list(read_records(tmp_path / "x.parquet")) == []


@pytest.mark.parametrize("write", [write_jsonl, write_parquet])
def test_a_failed_write_leaves_the_old_file(write: object, tmp_path: Path) -> None:
    def broken() -> object:
        yield BARE
        raise RuntimeError("stop")

    suffix = "jsonl" if write is write_jsonl else "parquet"
    target = tmp_path / f"x.{suffix}"
    target.write_text("old", encoding="utf-8")
    with pytest.raises(RuntimeError):
        write(broken(), target)  # type: ignore[operator]
    assert target.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_errors_name_row_and_file(tmp_path: Path) -> None:
    write_parquet([FULL, replace(BARE, split="test")], tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"x\.parquet:2: split is 'test'"):
        list(read_records(tmp_path / "x.parquet"))
    (tmp_path / "y.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"y\.parquet: not readable as Parquet"):
        list(read_records(tmp_path / "y.parquet"))
