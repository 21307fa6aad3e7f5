from __future__ import annotations

import pytest

from tasks.boxes import Box
from tasks.metrics.bootstrap import total
from tasks.metrics.grounding_accuracy import matches, statistics, summarise

LEFT, RIGHT, BELOW = Box(0, 0, 10, 10), Box(20, 0, 30, 10), Box(0, 40, 10, 50)


def test_exactly_half_overlap_counts() -> None:
    assert summarise(statistics([Box(0, 0, 10, 5)], [LEFT]))["Acc@0.5"] == 1.0
    assert summarise(statistics([Box(0, 0, 10, 4.9)], [LEFT]))["Acc@0.5"] == 0.0


def test_the_surest_box_decides() -> None:
    values = summarise(total([statistics([LEFT, RIGHT], [LEFT]), statistics([RIGHT, LEFT], [LEFT])]))
    assert values["Acc@0.5"] == 0.5
    assert values["Pr@(F1=1)"] == 0.0  # a box too many


def test_several_boxes() -> None:
    values = summarise(statistics([LEFT, BELOW], [LEFT, RIGHT]))
    assert values["F1@0.5"] == pytest.approx(0.5)
    assert values["Acc@0.5"] is None


def test_a_true_box_is_found_once() -> None:
    assert matches([LEFT, LEFT], [LEFT]) == {0}
    assert matches([Box(0, 0, 10, 6), LEFT], [LEFT]) == {1}  # the better one


def test_none_is_an_answer() -> None:
    rows = [([], []), ([LEFT], []), ([], [LEFT]), (None, []), ([LEFT], [LEFT])]
    values = summarise(total(statistics(*row) for row in rows))
    assert values["none_precision"] == pytest.approx(1 / 2)
    assert values["none_recall"] == pytest.approx(1 / 3)  # not parsed is not "none"
    assert values["Acc@0.5"] == pytest.approx(1 / 2)
    assert values["Acc@0.5_incl_none"] == pytest.approx(2 / 5)
    assert values["parse_rate"] == pytest.approx(4 / 5)
    assert (values["num"], values["num_one"], values["num_none"]) == (5, 2, 3)
