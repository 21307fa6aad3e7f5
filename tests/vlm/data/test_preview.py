"""The contact sheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.base import QA, ObjectLabel, Record, TextLabel
from tasks.boxes import Box
from vlm.data.preview import CELL_WIDTH, COLUMNS, draw_record, preview
from vlm.data.records import write_jsonl
from vlm.draw import PALETTE


def make(folder: Path, name: str, **fields: object) -> Record:
    image = folder / f"{name}.png"
    Image.new("RGB", (60, 80), "white").save(image)
    return Record(id=name, image=str(image), image_size=(80, 60), **fields)  # type: ignore[arg-type]


def has_colour(image: Image.Image, colour: tuple[int, int, int]) -> bool:
    return bool((np.asarray(image) == colour).all(axis=-1).any())


def test_boxes_are_drawn_and_the_rest_is_told(tmp_path: Path) -> None:
    bare = make(tmp_path, "bare")
    hat, boots = ObjectLabel(label="hat", box=Box(5, 5, 30, 30)), ObjectLabel(label="boots")
    full = make(
        tmp_path,
        "full",
        captions=(TextLabel(text="A hat and boots."),),
        objects=(hat, boots),
        qa=(QA(question="what is it?", answer="a hat"),),
    )
    plain, drawn = draw_record(bare), draw_record(full)
    assert drawn.width == CELL_WIDTH
    assert drawn.height > plain.height
    assert has_colour(drawn, PALETTE[0]) and not has_colour(drawn, PALETTE[1])
    assert not has_colour(plain, PALETTE[0])


def test_preview_writes_one_sheet(tmp_path: Path) -> None:
    records = [make(tmp_path, str(number)) for number in range(6)]
    write_jsonl(records, tmp_path / "records.jsonl")
    target = tmp_path / "out" / "sheet.png"
    assert preview(tmp_path / "records.jsonl", target, num=5) == 5
    with Image.open(target) as sheet:
        assert sheet.width == COLUMNS * CELL_WIDTH
        assert sheet.height > 2 * CELL_WIDTH
        first = sheet.convert("RGB").tobytes()
    assert [path.name for path in target.parent.iterdir()] == ["sheet.png"]
    preview(tmp_path / "records.jsonl", target, num=5)
    with Image.open(target) as sheet:
        assert sheet.convert("RGB").tobytes() == first


def test_what_cannot_be_drawn_is_said(tmp_path: Path) -> None:
    record = make(tmp_path, "a")
    write_jsonl([record], tmp_path / "records.jsonl")
    with pytest.raises(ValueError, match="num is 0"):
        preview(tmp_path / "records.jsonl", tmp_path / "x.png", num=0)
    with pytest.raises(ValueError, match=r"name it \*\.png"):
        preview(tmp_path / "records.jsonl", tmp_path / "x.pdf")
    (tmp_path / "a.png").unlink()
    with pytest.raises(ValueError, match=r"a\.png"):
        preview(tmp_path / "records.jsonl", tmp_path / "x.png")
    (tmp_path / "records.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="no records"):
        preview(tmp_path / "records.jsonl", tmp_path / "x.png")
