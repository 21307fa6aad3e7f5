"""Records and their pictures in a few large files, Parquet or WebDataset: easier to move than a folder of many small
ones, and read as they are.

A shard is named as the Hub does, train-00000-of-00010.parquet (or .tar), and holds records of one split with their
pictures as they were encoded. Parquet has the columns that `vlm.data.records` writes, with the picture in `image`; a
tar has <id>.jpg (or .png, ...) and <id>.json, a JSONL row, for each record.
"""

from __future__ import annotations

import io
import json
import os
import posixpath
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from PIL import Image

from tasks.base import Record
from vlm.atomic import replacing_folder
from vlm.data.pictures import Pictures
from vlm.data.records import columns_of, features_of_records, from_row, read_records, to_row
from vlm.data.remote import fetched, is_remote
from vlm.images import open_image

__all__ = ["SUFFIXES", "Shards", "read_shards", "write_shards"]

SUFFIXES = {"parquet": ".parquet", "webdataset": ".tar"}
"""Format -> how its files end."""
_NAME = re.compile(r"(\w+)-(\d{5})-of-(\d{5})(\.parquet|\.tar)")
_BLOCK = tarfile.BLOCKSIZE


# -- packing ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Item:
    """A record's row, the picture's name in the shard, and the encoded picture."""

    row: dict[str, Any]
    name: str
    data: bytes

    @property
    def size(self) -> int:
        """Bytes in a tar: a head each, and whole blocks. Parquet packs rows more tightly."""
        return sum(_BLOCK * (1 + -(-part // _BLOCK)) for part in (len(self.data), len(_json(self.row))))


def write_shards(
    path: str | os.PathLike[str], folder: str | os.PathLike[str], *, format: str = "parquet", shard_size: float = 256
) -> list[Path]:
    """Pack all records of a JSONL or Parquet file, or of a folder of them, with their pictures.

    The folder appears whole at the end, or not at all. One shard of each split is held in memory.

    Args:
        path: what `read_records` reads.
        folder: new or empty.
        format: "parquet" or "webdataset".
        shard_size: most megabytes (10^6 bytes) a shard; a picture that is larger has one for itself.

    Returns:
        The shards, by name.

    Raises:
        FileNotFoundError: no records there.
        ValueError: a record is wrong, its picture is missing, an id comes twice, or `folder` holds something.
    """
    if format not in SUFFIXES:
        raise ValueError(f"unknown format {format!r}; known: {', '.join(SUFFIXES)}")
    if not shard_size > 0:
        raise ValueError(f"shard_size is {shard_size}; expected more than 0 megabytes")
    target = Path(os.path.abspath(folder))
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target}: is there already and not an empty folder; name a new one, or remove it first")
    with replacing_folder(target) as part:
        part.mkdir()
        packers: dict[str, _Packer] = {}
        ids: set[str] = set()
        for record in read_records(path):
            if record.id in ids:
                raise ValueError(f"record {record.id}: its id comes twice; `vlm data check {path}` says where")
            ids.add(record.id)
            if record.split not in packers:
                packers[record.split] = _Packer(part, record.split, format, round(shard_size * 1e6))
            packers[record.split].add(_item(record))
        if not ids:
            raise ValueError(f"{path}: no records in it; write a row a photo")
        for packer in packers.values():
            packer.finish()
    return sorted(target.iterdir())


class _Packer:
    """Writes the shards of one split, each when the next item would not fit any more."""

    def __init__(self, folder: Path, split: str, format: str, limit: int) -> None:
        self.folder, self.split, self.limit = folder, split, limit
        self.suffix = SUFFIXES[format]
        self.write = {"parquet": _write_parquet, "webdataset": _write_tar}[format]
        self.files: list[Path] = []
        self.items: list[_Item] = []
        self.size = 0

    def add(self, item: _Item) -> None:
        if self.items and self.size + item.size > self.limit - tarfile.RECORDSIZE:  # a tar ends on a whole record
            self.flush()
        self.items.append(item)
        self.size += item.size

    def flush(self) -> None:
        file = self.folder / f"{self.split}-{len(self.files):05d}{self.suffix}"
        self.write(self.items, file)
        self.files.append(file)
        self.items, self.size = [], 0

    def finish(self) -> None:
        """Only now it is known of how many."""
        self.flush()
        for file in self.files:
            file.rename(file.with_name(f"{file.stem}-of-{len(self.files):05d}{self.suffix}"))


def _item(record: Record) -> _Item:
    file = Path(record.image)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ValueError(
            f"record {record.id}: its picture {file} cannot be read ({error.strerror}); put it there, or drop the row"
        ) from error
    # To a reader of WebDataset a name ends at its first dot, and a slash makes folders.
    name = quote(record.id, safe="").replace(".", "%2E") + (file.suffix.lower() or ".jpg")
    return _Item(row=to_row(replace(record, image=name)), name=name, data=data)


def _json(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode()


def _write_tar(items: Sequence[_Item], file: Path) -> None:
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as tar:
        for item in items:
            for name, data in ((item.name, item.data), (f"{item.name.partition('.')[0]}.json", _json(item.row))):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def _write_parquet(items: Sequence[_Item], file: Path) -> None:
    from datasets import Dataset, Features, Image

    rows = [{**columns_of(item.row), "image": {"bytes": item.data, "path": item.name}} for item in items]
    features = Features({**features_of_records(), "image": Image()})
    columns = {name: [row[name] for row in rows] for name in features}
    with _no_bars():
        Dataset.from_dict(columns, features=features).to_parquet(file)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Without the progress bars of `datasets`: a shard takes a second."""
    import datasets

    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


# -- reading ---------------------------------------------------------------------------------------------


def read_shards(path: str | os.PathLike[str]) -> Iterator[tuple[Record, bytes]]:
    """Every record with its encoded picture, of a folder of shards or of one.

    Raises:
        FileNotFoundError, ValueError: as `Shards`.
    """
    shards = Shards(path)
    for index, record in enumerate(shards.records):
        yield record, shards.image_bytes(index)


class Shards(Pictures):
    """The pictures of a folder of shards, or of one, in the order they were packed in; any can be asked for first.

    The records are read once, here; the pictures stay in their files. Of a tar it is noted where each lies. Parquet is
    memory-mapped by `datasets`, which keeps an Arrow copy of it in its cache (HF_DATASETS_CACHE), made when a file is
    seen first. A record's `image` is the shard's path and the picture's name.

    Args:
        path: a folder that `write_shards` wrote, or one of its files; also an address such as hf://datasets/a/b/shards
            (see `vlm.data.remote`).
        keep: which records; None for all.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: a shard is missing or broken, or a row in it is wrong; names the file.
    """

    def __init__(self, path: str | os.PathLike[str], keep: Callable[[Record], bool] | None = None) -> None:
        self._files: list[_Shard] = []
        self._places: list[tuple[int, Any]] = []
        self.records: list[Record] = []
        local = fetched(os.fspath(path), SUFFIXES.values()) if is_remote(path) else Path(path)
        for number, file in enumerate(_shard_files(local)):
            shard = _Tar(file) if file.suffix == ".tar" else _Parquet(file)
            self._files.append(shard)
            for where, row, place in shard.rows():
                record = from_row(row, where)
                if keep is None or keep(record):
                    self.records.append(record)
                    self._places.append((number, place))

    def __getitem__(self, index: int) -> tuple[Image.Image, Record]:  # type: ignore[override]
        record = self.records[index]
        try:
            return open_image(self.image_bytes(index)), record
        except ValueError as error:
            raise ValueError(f"{record.image}: {error}; mend the picture and pack it again") from error

    def image_bytes(self, index: int) -> bytes:
        """The picture as it is encoded."""
        number, place = self._places[index]
        return self._files[number].picture(place)

    def openable(self, index: int) -> Record:
        self[index]  # a broken picture is named here; bytes have no name
        return replace(self.records[index], image=self.image_bytes(index))  # type: ignore[arg-type]


def _shard_files(path: Path) -> list[Path]:
    """By name; all that their names promise.

    Raises:
        FileNotFoundError: no shards there.
        ValueError: one is missing, or a file is named otherwise.
    """
    if path.is_file() and path.suffix in SUFFIXES.values():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder or shard; expected what `vlm data shards` wrote")
    files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES.values() and file.name[0] != ".")
    if not files:
        raise FileNotFoundError(f"{path}: no shards in this folder; expected what `vlm data shards` wrote")
    sets: Counter[tuple[str, int, str]] = Counter()
    for file in files:
        match = _NAME.fullmatch(file.name)
        if match is None:
            raise ValueError(f"{file}: is not named like a shard (train-00000-of-00010{file.suffix}); move it away")
        sets[match[1], int(match[3]), match[4]] += 1
    for (split, total, suffix), count in sets.items():
        names = (f"{split}-{number:05d}-of-{total:05d}{suffix}" for number in range(total))
        missing = [name for name in names if not (path / name).is_file()]
        if missing or count != total:
            raise ValueError(f"{path}: lacks {', '.join(missing[:3])} of {total} shards; copy or pack them again")
    if len({split for split, _, _ in sets}) < len(sets):
        raise ValueError(f"{path}: holds a split twice, packed in different ways; keep one of them")
    return files


class _Shard(Protocol):
    def rows(self) -> Iterator[tuple[str, dict[str, Any], Any]]:
        """(where, for errors; row; place of its picture)."""

    def picture(self, place: Any) -> bytes: ...


class _Tar:
    """A place is (offset, size) in bytes."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def rows(self) -> Iterator[tuple[str, dict[str, Any], tuple[int, int]]]:
        rows: dict[str, Any] = {}
        pictures: dict[str, tuple[str, tuple[int, int]]] = {}
        try:
            with tarfile.open(self.file, "r:") as tar:
                for member in filter(tarfile.TarInfo.isfile, tar):
                    folder, name = posixpath.split(member.name)
                    stem, _, kind = name.partition(".")
                    key = posixpath.join(folder, stem)
                    if kind == "json":
                        rows[key] = dict(json.loads(tar.extractfile(member).read()))  # type: ignore[union-attr]
                    else:
                        pictures[key] = (member.name, (member.offset_data, member.size))
        except (tarfile.TarError, ValueError, TypeError) as error:
            raise ValueError(f"{self.file}: not readable as a tar of records ({error}); pack it again") from error
        self._check(rows, pictures)
        for key, row in rows.items():
            name, place = pictures[key]
            yield f"{self.file}:{key}.json", {**row, "image": f"{self.file}/{name}"}, place

    def _check(self, rows: Mapping[str, Any], pictures: Mapping[str, Any]) -> None:
        for key in sorted(rows.keys() ^ pictures.keys()):
            lacks = "no picture beside its JSON" if key in rows else "no JSON beside its picture"
            raise ValueError(f"{self.file}: {key} has {lacks}; pack it again")
        # A tar ends on two empty blocks; what is cut off between two members reads like a shorter one.
        if self.picture((max(0, self.file.stat().st_size - 2 * _BLOCK), 2 * _BLOCK)) != bytes(2 * _BLOCK):
            raise ValueError(f"{self.file}: its end is missing; copy it again")

    def picture(self, place: tuple[int, int]) -> bytes:
        offset, size = place
        with self.file.open("rb") as data:
            data.seek(offset)
            return data.read(size)


class _Parquet:
    """A place is the number of a row, from 0."""

    def __init__(self, file: Path) -> None:
        from datasets import Dataset, Image
        from datasets.exceptions import DatasetsError
        from pyarrow import ArrowException

        self.file = file
        try:
            with _no_bars():
                table = Dataset.from_parquet(str(file))
        except (ArrowException, DatasetsError) as error:
            reason = error.__cause__ or error
            raise ValueError(f"{file}: not readable as Parquet ({reason}); copy or pack it again") from error
        if not isinstance(table.features.get("image"), Image):
            raise ValueError(f"{file}: has no column of pictures; pack it with `vlm data shards`, or use reader jsonl")
        table = table.cast_column("image", Image(decode=False))
        self.pictures, self.others = table.select_columns(["image"]), table.remove_columns(["image"])

    def rows(self) -> Iterator[tuple[str, dict[str, Any], int]]:
        from pyarrow.compute import struct_field

        names = struct_field(self.pictures.data.column("image"), "path").to_pylist()
        for index, (row, name) in enumerate(zip(self.others, names, strict=True)):
            yield f"{self.file}:{index + 1}", {**row, "image": f"{self.file}/{name}"}, index

    def picture(self, place: int) -> bytes:
        return bytes(self.pictures[place]["image"]["bytes"])
