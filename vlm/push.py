"""Uploading a checkpoint to the Hub: weights, tokenizer, processor, calibration, card and results, in one commit."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vlm.card import render_card
from vlm.hub import EMBEDDED, explained, is_hub_id, require_loadable
from vlm.info import checkpoint_info
from vlm.shipped import CARDS

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

__all__ = ["files_to_push", "push"]

_PUSHED = (".json", ".safetensors", ".txt", ".model", ".jinja")
"""Of the files beside config.json. Not the training configuration, which tells where things lie on a machine."""
_TAGS = ("vlm", "vision-language-model")
_PICTURE = re.compile(r"!\[[^\]]*\]\((?!https?://)([^)\s]+)\)")

_SHORT_CARD = """\
---
library_name: vlm
---

# {name}

A checkpoint of the family {family} with {parameters:,} parameters, for the package `vlm`.

```python
import vlm

model = vlm.load("{name}")
outfit = model.describe_outfit("photo.jpg")
```

Its makers have not said what it was trained on, nor measured it.
"""


def push(
    checkpoint: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    commit_message: str | None = None,
    card: str | os.PathLike[str] | None = None,
    results: str | os.PathLike[str] | None = None,
    license: str | None = None,
    about: Path | None = None,
) -> CommitInfo:
    """Upload a checkpoint directory in place of what the branch had: its calibration and results go with its weights.

    Args:
        checkpoint: a directory.
        repo_id: "owner/name"; the repository is made where there is none.
        private: whether it is made private; None for the owner's default.
        revision: branch, which is made too; None for main.
        token: None for the one that was logged in with.
        commit_message: None for "Upload with vlm".
        card: model card; None for the directory's README.md, one made of `results`, or a short one.
        results: what `vlm eval --output` wrote; None for what lies in the directory's folder results.
        license: of the weights, for the card's metadata; None for what the card says.
        about: directory of which the card and the results are taken, where it is another.

    Raises:
        ValueError: no checkpoint, nobody is logged in, or not allowed to.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    if not is_hub_id(repo_id):
        raise ValueError(f"{repo_id}: is no Hub id; expected owner/name")
    files = files_to_push(Path(checkpoint), repo_id, card=card, results=results, license=license, about=about)
    api = HfApi(token=token, library_name="vlm")
    with explained(repo_id, revision):
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        old = [name for name in api.list_repo_files(repo_id, revision=revision) if name not in files]
        operations = [
            *(CommitOperationDelete(name) for name in old if _belongs_to_weights(name)),
            *(CommitOperationAdd(name, content) for name, content in files.items()),
        ]
        try:
            return api.create_commit(
                repo_id, operations, commit_message=commit_message or "Upload with vlm", revision=revision
            )
        except RuntimeError as error:  # a large file's upload, after several tries
            raise ValueError(f"{repo_id}: {error} {error.__cause__}; nothing was committed, try again") from error


def files_to_push(
    folder: Path,
    repo_id: str,
    *,
    card: str | os.PathLike[str] | None = None,
    results: str | os.PathLike[str] | None = None,
    license: str | None = None,
    about: Path | None = None,
) -> dict[str, str | bytes]:
    """Path in the repository -> local path or content; arguments as of `push`."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such directory; give a checkpoint directory, or embedded")
    require_loadable(folder)
    _require_base_on_the_hub(folder)
    about = about or folder
    files: dict[str, str | bytes] = {
        path.name: str(path) for path in sorted(folder.iterdir()) if path.is_file() and path.name.endswith(_PUSHED)
    }
    for name in ("LICENSE", "LICENSE.md"):
        if (about / name).is_file():
            files[name] = str(about / name)
    found = [Path(results)] if results is not None else _results_of(about)
    files |= {f"results/{path.name}": str(path) for path in found}
    text, beside = _card_text(folder, repo_id, about, card, found[0] if results is not None else None)
    for picture in _PICTURE.findall(text):
        if (beside / picture).is_file() and ".." not in Path(picture).parts:
            files[picture] = str(beside / picture)
    files["README.md"] = _with_metadata(text, license).encode()
    return files


def _results_of(about: Path) -> list[Path]:
    if about == EMBEDDED:
        return [path for path in (CARDS / "results" / "embedded.json",) if path.is_file()]
    return sorted((about / "results").glob("*.json"))


def _card_text(
    folder: Path, repo_id: str, about: Path, card: str | os.PathLike[str] | None, results: Path | None
) -> tuple[str, Path]:
    """The card, and the folder that it lay in."""
    from huggingface_hub import ModelCard

    own = CARDS / "embedded.md" if about == EMBEDDED else about / "README.md"
    if card is not None or (results is None and own.is_file()):
        file = own if card is None else Path(card)
        if not file.is_file():
            raise ValueError(f"{file}: no such model card")
        # What the shipped checkpoint is loaded by; from the Hub it is loaded by its id.
        return file.read_text(encoding="utf-8").replace("vlm.load()", f'vlm.load("{repo_id}")'), file.parent
    if results is not None:
        try:
            measured = json.loads(results.read_text(encoding="utf-8"))
            made = ModelCard(render_card({**measured, "checkpoint": repo_id}))
            made.data.license = None  # of the shipped weights
            return str(made), results.parent
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{results}: is not what `vlm eval` writes: {error!r}") from error
    info = checkpoint_info(folder)
    return _SHORT_CARD.format(name=repo_id, family=info["family"], parameters=info["parameters"]), folder


def _with_metadata(text: str, license: str | None) -> str:
    """With what the Hub shows and finds models by, where the card does not say it."""
    from huggingface_hub import ModelCard

    card = ModelCard(text)
    defaults = {"library_name": "vlm", "pipeline_tag": "image-text-to-text"}
    for key, value in defaults.items():
        if card.data.get(key) is None:
            setattr(card.data, key, value)
    card.data.tags = [*(card.data.get("tags") or []), *(tag for tag in _TAGS if tag not in (card.data.tags or []))]
    if license is not None:
        card.data.license = license
    return str(card)


def _require_base_on_the_hub(folder: Path) -> None:
    """Raises ValueError where an adapter names a base that nobody else has."""
    file = folder / "adapter_config.json"
    if not file.is_file():
        return
    config = json.loads(file.read_text(encoding="utf-8"))
    base = config.get("base_model_name_or_path") if isinstance(config, Mapping) else None
    if not base or Path(str(base)).is_absolute() or not is_hub_id(str(base)):
        raise ValueError(
            f"{folder}: is an adapter of {base!r}, which others do not have; write the Hub id of its base into "
            f"base_model_name_or_path of {file}, or upload it merged: vlm.load({str(folder)!r}).push_to_hub(...)"
        )


def _belongs_to_weights(name: str) -> bool:
    return name.startswith("results/") or ("/" not in name and name.endswith(_PUSHED))
