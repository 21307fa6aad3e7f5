"""Combinations that no training picture shows, and the test that asks for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.base import ObjectLabel, Provenance, Record
from tasks.readers import READERS
from tasks.readers.raw import data_root
from vlm.data.records import read_records
from vlm.suite import SourceSettings
from vlm.synthetic.held_out import choose, combinations, held_out, is_held_out

pytest.importorskip("skia")

from vlm.synthetic.drawing import draw  # needs skia-python
from vlm.synthetic.wardrobe import write_wardrobe
from vlm.synthetic.wardrobe_test import write_part

COMBINATION = sorted(held_out())[0]


def test_there_are_enough_combinations_of_many_garments_and_patterns() -> None:
    kept = held_out()
    assert len(kept) >= 200
    assert len({garment for garment, _, _ in kept}) >= 15
    assert len({pattern for _, pattern, _ in kept}) >= 6


def test_training_pictures_show_none_of_them() -> None:
    garment, pattern, _ = COMBINATION
    cells = [None] * 40 + [{"garment": garment, "pattern": pattern}] * 10
    for index, cell in enumerate(cells):
        for item in draw(31, index, size=64, cell=cell).record.objects:
            assert not is_held_out(item.label, item.attributes), (index, item)


def test_a_cell_that_is_kept_for_tests_is_drawn_only_on_demand() -> None:
    cell = dict(zip(("garment", "pattern", "colour"), COMBINATION, strict=True))
    with pytest.raises(ValueError, match=r"kept for tests.*held_out\.yaml"):
        draw(31, 0, size=64, cell=cell)
    shown = [
        combination
        for index in range(6)
        for item in draw(31, index, size=96, cell={**cell, "kind": "person"}, held_out=True).record.objects
        for combination in combinations(item.label, item.attributes)
    ]
    assert COMBINATION in shown


def test_held_out_pictures_cannot_be_of_the_training_split(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="split='validation'"):
        write_wardrobe(tmp_path, seed=1, num=1, held_out=True)


def test_the_parts_differ_in_the_colour_of_the_garment_that_is_asked_about(tmp_path: Path) -> None:
    parts = {}
    for part in ("unseen", "matched"):
        assert write_part(tmp_path / part, num=12, size=96, processes=1) == 12
        assert write_part(tmp_path / part, num=12, size=96, processes=1) == 0
        parts[part] = list(read_records(tmp_path / part))
    told = {part: [item for row in rows for item in row.objects if item.attributes] for part, rows in parts.items()}
    assert len(told["unseen"]) >= 8
    assert all(is_held_out(item.label, item.attributes) for item in told["unseen"])
    assert not any(is_held_out(item.label, item.attributes) for item in told["matched"])
    assert all(record.split == "validation" for rows in parts.values() for record in rows)
    for record in parts["unseen"]:
        named = {item.label for item in record.objects if item.attributes}
        assert all(any(name in pair.question for name in named) for pair in record.qa)


def test_a_folder_that_is_no_part_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"other.*general, unseen, matched"):
        write_part(tmp_path / "other")


def test_a_suite_names_an_unknown_maker() -> None:
    with pytest.raises(ValueError, match="wardrobe_test"):
        SourceSettings(reader="jsonl", path="x", make="wardrobe")


def test_what_training_shows_is_never_chosen() -> None:
    garment, pattern, colour = COMBINATION
    seen = ObjectLabel(
        label=garment,
        attributes={"pattern": (pattern,), "colour": (colour,)},
        provenance=Provenance(source="test", annotator="test"),
    )
    record = Record(id="a", image="a.jpg", image_size=(9, 9), objects=(seen,), provenance=seen.provenance)
    assert COMBINATION in choose([])
    assert COMBINATION not in choose([record])
    assert COMBINATION in choose([replace(record, split="validation")])


@pytest.mark.parametrize("source", ["ccp", "clothing", "products"])
def test_no_training_photo_shows_them(source: str) -> None:
    def shown() -> Iterator[tuple[str, ObjectLabel]]:
        for record in READERS[source](None):
            yield from ((record.id, item) for item in record.objects if record.split == "train")

    try:
        data_root()
    except FileNotFoundError as error:
        pytest.skip(f"needs the photos: {error}")
    assert [name for name, item in shown() if is_held_out(item.label, item.attributes)] == []
