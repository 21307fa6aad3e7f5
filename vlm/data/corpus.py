"""The texts a tokenizer is trained on: what the tasks will ask and answer about the records."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from tasks import TASKS
from tasks.base import Record
from vlm.data.mixture import generator

_TOKEN = re.compile(r"<[a-z]+(?:_\d+)?>")


def corpus(records: Sequence[Record], *, seed: int = 0) -> Iterator[str]:
    """Prompts and targets of every record, once, without task and location tokens (those are tokens anyway)."""
    for record in records:
        for task in TASKS.values():
            for example in task.examples(record, generator(seed, "corpus", record.id, task.name)):
                yield _TOKEN.sub("", task.prompt(example.inputs, record.image_size))
                yield _TOKEN.sub("", task.target(example.label, record.image_size))
