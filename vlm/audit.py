"""Does it work as well for everybody: the groups that an evaluation is split by.

Groups of a record (`Record.groups`) come with it. Apparent skin tone of real photos does not: it is kept apart from
records, so that nothing can be trained on it, and joined here, after the model has answered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tasks.base import Record
from tasks.readers.ccp import skin_tone_groups

__all__ = ["SKIN_TONE", "group_values"]

SKIN_TONE = "skin_tone"


def group_values(name: str, reader: str, records: Sequence[Record]) -> dict[str, str]:
    """Record id -> value of the group; records that have none are left out.

    Args:
        name: key of `Record.groups`, or "skin_tone".
        reader: name in `tasks.readers.READERS` that the records come from.

    Raises:
        ValueError: no record has such a group; lists those that there are.
    """
    if name == SKIN_TONE and reader == "ccp":
        judged: Mapping[str, str | None] = skin_tone_groups()
        found = {record.id: judged.get(record.id) for record in records}
    else:
        found = {record.id: record.groups.get(name) for record in records}
    values = {key: value for key, value in found.items() if value is not None}
    if not values:
        known = sorted({group for record in records for group in record.groups})
        raise ValueError(f"no record has a group {name!r}; there are: {', '.join(known) or 'none at all'}")
    return values
