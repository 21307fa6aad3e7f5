"""Where a checkpoint is: the embedded one, a directory, or a repository on the Hugging Face Hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

from vlm.info import EMBEDDED

__all__ = ["EMBEDDED", "find_checkpoint"]


_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_FILES = ("*.json", "*.safetensors", "*.txt", "*.md")


def find_checkpoint(
    name_or_path: str | os.PathLike[str] | None,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
) -> Path:
    """Directory of a checkpoint; fetched only where a Hub id is named and no directory has that name.

    Args:
        name_or_path: None for the embedded checkpoint, a directory, or a Hub id such as "owner/name".
        revision, token, cache_dir: for the Hub, as in `huggingface_hub.snapshot_download`.

    Raises:
        ValueError: nothing is there, with what to try instead.
    """
    if name_or_path is None:
        if not (EMBEDDED / "config.json").is_file():
            raise ValueError("this installation has no embedded checkpoint; name a checkpoint directory or a Hub id")
        return EMBEDDED
    name = os.fspath(name_or_path)
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise ValueError(f"{name}: is a file; give the checkpoint directory that it lies in")
    if isinstance(name_or_path, os.PathLike) or not _HUB_ID.fullmatch(name):
        raise ValueError(f"{name}: no such directory; give a checkpoint directory or a Hub id (owner/name)")
    return _download(name, revision, token, cache_dir)


def _download(name: str, revision: str | None, token: str | bool | None, cache_dir: str | Path | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        found = snapshot_download(
            name, revision=revision, token=token, cache_dir=cache_dir, allow_patterns=list(_FILES)
        )
    except GatedRepoError as error:
        raise ValueError(f"{name}: is gated; ask for access on its Hub page and log in, or pass token=") from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"{name}: no such directory and no such repository on the Hub (a private one needs token=)"
        ) from error
    except RevisionNotFoundError as error:
        raise ValueError(f"{name}: has no revision {revision!r} on the Hub") from error
    except LocalEntryNotFoundError as error:
        raise ValueError(f"{name}: no such directory, and the Hub cannot be reached to look for it there") from error
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        raise ValueError(f"{name}: no such directory, and the Hub gave: {error}") from error
    return Path(found)
