"""`make demo`: describe one photo with the embedded checkpoint and draw on it.

Without a photo it takes a person that the wardrobe drew (`vlm.synthetic`; training has not seen the picture), since
the photos of people at hand may not be given away.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from vlm.cli import main as run_cli

__all__ = ["PERSON", "main"]

DRAWING = Path("outputs") / "demo.png"
PERSON = Path(__file__).with_name("demo_person.jpg")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m vlm.demo", description="Describe one photo and draw on it.")
    parser.add_argument("photo", nargs="?", default="", help="a photo of yours (default: a drawn person)")
    parser.add_argument("--draw", type=Path, default=DRAWING, help="where the drawing goes (default: %(default)s)")
    args = parser.parse_args(argv)
    # An empty name is what `make demo` passes without PHOTO.
    return run_cli(["describe", "--draw", str(args.draw), "--", args.photo or str(PERSON)])


if __name__ == "__main__":
    raise SystemExit(main())
