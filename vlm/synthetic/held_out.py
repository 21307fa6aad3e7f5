"""Combinations of garment, pattern and colour that no training picture shows, so that tests can ask for new ones.

`python -m vlm.synthetic.held_out [DATA_ROOT]` chooses them, by a hash, among those that no photo of a training split
shows either, and keeps them in configs/coverage/held_out.yaml. The wardrobe and the counterfactuals of a training split
leave them out; the wardrobe's test draws them on purpose.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import yaml

from tasks.base import Record
from tasks.ontology import default_ontology
from vlm.atomic import write_text
from vlm.shipped import CHECKOUT, config_file
from vlm.synthetic import choices
from vlm.synthetic.recolour import PAINTS

__all__ = ["Combination", "choose", "combinations", "held_out", "is_held_out"]

Combination = tuple[str, str, str]
"""(garment, pattern, colour)."""

_FILE = Path("coverage", "held_out.yaml")
_KINDS = ("upper", "whole", "lower")
_NEVER = ("solid", "textured", "lace", "camouflage", "animal print")
"""Too common to be left out, bound to a material, or of colours that always come together."""
_SHARE = 0.12


def combinations(garment: str, attributes: Mapping[str, Sequence[str]]) -> list[Combination]:
    """What a garment shows: its pattern with each of its colours."""
    return [
        (garment, pattern, colour)
        for pattern in attributes.get("pattern", ())
        for colour in attributes.get("colour", ())
    ]


@lru_cache(maxsize=1)
def held_out() -> frozenset[Combination]:
    """All combinations that are kept for tests.

    Raises:
        FileNotFoundError: the package was installed without its configs.
    """
    found = yaml.safe_load(config_file(_FILE).read_text(encoding="utf-8"))
    return frozenset(
        (garment, pattern, colour)
        for garment, patterns in found.items()
        for pattern, colours in patterns.items()
        for colour in colours
    )


def is_held_out(garment: str, attributes: Mapping[str, Sequence[str]]) -> bool:
    """Whether a garment shows a combination that is kept for tests."""
    return not held_out().isdisjoint(combinations(garment, attributes))


def choose(records: Iterable[Record]) -> list[Combination]:
    """About one in eight of the combinations that can be drawn and that no training record shows."""
    seen = {
        combination
        for record in records
        if record.split == "train"
        for item in record.objects
        for combination in combinations(item.label, item.attributes)
    }
    return [combination for combination in _drawable() if combination not in seen and _drawn_by_lot(combination)]


def _drawable() -> Iterator[Combination]:
    ontology = default_ontology()
    for garment in ontology.garments:
        if ontology.kind_of(garment) in _KINDS:
            for pattern in choices.drawable(garment, "pattern"):
                if pattern not in _NEVER:
                    yield from ((garment, pattern, colour) for colour in PAINTS)


def _drawn_by_lot(combination: Combination) -> bool:
    digest = hashlib.sha256("/".join(combination).encode()).digest()
    return int.from_bytes(digest[:4], "big") < _SHARE * 2**32


def main(arguments: Sequence[str] | None = None) -> None:
    from tasks.readers import clothing
    from tasks.readers.ccp import read as read_ccp
    from tasks.readers.products import read as read_products

    parser = argparse.ArgumentParser(prog="python -m vlm.synthetic.held_out", description=__doc__)
    parser.add_argument("data_root", type=Path, nargs="?")
    root = parser.parse_args(arguments).data_root
    records = [record for read in (read_ccp, clothing.read, read_products) for record in read(root)]
    table: dict[str, dict[str, list[str]]] = {}
    chosen = choose(records)
    for garment, pattern, colour in chosen:
        table.setdefault(garment, {}).setdefault(pattern, []).append(colour)
    file = CHECKOUT / _FILE
    head = "# python -m vlm.synthetic.held_out\n# Garment, pattern and colours that no training picture shows.\n"
    write_text(file, head + yaml.safe_dump(table, sort_keys=False, default_flow_style=None, width=118))
    print(f"{file}: {len(chosen)} combinations")


if __name__ == "__main__":
    main()
