"""Labels that nobody gave, found by rules, each with its measured precision.

`python -m vlm.data.weak [DATA_ROOT]` finds the boxes of garments that lie alone before a plain background and keeps
them beside our annotations; `python -m vlm.data.weak --report` measures the labelling functions.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from tasks.base import Record
from tasks.readers import clothing, products
from tasks.readers.clothing import BOXES
from tasks.readers.raw import annotations_root
from vlm.atomic import write_text
from vlm.data.label_functions import LabelFunction, Precision, label_functions, precision
from vlm.data.plain_background import lone_records, plain_box
from vlm.synthetic.masked_photo import MaskedPhoto, masked_photos, open_masked, photo_labels

__all__ = ["CONFIG", "SOURCES", "load_limits", "lone_records", "plain_box", "report", "usable", "write_boxes"]

SOURCES = {"clothing": clothing.read, "products": products.read}
"""Readers whose photos may show a garment alone."""
CONFIG = Path(__file__).resolve().parents[2] / "configs" / "weak.yaml"
_SIZE = 400


def write_boxes(records: Iterable[Record], path: Path) -> int:
    """Keep the boxes of `lone_records(records)` as rows {"id", "box"} of whole pixels; the number of rows."""
    rows = []
    for record in lone_records(records):
        box = record.objects[0].box
        assert box is not None
        rows.append(json.dumps({"id": record.id, "box": [round(value) for value in box.xyxy]}) + "\n")
    write_text(path, "".join(rows))
    return len(rows)


def report(functions: Sequence[LabelFunction], photos: Sequence[MaskedPhoto]) -> list[tuple[LabelFunction, Precision]]:
    """Each function's precision on photos that it was not fitted on."""
    return [(function, precision(function, photos)) for function in functions]


def usable(
    measured: Iterable[tuple[LabelFunction, Precision]], *, min_precision: float, min_given: int
) -> list[LabelFunction]:
    """The functions that may be used."""
    return [function for function, found in measured if found.reaches(min_precision, min_given)]


def load_limits(path: Path) -> dict[str, Any]:
    """`min_precision` and `min_given`.

    Raises:
        ValueError: one is missing or out of range.
    """
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or set(found) != {"min_precision", "min_given"}:
        raise ValueError(f"{path}: expected exactly min_precision and min_given; see configs/weak.yaml")
    if not 0 < found["min_precision"] <= 1 or found["min_given"] < 1:
        raise ValueError(f"{path}: {found}; expected min_precision in (0, 1] and min_given of at least 1")
    return found


def _photos(root: Path | None, split: str) -> list[MaskedPhoto]:
    labels = photo_labels()
    return [
        open_masked(record, sources, mask, labels, _SIZE) for record, sources, mask in masked_photos(root, split=split)
    ]


def _print_report(root: Path | None, config: Path) -> None:
    limits = load_limits(config)
    measured = report(label_functions(_photos(root, "train")), _photos(root, "validation"))
    used = usable(measured, **limits)
    print(f"{'function':28}{'attribute':12}{'precision':>10}{'at least':>10}{'given':>7}{'of':>6}  used")
    for function, found in sorted(measured, key=lambda pair: -pair[1].lower):
        value = "-" if not found.given else f"{found.value:.3f}"
        print(
            f"{function.name:28}{function.attribute:12}{value:>10}{found.lower:>10.3f}{found.given:>7}"
            f"{found.possible:>6}  {'yes' if function in used else 'no'}"
        )
    least, given = limits["min_precision"], limits["min_given"]
    print(f"used: precision of at least {least} over at least {given} labels ({config.name})")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m vlm.data.weak", description=__doc__)
    parser.add_argument("data_root", type=Path, nargs="?")
    parser.add_argument("--report", action="store_true", help="measure the labelling functions instead")
    parser.add_argument("--config", type=Path, default=CONFIG)
    options = parser.parse_args(arguments)
    if options.report:
        _print_report(options.data_root, options.config)
        return
    for source, read in SOURCES.items():
        target = annotations_root(None) / source / BOXES
        # What is kept from before must not decide what is found now.
        records = read(options.data_root, boxes=False)
        print(f"{target}: {write_boxes(records, target)} boxes")


if __name__ == "__main__":
    main()
