"""Training with prompts packed beside one image, against one prompt a row: `python benchmarks/packing.py`.

Ways to train the same model on the same images, prompts and targets, in prompt samples a second (forward, backward
and optimizer step, in the precision that the CPU is fast in):

- packed: all prompts of an image in one row, the image encoded once. This is what `vlm train` does.
- single: one prompt a row, the image encoded again for every prompt.
- repeated: one prompt a row, but the image encoded once and its features repeated for every prompt.

Rows of one prompt are padded in groups of as many rows as there are images: in the order in which they were drawn, as
plain loaders do, and once more sorted by length (single_sorted, repeated_sorted), which spares them most of their
padding. First the losses are compared in float32: they must agree, or nothing is measured. Pictures and texts are
tensors before the clock starts.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from outfits import ROOT, TINY, Drawn, build_model, build_processor, draw_outfits, draw_texts
from timing import interleave, machine, medians, print_json, print_table, require_at_least
from vlm.config import OptimConfig
from vlm.model import OneLookModel
from vlm.optim import make_optimizer
from vlm.precision import best_precision
from vlm.processor import OneLookProcessor

TOLERANCE = 1e-5
"""Between the losses. Other images in place of the right ones change the loss of untrained weights by only 5e-4."""

Loss = Callable[[OneLookModel], Tensor]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Training throughput: prompts packed beside one image against one prompt a row."
    )
    parser.add_argument("--model", type=Path, default=ROOT / "configs" / "model" / "small.yaml", help="a model's YAML")
    parser.add_argument("--num-images", type=int, default=32, help="images a step (default: %(default)s)")
    parser.add_argument("--num-prompts", type=int, default=8, help="prompts an image (default: %(default)s)")
    parser.add_argument("--patch-budget", type=int, default=108, help="image tokens (default: %(default)s)")
    parser.add_argument("--group-rows", type=int, help="rows of one prompt a group (default: as many as images)")
    parser.add_argument("--repeats", type=int, default=7, help="rounds that count (default: %(default)s)")
    parser.add_argument("--warmup", type=int, default=2, help="rounds before them (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a tiny model, two images, one round: only a smoke test")
    args = parser.parse_args(argv)
    if args.quick:
        args.model, args.num_images, args.patch_budget, args.repeats, args.warmup = TINY, 2, 24, 1, 1
    require_at_least(parser, args, num_images=1, num_prompts=1, patch_budget=1, repeats=1)

    drawn = draw_outfits(args.num_images)
    try:
        model = build_model(args.model)
        processor = build_processor(model.config, drawn)
        group_rows = args.group_rows or args.num_images
        batches = make_batches(processor, drawn, args.num_prompts, args.patch_budget, group_rows)
    except ValueError as error:
        parser.exit(1, f"packing.py: {error}\n")
    model.train()
    total = float(batches["packed"][0]["token_weights"].sum())
    losses: dict[str, list[Loss]] = {
        name: [repeated_loss(parts, total)]
        if name.startswith("repeated")
        else [batch_loss(batch, total) for batch in parts]
        for name, parts in batches.items()
    }
    with torch.no_grad():
        values = {name: sum(float(loss(model)) for loss in parts) for name, parts in losses.items()}
    difference = max(values.values()) - min(values.values())
    if not difference < TOLERANCE:
        parser.exit(1, f"packing.py: the ways do not give the same loss in float32: {values}\n")

    optimizer = make_optimizer(model, OptimConfig())
    seconds = interleave(
        {name: training_step(model, optimizer, parts) for name, parts in losses.items()},
        repeats=args.repeats,
        warmup=args.warmup,
    )
    report(args, model, batches, seconds, values, difference)
    return 0


def make_batches(
    processor: OneLookProcessor, drawn: Sequence[Drawn], num_prompts: int, patch_budget: int, group_rows: int
) -> dict[str, list[dict[str, Any]]]:
    """The same images, prompts and targets in each way's rows, as one batch (packed) or several.

    Those of `repeated` are those of `single`, but hold every image once and say in `rows` which of them a row is about.

    Raises:
        ValueError: more prompts than the outfits' labels give.
    """
    prompts, targets = draw_texts(processor, drawn, num_prompts)
    pixels = [processor.pixels(item.image, patch_budget) for item in drawn]
    single = [
        (image, prompt, target)
        for image, row in enumerate(zip(prompts, targets, strict=True))
        for prompt, target in zip(*row, strict=True)
    ]
    images = processor.collate_images(pixels)
    batches = {"packed": [processor.collate(pixels, prompts, targets)]}
    drawn_order, by_length = single, sorted(single, key=lambda row: (len(row[2].ids), len(row[1])))
    for suffix, rows in (("", drawn_order), ("_sorted", by_length)):
        groups = [rows[start : start + group_rows] for start in range(0, len(rows), group_rows)]
        batches[f"single{suffix}"] = [
            processor.collate([pixels[i] for i, _, _ in group], [[p] for _, p, _ in group], [[t] for _, _, t in group])
            for group in groups
        ]
        batches[f"repeated{suffix}"] = [
            {**batch, **images, "rows": torch.tensor([image for image, _, _ in group])}
            for batch, group in zip(batches[f"single{suffix}"], groups, strict=True)
        ]
    return batches


def batch_loss(batch: dict[str, Any], total: float) -> Loss:
    """A batch's share of the step's loss, whose tokens weigh `total`."""
    return lambda model: model(**batch).loss_sum / total


def repeated_loss(batches: Sequence[dict[str, Any]], total: float) -> Loss:
    """`OneLookModel.forward`, with the features of every image repeated in between."""

    def loss(model: OneLookModel) -> Tensor:
        features = model.encode_images(batches[0]["pixel_values"], batches[0]["image_index"])
        sums = []
        for batch in batches:
            memory = model.encode_prompts(
                features.select(batch["rows"]), batch["input_ids"], batch["segment_ids"], batch["position_ids"]
            )
            hidden_BTD = model.decode(
                batch["decoder_input_ids"], batch["decoder_segment_ids"], batch["decoder_position_ids"], memory
            )
            valid_BT = batch["labels"] != -100
            losses_N = model.token_losses(model.logits(hidden_BTD[valid_BT]), batch["labels"][valid_BT])
            sums.append((losses_N * batch["token_weights"][valid_BT]).sum())
        return torch.stack(sums).sum() / total

    return loss


def training_step(model: OneLookModel, optimizer: torch.optim.Optimizer, parts: Sequence[Loss]) -> Callable[[], None]:
    """As `vlm train` does it on a CPU; gradients of several parts add up to the step's."""
    max_grad_norm = OptimConfig().max_grad_norm

    def step() -> None:
        for loss in parts:
            with torch.autocast("cpu", torch.bfloat16, enabled=best_precision(cpu=True) == "bf16"):
                value = loss(model)
            value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()

    return step


def padding_share(batches: Sequence[dict[str, Any]]) -> float:
    """Of the target positions."""
    padded = sum(int((batch["decoder_segment_ids"] < 0).sum()) for batch in batches)
    return padded / sum(batch["decoder_segment_ids"].numel() for batch in batches)


def report(
    args: argparse.Namespace,
    model: OneLookModel,
    batches: dict[str, list[dict[str, Any]]],
    seconds: dict[str, list[float]],
    losses: dict[str, float],
    difference: float,
) -> None:
    samples = args.num_images * args.num_prompts
    rates = {name: samples / value for name, value in medians(seconds).items()}
    [packed] = batches["packed"]
    num_tokens = int((packed["labels"] != -100).sum())
    print_table(
        f"Training {args.model.stem} on {args.num_images} images with {args.num_prompts} prompts each",
        ("way", "samples/s", "packed is", "s/step", "fastest", "slowest", "padding"),
        [
            (
                name,
                f"{rates[name]:.1f}",
                f"{rates['packed'] / rates[name]:.2f}x",
                f"{samples / rates[name]:.3f}",
                f"{min(taken):.3f}",
                f"{max(taken):.3f}",
                f"{padding_share(batches[name]):.0%}",
            )
            for name, taken in seconds.items()
        ],
        [
            f"The losses are the same in float32: {losses['packed']:.4f}, at most {difference:.1e} apart.",
            f"{num_tokens / samples:.1f} target tokens a prompt; padding is the share of target positions.",
        ],
    )
    print_json(
        {
            "benchmark": "packing",
            **{f"packed_vs_{name}": rates["packed"] / rate for name, rate in rates.items() if name != "packed"},
            "precision": best_precision(cpu=True),
            "samples_per_s": rates,
            "num_prompts": args.num_prompts,
            "num_images": args.num_images,
            "group_rows": max(len(batch["input_ids"]) for batch in batches["single"]),
            "seconds_per_step": seconds,
            "losses": losses,
            "max_loss_difference": difference,
            "target_tokens_per_prompt": num_tokens / samples,
            "prompt_tokens_per_prompt": int((packed["segment_ids"] > 0).sum()) / samples,
            "target_padding": {name: padding_share(parts) for name, parts in batches.items()},
            "model": args.model.stem,
            "parameters": sum(weight.numel() for weight in model.parameters()),
            "image_pixels": list(packed["pixel_values"][0].shape[-2:]),
            "repeats": args.repeats,
            **machine(),
        }
    )


if __name__ == "__main__":
    raise SystemExit(main())
