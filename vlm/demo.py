"""`make demo`: describe one photo with the embedded checkpoint and draw on it.

Without a photo it takes NASA's public-domain portrait of an astronaut, which scikit-image carries.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from vlm.cli import main as run_cli
from vlm.photos import save_image

__all__ = ["export_astronaut", "main"]

DRAWING = Path("outputs") / "demo.png"


def export_astronaut(path: Path) -> Path:
    """Write the astronaut as a PNG.

    Raises:
        ValueError: scikit-image is not installed.
    """
    try:
        from skimage import data
    except ModuleNotFoundError as error:
        raise ValueError(
            "the demo photo comes with scikit-image: pip install scikit-image, or name a photo of yours"
        ) from error
    from PIL import Image

    save_image(Image.fromarray(data.astronaut()), path)
    return path


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m vlm.demo", description="Describe one photo and draw on it.")
    parser.add_argument("photo", nargs="?", default="", help="a photo of yours (default: an astronaut)")
    parser.add_argument("--draw", type=Path, default=DRAWING, help="where the drawing goes (default: %(default)s)")
    args = parser.parse_args(argv)
    # An empty name is what `make demo` passes without PHOTO.
    try:
        photo = args.photo or str(export_astronaut(args.draw.with_name("astronaut.png")))
    except ValueError as error:
        parser.exit(1, f"vlm: {error}\n")
    return run_cli(["describe", "--draw", str(args.draw), "--", photo])


if __name__ == "__main__":
    raise SystemExit(main())
