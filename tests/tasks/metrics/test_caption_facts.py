from __future__ import annotations

import pytest

from tasks.base import ObjectLabel
from tasks.metrics.bootstrap import total
from tasks.metrics.caption_facts import statistics, summarise

COAT = ObjectLabel(label="coat", attributes={"colour": ("tan",), "pattern": ("solid",)})
BOOTS = ObjectLabel(label="boots", attributes={"colour": ("black",)})


def test_by_hand() -> None:
    sums = total(
        [
            statistics("A striped tan coat and brown boots.", [COAT, BOOTS], complete=True),
            statistics("A plain coat and a red hat.", [COAT], complete=True),
        ]
    )
    values = summarise(sums)
    # Garments: coat, boots, coat, but no hat. Colours: tan, not brown, no red hat. Patterns: not striped, plain.
    assert values["precision_garment"] == pytest.approx(3 / 4)
    assert values["precision_colour"] == pytest.approx(1 / 3)
    assert values["precision_pattern"] == pytest.approx(1 / 2)
    assert values["precision"] == pytest.approx(5 / 9)
    assert values["facts_per_caption"] == pytest.approx(4.5)
    assert (values["num"], values["num_facts"]) == (2, 9)


def test_what_labels_leave_open_is_not_counted() -> None:
    values = summarise(statistics("Checked boots and a hat.", [BOOTS], complete=False))
    assert values["num_facts"] == 1
    assert values["precision"] == 1.0
    assert values["precision_pattern"] is None


def test_no_caption_claims_nothing() -> None:
    values = summarise(statistics(None, [COAT], complete=True))
    assert values["precision"] is None
    assert values["num"] == 1
