"""Labels that nobody gave, found by rules, each with its measured precision.

`python -m vlm.data.weak [DATA_ROOT]` finds the boxes of garments that lie alone before a plain background and keeps
them beside our annotations; `--report` measures the labelling functions, and `--labels` keeps what those that are good
enough say of training photos, where nobody has annotated it.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tasks.base import Record
from tasks.readers import ccp, clothing, products
from tasks.readers.clothing import BOXES
from tasks.readers.labels import WEAK
from tasks.readers.raw import annotations_root
from vlm.atomic import write_text
from vlm.data.label_functions import Photo, PlainPhoto, Precision, precision
from vlm.data.plain_background import lone_records, plain_box
from vlm.data.weak_labels import fits, load_limits, measure, rows_of, second_opinions, usable, write_rows
from vlm.synthetic.masked_photo import masked_photos, open_masked, photo_labels

__all__ = ["CONFIG", "SECOND", "SOURCES", "lone_records", "plain_box", "write_boxes"]

SOURCES = {"clothing": clothing.read, "products": products.read}
"""Readers whose photos may show a garment alone."""
SECOND = "annotations_second.jsonl"
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


def _photos(root: Path | None) -> list[Photo]:
    """ccp's training photos, those with masks opened."""
    labels = photo_labels()
    masked = {record.id: (sources, mask) for record, sources, mask in masked_photos(root)}
    return [
        open_masked(record, *masked[record.id], labels, _SIZE) if record.id in masked else PlainPhoto(record=record)
        for record in ccp.read(root)
        if record.split == "train"
    ]


def _print_report(root: Path | None, config: Path) -> None:
    limits = load_limits(config)
    photos = _photos(root)
    measured = measure(photos)
    again = second_opinions((photo.record for photo in photos), annotations_root(None) / "ccp" / SECOND)
    print(f"{'function':26}{'attribute':11}{'chosen on':>18}{'held out':>18}{'at least':>10}{'silent':>9}  used")
    for found in sorted(measured, key=lambda one: -one.held_out.lower):
        name, silent = found.function.name, precision(found.function, again)
        used = "no" if not found.reaches(limits) else "refused" if name in limits.refused else "yes"
        print(
            f"{name:26}{found.function.attribute:11}{_shown(found.chosen):>18}{_shown(found.held_out):>18}"
            f"{found.held_out.lower:>10.3f}{f'{silent.right}/{silent.given}' if silent.given else '-':>9}  {used}"
        )
    print(
        f"used: precision of at least {limits.min_precision} over at least {limits.min_given} labels on each half, and "
        f"not refused in {config.name}"
    )
    print("silent: right where the first annotation of a photo told nothing and the second did")


def _shown(found: Precision) -> str:
    return f"{found.value:.3f} of {found.given}" if found.given else "-"


def _write_labels(root: Path | None, config: Path) -> None:
    limits = load_limits(config)
    photos = _photos(root)
    used = usable(measure(photos), limits)
    for source, read in {"ccp": None, **SOURCES}.items():
        if read is not None:
            photos = [PlainPhoto(record=record) for record in read(root) if record.split == "train"]
            functions = fits(used, photos, limits)
        else:
            functions = {one.function.name: (one.function, one.held_out.value) for one in used}
        target = annotations_root(None) / source / WEAK
        rows = write_rows(rows_of(photos, functions), target)
        print(f"{target}: {len(rows)} labels")
        for (attribute, name), number in Counter((row["attribute"], row["function"]) for row in rows).most_common():
            print(f"  {attribute:12}{name:28}{number:>6}  precision {functions[str(name)][1]:.3f}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m vlm.data.weak", description=__doc__)
    parser.add_argument("data_root", type=Path, nargs="?")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--report", action="store_true", help="measure the labelling functions instead")
    instead.add_argument("--labels", action="store_true", help="label training photos by the good ones instead")
    parser.add_argument("--config", type=Path, default=CONFIG)
    options = parser.parse_args(arguments)
    if options.report:
        _print_report(options.data_root, options.config)
        return
    if options.labels:
        _write_labels(options.data_root, options.config)
        return
    for source, read in SOURCES.items():
        target = annotations_root(None) / source / BOXES
        # What is kept from before must not decide what is found now.
        records = read(options.data_root, boxes=False)
        print(f"{target}: {write_boxes(records, target)} boxes")


if __name__ == "__main__":
    main()
