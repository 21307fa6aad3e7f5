"""Readers: raw files of a data set -> Record. One file a data set; `READERS` names them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from tasks.base import Record
from tasks.readers import ccp, clothing, jsonl, products
from tasks.readers.raw import annotations_root, data_root

__all__ = ["READERS", "annotations_root", "data_root"]

READERS: dict[str, Callable[[Path | None], Iterator[Record]]] = {
    "ccp": ccp.read,
    "clothing": clothing.read,
    "products": products.read,
    "jsonl": jsonl.read,
}
"""Name -> read(root): the folder of the data sets, or for jsonl the file or folder of records."""
