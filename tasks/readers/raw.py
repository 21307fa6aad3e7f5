"""Where the public data sets lie, and their rows."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["annotations_root", "data_root", "photo_folder", "photo_size", "read_rows"]

_CHECKOUT = Path(__file__).resolve().parents[2]


def data_root(root: Path | str | None = None) -> Path:
    """The folder with `ccp/`, `clothing/` and `products/`: `root`, else VLM_DATA, else ../shared/data of the checkout.

    Raises:
        FileNotFoundError: no such folder.
    """
    found = Path(root or os.environ.get("VLM_DATA") or _CHECKOUT.parent / "shared" / "data").expanduser().absolute()
    if not found.is_dir():
        raise FileNotFoundError(
            f"{found}: no such folder; expected the data sets in it (ccp/, clothing/, products/). "
            "Set the environment variable VLM_DATA, or data_root in the configuration, to where they lie"
        )
    return found


def annotations_root(annotations: Path | str | None = None) -> Path:
    """The folder with our annotations: `annotations`, else data/annotations of the checkout.

    Raises:
        FileNotFoundError: no such folder.
    """
    found = Path(annotations or _CHECKOUT / "data" / "annotations")
    if not found.is_dir():
        raise FileNotFoundError(
            f"{found}: no such folder; expected our annotations, which come with a checkout of the project. "
            "Pass the folder as `annotations`"
        )
    return found


def photo_folder(root: Path, source: str, ids: Iterable[str]) -> Path:
    """The folder `<root>/<source>/photos`, after a look that `<id>.jpg` is there for all ids.

    Raises:
        FileNotFoundError: the folder or some photos are missing.
    """
    folder = root / source / "photos"
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: no such folder; expected the photos of {source} there. "
            "Set the environment variable VLM_DATA, or data_root in the configuration, to the folder that holds "
            f"{source}/photos"
        )
    there = set(os.listdir(folder))
    missing = [f"{name}.jpg" for name in ids if f"{name}.jpg" not in there]
    if missing:
        raise FileNotFoundError(
            f"{folder}: {len(missing)} photos are missing, the first is {missing[0]}; fetch the whole data set again"
        )
    return folder


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """("file:line", row) of a JSONL file; blank lines are passed over.

    Raises:
        ValueError: a line is no JSON object.
    """
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                row = json.loads(line)
            except ValueError as error:  # bad JSON, or not UTF-8
                raise ValueError(
                    f"{where}: not valid JSON ({error}); write one JSON object a line, in UTF-8"
                ) from error
            if not isinstance(row, dict):
                raise ValueError(f"{where}: a {type(row).__name__}; expected one JSON object a line")
            yield where, row


def photo_size(row: Mapping[str, Any]) -> tuple[int, int]:
    """(height, width) of an index row. The three sets' photos carry no EXIF rotation."""
    return int(row["height"]), int(row["width"])
