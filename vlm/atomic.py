"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["replacing", "replacing_folder", "write_text"]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """`with replacing(path) as part`: what is written to `part` becomes `path` at the end, or nothing does.

    Makes the folder. A reader never sees half a file, and several processes may write the same one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """`with replacing_folder(folder) as part`: as `replacing`, of a folder. `part` is for its writer to make.

    Args:
        overwrite: what is in `folder` goes; without it, it must not be there, or be empty.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(part, ignore_errors=True)
    try:
        yield part
        if overwrite:
            shutil.rmtree(folder, ignore_errors=True)
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)  # half of it only takes room, on a disk that may be full


def write_text(path: Path, text: str) -> None:
    """Write a text file whole, in UTF-8 (see `replacing`)."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
