"""Shards that lie elsewhere: fetched once, whole files, through fsspec (hf://, s3://, gs://, https://)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Any

from vlm.atomic import replacing, write_text

__all__ = ["CACHE_VARIABLE", "cache_folder", "fetched", "is_remote"]

CACHE_VARIABLE = "VLM_CACHE"
"""Environment variable with the folder of what was fetched; ~/.cache/vlm otherwise."""


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether it is an address such as hf://datasets/owner/name/shards."""
    return "://" in os.fspath(path)


def cache_folder() -> Path:
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "vlm")


def fetched(address: str, suffixes: Collection[str]) -> Path:
    """The local folder with the files of a remote folder, or the one file that the address names.

    A file that is there already and has not changed is not fetched again; one that was interrupted is. Processes that
    ask for the same address wait for the first.

    Args:
        suffixes: of the files that are wanted.

    Raises:
        FileNotFoundError: no such file or folder, or none with these suffixes in it.
        ValueError: the address needs a package that is not installed.
        OSError: a file could not be fetched.
    """
    from filelock import FileLock
    from fsspec.core import url_to_fs

    try:
        files, root = url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{address}: {error}; install what it names, or copy the shards here") from error
    folder = cache_folder() / "shards" / hashlib.sha256(address.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        found = _listed(files, root, suffixes, address)
        for name, path in found.items():
            _fetch(files, path, folder / name, address)
        for old in folder.iterdir():
            if old.suffix in suffixes and old.name not in found:
                old.unlink()
    return folder / next(iter(found)) if PurePosixPath(root).suffix in suffixes else folder


def _listed(files: Any, root: str, suffixes: Collection[str], address: str) -> dict[str, str]:
    """File's name -> its path there."""
    try:
        paths = [root] if PurePosixPath(root).suffix in suffixes else files.ls(root, detail=False)
    except OSError as error:
        raise FileNotFoundError(f"{address}: nothing is there ({error}); check the address and your access") from error
    found = {PurePosixPath(path).name: path for path in paths if PurePosixPath(path).suffix in suffixes}
    if not found:
        raise FileNotFoundError(f"{address}: no {' or '.join(sorted(suffixes))} files; expected shards")
    return found


def _fetch(files: Any, path: str, target: Path, address: str) -> None:
    mark = target.with_name(f"{target.name}.version")
    try:
        version = str(files.ukey(path))
        if target.is_file() and mark.is_file() and mark.read_text(encoding="utf-8") == version:
            return
        mark.unlink(missing_ok=True)
        with replacing(target) as part:
            files.get_file(path, str(part))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{address}: {PurePosixPath(path).name} is not there; check the address") from error
    except OSError as error:
        raise OSError(
            f"{address}: {PurePosixPath(path).name} could not be fetched ({error}); start again, what is here is kept"
        ) from error
    write_text(mark, version)
