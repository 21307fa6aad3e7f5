"""A folder of made pictures: what it was made with, so that a later run adds to it or says why it cannot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm.atomic import write_text

__all__ = ["WARDROBE", "keep_settings", "record_id"]

WARDROBE = "wardrobe"
"""Source of the pictures that `vlm.synthetic.drawing` draws."""


def record_id(seed: int, index: int) -> str:
    """Of the picture that this seed and index give."""
    return f"{WARDROBE}-{seed}-{index:06d}"


def keep_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Note in a JSON file what the pictures beside it are made with.

    Raises:
        ValueError: it is there already and says otherwise.
    """
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        for name, value in settings.items():
            if found.get(name) != value:
                raise ValueError(
                    f"{path.parent}: holds pictures with {name}={found.get(name)!r}, not {value!r}; "
                    "choose another folder, or the same settings to add to it"
                )
    write_text(path, json.dumps(settings) + "\n")
