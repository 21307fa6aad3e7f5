"""Training from photos on disk to stepped weights, ours against a peer: `python benchmarks/train_throughput.py`.

Ways to train on the same JPEG files, prompts and targets, in prompt samples a second:

- packed: all prompts of an image in one row, the image opened and encoded once. This is what `vlm train` does.
- single: the same model, one prompt a row; the image is opened and encoded again for every prompt.
- peer: Florence-2 in our size, of transformers' own classes (see benchmarks/peer.py), one prompt a row, trained as
  transformers' Trainer does: rows in the order in which they were drawn, padded to the longest of a batch, gradients
  added up over a step.

Optimizer, clipping, precision, threads, samples a step and rows a forward pass (for those with one prompt a row) are
the same for all. The peer's image tower is another one, so that what is between it and `single` is the architecture's,
and what is between `single` and `packed` is the packing's. Rows are not sorted by length: benchmarks/packing.py
measures what that would bring.

In every round a way starts its loader anew; the step in which the loader fills does not count. On a CPU one process of
the loader takes a core from the model where there is none to spare, as it would in training.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from outfits import ROOT, TINY, build_model, build_processor, draw_outfits, draw_texts
from peer import PeerCollator, Row, build_peer, num_parameters
from timing import machine, print_json, print_table, require_at_least, take_turns
from vlm.batches import count, to_device
from vlm.config import OptimConfig
from vlm.flops import forward_flops, peak_flops_of
from vlm.images import open_image
from vlm.optim import make_optimizer
from vlm.precision import best_precision
from vlm.processor import OneLookProcessor
from vlm.run_log import Throughput

TOLERANCE = 1e-5
"""Between the losses of packed and single, as in benchmarks/packing.py."""


class PhotoRows(Dataset[Row]):
    """Rows whose photo is opened and brought to size whenever one is asked for."""

    def __init__(self, processor: OneLookProcessor, budget: int, rows: Sequence[tuple[Path, list, list]]) -> None:
        self.processor, self.budget, self.rows = processor, budget, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        file, prompts, targets = self.rows[index]
        return self.processor.pixels(open_image(file), self.budget), prompts, targets


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to train.

    Attributes:
        groups: rows of every forward pass of a step.
        loss: batch -> the mean loss of its tokens.
        flops: batch -> arithmetic of the forward pass.
        count: batch -> what `vlm.batches.count` tells.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    rows: PhotoRows
    groups: list[list[int]]
    collate: Callable[[Sequence[Row]], dict[str, Any]]
    loss: Callable[[dict[str, Any]], Tensor]
    flops: Callable[[dict[str, Any]], int]
    count: Callable[[dict[str, Any]], dict[str, int]]

    def batches(self) -> list[dict[str, Any]]:
        """Of a step, made here and now."""
        return [self.collate([self.rows[index] for index in group]) for group in self.groups]

    @cached_property
    def step_flops(self) -> int:
        """Forward and backward."""
        return 3 * sum(self.flops(batch) for batch in self.batches())


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Training throughput, loader included, against a Florence-2 peer.")
    parser.add_argument("--model", type=Path, default=ROOT / "configs" / "model" / "small.yaml", help="a model's YAML")
    parser.add_argument("--num-images", type=int, default=32, help="images a step (default: %(default)s)")
    parser.add_argument("--num-prompts", type=int, default=8, help="prompts an image (default: %(default)s)")
    parser.add_argument("--patch-budget", type=int, default=108, help="image tokens (default: %(default)s)")
    parser.add_argument("--group-rows", type=int, help="rows of one prompt a forward pass (default: as many as images)")
    parser.add_argument("--steps", type=int, default=2, help="steps a round that count (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds that count (default: %(default)s)")
    parser.add_argument("--warmup", type=int, default=1, help="rounds before them (default: %(default)s)")
    parser.add_argument("--num-workers", type=int, default=1, help="loader processes (default: %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument("--peak-flops", type=float, help="operations a second of the device, where it is not known")
    parser.add_argument("--quick", action="store_true", help="a tiny model, two images, one step: only a smoke test")
    args = parser.parse_args(argv)
    if args.quick:
        args.model, args.num_images, args.patch_budget = TINY, 2, 24
        args.steps, args.repeats, args.warmup, args.num_workers = 1, 1, 0, 0
    require_at_least(parser, args, num_images=1, num_prompts=1, patch_budget=1, steps=1, repeats=1)

    with tempfile.TemporaryDirectory() as folder:
        try:
            ways = make_ways(args, Path(folder))
        except ValueError as error:
            parser.exit(1, f"train_throughput.py: {error}\n")
        losses = {name: step_loss(way, args.device) for name, way in ways.items()}
        if not abs(losses["packed"] - losses["single"]) < TOLERANCE:
            parser.exit(1, f"train_throughput.py: packed and single do not give the same loss in float32: {losses}\n")
        device = torch.device(args.device)
        precision = best_precision(cpu=device.type == "cpu")
        peak = args.peak_flops or peak_flops_of(device, precision)
        found = take_turns(
            {name: lambda way=way: measure(way, args, precision, peak) for name, way in ways.items()},
            repeats=args.repeats,
            warmup=args.warmup,
        )
    report(args, ways, found, losses, precision)
    return 0


def make_ways(args: argparse.Namespace, folder: Path) -> dict[str, Way]:
    """Raises: ValueError: no such model, or more prompts than the outfits' labels give."""
    drawn = draw_outfits(args.num_images)
    ours = build_model(args.model).to(args.device).train()
    processor = build_processor(ours.config, drawn)
    prompts, targets = draw_texts(processor, drawn, args.num_prompts)
    files = [folder / f"{index}.jpg" for index in range(len(drawn))]
    for file, item in zip(files, drawn, strict=True):
        item.image.save(file, quality=90)

    packed = PhotoRows(processor, args.patch_budget, list(zip(files, prompts, targets, strict=True)))
    single = PhotoRows(
        processor,
        args.patch_budget,
        [
            (file, [prompt], [target])
            for file, row, answers in zip(files, prompts, targets, strict=True)
            for prompt, target in zip(row, answers, strict=True)
        ],
    )
    per_pass = args.group_rows or args.num_images
    groups = [list(range(start, min(start + per_pass, len(single)))) for start in range(0, len(single), per_pass)]
    longest = max(args.patch_budget + 1 + len(prompt) for _, [prompt], _ in single.rows)
    longest = max(longest, *(len(target.ids) for _, _, [target] in single.rows))
    peer = build_peer(ours, longest).to(args.device).train()

    def our_loss(batch: dict[str, Any]) -> Tensor:
        return ours(**batch).loss

    def peer_loss(batch: dict[str, Any]) -> Tensor:
        return peer(**batch, use_cache=False).loss

    def peer_flops(batch: dict[str, Any]) -> int:
        # PyTorch's counter does not know the CPU's own attention kernel; products of matrices take its place.
        with torch.no_grad(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            peer_loss(to_device(batch, torch.device(args.device)))
        return counter.get_total_flops()

    our_parts: dict[str, Any] = {
        "model": ours,
        "optimizer": make_optimizer(ours, OptimConfig()),
        "collate": OurCollator(processor),
        "loss": our_loss,
        "flops": lambda batch: forward_flops(ours.config, batch),
        "count": lambda batch: count(batch, ours.config.stride),
    }
    return {
        "packed": Way(rows=packed, groups=[list(range(len(packed)))], **our_parts),
        "single": Way(rows=single, groups=groups, **our_parts),
        "peer": Way(
            rows=single,
            groups=groups,
            model=peer,
            optimizer=make_optimizer(peer, OptimConfig()),
            collate=PeerCollator(processor),
            loss=peer_loss,
            flops=peer_flops,
            count=count_peer,
        ),
    }


class OurCollator:
    def __init__(self, processor: OneLookProcessor) -> None:
        self.processor = processor

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        return self.processor.collate(*map(list, zip(*rows, strict=True)))


def num_tokens(batch: dict[str, Any]) -> int:
    return int((batch["labels"] != -100).sum())


@torch.no_grad()
def step_loss(way: Way, device: str) -> float:
    """Over all tokens of a step, in float32."""
    batches = [to_device(batch, torch.device(device)) for batch in way.batches()]
    return sum(float(way.loss(batch)) * num_tokens(batch) for batch in batches) / sum(map(num_tokens, batches))


def measure(way: Way, args: argparse.Namespace, precision: str, peak: float | None) -> dict[str, float]:
    """A round: what `vlm train` would log of its steps."""
    device = torch.device(args.device)
    loader = DataLoader(
        way.rows,
        batch_sampler=way.groups * (1 + args.steps),
        collate_fn=way.collate,
        num_workers=args.num_workers,
        worker_init_fn=_one_thread,
        pin_memory=device.type == "cuda",
    )
    tokens = sum(len(target.ids) for _, _, targets in way.rows.rows for target in targets)
    flops = way.step_flops  # the first round counts it, before the clock starts
    batches = iter(loader)
    throughput = Throughput(peak_flops=peak, device=device)
    for step in range(1 + args.steps):
        for _ in way.groups:
            with throughput.waiting():
                batch = next(batches)
            throughput.add(**way.count(batch))
            share = num_tokens(batch) / tokens
            batch = to_device(batch, device)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                loss = way.loss(batch)
            (loss * share).backward()
        nn.utils.clip_grad_norm_(way.model.parameters(), OptimConfig().max_grad_norm)
        way.optimizer.step()
        way.optimizer.zero_grad()
        throughput.add(flops=flops)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if step == 0:
            throughput.read()
    return throughput.read()


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


def count_peer(batch: dict[str, Any]) -> dict[str, int]:
    rows, positions = batch["labels"].shape
    return {
        "images": rows,
        "prompts": rows,
        "target_tokens": num_tokens(batch),
        "target_positions": rows * positions,
    }


def report(
    args: argparse.Namespace,
    ways: dict[str, Way],
    found: dict[str, list[dict[str, float]]],
    losses: dict[str, float],
    precision: str,
) -> None:
    samples = args.num_images * args.num_prompts

    def middle(key: str) -> dict[str, float]:
        return {name: statistics.median(row[key] for row in rows) for name, rows in found.items() if key in rows[0]}

    rates, waits, padding, mfu = map(middle, ("prompts_per_s", "data_wait", "target_padding", "mfu"))
    flops = {name: way.step_flops / samples / 1e9 for name, way in ways.items()}
    parameters = {name: num_parameters(way.model) for name, way in ways.items()}
    print_table(
        f"Training on {args.num_images} photos with {args.num_prompts} prompts each ({args.model.stem}, {precision})",
        ("way", "samples/s", "packed is", "slowest", "fastest", "waiting", "padding", "GFLOP/sample", "MFU", "weights"),
        [
            (
                name,
                f"{rate:.1f}",
                f"{rates['packed'] / rate:.2f}x",
                f"{min(row['prompts_per_s'] for row in found[name]):.1f}",
                f"{max(row['prompts_per_s'] for row in found[name]):.1f}",
                f"{waits[name]:.0%}",
                f"{padding[name]:.0%}",
                f"{flops[name]:.2f}",
                f"{mfu[name]:.1%}" if mfu else "-",
                f"{parameters[name] / 1e6:.2f} M",
            )
            for name, rate in rates.items()
        ],
        [
            "Waiting is the share of the time in which the model waits for data; padding is that of target positions.",
            *([] if mfu else ["No MFU: the peak of this device is not known (--peak-flops)."]),
        ],
    )
    print_json(
        {
            "benchmark": "train_throughput",
            "packed_vs_peer": rates["packed"] / rates["peer"],
            "packed_vs_single": rates["packed"] / rates["single"],
            "samples_per_s": rates,
            "data_wait": waits,
            "target_padding": padding,
            **({"mfu": mfu} if mfu else {}),
            "gflop_per_sample": flops,
            "parameters": parameters,
            "losses": losses,
            "precision": precision,
            "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
            "num_prompts": args.num_prompts,
            "num_images": args.num_images,
            "group_rows": max(map(len, ways["single"].groups)),
            "num_workers": args.num_workers,
            "samples_per_s_by_round": {name: [row["prompts_per_s"] for row in rows] for name, rows in found.items()},
            "model": args.model.stem,
            "peer": "Florence2ForConditionalGeneration",
            **machine(),
        }
    )


if __name__ == "__main__":
    raise SystemExit(main())
