"""`vlm data check`: every broken row, in one go."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pyarrow import parquet

from vlm.data.check import check
from vlm.data.records import read_records, write_parquet
from vlm.data.shards import write_shards

ROW: dict[str, Any] = {"id": "a", "image": "a.png", "image_size": [8, 6], "captions": [{"text": "A hat."}]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in "abc":
        Image.new("RGB", (6, 8)).save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    exif = Image.Exif()
    exif[274] = 6  # lies on its side: upright it is 8 high and 6 wide
    Image.new("RGB", (8, 6)).save(tmp_path / "turned.jpg", exif=exif)
    return tmp_path


def write(folder: Path, *rows: dict[str, Any] | str, name: str = "records.jsonl") -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / name


def test_good_rows_have_no_problems(folder: Path) -> None:
    file = write(folder, ROW, {**ROW, "id": "t", "image": "turned.jpg"})
    assert check(file) == []
    assert check(folder) == []


def test_every_broken_row_is_named(folder: Path) -> None:
    file = write(
        folder,
        ROW,
        "{broken",
        {**ROW, "id": "b", "image": "nowhere.png"},
        {**ROW, "id": "c", "image": "broken.png"},
        {**ROW, "id": "d", "image": "b.png", "image_size": [6, 8]},
        "",
        {**ROW, "id": "e", "image": "c.png", "objects": [{"label": "hat", "box": [5, 0, 1, 3]}, {"label": "hut"}]},
        {**ROW, "id": "a"},
        "[]",
        {**ROW, "id": "f", "captions": [{"text": ""}], "qa": [{"question": "", "answer": ""}]},
    )
    found = Counter((problem.line, problem.record_id) for problem in check(file))
    assert found == {
        (2, None): 1, (3, "b"): 1, (4, "c"): 1, (5, "d"): 1, (7, "e"): 2, (8, "a"): 1, (9, None): 1, (10, "f"): 3,
    }  # fmt: skip
    text = "\n".join(map(str, check(file)))
    for part in (
        f"{file}:2: not valid JSON",
        f"{file}:3: record b: there is no image nowhere.png; put it at",
        "the image cannot be read",
        "image_size is [6, 8], but the upright photo is [8, 6]; write [8, 6] (it is height first)",
        "swapped corners",
        "unknown garment 'hut'; use one of",
        f"the id 'a' was used before, at {file}:1; give each record an id of its own",
        "a list; write one JSON object a line",
        "text of captions[0] is ''",
    ):
        assert part in text


def test_leaks_between_splits(folder: Path) -> None:
    one = {**ROW, "groups": {"contributor": "7", "annotator": "x"}}
    other = {
        **ROW,
        "id": "b",
        "image": "b.png",
        "groups": {"contributor": "7", "annotator": "x"},
        "split": "validation",
    }
    write(folder, one, name="1.jsonl")
    write(folder, other, {**ROW, "id": "c", "split": "validation"}, name="2.jsonl")
    problems = [(problem.file.name, problem.line, problem.problem) for problem in check(folder)]
    assert [(name, line) for name, line, _ in problems] == [("2.jsonl", 1), ("2.jsonl", 2)]
    assert "contributor '7' is in 'validation' here and in 'train' at" in problems[0][2]
    assert problems[1][2].startswith("photo ")  # the same picture under another id


def test_parquet_is_checked_row_by_row(folder: Path) -> None:
    records = list(read_records(write(folder, ROW, {**ROW, "id": "b", "image": "gone.png"})))
    write_parquet(records, folder / "records.parquet")
    [problem] = check(folder / "records.parquet")
    assert (problem.line, problem.record_id) == (2, "b")
    (folder / "x.parquet").write_bytes(b"nothing")
    [problem] = check(folder / "x.parquet")
    assert problem.line is None and "not readable as Parquet" in problem.problem


def test_pictures_in_shards_are_checked_where_they_are(folder: Path) -> None:
    records = write(folder, ROW, {**ROW, "id": "b", "image": "b.png"})
    [shard] = write_shards(records, folder / "shards", format="parquet")
    assert check(folder / "shards") == []
    table = parquet.read_table(shard)
    pictures = table.column("image").to_pylist()
    pictures[1]["bytes"] = pictures[1]["bytes"][:40]
    place = table.column_names.index("image")
    table = table.set_column(place, table.field("image"), [pictures])
    parquet.write_table(table, shard)
    [problem] = check(folder / "shards")
    assert (problem.line, problem.record_id) == (2, "b")
    assert "the image cannot be read" in problem.problem and "40 bytes" in problem.problem


def test_what_a_photo_is_like_may_be_on_both_sides(folder: Path) -> None:
    groups = {"pose": "standing", "skin_tone": "3", "light": "soft"}
    other = {**ROW, "id": "b", "image": "b.png", "groups": groups, "split": "validation"}
    assert check(write(folder, {**ROW, "groups": groups}, other)) == []


def test_an_empty_file_is_a_problem(folder: Path) -> None:
    [problem] = check(write(folder))
    assert str(problem).endswith("records.jsonl: no records in it; write a row a photo")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        check(tmp_path / "nowhere.jsonl")
