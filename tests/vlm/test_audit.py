"""Headlines split by group, and groups that records do not carry."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.base import Record
from tasks.readers.ccp import skin_tone_groups
from tasks.readers.jsonl import read
from vlm.api import VLM
from vlm.audit import group_values
from vlm.evaluate import evaluate_records


def record(name: str, **groups: str) -> Record:
    return Record(id=name, image=f"{name}.jpg", image_size=(4, 3), groups=groups)


def test_groups_of_records() -> None:
    rows = [record("a", pose="standing"), record("b"), record("c", pose="sitting")]
    assert group_values("pose", "jsonl", rows) == {"a": "standing", "c": "sitting"}


def test_skin_tone_of_street_photos_is_joined_and_in_no_record() -> None:
    judged = skin_tone_groups()
    names = sorted(judged)[:200]
    found = group_values("skin_tone", "ccp", [record(name) for name in names])
    assert found == {name: judged[name] for name in names if judged[name] is not None}
    assert set(found.values()) <= {"1-3", "4-5", "6-10"}


def test_an_unknown_group_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no record has a group 'light'; there are: crop, pose"):
        group_values("light", "jsonl", [record("a", pose="standing", crop="full")])
    with pytest.raises(ValueError, match="there are: none at all"):
        group_values("skin_tone", "jsonl", [record("a")])


def test_groups_split_what_was_answered(tiny: VLM, garments: Path) -> None:
    """Every group gives what an evaluation of its records alone gives."""
    rows = list(read(garments))[:5]
    values = {rows[0].id: "one", rows[1].id: "two", rows[2].id: "one"}
    options = {"measures": ["detection", "vqa"], "num_resamples": 50, "max_new_tokens": 30}
    table = evaluate_records(tiny, rows, groups={"kind": values}, **options)  # type: ignore[arg-type]
    assert {name: row["num_records"] for name, row in table["groups"]["kind"].items()} == {"one": 2, "two": 1}
    alone = evaluate_records(tiny, [rows[0], rows[2]], **options)  # type: ignore[arg-type]
    one = table["groups"]["kind"]["one"]
    assert one["vqa/exact_match"]["value"] == alone["vqa"]["exact_match"]
    assert one["presence/micro_F1"]["value"] == alone["presence"]["micro_F1"]
    assert one["vqa/exact_match"]["interval"] == alone["vqa"]["intervals"]["exact_match"]
    assert "groups" not in alone
