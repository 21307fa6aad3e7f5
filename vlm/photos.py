"""Which photos a command line means, and where the drawings of them go."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from vlm.atomic import replacing

__all__ = ["PHOTO_SUFFIXES", "drawing_paths", "find_photos", "save_image"]

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".heic", ".heif", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
"""What counts as a photo in a folder. A file that is named itself is opened whatever its suffix."""

_DRAWING_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def find_photos(source: str) -> list[str]:
    """The photos that one argument means: a file, a URL, a folder's photos, or a pattern's files, in order of name.

    A file whose name looks like a pattern (`look[1].jpg`) is that file. Missing files are left to whoever opens them.

    Raises:
        ValueError: a folder without photos, or a pattern that matches no file.
    """
    if source.lower().startswith(("http://", "https://")):
        return [source]
    path = Path(source).expanduser()
    if path.is_dir():
        found = sorted(
            entry
            for entry in path.iterdir()
            if entry.suffix.lower() in PHOTO_SUFFIXES and not entry.name.startswith(".") and entry.is_file()
        )
        if not found:
            raise ValueError(
                f"{source}: no photos in this folder; expected files that end in {', '.join(PHOTO_SUFFIXES)}"
            )
        return [str(entry) for entry in found]
    if glob.has_magic(source) and not os.path.lexists(path):
        matches = sorted(match for match in glob.glob(str(path), recursive=True) if os.path.isfile(match))
        if not matches:
            raise ValueError(f"{source}: no file matches this pattern")
        return matches
    return [source]


def drawing_paths(photos: Sequence[str], target: str) -> list[Path]:
    """One path for each photo: `target` itself for a single one, else a PNG for each in the folder `target`.

    Photos of the same name from different folders get `-2`, `-3`, ... .

    Raises:
        ValueError: `target` names one file for several photos, has a suffix that is no image format, or is a photo.
    """
    folder = Path(target)
    suffix = folder.suffix.lower()
    if suffix and not folder.is_dir() and not target.endswith(("/", os.sep)):
        if suffix not in _DRAWING_FORMATS:
            raise ValueError(f"--draw {target}: cannot write {suffix}; expected one of {', '.join(_DRAWING_FORMATS)}")
        if len(photos) > 1:
            raise ValueError(f"--draw {target}: one file for {len(photos)} photos; name a folder instead")
        paths = [folder for _ in photos]
    else:
        paths = []
        for photo in photos:
            stem = Path(photo.split("?")[0]).stem or "photo"
            names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
            paths.append(next(path for path in (folder / f"{name}.png" for name in names) if path not in paths))
    originals = {os.path.realpath(os.path.expanduser(photo)) for photo in photos}
    for path in paths:
        if os.path.realpath(path) in originals:
            raise ValueError(f"--draw {target}: {path} is one of the photos and would be overwritten; draw elsewhere")
    return paths


def save_image(image: Image.Image, path: Path) -> None:
    """Write by suffix, making folders; a reader never sees half a file."""
    with replacing(path) as part:
        image.save(part, format=_DRAWING_FORMATS[path.suffix.lower()])
