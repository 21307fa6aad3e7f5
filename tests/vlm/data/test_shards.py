"""Shards: what is packed comes out again, and is trained on as it would be from its folder."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from tasks.base import Record
from vlm.config import AugmentConfig, DataConfig, SourceConfig, StageConfig, TrainConfig
from vlm.data.mixture import MixtureDataset, PackingCollator
from vlm.data.positions import Positions
from vlm.data.records import read_records, write_jsonl
from vlm.data.shards import SUFFIXES, Shards, read_shards, write_shards
from vlm.data.sources import read_sources, validation_records
from vlm.images import open_image
from vlm.processor import OneLookProcessor

SMALL = 0.024
"""Megabytes: some pictures a shard."""


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """`datasets` keeps its copies of Parquet beside the test's own files."""
    import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="module", params=SUFFIXES)
def format(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def packed(format: str, garments: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed") / "new" / format
    write_shards(garments, folder, format=format, shard_size=SMALL)
    return folder


def by_split(records: Path) -> list[Record]:
    """In the order of shards: those for training come first by name."""
    return sorted(read_records(records), key=lambda record: record.split)


def anywhere(record: Record) -> Record:
    return replace(record, image="")


# -- there and back ------------------------------------------------------------------------------------


def test_records_and_pictures_come_back(packed: Path, garments: Path) -> None:
    found, expected = list(read_shards(packed)), by_split(garments)
    assert [anywhere(record) for record, _ in found] == [anywhere(record) for record in expected]
    for (record, data), true in zip(found, expected, strict=True):
        assert data == Path(true.image).read_bytes()
        assert np.array_equal(np.asarray(open_image(data)), np.asarray(open_image(true.image)))
        assert Path(record.image).parent.parent == packed
        assert Path(record.image).name == f"{record.id}.png"


def test_names_and_sizes(packed: Path, format: str) -> None:
    files = sorted(packed.iterdir())
    train, validation = ([file for file in files if file.name.startswith(name)] for name in ("train", "validation"))
    assert len(train) > 1
    for group, name in ((train, "train"), (validation, "validation")):
        names = [f"{name}-{number:05d}-of-{len(group):05d}{SUFFIXES[format]}" for number in range(len(group))]
        assert [file.name for file in group] == names
    assert len(train) + len(validation) == len(files)
    if format == "webdataset":
        assert all(file.stat().st_size <= SMALL * 1e6 for file in files)
    assert [path.name for path in packed.parent.iterdir()] == [packed.name], "nothing temporary stays"
    [one, *_] = train
    assert [record.id for record, _ in read_shards(one)] == [record.id for record, _ in read_shards(packed)][
        : len(Shards(one))
    ]


def test_other_tools_read_them(packed: Path, format: str) -> None:
    [file] = packed.glob("validation-*")
    if format == "parquet":
        from datasets import load_dataset

        rows = load_dataset(str(packed), split="validation")
        assert rows[0]["id"] == "drawn-11"
        assert rows[0]["image"].size == (48, 64)
        return
    with tarfile.open(file) as tar:
        assert tar.getnames()[:2] == ["drawn-11.png", "drawn-11.json"]
        assert json.load(tar.extractfile("drawn-11.json"))["objects"][0]["label"] == "coat"  # type: ignore[arg-type]


def test_ids_of_any_kind(format: str, garments: Path, tmp_path: Path) -> None:
    first = next(read_records(garments))
    names = ["a.b", "../up", "crêpe/裙子", "a b%2E", "x" * 300, "A", "a"]
    write_jsonl([replace(first, id=name) for name in names], tmp_path / "odd.jsonl")
    write_shards(tmp_path / "odd.jsonl", tmp_path / "out", format=format)
    assert [record.id for record, _ in read_shards(tmp_path / "out")] == names
    assert len({record.image for record, _ in read_shards(tmp_path / "out")}) == len(names)


def test_packed_again_in_the_same_place(format: str, garments: Path, tmp_path: Path) -> None:
    """What `datasets` kept of the earlier file is not taken for the new one."""
    record = next(read_records(garments))
    for colour in ("red", "blue"):
        Image.new("RGB", (record.image_size[1], record.image_size[0]), colour).save(tmp_path / "x.png")
        write_jsonl([replace(record, image=str(tmp_path / "x.png"))], tmp_path / "x.jsonl")
        [file] = write_shards(tmp_path / "x.jsonl", tmp_path / "out", format=format)
        [(image, _)] = list(Shards(file))
        assert image.getpixel((0, 0)) == Image.new("RGB", (1, 1), colour).getpixel((0, 0))
        file.unlink()


# -- in training ---------------------------------------------------------------------------------------


class Fixed:
    def __call__(self, position: int) -> StageConfig:
        return StageConfig(patch_budget=12, prompts_per_image=4)


def samples(source: SourceConfig, processor: OneLookProcessor) -> MixtureDataset:
    pictures = read_sources(DataConfig(sources={"mine": source}))
    return MixtureDataset(pictures, {"mine": source}, processor, Fixed(), AugmentConfig(), seed=0, num_positions=40)


def test_samples_are_those_of_the_folder(packed: Path, garments: Path, tiny_processor: OneLookProcessor) -> None:
    from_files = samples(SourceConfig(reader="jsonl", path=str(garments)), tiny_processor)
    from_shards = samples(SourceConfig(reader="shards", path=str(packed)), tiny_processor)
    sent = pickle.loads(pickle.dumps(from_shards))
    for position in (25, 3, 0, 11, 39):
        first = from_files[position]
        for other in (from_shards[position], sent[position]):
            assert (other.record_id, other.prompts, other.targets) == (first.record_id, first.prompts, first.targets)
            assert other.pixels.equal(first.pixels)


@pytest.mark.parametrize(("world", "num_workers"), [(2, 2), (3, 1)])
def test_processes_and_workers_share_a_pass(
    world: int, num_workers: int, packed: Path, tiny_processor: OneLookProcessor
) -> None:
    """Shuffled, and every record once: none twice in two processes or two workers, none left out."""
    dataset = samples(SourceConfig(reader="shards", path=str(packed)), tiny_processor)
    found: dict[int, str] = {}
    for rank in range(world):
        loader = DataLoader(
            dataset,
            batch_sampler=Positions(0, 6, 2 * world, 1, rank, world),  # type: ignore[arg-type]
            collate_fn=PackingCollator(tiny_processor),
            num_workers=num_workers,
        )
        for batch in loader:
            for position, name in zip(batch["positions"], batch["record_ids"], strict=True):
                assert found.setdefault(position, name) == name and list(batch["positions"]) == [position]
    assert sorted(found) == list(range(12 * world))
    names = [record.id for record in dataset.pictures["mine"].records]
    for start in range(0, 12 * world - 11, 11):
        in_turn = [found[position] for position in range(start, start + 11)]
        assert sorted(in_turn) == sorted(names) and in_turn != names


def test_boxes_and_splits_choose(packed: Path) -> None:
    def num(**values: object) -> int:
        source = SourceConfig(reader="shards", path=str(packed), **values)  # type: ignore[arg-type]
        return len(read_sources(DataConfig(sources={"mine": source}))["mine"])

    assert (num(), num(split="validation"), num(boxes=True), num(boxes=False)) == (11, 3, 11, 0)


def test_validation_records_can_be_opened(packed: Path, garments: Path) -> None:
    def chosen(reader: str, path: Path) -> list[Record]:
        data = DataConfig(sources={"mine": SourceConfig(reader=reader, path=str(path))})
        return validation_records(TrainConfig(output_dir="x", model="x", data=data, eval_every=1, eval_records=2))[
            "mine"
        ]

    found, expected = chosen("shards", packed), chosen("jsonl", garments)
    assert [anywhere(record) for record in found] == [anywhere(record) for record in expected]
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(np.asarray(open_image(one.image)), np.asarray(open_image(other.image)))


# -- what is wrong is said -----------------------------------------------------------------------------


def test_what_cannot_be_packed(garments: Path, tmp_path: Path) -> None:
    records = list(read_records(garments))
    target = tmp_path / "out"

    def pack(rows: list[Record], **options: object) -> None:
        write_jsonl(rows, tmp_path / "x.jsonl")
        write_shards(tmp_path / "x.jsonl", target, **options)  # type: ignore[arg-type]

    missing = replace(records[9], image=str(tmp_path / "gone.png"))
    with pytest.raises(ValueError, match=r"record drawn-9: its picture .*/gone\.png cannot be read \(No such file"):
        pack([*records[:9], missing], shard_size=SMALL)
    with pytest.raises(ValueError, match="record drawn-0: its id comes twice; `vlm data check"):
        pack([records[0], records[1], records[0]])
    with pytest.raises(ValueError, match="no records in it"):
        pack([])
    with pytest.raises(ValueError, match="shard_size is 0; expected more than 0 megabytes"):
        pack(records, shard_size=0)
    with pytest.raises(ValueError, match="unknown format 'zip'; known: parquet, webdataset"):
        pack(records, format="zip")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.jsonl"], "nothing is left of a failed run"
    target.mkdir()
    (target / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match="out: is there already and not an empty folder; name a new one"):
        pack(records)


def test_broken_shards_are_named(packed: Path, format: str, tmp_path: Path) -> None:
    [validation] = packed.glob("validation-*")
    whole = validation.read_bytes()
    file = tmp_path / validation.name
    for broken in (whole[: len(whole) // 2], b"no shard", b"", whole[:512]):
        file.write_bytes(broken)
        with pytest.raises(ValueError, match=rf"{file.name}: .*pack it again"):
            Shards(tmp_path)


def test_a_tar_cut_between_records(garments: Path, tmp_path: Path) -> None:
    [train, _] = write_shards(garments, tmp_path / "out", format="webdataset")
    with tarfile.open(train) as tar:
        cuts = [member.offset for member in tar.getmembers()][2:4]
    whole = train.read_bytes()
    for cut, message in zip(
        cuts, ("its end is missing; copy it again", "drawn-1 has no JSON beside its picture"), strict=True
    ):
        train.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=rf"{train.name}: {message}"):
            Shards(tmp_path / "out")


def test_missing_and_strange_files(packed: Path, format: str, tmp_path: Path) -> None:
    for file in packed.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    [gone] = tmp_path.glob("train-00001-*")
    gone.unlink()
    with pytest.raises(ValueError, match=rf"lacks {gone.name} of \d shards; copy or pack them again"):
        Shards(tmp_path)
    gone.with_name(f"mine{SUFFIXES[format]}").write_bytes(b"")
    with pytest.raises(ValueError, match=r"mine\.\w+: is not named like a shard"):
        Shards(tmp_path)
    for path in (tmp_path / "nowhere", tmp_path.parent):
        with pytest.raises(FileNotFoundError, match="expected what `vlm data shards` wrote"):
            Shards(path)


def test_a_broken_picture_is_named(format: str, garments: Path, tmp_path: Path) -> None:
    record = next(read_records(garments))
    (tmp_path / "x.png").write_bytes(Path(record.image).read_bytes()[:100])
    write_jsonl([replace(record, image=str(tmp_path / "x.png"))], tmp_path / "x.jsonl")
    [file] = write_shards(tmp_path / "x.jsonl", tmp_path / "out", format=format)
    with pytest.raises(
        ValueError, match=rf"{file.name}/drawn-0\.png: image bytes .*; mend the picture and pack it again"
    ):
        Shards(file)[0]


def test_rows_that_are_wrong_name_file_and_row(tmp_path: Path) -> None:
    from datasets import Dataset

    file = tmp_path / "train-00000-of-00001.tar"
    with tarfile.open(file, "w") as tar:
        for name, data in (("a.jpg", b"x"), ("a.json", b'{"id": "a", "image_size": [1, 1], "colour": "red"}')):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    with pytest.raises(ValueError, match=r"of-00001\.tar:a\.json: the row has an unknown field 'colour'"):
        Shards(file)
    file = tmp_path / "x.parquet"
    Dataset.from_dict({"id": ["a"]}).to_parquet(file)
    with pytest.raises(ValueError, match=r"x\.parquet: has no column of pictures; pack it with `vlm data shards`"):
        Shards(file)
