"""Where a checkpoint is: the embedded one, a directory, or a repository on the Hugging Face Hub."""

from __future__ import annotations

import errno
import importlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from vlm.atomic import write_text
from vlm.download import Remote, into_cache, into_folder, no_room
from vlm.info import EMBEDDED

__all__ = ["EMBEDDED", "explained", "find_checkpoint", "is_hub_id", "pull", "require_loadable", "split_revision"]


_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_LOADED = (".json", ".safetensors", ".txt", ".model", ".jinja")
"""What is fetched to load a checkpoint, of the files beside its config.json."""
_NEVER = (".py", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5", ".onnx", ".gguf", ".npz")
"""Code, pickles, and weights that nothing here reads."""
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_CONFIGS = ("config.json", "adapter_config.json")
_NATIVE = "florence-community/Florence-2-"
_REMOTE_CODE = re.compile(r"microsoft/Florence-2-(.+)", re.IGNORECASE)
_LOG_IN = "log in with `hf auth login` (or set HF_TOKEN), or pass token="


def is_hub_id(name: str) -> bool:
    return bool(_HUB_ID.fullmatch(name))


def split_revision(name_or_path: str | os.PathLike[str]) -> tuple[str | os.PathLike[str], str | None]:
    """ "owner/name@revision" -> "owner/name" and "revision". All else, directories among them, as it is, and None.

    Raises:
        ValueError: nothing stands behind the @.
    """
    text = os.fspath(name_or_path)
    name, at, revision = text.partition("@")
    if not at or not is_hub_id(name) or isinstance(name_or_path, os.PathLike) or Path(text).exists():
        return name_or_path, None
    if not revision:
        raise ValueError(f"{text}: names no revision behind the @; expected a branch, tag or commit, or no @")
    return name, revision


def find_checkpoint(
    name_or_path: str | os.PathLike[str] | None,
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """Directory of a checkpoint; fetched only where a Hub id is named and no directory has that name.

    A download that broke off goes on where it was, and every file is checked against the Hub's checksum. Offline
    (`local_files_only`, or HF_HUB_OFFLINE=1 in the environment) the cache has to have it.

    Args:
        name_or_path: None for the embedded checkpoint, a directory, or a Hub id such as "owner/name".
        revision: branch, tag or commit on the Hub.
        subfolder: folder of the checkpoint within the directory or repository.
        token: as huggingface_hub takes it; None for the one that was logged in with.
        cache_dir: None for the Hub's usual cache.
        local_files_only: never ask the Hub.

    Raises:
        ValueError: nothing is there, or nothing that can be loaded, with what to try instead.
    """
    inner = _inner(subfolder)
    if name_or_path is None:
        if not (EMBEDDED / "config.json").is_file():
            raise ValueError("this installation has no embedded checkpoint; name a checkpoint directory or a Hub id")
        return EMBEDDED
    name = os.fspath(name_or_path)
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / inner).is_dir():
            raise ValueError(f"{name}: has no folder {subfolder!r}")
        return path / inner
    if path.exists():
        raise ValueError(f"{name}: is a file; give the checkpoint directory that it lies in")
    if isinstance(name_or_path, os.PathLike) or not is_hub_id(name):
        raise ValueError(f"{name}: no such directory; give a checkpoint directory or a Hub id (owner/name)")
    _require_native(name)
    with explained(name, revision):
        if local_files_only or _is_offline():
            return _cached(name, revision, inner, cache_dir, "the Hub is not asked (offline)")
        try:
            return _download(name, revision, inner, token, cache_dir)
        except _unreachable() as error:
            found = _cached(name, revision, inner, cache_dir, f"the Hub cannot be reached ({_first_line(error)})")
            warnings.warn(
                f"{name}: the Hub cannot be reached ({_first_line(error)}); taking what the cache has", stacklevel=2
            )
            return found


def pull(
    name: str,
    folder: str | Path | None = None,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
) -> Path:
    """Fetch a whole checkpoint into a directory: under a temporary name, which a later call goes on with, then renamed.

    Args:
        name: a Hub id.
        folder: a new directory; None for one of the repository's name, here.
        revision, token: as in `find_checkpoint`.

    Raises:
        ValueError: the directory is there, or as `find_checkpoint`.
    """
    if not is_hub_id(name):
        raise ValueError(f"{name}: is no Hub id; expected owner/name")
    _require_native(name)
    target = Path(folder or name.split("/")[1]).expanduser()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ValueError(f"{target}: is there already; name another directory, or remove it")
    with explained(name, revision):
        files = _listing(name, revision, token)
        _choose(name, files, PurePosixPath())  # raises where it cannot be loaded
        chosen = [file for file in files if not file.path.endswith(_NEVER) and file.path != ".gitattributes"]
        part = target.with_name(f".{target.name}.{files[0].commit[:12]}.part")
        part.mkdir(parents=True, exist_ok=True)
        into_folder(chosen, part, token=token)
    require_loadable(part, name)
    if target.exists():
        target.rmdir()
    os.replace(part, target)
    for other in target.parent.glob(f".{target.name}.*.part"):  # of commits before
        shutil.rmtree(other, ignore_errors=True)
    return target


def require_loadable(path: Path, name: str | None = None) -> None:
    """Raises ValueError where a directory is no checkpoint, needs code of its own, or lacks weights."""
    name = name or str(path)
    files = [file.name for file in path.iterdir() if file.is_file()]
    if not any(config in files for config in _CONFIGS):
        raise ValueError(f"{name}: has no config.json, so it is not a checkpoint directory")
    if "config.json" in files:
        _require_family(name, _read_json(path / "config.json"))
    _require_safetensors(name, files)
    for index in path.glob("*.safetensors.index.json"):
        _require_shards(name, _read_json(index), files)


# -- the Hub ---------------------------------------------------------------------------------------------


def _download(
    name: str, revision: str | None, inner: PurePosixPath, token: str | bool | None, cache_dir: str | Path | None
) -> Path:
    from huggingface_hub import constants

    files = _listing(name, revision, token)
    chosen = _choose(name, files, inner)
    small = [file for file in chosen if file.sha256 is None]
    if any(file.path.endswith("config.json") for file in small):
        # What it says may be reason not to fetch the weights.
        folder = into_cache(small, cache_dir=cache_dir, token=token) / inner
        if (folder / "config.json").is_file():
            _require_family(name, _read_json(folder / "config.json"))
        for index in folder.glob("*.safetensors.index.json"):
            _require_shards(name, _read_json(index), [PurePosixPath(file.path).name for file in chosen])
    snapshot = into_cache(chosen, cache_dir=cache_dir, token=token)
    if revision != files[0].commit:
        # Written last: while an update is under way, or broken off, the cache still gives what it had.
        cache = Path(cache_dir or constants.HF_HUB_CACHE).expanduser()
        write_text(cache / f"models--{name.replace('/', '--')}" / "refs" / (revision or "main"), files[0].commit)
    return snapshot / inner


def _listing(name: str, revision: str | None, token: str | bool | None) -> list[Remote]:
    from huggingface_hub import HfApi

    info = HfApi(token=token, library_name="vlm").model_info(name, revision=revision, files_metadata=True)
    files = Remote.of(info)
    if not files:
        raise ValueError(f"{name}: has no files")
    return files


def _choose(name: str, files: Sequence[Remote], inner: PurePosixPath) -> list[Remote]:
    """What is needed of a repository.

    Raises:
        ValueError: it is no checkpoint, or one of which nothing can be loaded.
    """
    here = {PurePosixPath(file.path).name: file for file in files if PurePosixPath(file.path).parent == inner}
    where = name if inner == PurePosixPath() else f"{name}/{inner}"
    if not any(config in here for config in _CONFIGS):
        folders = sorted({str(PurePosixPath(file.path).parent) for file in files if file.path.endswith("config.json")})
        hint = f"try subfolder={folders[0]!r}" if folders else "it is not a checkpoint of transformers"
        raise ValueError(f"{where}: has no config.json on the Hub; {hint}")
    _require_safetensors(where, here)
    chosen = {base: file for base, file in here.items() if base.endswith(_LOADED)}
    if "model.safetensors" in here or "model.safetensors.index.json" in here:
        # Others of the same kind are variants (`model.fp16.safetensors`), as large as these.
        whole = re.compile(r"model(-\d+-of-\d+)?\.safetensors|adapter_model\.safetensors|also_trained\.safetensors")
        chosen = {base: file for base, file in chosen.items() if base[-12:] != ".safetensors" or whole.fullmatch(base)}
    return list(chosen.values())


def _cached(name: str, revision: str | None, inner: PurePosixPath, cache_dir: str | Path | None, reason: str) -> Path:
    from huggingface_hub import try_to_load_from_cache

    for config in _CONFIGS:
        found = try_to_load_from_cache(name, str(inner / config), cache_dir=cache_dir, revision=revision)
        if isinstance(found, str):
            folder = Path(found).parent
            try:
                require_loadable(folder, name)
            except ValueError as error:
                raise ValueError(f"{error}; the cache has a part of it only, and {reason}") from error
            return folder
    at = "" if revision is None else f" at revision {revision!r}"
    raise ValueError(f"{name}: no such directory, the cache has no such checkpoint{at}, and {reason}")


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _unreachable() -> tuple[type[Exception], ...]:
    """What the Hub's client raises when nobody answers."""
    http = _http()
    return http.ConnectError, http.ConnectTimeout, http.ReadTimeout


def _http() -> Any:
    """The library that the Hub's client speaks through."""
    from huggingface_hub import get_session

    return importlib.import_module(type(get_session()).__module__.split(".")[0])


@contextmanager
def explained(name: str, revision: str | None = None) -> Iterator[None]:
    """The errors of the Hub's client as ValueErrors that say what to do."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalTokenNotFoundError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError as error:
        page = f"{constants.ENDPOINT}/{name}"
        raise ValueError(f"{name}: is gated; ask for access on its page ({page}), then {_LOG_IN}") from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"{name}: no such directory and no such repository on the Hub; if it is a private one, {_LOG_IN}"
        ) from error
    except RevisionNotFoundError as error:
        raise ValueError(f"{name}: has no revision {revision!r} on the Hub") from error
    except RemoteEntryNotFoundError as error:
        raise ValueError(f"{name}: a file is not on the Hub: {_first_line(error)}") from error
    except LocalTokenNotFoundError as error:
        raise ValueError(f"{name}: nobody is logged in to the Hub; {_LOG_IN}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            message = error.server_message or _first_line(error)
            raise ValueError(f"{name}: the Hub refuses ({message}); with a token that may, {_LOG_IN}") from error
        raise ValueError(f"{name}: the Hub gave: {_last_line(error)}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_room(name, Path(error.filename or constants.HF_HUB_CACHE)) from error
        raise ValueError(f"{name}: the Hub gave: {error}; what was fetched stays, and the next try goes on") from error
    except _http().TransportError as error:
        raise ValueError(
            f"{name}: the connection to the Hub broke off ({_first_line(error)}); what was fetched stays, and the next "
            "try goes on from there"
        ) from error


# -- what cannot be loaded -------------------------------------------------------------------------------


def _require_native(name: str) -> None:
    match = _REMOTE_CODE.fullmatch(name)
    if match:
        known = ("base", "large", "base-ft", "large-ft")
        kinds = [match[1]] if match[1] in known else known
        natives = " or ".join(f"{_NATIVE}{kind}" for kind in kinds)
        raise ValueError(
            f"{name}: brings code of its own to run, which is never done here; the same weights for the code that "
            f"transformers has are {natives}"
        )


def _require_family(name: str, config: Any) -> None:
    from vlm.families import FAMILIES

    model_type = config.get("model_type") if isinstance(config, Mapping) else None
    code = config.get("auto_map") if isinstance(config, Mapping) else None
    if code and model_type == "florence2":
        # Fine-tuned from microsoft/*: weights of other names and shapes under the native model_type.
        raise ValueError(
            f"{name}: was made with code of its own (auto_map in config.json), which is never run; Florence-2 for the "
            f"code that transformers has is {_NATIVE}base, -large, -base-ft or -large-ft"
        )
    if model_type not in FAMILIES:
        own = " and brings code of its own (auto_map), which is never run" if code else ""
        raise ValueError(
            f"{name}: is of model_type {model_type!r}{own}, which is not a known family; known: {', '.join(FAMILIES)}"
        )


def _require_safetensors(name: str, files: Iterable[str]) -> None:
    files = list(files)
    if any(file.endswith(".safetensors") for file in files):
        return
    pickles = sorted(file for file in files if file.endswith(_PICKLES))
    if pickles:
        raise ValueError(
            f"{name}: has pickled weights only ({', '.join(pickles[:3])}), which can run code when they are read, so "
            "they never are; take a revision with .safetensors (the Hub offers one as refs/pr/N), or write them anew "
            "with save_pretrained of transformers where you trust them"
        )
    raise ValueError(f"{name}: has no .safetensors weights")


def _require_shards(name: str, index: Any, files: Iterable[str]) -> None:
    wanted = set(index.get("weight_map", {}).values()) if isinstance(index, Mapping) else set()
    missing = sorted(wanted - set(files))
    if missing:
        raise ValueError(
            f"{name}: lacks {len(missing)} of the {len(wanted)} files that its weights are in "
            f"({', '.join(missing[:3])}); fetch or save it anew"
        )


def _inner(subfolder: str | None) -> PurePosixPath:
    inner = PurePosixPath(subfolder or "")
    if inner.is_absolute() or ".." in inner.parts:
        raise ValueError(f"subfolder {subfolder!r} leads out of the checkpoint; expected a folder within it")
    return inner


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: is damaged: {error}") from error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _last_line(error: BaseException) -> str:
    return next(reversed(str(error).strip().splitlines()), type(error).__name__)
