"""Pictures a second that one process draws, and where a picture's time goes: `python benchmarks/wardrobe.py`.

Three ways, the same number of pictures each: people of the wardrobe as `vlm.synthetic.wardrobe` draws them, the same
with JPEG files and records written, and, as something to compare with, pictures of the same size decoded from JPEG,
which is what reading a data set costs in place of drawing it.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from timing import interleave, machine, medians, print_json, print_table, require_at_least
from vlm.synthetic.drawing import draw
from vlm.synthetic.wardrobe import write_wardrobe


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="How fast the wardrobe draws.")
    parser.add_argument("--num", type=int, default=100, help="pictures a round (default: %(default)s)")
    parser.add_argument("--size", type=int, default=256, help="pixels of the longer side (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds that count (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="two small pictures, one round: only a smoke test")
    args = parser.parse_args(argv)
    if args.quick:
        args.num, args.size, args.repeats = 2, 96, 1
    require_at_least(parser, args, num=1, repeats=1, size=64)
    files = [_jpeg(draw(0, index, size=args.size).image) for index in range(args.num)]
    turn = iter(range(1, 10_000))

    def drawn() -> None:
        seed = next(turn)  # new pictures every round: what was drawn before must not help
        for index in range(args.num):
            draw(seed, index, size=args.size)

    def written() -> None:
        with tempfile.TemporaryDirectory() as folder:
            write_wardrobe(Path(folder) / "wardrobe", seed=next(turn), num=args.num, size=args.size)

    def decoded() -> None:
        for data in files:
            np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    seconds = interleave({"drawn": drawn, "written": written, "decoded": decoded}, repeats=args.repeats, warmup=1)
    rates = {name: args.num / taken for name, taken in medians(seconds).items()}
    print_table(
        f"{args.num} pictures of {args.size} pixels, one process",
        ("way", "pictures/s", "ms a picture"),
        [(name, f"{rate:.1f}", f"{1000 / rate:.1f}") for name, rate in rates.items()],
    )
    print_json(
        {
            "benchmark": "wardrobe",
            "images_per_s": rates["drawn"],
            "written_vs_drawn": rates["written"] / rates["drawn"],
            "decoded_vs_drawn": rates["decoded"] / rates["drawn"],
            "rates": rates,
            "size": args.size,
            "num": args.num,
            "seconds": seconds,
            **machine(),
        }
    )
    return 0


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=93)
    return buffer.getvalue()


if __name__ == "__main__":
    raise SystemExit(main())
