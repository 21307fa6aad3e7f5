"""Probabilities that mean what they say: of the answers given with 0.8, four in five should be right.

A score p becomes sigmoid(slope * logit(p) + offset), with slope and offset fitted by maximum likelihood on
answers known to be right or wrong (Platt scaling; the slope is one over the temperature). The order of the
scores of one kind never changes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vlm.atomic import replacing, write_text

__all__ = ["Calibration", "Pairs", "expected_calibration_error", "fit", "in_fitting_half", "main_calibrate"]

FILE = "calibration.json"
NUM_BINS = 15
MIN_EXAMPLES = 50
"""With fewer, an attribute uses the map of all attributes together, and any other key stays as it is."""

PRIOR = 1.0
"""Strength of the pull towards leaving scores alone, in about as many examples; it keeps a map finite where
every answer was right."""

_SMALLEST = 1e-6

Pairs = Mapping[str, Sequence[tuple[float, bool]]]
"""Key ("vqa", "attributes.colour", "detection", "grounding") -> (raw score, was it right)."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Key -> (slope, offset) on the logit.

    Attributes:
        maps: a key such as "attributes.colour" that is missing falls back to "attributes".
        report: how the maps were fitted and how well they do; kept with them.

    Raises:
        ValueError: a slope that is not positive and finite, or an offset that is not finite.
    """

    maps: Mapping[str, tuple[float, float]]
    report: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, (slope, offset) in self.maps.items():
            if not (slope > 0 and math.isfinite(slope) and math.isfinite(offset)):
                raise ValueError(f"calibration of {key!r} is {(slope, offset)}; expected a positive slope, an offset")

    def apply(self, key: str, score: float) -> float:
        """The calibrated probability; the score itself where the key is unknown."""
        found = self.maps.get(key) or self.maps.get(key.split(".")[0])
        if found is None:
            return score
        slope, offset = found
        return _sigmoid(slope * _logit(score) + offset)

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write atomically."""
        maps = {key: {"slope": slope, "offset": offset} for key, (slope, offset) in self.maps.items()}
        write_text(Path(path), json.dumps({"maps": maps, "report": self.report}, indent=1, sort_keys=True) + "\n")

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> Calibration:
        """Raises ValueError, naming the file, where it is not what `to_json` writes."""
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
            maps = {key: (float(row["slope"]), float(row["offset"])) for key, row in found["maps"].items()}
            return cls(maps=maps, report=found.get("report", {}))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: is not a calibration file: {error!r}; fit it anew or delete it") from error


def fit(pairs: Pairs, *, min_examples: int = MIN_EXAMPLES) -> Calibration:
    """A map for every key with enough examples, and for what the parts of a key ("attributes") have together."""
    enough = {key: rows for key, rows in _with_groups(pairs).items() if len(rows) >= min_examples}
    return Calibration(maps={key: _fit_one(rows) for key, rows in enough.items()})


def _fit_one(rows: Sequence[tuple[float, bool]]) -> tuple[float, float]:
    from scipy.optimize import minimize  # only fitting needs it

    logits_N = np.array([_logit(score) for score, _ in rows])
    signs_N = np.array([1.0 if right else -1.0 for _, right in rows])

    def loss(parameters: np.ndarray) -> float:
        log_slope, offset = parameters
        nll = np.logaddexp(0.0, -signs_N * (np.exp(log_slope) * logits_N + offset)).sum()
        return float(nll + PRIOR / 2 * (log_slope**2 + offset**2))

    # The log keeps the slope positive. Where scores say nothing it goes towards 0, which gives the mean.
    found = minimize(loss, x0=np.zeros(2), method="L-BFGS-B", bounds=[(-7.0, 3.0), (-20.0, 20.0)])
    return float(np.exp(found.x[0])), float(found.x[1])


def equal_mass_bins(rows: Sequence[tuple[float, bool]], num_bins: int = NUM_BINS) -> list[tuple[float, float, int]]:
    """(mean score, share that is right, number) of bins that hold equally many, by rising score."""
    scores_N = np.array([score for score, _ in rows], dtype=float)
    right_N = np.array([right for _, right in rows], dtype=float)
    order = np.argsort(scores_N, kind="stable")
    parts = np.array_split(order, min(num_bins, len(rows)))
    return [(float(scores_N[part].mean()), float(right_N[part].mean()), len(part)) for part in parts if len(part)]


def expected_calibration_error(rows: Sequence[tuple[float, bool]], num_bins: int = NUM_BINS) -> float:
    """Mean gap between score and share that is right, over bins of equal mass (arXiv 1909.10155).

    Chance alone makes it about sqrt(bins / examples) / 3, so say the number of examples with it.

    Raises:
        ValueError: no examples.
    """
    if not rows:
        raise ValueError("the calibration error of no examples is not defined; pass at least one")
    bins = equal_mass_bins(rows, num_bins)
    return sum(num * abs(score - right) for score, right, num in bins) / len(rows)


def reports(calibration: Calibration, pairs: Pairs) -> dict[str, dict[str, float]]:
    """ECE of every key (and of all "attributes.*" together) before and after, on examples that the maps were
    not fitted on."""
    return {
        key: {
            "ece_before": expected_calibration_error(rows),
            "ece_after": expected_calibration_error(calibrated(calibration, pairs, key)),
            "num": len(rows),
        }
        for key, rows in _with_groups(pairs).items()
    }


def calibrated(calibration: Calibration, pairs: Pairs, key: str) -> list[tuple[float, bool]]:
    """The pairs of a key, or of all keys under it, with calibrated scores."""
    return [
        (calibration.apply(name, score), right)
        for name, rows in pairs.items()
        if name == key or name.split(".")[0] == key
        for score, right in rows
    ]


def in_fitting_half(record_id: str) -> bool:
    """Whether maps may be fitted on this validation record; errors are reported on the others only."""
    return hashlib.sha256(f"calibration:{record_id}".encode()).digest()[0] % 2 == 0


def plot_reliability(calibration: Calibration, pairs: Pairs, path: str | os.PathLike[str]) -> None:
    """One panel a key: share that is right over score, before and after. Writes a PNG, atomically.

    Raises:
        ValueError: matplotlib is not installed, or there is nothing to plot.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("the reliability plot needs matplotlib; install it with `pip install 'vlm[eval]'`") from error
    shown = {key: rows for key, rows in _with_groups(pairs).items() if rows and "." not in key}
    if not shown:
        raise ValueError("there are no scores to plot; evaluate at least one record")
    figure = Figure(figsize=(3.2 * len(shown), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (key, rows) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
        axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        after = calibrated(calibration, pairs, key)
        for name, values, style in (("before", rows, "o:"), ("after", after, "o-")):
            bins = equal_mass_bins(values)
            error = expected_calibration_error(values)
            axes.plot([b[0] for b in bins], [b[1] for b in bins], style, markersize=3, label=f"{name}, ECE {error:.3f}")
        axes.set(title=f"{key} (n = {len(rows)})", xlabel="score", xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes.legend(loc="upper left", fontsize="small", frameon=False)
    figure.axes[0].set_ylabel("share that is right")
    with replacing(Path(path)) as part:
        figure.savefig(part, format="png", dpi=120)


def main_calibrate(
    checkpoint: str | os.PathLike[str],
    suite: str = "validation",
    *,
    data_root: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    plot: str | os.PathLike[str] | None = None,
) -> Calibration:
    """Fit on one half of a suite's validation records, report on the other, write `calibration.json` into the
    checkpoint directory.

    Args:
        checkpoint: a directory.
        suite: as in `vlm.evaluate.main_eval`.
        data_root: folder of the data sets; None for the default.
        limit: at most so many records of each source.
        plot: PNG for the reliability plot; None for none.
    """
    from vlm.api import load
    from vlm.probes import ask, score_pairs
    from vlm.suite import choose_records, load_suite, read_sources

    folder = Path(checkpoint)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a directory; calibration.json is written into a checkpoint directory")
    settings = load_suite(suite)
    model = load(folder)
    model.calibration = None  # raw scores, whatever was fitted before
    answered = [
        answer
        for name, rows in read_sources(settings, data_root).items()
        for answer in ask(
            model,
            choose_records(rows, settings, name, limit),
            measures=settings.sources[name].measures,
            seed=settings.seed,
            batch_size=settings.batch_size,
        )
    ]
    calibration = fit(score_pairs(a for a in answered if in_fitting_half(a.record.id)))
    held_out = score_pairs(a for a in answered if not in_fitting_half(a.record.id))
    if plot is not None:
        plot_reliability(calibration, held_out, plot)
    report = {
        "fitted_on": f"one half of the validation records of suite {suite}, chosen by a hash of the record's id",
        "reported_on": "the other half",
        "num_records": len(answered),
        "keys": reports(calibration, held_out),
    }
    calibration = Calibration(maps=calibration.maps, report=report)
    calibration.to_json(folder / FILE)
    return calibration


def _with_groups(pairs: Pairs) -> dict[str, Sequence[tuple[float, bool]]]:
    """With "attributes" for all "attributes.*" together."""
    grouped: dict[str, list[tuple[float, bool]]] = {}
    for key, rows in pairs.items():
        if "." in key:
            grouped.setdefault(key.split(".")[0], []).extend(rows)
    return {key: rows for key, rows in sorted({**grouped, **pairs}.items()) if rows}


def _logit(probability: float) -> float:
    inside = min(max(probability, _SMALLEST), 1 - _SMALLEST)
    return math.log(inside) - math.log1p(-inside)


def _sigmoid(value: float) -> float:
    if value < 0:
        return math.exp(value) / (1 + math.exp(value))
    return 1 / (1 + math.exp(-value))
