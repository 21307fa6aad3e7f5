"""Headlines split by group, and groups that records do not carry."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tasks.base import Record
from tasks.readers.ccp import skin_tone_groups
from tasks.readers.jsonl import read
from tasks.results import Answer
from vlm.api import VLM
from vlm.audit import group_values
from vlm.evaluate import MIN_RECORDS, evaluate_records, spreads
from vlm.probes import Answered, Probe


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


def _answers(right: list[bool]) -> list[Answered]:
    """A question a photo, answered rightly or not."""
    probe = Probe(measure="vqa", task="vqa", reference=("yes",))
    return [
        Answered(record=record(str(number)), pairs=[(probe, Answer("yes" if good else "no"))])
        for number, good in enumerate(right)
    ]


def test_a_spread_of_chance_is_told_from_a_real_one() -> None:
    rng = random.Random(0)
    names = {str(number): "ab"[number % 2] for number in range(200)}
    chance = spreads(_answers([rng.random() < 0.7 for _ in range(200)]), names, num=200)["vqa/exact_match"]
    assert 0 < chance["spread"] < 0.15
    assert chance["p_value"] > 0.05
    unfair = spreads(_answers([rng.random() < 0.8 - 0.3 * (number % 2) for number in range(200)]), names, num=200)
    assert unfair["vqa/exact_match"]["spread"] == pytest.approx(0.3, abs=0.1)
    assert unfair["vqa/exact_match"]["p_value"] == pytest.approx(1 / 201)


def test_thin_groups_have_no_spread() -> None:
    answers = _answers([True, False] * 35)
    few = {str(number): "abc"[number // MIN_RECORDS] for number in range(70)}
    found = spreads(answers, few, num=20)
    without = spreads(answers[: 2 * MIN_RECORDS], few, num=20)
    assert found == without, "ten photos are left out"
    assert found["vqa/exact_match"] == {"spread": 0.0, "p_value": 1.0}
    assert spreads(answers[: MIN_RECORDS + 5], few) == {}
    assert spreads(answers, {}) == {}
