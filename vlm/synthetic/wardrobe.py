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

from vlm.atomic import replacing, write_text
from vlm.data.coverage import cells_from_plan
from vlm.data.records import to_row
from vlm.synthetic.folder import keep_settings

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
) -> int:
    """Draw `num` pictures: images/<id>.jpg and records-<shard>.jsonl, the project's own rows.

    What comes out does not depend on `processes`. Shards that are there already are kept, so a run that was cut off
    goes on where it stopped, and a larger `num` adds to a smaller one.

    Args:
        start: index of the first picture.
        size: pixels of the longer side.
        plan: cells (see `wardrobe_scene.draw_scene`), taken in turn: picture i draws cell i modulo their number.

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
    target = Path(folder)
    cells = tuple(dict(cell) for cell in plan or ())
    settings = {"seed": seed, "size": size, "plan": list(cells), "split": split}
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
        )
        for number in range(start // NUM_PER_SHARD, (start + num - 1) // NUM_PER_SHARD + 1)
    ]
    if processes == 1 or len(shards) == 1:
        return sum(map(_write_shard, shards))
    with multiprocessing.get_context("spawn").Pool(min(processes, len(shards))) as pool:
        return sum(pool.imap_unordered(_write_shard, shards))


def _write_shard(shard: _Shard) -> int:
    """Draw what is missing of a shard, images first: a record never names an image that is not there."""
    from vlm.synthetic.drawing import draw, record_id  # needs skia-python, which only drawing does

    folder = Path(shard.folder)
    path = folder / f"records-{shard.number:05d}.jsonl"
    rows: dict[str, str] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            rows[json.loads(line)["id"]] = line
    drawn = 0
    for index in range(shard.first, shard.last):
        if record_id(shard.seed, index) in rows:
            continue
        cell = shard.plan[index % len(shard.plan)] if shard.plan else None
        picture = draw(shard.seed, index, size=shard.size, cell=cell)
        with replacing(folder / picture.record.image) as part:
            picture.image.save(part, "JPEG", quality=93)
        rows[picture.record.id] = json.dumps(to_row(replace(picture.record, split=shard.split)), ensure_ascii=False)
        drawn += 1
    if drawn:
        write_text(path, "".join(rows[name] + "\n" for name in sorted(rows)))
    return drawn


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
