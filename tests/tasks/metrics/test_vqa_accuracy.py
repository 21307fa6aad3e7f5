from __future__ import annotations

import pytest

from tasks.metrics.bootstrap import total
from tasks.metrics.vqa_accuracy import normalise, statistics, summarise, vqa_accuracy


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A Red coat.", "red coat"),
        ("knee-high", "knee high"),
        ("two", "2"),
        ("none", "0"),
        ("it's 1,000.5 metres", "its 1000.5 metres"),
        ("don’t", "dont"),
        ("crêpe, silk", "crêpe silk"),
        ("the", ""),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert normalise(text) == expected


def test_one_reference_is_exact_match() -> None:
    rows = [("The boots!", ["boots"]), ("yes", ["no"]), (None, ["yes"]), ("no", ["no"])]
    values = summarise(total(statistics(*row) for row in rows))
    assert values["exact_match"] == pytest.approx(2 / 4)
    assert values["exact_match_yes_no"] == pytest.approx(1 / 3)
    assert values["exact_match_other"] == 1.0
    assert values["parse_rate"] == pytest.approx(3 / 4)
    assert values["VQA accuracy (10 annotators)"] is None


def test_ten_annotators() -> None:
    # Published: 1 of 10 agrees 0.3, 2 of 10 0.6, 3 of 10 0.9, 4 or more 1.0.
    for agreeing, expected in [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)]:
        references = ["red"] * agreeing + ["blue"] * (10 - agreeing)
        assert vqa_accuracy("red", references) == pytest.approx(expected)


def test_kinds_are_kept_apart() -> None:
    values = summarise(total([statistics("red", ["red"]), statistics("red", ["red"] * 2 + ["blue"] * 8)]))
    assert values["exact_match"] == 1.0
    assert values["VQA accuracy (10 annotators)"] == pytest.approx(0.6)
