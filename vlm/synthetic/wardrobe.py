"""Write drawn pictures and their records to a folder.

python -m vlm.synthetic.wardrobe FOLDER --num 20000 --seed 0 --size 256 --processes 2
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tasks.base import ObjectLabel, Record
from vlm.atomic import replacing, write_text
from vlm.data.coverage import cells_from_plan
from vlm.data.records import to_row
from vlm.synthetic.folder import keep_settings, record_id

__all__ = ["NUM_PER_SHARD", "main", "write_wardrobe"]

NUM_PER_SHARD = 250
"""Pictures a record file; the unit that a process works on and that a resumed run keeps."""
_SETTINGS = "wardrobe.json"
Cell = Mapping[str, str | int]


@dataclass(frozen=True, kw_only=True)
class _Shard:
    folder: str
    number: int
    first: int
    last: int
    seed: int
    size: int
    plan: tuple[Cell, ...]
    split: str
    held_out: bool
    target_only: bool


def write_wardrobe(
    folder: str | os.PathLike[str],
    *,
    seed: int,
    num: int,
    start: int = 0,
    size: int = 256,
    plan: Sequence[Cell] | None = None,
    processes: int = 1,
    split: str = "train",
    held_out: bool = False,
    target_only: bool = False,
) -> int:
    """Draw `num` pictures: images/<id>.jpg and records-<shard>.jsonl, the project's own rows.

    What comes out does not depend on `processes`. Shards that are there already are kept, so a run that was cut off
    goes on where it stopped, and a larger `num` adds to a smaller one.

    Args:
        start: index of the first picture.
        size: pixels of the longer side.
        plan: cells (see `wardrobe_scene.draw_scene`), taken in turn: picture i draws cell i modulo their number.
        held_out: combinations that are kept for tests (`vlm.synthetic.held_out`) may be drawn.
        target_only: the other garments keep their names and boxes only, so that what is asked is about the garment
            of the plan's cell.

    Returns:
        The number of pictures that were drawn now.

    Raises:
        ValueError: the folder holds pictures of another seed, size, plan or split; or an argument is out of range.
    """
    if num < 1 or start < 0 or processes < 1:
        raise ValueError(
            f"num={num}, start={start}, processes={processes}; expected num and processes >= 1, start >= 0"
        )
    if split not in ("train", "validation"):
        raise ValueError(f"split is {split!r}; use train or validation")
    if held_out and split == "train":
        raise ValueError("held_out pictures are for tests; write them with split='validation'")
    target = Path(folder)
    cells = tuple(dict(cell) for cell in plan or ())
    settings = {"seed": seed, "size": size, "plan": list(cells), "split": split}
    settings |= {"held_out": held_out, "target_only": target_only}
    keep_settings(target / _SETTINGS, settings)
    (target / "images").mkdir(exist_ok=True)
    shards = [
        _Shard(
            folder=str(target),
            number=number,
            first=max(start, number * NUM_PER_SHARD),
            last=min(start + num, (number + 1) * NUM_PER_SHARD),
            seed=seed,
            size=size,
            plan=cells,
            split=split,
            held_out=held_out,
            target_only=target_only,
        )
        for number in range(start // NUM_PER_SHARD, (start + num - 1) // NUM_PER_SHARD + 1)
    ]
    # Where all is there no process is started: a script without a main guard may then read what it wrote.
    todo = [(shard, rows) for shard in shards if _missing(shard, rows := _rows(shard))]
    if processes == 1 or len(todo) <= 1:
        return sum(map(_write_shard, todo))
    with multiprocessing.get_context("spawn").Pool(min(processes, len(todo))) as pool:
        return sum(pool.imap_unordered(_write_shard, todo))


def _write_shard(todo: tuple[_Shard, dict[str, str]]) -> int:
    """Draw what is missing of a shard beside these rows, images first: a record never names an image that is not
    there."""
    from vlm.synthetic.drawing import draw  # needs skia-python, which only drawing does

    shard, rows = todo
    folder = Path(shard.folder)
    drawn = 0
    for index in _missing(shard, rows):
        cell = shard.plan[index % len(shard.plan)] if shard.plan else None
        picture = draw(shard.seed, index, size=shard.size, cell=cell, held_out=shard.held_out)
        record = replace(picture.record, split=shard.split)
        if shard.target_only and cell is not None:
            record = _about(record, cell)
        with replacing(folder / picture.record.image) as part:
            picture.image.save(part, "JPEG", quality=93)
        rows[record.id] = json.dumps(to_row(record), ensure_ascii=False)
        drawn += 1
    if drawn:
        write_text(_path(shard), "".join(rows[name] + "\n" for name in sorted(rows)))
    return drawn


def _path(shard: _Shard) -> Path:
    return Path(shard.folder) / f"records-{shard.number:05d}.jsonl"


def _rows(shard: _Shard) -> dict[str, str]:
    """Id -> line of what is written already."""
    path = _path(shard)
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {json.loads(line)["id"]: line for line in lines}


def _missing(shard: _Shard, rows: Mapping[str, str]) -> list[int]:
    return [index for index in range(shard.first, shard.last) if record_id(shard.seed, index) not in rows]


def _about(record: Record, cell: Cell) -> Record:
    """The record with attributes, phrases and questions of the cell's garment alone, and of it only where it shows
    all that the cell asks for."""

    def wanted(item: ObjectLabel) -> bool:
        named = {name: value for name, value in cell.items() if name in item.attributes}
        return item.label == cell.get("garment") and all(
            value in item.attributes[name] for name, value in named.items()
        )

    objects = tuple(item if wanted(item) else replace(item, attributes={}, phrases=()) for item in record.objects)
    name = str(cell.get("garment")) if any(map(wanted, record.objects)) else None
    return replace(
        record,
        objects=objects,
        captions=(),
        qa=tuple(pair for pair in record.qa if name is not None and name in pair.question),
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m vlm.synthetic.wardrobe", description="Draw people in outfits, with exact labels."
    )
    parser.add_argument("folder", help="where images/ and records-*.jsonl go")
    parser.add_argument("--num", type=int, required=True, help="number of pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="index of the first picture")
    parser.add_argument("--size", type=int, default=256, help="pixels of the longer side")
    parser.add_argument("--plan", type=Path, help="what to draw, as `vlm data coverage PATH --plan` writes it")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--split", choices=("train", "validation"), default="train")
    args = parser.parse_args(argv)
    try:
        plan = None if args.plan is None else cells_from_plan(args.plan)
        drawn = write_wardrobe(
            args.folder,
            seed=args.seed,
            num=args.num,
            start=args.start,
            size=args.size,
            plan=plan,
            processes=args.processes,
            split=args.split,
        )
    except (ValueError, OSError, ImportError) as error:
        parser.exit(2, f"{error}\n")
    print(f"drew {drawn} pictures into {args.folder}")


if __name__ == "__main__":
    main()
