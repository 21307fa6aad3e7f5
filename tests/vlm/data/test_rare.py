"""Photos with rare labels come more often."""

from __future__ import annotations

import math

import pytest

from tasks.base import ObjectLabel, Record
from vlm.data.rare import MOST, repeat_factors, repeated_rows


def records_of(*garments: str, **attributes: tuple[str, ...]) -> list[Record]:
    return [
        Record(id=f"{number}", image="", image_size=(9, 9), objects=(ObjectLabel(label=label, attributes=attributes),))
        for number, label in enumerate(garments)
    ]


def test_the_rarest_label_decides() -> None:
    records = records_of(*["coat"] * 99, "gloves")
    factors = repeat_factors(records, 0.09)
    assert factors == [1.0] * 99 + [pytest.approx(3.0)]
    assert repeat_factors(records, 0.005) == [1.0] * 100
    lace = records_of("coat", pattern=("solid", "lace"))
    plain = records_of(*["coat"] * 9, pattern=("solid",))
    assert repeat_factors([*plain, *lace], 0.4) == [1.0] * 9 + [pytest.approx(2.0)]
    assert repeat_factors(records_of(*["coat"] * 999, "gloves"), 1.0)[-1] == MOST
    assert repeat_factors([*records_of("coat"), Record(id="x", image="", image_size=(9, 9))], 1.0)[1] == 1


def test_a_part_of_a_factor_is_decided_by_the_id() -> None:
    records = records_of(*["coat"] * 300, *["gloves"] * 200)
    factor = math.sqrt(0.9 / 0.4)
    rows = repeated_rows(records, 0.9)
    counts = [rows.count(number) for number in range(500)]
    assert set(counts[300:]) == {1, 2}
    assert sum(counts[300:]) / 200 == pytest.approx(factor, abs=0.1)
    assert repeated_rows(records[::-1], 0.9) == sorted(499 - number for number in rows)


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.5])
def test_a_threshold_is_a_share(threshold: float) -> None:
    with pytest.raises(ValueError, match=rf"threshold is {threshold}; expected a share in \(0, 1\]"):
        repeat_factors([], threshold)
