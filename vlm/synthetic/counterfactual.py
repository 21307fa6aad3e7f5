"""Real photos in which something is otherwise, and labels that know it.

In photos of outfits colours, garments and streets come together in habits (black coats, white sneakers, grey walls);
a model learns the habit instead of the colour. Here ccp's masks let one thing change while all the rest stays.
Photos of the validation split are never used, neither as person nor as background.
`python -m vlm.synthetic.counterfactual FOLDER --num 20000` makes a folder of them.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tasks.base import Provenance, Record
from vlm.atomic import replacing, write_text
from vlm.data.records import to_row
from vlm.synthetic import scene_edits
from vlm.synthetic.cloth_edits import Work, may_print, may_recolour, print_garment, recolour_garment
from vlm.synthetic.folder import keep_settings
from vlm.synthetic.held_out import is_held_out
from vlm.synthetic.masked_photo import MaskedPhoto, boxed, masked_photos, open_masked, photo_labels
from vlm.synthetic.wording import describe_record

__all__ = ["counterfactual", "write_counterfactuals"]

SHARD = 1000
"""Records a file."""
_SETTINGS = "counterfactual.json"
_QUALITY = (86, 95)
"""JPEG qualities are drawn in this range: the photos differ in theirs."""


def counterfactual(photo: MaskedPhoto, rng: random.Random, others: Sequence[MaskedPhoto]) -> tuple[Image.Image, Record]:
    """The photo with one or a few things changed, and its record.

    Captions and questions of the original are dropped, as they tell of what is no more; new ones are made from the
    labels where all garments are known.

    Args:
        photo: of the training split.
        rng: draws what is changed and how.
        others: photos whose backgrounds may be used; of the training split too.

    Returns:
        An image and a record whose `image` is still the original's path. `groups` tell what was done and to which
        photo.

    Raises:
        ValueError: a photo of the validation split.
    """
    for used in (photo, *others):
        if used.record.split != "train":
            raise ValueError(f"photo {used.record.id} is of the split {used.record.split!r}; use training photos only")
    noise = np.random.default_rng(rng.getrandbits(64))
    work = Work.of(photo)
    size = max(work.label_map.shape)
    _change_cloth(work, rng, noise)
    alone = [index for index in range(len(work.objects)) if scene_edits.may_stand_alone(work, index)]
    if alone and rng.random() < 0.08:
        scene_edits.garment_alone(work, rng.choice(alone), rng, noise)
    else:
        if scene_edits.may_cut(work) and rng.random() < (0.4 if work.done else 0.8):
            scene_edits.change_background(work, others, rng, noise)
        if rng.random() < (0.12 if work.done else 0.3):
            scene_edits.occlude(work, rng, noise)
        if rng.random() < 0.3 or not work.done:
            scene_edits.crop_body(work, rng)
    scene_edits.enlarged(work, size)
    return Image.fromarray(work.pixels), _record(work, photo.record, rng)


def _change_cloth(work: Work, rng: random.Random, noise: np.random.Generator) -> None:
    able = [index for index in range(len(work.objects)) if may_recolour(work, index)]
    if not able or rng.random() < 0.12:
        return
    num = min(len(able), rng.choices((1, 2, 3), (4, 4, 2))[0])
    # Larger garments more often: they are what is asked about.
    order = sorted(able, key=lambda index: rng.random() ** (1 / max(work.area(index), 1e-6) ** 0.5), reverse=True)
    for index in order[:num]:
        if may_print(work, index) and rng.random() < 0.42:
            _print_what_may_be_seen(work, index, rng, noise)
        else:
            recolour_garment(work, index, rng, noise)


def _print_what_may_be_seen(work: Work, index: int, rng: random.Random, noise: np.random.Generator) -> None:
    """Print the garment, but nothing that is kept for tests; rarely it is left as it was."""
    for _ in range(5):
        printed = replace(work, objects=list(work.objects), done=list(work.done))
        print_garment(printed, index, rng, noise)
        item = printed.objects[index]
        if not is_held_out(item.label, item.attributes):
            work.pixels, work.objects, work.done = printed.pixels, printed.objects, printed.done
            work.texts_hold = printed.texts_hold
            return


def _record(work: Work, original: Record, rng: random.Random) -> Record:
    objects = tuple(boxed(work.objects, work.sources, work.label_map, work.labels))
    record = replace(
        original,
        image_size=work.label_map.shape,
        objects=objects,
        captions=original.captions if work.texts_hold else (),
        qa=original.qa if work.texts_hold else (),
        objects_complete=work.objects_complete,
        boxes_complete=bool(objects) and all(item.box is not None for item in objects),
        groups={"counterfactual": "+".join(dict.fromkeys(work.done)), "original": original.id, **work.groups},
        provenance=Provenance(source="ccp", annotator=f"counterfactual: {'+'.join(dict.fromkeys(work.done))}"),
    )
    return describe_record(record, rng) if record.objects_complete and record.objects else record


# -- many of them ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What a process needs to make any of the pictures."""

    folder: Path
    seed: int
    data_root: Path | None
    size: int | None


class _Maker:
    """Opens photos when they are first needed and keeps them."""

    def __init__(self, job: _Job) -> None:
        self.job = job
        self.labels = photo_labels()
        self.photos = masked_photos(job.data_root)
        self.open = functools.lru_cache(maxsize=None)(self._open)

    def _open(self, number: int) -> MaskedPhoto:
        record, sources, mask = self.photos[number]
        return open_masked(record, sources, mask, self.labels, self.job.size)

    def make(self, index: int) -> dict[str, Any]:
        """Write picture `index`; its row. A function of (seed, index) alone."""
        rng = random.Random(f"counterfactual:{self.job.seed}:{index}")
        photo = self.open(rng.randrange(len(self.photos)))
        if not photo.record.boxes_complete:
            # One more chance for a photo that detection can learn from.
            photo = self.open(rng.randrange(len(self.photos)))
        others = [self.open(rng.randrange(len(self.photos))) for _ in range(3)]
        image, record = counterfactual(photo, rng, others)
        name = f"counterfactual-{self.job.seed}-{index:06d}"
        with replacing(self.job.folder / "images" / f"{name}.jpg") as part:
            image.save(part, "JPEG", quality=rng.randint(*_QUALITY))
        return to_row(replace(record, id=name, image=f"images/{name}.jpg"))


_maker: _Maker | None = None


def _start(job: _Job) -> None:
    global _maker  # one a process: what a pool's workers keep between calls can live nowhere else
    _maker = _Maker(job)


def _make(index: int) -> dict[str, Any]:
    assert _maker is not None
    return _maker.make(index)


def write_counterfactuals(
    folder: str | os.PathLike[str],
    *,
    seed: int,
    num: int,
    data_root: Path | None = None,
    processes: int = 1,
    size: int | None = None,
) -> int:
    """Write `num` pictures to images/ and their records to records-00000.jsonl, ...; the number newly made.

    Files of records appear whole, each with all of its pictures; what is there is not made again. Every picture is a
    function of (seed, its number, size).

    Args:
        folder: is made where it is missing.
        size: the longer side in pixels; None keeps the photos' own.
        processes: pictures are made in that many at once.

    Raises:
        FileNotFoundError: photos, masks or annotations are not where they are expected.
        ValueError: the folder holds pictures of another seed or size, or a number is out of range.
    """
    if num < 1 or processes < 1 or (size is not None and size < 32):
        raise ValueError(f"num={num}, processes={processes}, size={size}; expected at least 1, 1 and 32 pixels or none")
    target = Path(folder)
    keep_settings(target / _SETTINGS, {"seed": seed, "size": size})
    made = 0
    shards = [range(start, min(start + SHARD, num)) for start in range(0, num, SHARD)]
    todo = [(shard, path) for shard in shards if not _complete(path := _shard(target, shard), len(shard))]
    if not todo:
        return 0
    job = _Job(folder=target, seed=seed, data_root=data_root, size=size)
    with _rows_maker(job, processes) as rows_of:
        for shard, path in todo:
            rows = list(rows_of(shard))
            write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
            made += len(rows)
    return made


class _rows_maker:
    """`with _rows_maker(job, processes) as rows_of`: rows_of(indices) makes the pictures in order."""

    def __init__(self, job: _Job, processes: int) -> None:
        self.job = job
        self.pool = multiprocessing.get_context("spawn").Pool(processes, _start, (job,)) if processes > 1 else None

    def __enter__(self) -> Any:
        if self.pool is None:
            return functools.partial(map, _Maker(self.job).make)
        return functools.partial(self.pool.imap, _make, chunksize=8)

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.terminate()
            self.pool.join()


def _shard(folder: Path, shard: range) -> Path:
    return folder / f"records-{shard.start // SHARD:05d}.jsonl"


def _complete(path: Path, num: int) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as lines:
        return sum(1 for _ in lines) >= num


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m vlm.synthetic.counterfactual", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--num", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, help="longer side in pixels; the photos' own where it is left out")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--data-root", type=Path)
    options = parser.parse_args(arguments)
    made = write_counterfactuals(
        options.folder,
        seed=options.seed,
        num=options.num,
        data_root=options.data_root,
        processes=options.processes,
        size=options.size,
    )
    print(f"{options.folder}: {made} new pictures")


if __name__ == "__main__":
    main()
