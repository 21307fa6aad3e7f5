"""Photos with rare labels come more often."""

from __future__ import annotations

import math

import pytest

from tasks.base import ObjectLabel, Record
from vlm.data.rare import MOST, repeat_factors, repeated_rows, value_weights


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


def test_values_weigh_by_a_power_of_their_share() -> None:
    records = [
        *records_of(*["coat"] * 90, pattern=("solid",), sleeve=("long",)),
        *records_of(*["coat"] * 10, pattern=("lace",), sleeve=("long",)),
    ]
    weights = value_weights(records, 0.5)
    assert weights[("pattern", "lace")] / weights[("pattern", "solid")] == pytest.approx(3.0)
    assert 0.9 * weights[("pattern", "solid")] + 0.1 * weights[("pattern", "lace")] == pytest.approx(1.0)
    assert weights[("sleeve", "long")] == pytest.approx(1.0), "an attribute of one value keeps its weight"
    # At 1 every value counts as much as any other.
    whole = value_weights(records, 1.0)
    assert 0.9 * whole[("pattern", "solid")] == pytest.approx(0.5) == 0.1 * whole[("pattern", "lace")]
    rarest = [*records_of(*["coat"] * 999, pattern=("solid",)), *records_of("coat", pattern=("lace",))]
    assert value_weights(rarest, 1.0)[("pattern", "lace")] == MOST
    assert value_weights([], 0.5) == {}


@pytest.mark.parametrize("power", [0.0, -0.5, 1.1])
def test_a_power_is_at_most_one(power: float) -> None:
    with pytest.raises(ValueError, match=rf"power is {power}; expected one in \(0, 1\]"):
        value_weights([], power)
