"""Files of a Hub repository: fetched on from where a download broke off, and checked against the Hub's checksums.

The Hub's own client begins a file anew when it was stopped, and checks sizes only. What comes from here is whole:
content lies under another name until its checksum is right.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

__all__ = ["Remote", "fetch_file", "into_cache", "into_folder"]

_BLOCK = 1 << 22
_NUM_AT_A_TIME = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Remote:
    """A file of a repository at one commit.

    Attributes:
        sha256: of the content, for large files; None for those that lie in git.
        git_oid: of the content, for those.
    """

    repo_id: str
    commit: str
    path: str
    size: int
    sha256: str | None
    git_oid: str | None

    @property
    def name(self) -> str:
        return f"{self.repo_id}/{self.path}"

    @classmethod
    def of(cls, info: Any) -> list[Remote]:
        """All files that `HfApi.model_info(files_metadata=True)` tells of."""
        return [
            cls(
                repo_id=info.id,
                commit=info.sha,
                path=file.rfilename,
                size=file.size or 0,
                sha256=file.lfs.sha256 if file.lfs else None,
                git_oid=file.blob_id,
            )
            for file in info.siblings or ()
        ]


def into_cache(files: Sequence[Remote], *, cache_dir: str | Path | None, token: str | bool | None) -> Path:
    """Fetch files of one commit into the Hub's cache; gives the snapshot's folder.

    Raises:
        ValueError: too little room, or a file with another checksum.
    """
    from huggingface_hub import constants, snapshot_download

    name, commit = files[0].repo_id, files[0].commit
    cache = Path(cache_dir or constants.HF_HUB_CACHE).expanduser()
    storage = cache / f"models--{name.replace('/', '--')}"
    snapshot = storage / "snapshots" / commit
    new = [file for file in files if not (snapshot / file.path).exists()]
    large = [file for file in new if file.sha256 and not (storage / "blobs" / file.sha256).exists()]
    locks = cache / ".locks" / storage.name
    if large:
        _require_room(large, storage / "blobs")
        locks.mkdir(parents=True, exist_ok=True)

    def fetch(file: Remote) -> None:
        with FileLock(locks / f"{file.sha256}.lock"):  # the name that the Hub's client takes for the same file
            fetch_file(file, storage / "blobs" / str(file.sha256), token=token)

    with ThreadPoolExecutor(_NUM_AT_A_TIME) as pool:
        list(pool.map(fetch, large))
    # Finds the large files there already; fetches the small ones and makes the snapshot's links.
    found = Path(
        snapshot_download(
            name,
            revision=commit,
            cache_dir=cache,
            token=token,
            allow_patterns=[glob.escape(file.path) for file in files],
        )
    )
    for file in new:
        if file.sha256 is None:
            try:
                _check(file, found / file.path)
            except ValueError:
                (found / file.path).resolve().unlink()
                (found / file.path).unlink(missing_ok=True)
                raise
    return found


def into_folder(files: Sequence[Remote], folder: Path, *, token: str | bool | None) -> None:
    """Fetch files into a folder; those that are there and right are left."""
    new = [file for file in files if not _is_there(file, folder / file.path)]
    _require_room(new, folder)
    with ThreadPoolExecutor(_NUM_AT_A_TIME) as pool:
        list(pool.map(lambda file: fetch_file(file, folder / file.path, token=token), new))


def fetch_file(file: Remote, target: Path, *, token: str | bool | None) -> None:
    """Fetch one file; what an earlier try has left as `target`.incomplete is gone on from.

    Raises:
        ValueError: no room, or another checksum than the Hub says.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.incomplete")
    if file.sha256 is None or (part.is_file() and part.stat().st_size > file.size):
        part.unlink(missing_ok=True)  # git's files are small, and may come compressed, which has no ranges
    try:
        with part.open("ab") as output:
            http_get(
                hf_hub_url(file.repo_id, file.path, revision=file.commit),
                output,
                resume_size=output.tell(),
                headers=build_hf_headers(token=token),
                expected_size=file.size,
                displayed_filename=file.path,
            )
        _check(file, part)
    except ValueError:
        part.unlink(missing_ok=True)
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_room(file.name, target.parent) from error
        raise
    os.replace(part, target)


def no_room(name: str, folder: Path) -> ValueError:
    return ValueError(
        f"{name}: no room is left on the disk of {folder}; make some and try again (what is there is gone on from), or "
        "name another place: cache_dir=, or HF_HOME in the environment"
    )


def _require_room(files: Sequence[Remote], folder: Path) -> None:
    """Raises ValueError where the files do not fit onto the folder's disk."""
    need = sum(file.size - _already(file, folder) for file in files)
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if need > free:
        raise ValueError(
            f"{files[0].repo_id}: {need / 1e6:.1f} MB are to be fetched, but the disk of {folder} has room for "
            f"{free / 1e6:.1f} MB; make some, or name another place: cache_dir=, or HF_HOME in the environment"
        )


def _already(file: Remote, folder: Path) -> int:
    parts = [folder / f"{name}.incomplete" for name in (file.sha256, file.path) if name]
    return max((min(part.stat().st_size, file.size) for part in parts if part.is_file()), default=0)


def _is_there(file: Remote, target: Path) -> bool:
    if not target.is_file():
        return False
    try:
        _check(file, target)
    except ValueError:
        target.unlink()
        return False
    return True


def _check(file: Remote, local: Path) -> None:
    """Raises ValueError where the content is not what the Hub says it is."""
    if file.sha256 is not None:
        kind, expected, digest = "sha256", file.sha256, hashlib.sha256()
    elif file.git_oid is not None:
        kind, expected, digest = "git id", file.git_oid, hashlib.sha1(b"blob %d\0" % local.stat().st_size)
    else:
        return
    with local.open("rb") as content:
        while block := content.read(_BLOCK):
            digest.update(block)
    if digest.hexdigest() != expected:
        raise ValueError(
            f"{file.name}: what came has the {kind} {digest.hexdigest()}, but the Hub says {expected}, so it was "
            "changed on the way and is thrown away; try again, and if it stays so, ask whoever runs the repository, "
            "the mirror or the proxy between"
        )
