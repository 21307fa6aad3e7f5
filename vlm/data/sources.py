"""The pictures that a configuration names."""

from __future__ import annotations

from pathlib import Path

from tasks.base import Record
from tasks.readers import READERS
from vlm.config import DataConfig, SourceConfig, TrainConfig
from vlm.data.coverage import cells_from_plan
from vlm.data.drawn import DrawnPictures
from vlm.data.mixture import generator
from vlm.data.pictures import PhotoFiles, Pictures
from vlm.data.shards import Shards

__all__ = ["read_sources", "validation_records"]


def read_sources(config: DataConfig, split: str | None = None) -> dict[str, Pictures]:
    """Source name -> its pictures of `split`, or of the source's own split; it may have none.

    Raises:
        FileNotFoundError: a data set is not where it should be.
        ValueError: a record, a shard or a plan is broken, or the wardrobe cannot draw here.
    """
    return {name: _pictures(source, config.data_root, split or source.split) for name, source in config.sources.items()}


def _pictures(source: SourceConfig, data_root: str | None, split: str) -> Pictures:
    def is_asked_for(record: Record) -> bool:
        return record.split == split and source.boxes in (None, any(item.box is not None for item in record.objects))

    if source.reader == "wardrobe":
        return _drawn(source) if split == "train" else PhotoFiles(())
    if source.reader == "shards":
        assert source.path is not None
        return Shards(source.path, is_asked_for)
    root = source.path or data_root
    return PhotoFiles(filter(is_asked_for, READERS[source.reader](Path(root) if root else None)))


def _drawn(source: SourceConfig) -> Pictures:
    assert source.num is not None and source.seed is not None and source.size is not None
    plan = None if source.plan is None else cells_from_plan(source.plan)
    if plan == []:
        raise ValueError(f"{source.plan}: asks for no pictures; drop `plan` of the source to draw of everything")
    return DrawnPictures(source.num, seed=source.seed, size=source.size, plan=plan)


def validation_records(config: TrainConfig) -> dict[str, list[Record]]:
    """Source -> a few of its validation records, the same at every validation; sources without any are left out.

    Raises:
        ValueError: no source has any.
    """
    found = {name: pictures for name, pictures in read_sources(config.data, "validation").items() if len(pictures)}
    if not found:
        raise ValueError(
            f"eval_every is {config.eval_every}, but no source has validation records; "
            'give some records "split": "validation", or set eval_every to 0'
        )
    chosen = {}
    for name, pictures in found.items():
        order = list(range(len(pictures)))
        generator(config.seed, "validation", name).shuffle(order)
        chosen[name] = [pictures.openable(index) for index in order[: config.eval_records]]
    return chosen
