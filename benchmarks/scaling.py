"""What more processes bring, and how many photos a loader's core gets through: `python benchmarks/scaling.py`.

Processes: `vlm train` on drawn outfits, one process and then several, each with a thread and images of its own (weak
scaling), started through the files in launch/. The efficiency is the rate of N processes over N times that of one: it
holds the exchange of gradients, the wait for the slowest, and what processes take from each other on one machine.

Loader: photos a second of a core (of its own time: other work on the machine does not count), from JPEG bytes to
pixels at the patch budget, with

- pillow: every pixel decoded, then brought to size. This is what training does where simplejpeg is not installed.
- draft: Pillow decodes at a half, a quarter or an eighth where twice the wanted size is left.
- simplejpeg, cv2, torchvision, turbojpeg: other decoders, those that are installed.

and `whole`, all that a worker of `vlm train` does for a sample: decoding, augmentation, prompts and packing. The
difference is the mean one of pixel values (0 to 255) from those of pillow.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from outfits import ROOT, TINY, build_model, build_processor, draw_outfits
from timing import interleave, machine, medians, print_json, print_table, require_at_least
from vlm.config import AugmentConfig, SourceConfig, StageConfig
from vlm.data.mixture import MixtureDataset, PackingCollator
from vlm.data.pictures import PhotoFiles
from vlm.data.records import write_jsonl
from vlm.processor import OneLookProcessor, grid_shape

PHOTO = ROOT / "vlm" / "demo_person.jpg"
SOURCES = {"drawn": SourceConfig(reader="jsonl", path="records.jsonl")}
UNCOUNTED = 2
"""Steps at the start, in which memory is laid out and processes find each other."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Efficiency of several processes, and the loader's speed alone.")
    parser.add_argument("--model", type=Path, default=ROOT / "configs" / "model" / "small.yaml", help="a model's YAML")
    parser.add_argument("--launch", default="cpu", help="file of launch/ for several processes (default: %(default)s)")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="how many (default: 1 2)")
    parser.add_argument("--num-images", type=int, default=16, help="images a step and process (default: %(default)s)")
    parser.add_argument("--patch-budget", type=int, default=108, help="image tokens (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=8, help="steps that count (default: %(default)s)")
    parser.add_argument("--photo-height", type=int, default=1600, help="of the loader's photos (default: %(default)s)")
    parser.add_argument("--photos", type=int, default=20, help="photos a round of the loader (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of the loader (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a tiny model, two images, two steps: only a smoke test")
    args = parser.parse_args(argv)
    if args.quick:
        args.model, args.num_images, args.patch_budget, args.steps = TINY, 2, 24, 2
        args.photo_height, args.photos, args.repeats = 800, 2, 2
    require_at_least(parser, args, num_images=1, patch_budget=1, steps=1, photos=1, repeats=1)
    if args.processes[0] != 1 or min(args.processes) < 1:
        parser.error(f"--processes is {args.processes}; expected 1, to compare with, and then how many")

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        records = write_photos(Path(folder), args.num_images)
        try:
            processor = build_processor(build_model(args.model).config, draw_outfits(2))
            loader, difference = loader_rates(args, processor, records)
            rates = {num: training_rate(args, Path(folder), num) for num in args.processes}
        except (ValueError, subprocess.CalledProcessError) as error:
            parser.exit(1, f"scaling.py: {error}\n{getattr(error, 'stderr', '')}")
    report(args, rates, loader, difference)
    return 0


def write_photos(folder: Path, num: int) -> list[Any]:
    """Outfits as JPEG files, with folder/records.jsonl."""
    records = []
    for index, item in enumerate(draw_outfits(num)):
        item.image.save(folder / f"{index}.jpg", quality=90)
        records.append(replace(item.record, image=str(folder / f"{index}.jpg")))
    write_jsonl(records, folder / "records.jsonl")
    return records


# -- processes -----------------------------------------------------------------------------------------


def training_rate(args: argparse.Namespace, folder: Path, num: int) -> float:
    """Images a second of `num` processes together, in the middle one of the steps that count.

    Raises:
        CalledProcessError: training failed.
    """
    run = folder / f"run_{num}"
    config = {
        "output_dir": str(run),
        "model": str(args.model),
        "cpu": args.launch == "cpu",
        "num_steps": UNCOUNTED + args.steps,
        "batch_size": num * args.num_images,
        "log_every": 1,
        "save_every": 0,
        "trackers": [],
        "data": {
            "num_workers": 0,
            "stages": [{"patch_budget": args.patch_budget}],
            "sources": {"drawn": {"reader": "jsonl", "path": str(folder / "records.jsonl")}},
        },
    }
    file = folder / f"train_{num}.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [sys.executable, "-m", "vlm", "train", str(file)]
    if num > 1:
        command += ["--launch", args.launch, "--num-processes", str(num)]
    print(f"training in {num} processes", file=sys.stderr, flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return statistics.median(row["images_per_s"] for row in rows[UNCOUNTED:])


# -- loader --------------------------------------------------------------------------------------------


def loader_rates(
    args: argparse.Namespace, processor: OneLookProcessor, records: Sequence[Any]
) -> tuple[dict[str, float], dict[str, float]]:
    """Photos a second of every way on one core, and the mean difference of its pixels from pillow's."""
    photo = Image.open(PHOTO).convert("RGB")
    photo = photo.resize((round(photo.width * args.photo_height / photo.height), args.photo_height))
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=90)
    data = buffer.getvalue()
    rows, columns = grid_shape(photo.height, photo.width, args.patch_budget)
    wanted = columns * processor.config.stride, rows * processor.config.stride

    def pixels(decode: Callable[[bytes], Image.Image]) -> np.ndarray:
        return processor.pixels(decode(data), args.patch_budget).numpy()

    decoders: dict[str, Callable[[bytes], Image.Image]] = {
        "pillow": _pillow,
        "draft": lambda data: drafted(data, wanted),
        **{name: decode for name, decode in OTHERS.items() if importlib.util.find_spec(name)},
    }
    reference = pixels(_pillow).astype(float)
    difference = {name: float(np.abs(pixels(decode) - reference).mean()) for name, decode in decoders.items()}

    stage = StageConfig(patch_budget=args.patch_budget)
    dataset = MixtureDataset(
        {"drawn": PhotoFiles(records)},
        SOURCES,
        processor,
        lambda _: stage,
        AugmentConfig(),
        seed=0,
        num_positions=args.photos,
    )
    collate = PackingCollator(processor)

    def decoded(decode: Callable[[bytes], Image.Image]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(args.photos):
                pixels(decode)

        return run

    ways = {name: decoded(decode) for name, decode in decoders.items()}
    ways["whole"] = lambda: collate([dataset[position] for position in range(args.photos)])
    # Seconds of a core: the process has one thread.
    seconds = interleave(ways, repeats=args.repeats, warmup=1, clock=time.process_time)
    return {name: args.photos / taken for name, taken in medians(seconds).items()}, difference


def drafted(data: bytes, wanted: tuple[int, int]) -> Image.Image:
    """Decoded no larger than twice the wanted (width, height) asks for; only JPEG can do it."""
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (2 * wanted[0], 2 * wanted[1]))
    return image.convert("RGB")


def _pillow(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def _simplejpeg(data: bytes) -> Image.Image:
    import simplejpeg

    return Image.fromarray(simplejpeg.decode_jpeg(data, colorspace="RGB"))


def _cv2(data: bytes) -> Image.Image:
    import cv2

    cv2.setNumThreads(1)
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return Image.fromarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))


def _torchvision(data: bytes) -> Image.Image:
    from torchvision.io import ImageReadMode, decode_jpeg

    chw = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
    return Image.fromarray(chw.permute(1, 2, 0).contiguous().numpy())


def _turbojpeg(data: bytes) -> Image.Image:
    from turbojpeg import TJPF_RGB, TurboJPEG

    return Image.fromarray(TurboJPEG().decode(data, pixel_format=TJPF_RGB))


OTHERS: dict[str, Callable[[bytes], Image.Image]] = {
    "simplejpeg": _simplejpeg,
    "cv2": _cv2,
    "torchvision": _torchvision,
    "turbojpeg": _turbojpeg,
}


def report(
    args: argparse.Namespace, rates: dict[int, float], loader: dict[str, float], difference: dict[str, float]
) -> None:
    efficiency = {num: rate / num / rates[1] for num, rate in rates.items()}
    print_table(
        f"vlm train of {args.model.stem}, {args.num_images} images a step and process, launch/{args.launch}.yaml",
        ("processes", "images/s", "efficiency"),
        [(str(num), f"{rate:.1f}", f"{efficiency[num]:.0%}") for num, rate in rates.items()],
    )
    print_table(
        f"The loader alone, one core, photos of {args.photo_height} pixels' height (whole: of 800)",
        ("way", "photos/s", "against pillow", "difference"),
        [
            (
                name,
                f"{rate:.1f}",
                f"{rate / loader['pillow']:.2f}x",
                f"{difference[name]:.2f}" if name in difference else "-",
            )
            for name, rate in loader.items()
        ],
    )
    print_json(
        {
            "benchmark": "scaling",
            "efficiency": efficiency,
            "images_per_s": rates,
            "loader_images_per_s": loader,
            "draft_vs_pillow": loader["draft"] / loader["pillow"],
            "difference": difference,
            "launch": args.launch,
            "num_images": args.num_images,
            "photo_height": args.photo_height,
            "model": args.model.stem,
            **machine(),
        }
    )


if __name__ == "__main__":
    raise SystemExit(main())
