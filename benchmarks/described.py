"""How often a description names what is worn: `python benchmarks/described.py --num 10 --draw outputs/described`.

`describe_outfit` on masked street photos of the validation split, each garment it names against the annotation: the
very word, or a word of the same family (jacket for blazer: `tasks.vqa.may_pass_for`); of those with the very word, the
first colour against the annotation's. The photos are the first by a hash of their names, so that all checkpoints are
asked about the same ones, and `--draw` draws them, to be looked at. Quality, not speed; needs the photos, or
`--records`.
"""

from __future__ import annotations

import argparse
import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tasks.base import Record
from tasks.readers import READERS
from tasks.results import Outfit
from tasks.vqa import may_pass_for
from timing import print_json, require_at_least
from vlm.api import VLM, load
from vlm.draw import draw_outfit
from vlm.images import open_image


def photos(num: int, path: Path | None = None) -> list[Record]:
    """Masked photos of the validation split, or the records of a file that have boxes, in the order of their hashes."""
    rows = (row for row in READERS["ccp"]() if row.split == "validation") if path is None else READERS["jsonl"](path)
    records = [row for row in rows if any(item.box is not None for item in row.objects)]
    return sorted(records, key=lambda row: hashlib.sha256(row.id.encode()).hexdigest())[:num]


def compare(outfit: Outfit, record: Record) -> Counter[str]:
    """Counts of one photo. A garment that is there once can be named once."""
    left = list(record.objects)
    found = Counter(named=len(outfit.garments), annotated=len(left), exact=0, family=0, coloured=0, colour_right=0)
    others = []
    for garment in outfit.garments:
        match = next((item for item in left if item.label == garment.label), None)
        if match is None:
            others.append(garment.label)
            continue
        left.remove(match)
        found["exact"] += 1
        said = None if garment.attributes is None else garment.attributes.values.get("colour")
        known = match.attributes.get("colour")
        if said is not None and known:
            found["coloured"] += 1
            found["colour_right"] += said.values[0] in known
    for label in others:
        match = next((item for item in left if may_pass_for(label, [item.label])), None)
        if match is not None:
            left.remove(match)
            found["family"] += 1
    found["missed"] = len(left)
    return found


def measure(
    model: VLM, records: Sequence[Record], draw: Path | None, min_score: float, *, closer: bool = False
) -> Counter[str]:
    """Counts over all photos; drawings go into `draw`."""
    total: Counter[str] = Counter()
    if draw is not None:
        draw.mkdir(parents=True, exist_ok=True)
    for record in records:
        image = open_image(record.image)
        outfit = model.describe_outfit(image, min_score=min_score, closer=closer)
        total.update(compare(outfit, record))
        if draw is not None:
            draw_outfit(image, outfit).save(draw / f"{record.id}.png")
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="a directory or Hub id (default: the embedded checkpoint)")
    parser.add_argument("--records", type=Path, help="own records, a JSONL file (default: the street photos)")
    parser.add_argument("--num", type=int, default=150, help="photos (default: %(default)s, which is all)")
    parser.add_argument("--min-score", type=float, default=0.0, help="leave out garments below (default: %(default)s)")
    parser.add_argument("--closer", action="store_true", help="look again at a crop of each garment")
    parser.add_argument("--draw", type=Path, metavar="FOLDER", help="draw what is described")
    args = parser.parse_args()
    require_at_least(parser, args, num=1)
    try:
        records = photos(args.num, args.records)
        model = load(args.checkpoint) if args.checkpoint else load()
    except (ValueError, OSError) as error:
        parser.exit(1, f"error: {error}\n")
    total = measure(model, records, args.draw, args.min_score, closer=args.closer)
    named, exact = max(1, total["named"]), total["exact"]
    near = exact + total["family"]
    print(
        f"{len(records)} photos: {total['named']} garments named, {exact} with the annotation's word "
        f"({exact / named:.0%}), {near} with it or one of its family ({near / named:.0%}); of {total['coloured']} with "
        f"the word and a colour {total['colour_right']} in one of the annotation's "
        f"({total['colour_right'] / max(1, total['coloured']):.0%}); {total['missed']} of {total['annotated']} missed"
    )
    print_json({"benchmark": "described", "num_photos": len(records), "closer": args.closer, **total})


if __name__ == "__main__":
    main()
