"""The records that a configuration names."""

from __future__ import annotations

from pathlib import Path

from tasks.base import Record
from tasks.readers import READERS
from vlm.config import DataConfig, SourceConfig, TrainConfig
from vlm.data.mixture import generator

__all__ = ["read_sources", "validation_records"]


def read_sources(config: DataConfig, split: str | None = None) -> dict[str, list[Record]]:
    """Source name -> its records of `split`, or of the source's own split; it may have none."""
    return {
        name: [record for record in _records(source, config.data_root) if record.split == (split or source.split)]
        for name, source in config.sources.items()
    }


def _records(source: SourceConfig, data_root: str | None) -> list[Record]:
    root = source.path or data_root
    records = READERS[source.reader](Path(root) if root else None)
    return [
        record for record in records if source.boxes in (None, any(item.box is not None for item in record.objects))
    ]


def validation_records(config: TrainConfig) -> dict[str, list[Record]]:
    """Source -> a few of its validation records, the same at every validation; sources without any are left out.

    Raises:
        ValueError: no source has any.
    """
    found = {name: rows for name, rows in read_sources(config.data, "validation").items() if rows}
    if not found:
        raise ValueError(
            f"eval_every is {config.eval_every}, but no source has validation records; "
            'give some records "split": "validation", or set eval_every to 0'
        )
    for name, rows in found.items():
        generator(config.seed, "validation", name).shuffle(rows)
    return {name: rows[: config.eval_records] for name, rows in found.items()}
