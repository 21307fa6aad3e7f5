"""What each choice of a training recipe is worth: `python benchmarks/ablations.py configs/ablations.yaml`.

Runs of one budget that differ from the first in one thing each. They are compared by their losses on the same prompts
of the same real validation photos, teacher-forced and without augmentation: photo by photo, so that a difference is
told from chance long before it shows in a metric. Intervals (95 %) are bootstrapped over photos; what another seed
alone changes is not in them, which is why one variant changes nothing else.

A variant that is there already (`output_dir`/VARIANT/losses.json) is not run again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from tasks import TASKS
from tasks.base import Record
from timing import machine, print_json, print_table
from vlm.atomic import write_text
from vlm.config import StageConfig
from vlm.data.mixture import MixtureDataset, PackingCollator, generator
from vlm.data.pictures import PhotoFiles
from vlm.model import OneLookModel
from vlm.processor import OneLookProcessor
from vlm.suite import SourceSettings, Suite, choose_records, read_sources
from vlm.train import Trainer, parse_config

BATCH = 16
RESAMPLES = 2000

Losses = dict[str, dict[str, tuple[float, int]]]
"""Photo's number -> task -> (sum of its tokens' losses, their number)."""


@dataclass(frozen=True)
class Measured:
    """One variant's run."""

    averaged: Losses
    last: Losses
    seconds: float
    parameters: int


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What each choice of a training recipe is worth.")
    parser.add_argument("config", type=Path, help="see configs/ablations.yaml")
    parser.add_argument("--only", nargs="*", help="these variants, and the first; all if not given")
    parser.add_argument("--num-steps", type=int, help="of every run, in place of the file's")
    parser.add_argument("--data-root", type=Path, help="where the photos lie (default: VLM_DATA or ../shared/data)")
    args = parser.parse_args(argv)
    found = yaml.safe_load(args.config.read_text(encoding="utf-8"))
    variants: dict[str, dict[str, Any]] = found["variants"]
    unknown = [name for name in args.only or () if name not in variants]
    if unknown:
        parser.error(f"there is no variant {unknown[0]!r}; known: {', '.join(variants)}")
    first = next(iter(variants))
    chosen = {name: change for name, change in variants.items() if args.only is None or name in (first, *args.only)}
    suite = Suite(sources={name: SourceSettings(**row) for name, row in found["validation"].items()})
    try:
        read = read_sources(suite, args.data_root)
    except FileNotFoundError as error:
        parser.exit(1, f"ablations.py: {error}\n")
    records = {name: choose_records(rows, suite, name) for name, rows in read.items()}
    photos = [record for part in records.values() for record in part]
    measured = {}
    for name, change in chosen.items():
        base = json.loads(json.dumps(found["base"]))
        if args.num_steps:
            base["num_steps"] = args.num_steps
        if args.data_root:
            base["data"]["data_root"] = str(args.data_root)
        folder = Path(base["output_dir"]) / name.replace(" ", "_")
        measured[name] = run(changed(base, change), folder, photos, found["prompts_per_record"])
    report(measured, args.config, records)
    return 0


def changed(base: dict[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """The base with dotted names set to other values; numbers are places in a list."""
    for name, value in change.items():
        *way, last = name.split(".")
        at: Any = base
        for step in way:
            at = at[int(step)] if isinstance(at, list) else at.setdefault(step, {})
        at[last] = value
    return base


def run(config: dict[str, Any], folder: Path, photos: Sequence[Record], num_prompts: int) -> Measured:
    """Train, measure, and keep what was measured; or read what is there."""
    kept = folder / "losses.json"
    if not kept.is_file():
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        file = folder / "config.yaml"
        file.write_text(yaml.safe_dump(config | {"output_dir": str(folder / "run")}), encoding="utf-8")
        trainer = Trainer(parse_config([str(file)])[0], resume=False)
        start = time.perf_counter()
        trainer.run()
        seconds = time.perf_counter() - start
        model, processor = trainer.averaged()
        row = {
            "averaged": losses_of(model, processor, photos, num_prompts),
            "last": losses_of(trainer.raw_model.eval(), processor, photos, num_prompts),
            "seconds": seconds,
            "parameters": sum(weight.numel() for weight in model.parameters()),
        }
        write_text(kept, json.dumps(row))
        shutil.rmtree(folder / "run" / "checkpoints", ignore_errors=True)
    return Measured(**json.loads(kept.read_text(encoding="utf-8")))


@torch.no_grad()
def losses_of(model: OneLookModel, processor: OneLookProcessor, photos: Sequence[Record], num_prompts: int) -> Losses:
    """The same prompts of a photo whatever the model, as many image tokens as it was trained with."""
    stage = StageConfig(
        patch_budget=processor.config.patch_budget, prompts_per_image=num_prompts, max_target_tokens=1000
    )
    pictures = PhotoFiles(photos)
    dataset = MixtureDataset({}, {}, processor, lambda _: stage, None, seed=0, num_positions=len(photos))
    collate = PackingCollator(processor)
    names, found = list(TASKS), Losses()
    for start in range(0, len(photos), BATCH):
        samples = [
            dataset.make_sample(number, *pictures[number], generator("ablations", photos[number].id))
            for number in range(start, min(start + BATCH, len(photos)))
        ]
        batch = collate(samples)
        output = model(**batch)
        for row, sample in enumerate(samples):
            told = found.setdefault(f"{sample.position:06d}", {})
            for index, name in enumerate(names):
                own = (batch["task_ids"][row] == index) & (batch["labels"][row] != -100)
                if own.any():
                    told[name] = (float(output.token_loss[row][own].sum()), int(own.sum()))
    return found


def rate(losses: Losses, task: str | None, photos: Sequence[str]) -> float:
    """Loss a token over these photos; of all tasks for None."""
    parts = [_told(losses[photo], task) for photo in photos]
    return sum(loss for loss, _ in parts) / max(1, sum(number for _, number in parts))


def difference(first: Losses, other: Losses, task: str | None, seed: int = 0) -> tuple[float, float, float]:
    """How much more the other loses a token than the first: (value, lower, upper), resampled over photos."""
    photos = sorted(first)
    rows = np.array([[*_told(first[photo], task), *_told(other[photo], task)] for photo in photos])
    drawn = np.random.default_rng(seed).integers(0, len(rows), (RESAMPLES, len(rows)))
    sums = rows[drawn].sum(axis=1)
    resampled = sums[:, 2] / sums[:, 3] - sums[:, 0] / sums[:, 1]
    whole = rows.sum(axis=0)
    low, high = np.percentile(resampled, (2.5, 97.5))
    return float(whole[2] / whole[3] - whole[0] / whole[1]), float(low), float(high)


def _told(told: Mapping[str, tuple[float, int]], task: str | None) -> tuple[float, int]:
    parts = [part for name, part in told.items() if task is None or name == task]
    return sum(loss for loss, _ in parts), sum(number for _, number in parts)


def report(measured: Mapping[str, Measured], config: Path, records: Mapping[str, Sequence[Record]]) -> None:
    name, first = next(iter(measured.items()))
    photos = sorted(first.averaged)
    tasks = [task for task in TASKS if any(task in told for told in first.averaged.values())]

    def shown(value: tuple[float, float, float]) -> str:
        return f"{value[0]:+.3f} [{value[1]:+.3f}, {value[2]:+.3f}]"

    losses = {variant: rate(found.averaged, None, photos) for variant, found in measured.items()}
    changes = {
        variant: difference(first.averaged, found.averaged, None)
        for variant, found in measured.items()
        if variant != name
    }

    def rows() -> Iterator[tuple[str, ...]]:
        for variant, found in measured.items():
            yield (
                variant,
                f"{losses[variant]:.3f}",
                shown(changes[variant]) if variant in changes else "",
                *(f"{rate(found.averaged, task, photos):.3f}" for task in tasks),
                f"{rate(found.last, None, photos):.3f}",
                f"{found.parameters / 1e6:.1f}",
                f"{found.seconds:.0f}",
            )

    counts = ", ".join(f"{len(part)} of {source}" for source, part in records.items())
    print_table(
        f"Validation loss a target token: {config.name}",
        ("variant", "loss", f"against {name}", *tasks, "not averaged", "M weights", "s"),
        list(rows()),
        [f"Real validation photos: {counts}. Lower is better; intervals are over photos, not over seeds."],
    )
    print_json(
        {
            "benchmark": "ablations",
            "loss": losses,
            "loss_not_averaged": {variant: rate(found.last, None, photos) for variant, found in measured.items()},
            "loss_by_task": {
                variant: {task: rate(found.averaged, task, photos) for task in tasks}
                for variant, found in measured.items()
            },
            "difference": changes,
            "seconds": {variant: found.seconds for variant, found in measured.items()},
            "num_photos": len(photos),
            **machine(),
        }
    )


if __name__ == "__main__":
    raise SystemExit(main())
