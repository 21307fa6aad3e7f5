"""Calibration finds the map that made scores wrong, and undoes it."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest

from vlm.calibrate import (
    Calibration,
    equal_mass_bins,
    expected_calibration_error,
    fit,
    in_fitting_half,
    plot_reliability,
    reports,
)


def drawn(num: int, slope: float, offset: float, seed: int = 0) -> list[tuple[float, bool]]:
    """Scores whose true probability is sigmoid(slope * logit(score) + offset)."""
    rng = random.Random(seed)
    rows = []
    for _ in range(num):
        score = rng.uniform(0.02, 0.98)
        true = 1 / (1 + math.exp(-(slope * math.log(score / (1 - score)) + offset)))
        rows.append((score, rng.random() < true))
    return rows


OVERCONFIDENT = drawn(4000, 0.5, -0.7)


def test_recovers_slope_and_offset() -> None:
    slope, offset = fit({"vqa": OVERCONFIDENT}).maps["vqa"]
    assert slope == pytest.approx(0.5, abs=0.06)
    assert offset == pytest.approx(-0.7, abs=0.1)


def test_error_falls_on_other_examples() -> None:
    calibration = fit({"vqa": OVERCONFIDENT})
    fresh = drawn(4000, 0.5, -0.7, seed=1)
    report = reports(calibration, {"vqa": fresh})["vqa"]
    assert report["ece_before"] > 0.1
    assert report["ece_after"] < 0.03
    assert report["num"] == 4000


def test_honest_scores_stay() -> None:
    slope, offset = fit({"vqa": drawn(4000, 1.0, 0.0)}).maps["vqa"]
    assert slope == pytest.approx(1.0, abs=0.1)
    assert offset == pytest.approx(0.0, abs=0.1)


def test_order_is_kept_and_probabilities_stay_probabilities() -> None:
    calibration = fit({"vqa": OVERCONFIDENT})
    mapped = [calibration.apply("vqa", index / 100) for index in range(101)]
    assert mapped == sorted(mapped)
    assert 0 <= mapped[0] < mapped[-1] <= 1


@pytest.mark.parametrize("right", [True, False])
def test_always_right_or_wrong_stays_finite(right: bool) -> None:
    calibration = fit({"vqa": [(0.3 + index / 1000, right) for index in range(200)]})
    value = calibration.apply("vqa", 0.4)
    assert value > 0.95 if right else value < 0.05


def test_misleading_scores_become_the_mean() -> None:
    calibration = fit({"vqa": [(score, not right) for score, right in drawn(2000, 2.0, 0.0)]})
    assert calibration.apply("vqa", 0.9) == pytest.approx(0.5, abs=0.1)


def test_unknown_keys_and_thin_attributes() -> None:
    calibration = fit({"attributes.colour": OVERCONFIDENT, "attributes.closure": [(0.5, True)] * 3, "detection": []})
    assert set(calibration.maps) == {"attributes", "attributes.colour"}
    assert calibration.apply("attributes.closure", 0.9) == calibration.apply("attributes", 0.9) != 0.9
    assert calibration.apply("detection", 0.9) == 0.9
    assert calibration.apply("caption", 0.0) == 0.0


def test_file_round_trip(tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    calibration = Calibration(maps=fit({"vqa": OVERCONFIDENT}).maps, report={"fitted_on": "a half"})
    calibration.to_json(file)
    assert Calibration.from_json(file) == calibration
    assert [path.name for path in tmp_path.iterdir()] == ["calibration.json"]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"maps": {"vqa": 1}}', '{"maps": {"vqa": {"slope": -1, "offset": 0}}}']
)
def test_damaged_files_are_named(text: str, tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"calibration\.json: is not a calibration file"):
        Calibration.from_json(file)


def test_error_by_hand() -> None:
    rows = [(0.2, False), (0.2, False), (0.8, True), (0.8, False)]
    assert expected_calibration_error(rows, num_bins=2) == pytest.approx((2 * 0.2 + 2 * 0.3) / 4)
    assert equal_mass_bins(rows, 2) == [(pytest.approx(0.2), 0.0, 2), (pytest.approx(0.8), 0.5, 2)]
    assert expected_calibration_error([(0.7, True)]) == pytest.approx(0.3)
    with pytest.raises(ValueError, match="of no examples is not defined"):
        expected_calibration_error([])


def test_attributes_are_also_reported_together() -> None:
    pairs = {"attributes.colour": OVERCONFIDENT[:200], "attributes.fit": OVERCONFIDENT[200:300]}
    report = reports(fit(pairs), pairs)
    assert {key: row["num"] for key, row in report.items()} == {
        "attributes": 300,
        "attributes.colour": 200,
        "attributes.fit": 100,
    }


def test_halves_are_halves_and_stay() -> None:
    names = [str(index) for index in range(2000)]
    assert 900 < sum(map(in_fitting_half, names)) < 1100
    assert [in_fitting_half(name) for name in ("a", "b", "c")] == [in_fitting_half(name) for name in ("a", "b", "c")]


def test_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "plots" / "reliability.png"
    pairs = {"vqa": OVERCONFIDENT, "attributes.colour": OVERCONFIDENT}
    plot_reliability(fit(pairs), pairs, file)
    assert file.read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in file.parent.iterdir()] == ["reliability.png"]
    with pytest.raises(ValueError, match="no scores to plot"):
        plot_reliability(fit(pairs), {}, file)


def test_report_is_json(tmp_path: Path) -> None:
    calibration = fit({"vqa": OVERCONFIDENT})
    json.dumps(reports(calibration, {"vqa": OVERCONFIDENT}), allow_nan=False)
