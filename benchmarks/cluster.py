"""What a GPU holds and how long a step takes, on 1 to 512 of them, computed: `python benchmarks/cluster.py`.

Memory: weights, gradients, moments, average, and ZeRO's own copy and buffers, by launch file. Activations come on top.
Beside it stands what DeepSpeed's estimators say, where it is installed: they are of 16-bit weights and gradients with
a copy in float32, and without an average of the weights.

Step time: the model's arithmetic at a share of the device's peak (`--mfu`, which `vlm train` logs), and what goes
between the GPUs, as if neither hid the other. Loading is not in it.

`--measure` also trains in two processes on a CPU, under every launch file, a small model and a larger one: what the
larger one takes more of a process's memory, divided by how many parameters it has more.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from outfits import ROOT, TINY, build_processor, draw_outfits
from tasks.base import Record
from timing import machine, print_json, print_table, require_at_least
from vlm.config import AugmentConfig, SourceConfig, StageConfig
from vlm.data.mixture import MixtureDataset, PackingCollator
from vlm.data.pictures import PhotoFiles
from vlm.data.records import write_jsonl
from vlm.flops import PEAK_FLOPS, forward_flops
from vlm.model import OneLookConfig, OneLookModel

LAUNCHES = ("multi_gpu", "zero1", "zero2", "zero3", "fsdp2")
WORLDS = (1, 8, 64, 512)
SIZES = ("base", "large")
"""Of configs/model/."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """Bytes a parameter that a process holds in a step, in float32 with autocast."""

    weights: float = 4
    gradients: float = 4
    moments: float = 8
    average: float = 4
    copy: float = 0

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.moments + self.average + self.copy


def held(launch: str, world: int) -> Held:
    part = 1 / world
    return {
        "multi_gpu": Held(),
        "zero1": Held(moments=8 * part, copy=4 * part),
        "zero2": Held(gradients=4 * part, moments=8 * part, copy=4 * part),
        "zero3": Held(weights=4 * part, gradients=4 * part, moments=8 * part, average=4 * part, copy=4 * part),
        # Weights and gradients are put together for a step, and their parts stay.
        "fsdp2": Held(weights=4 + 4 * part, gradients=4 + 4 * part, moments=8 * part, average=4 * part),
    }[launch]


def buffers(launch: str) -> float:
    """Bytes of a process, whatever the model and the number of GPUs: gradients on their way, of which stages 1 and 2
    fill one while the other is sent, and the layers that `zero3` has put together."""
    if not launch.startswith("zero"):
        return 0
    text = (ROOT / "launch" / "deepspeed" / f"{launch}.json").read_text(encoding="utf-8")
    settings = json.loads(text)["zero_optimization"]
    if settings["stage"] == 3:
        return 4.0 * (settings["reduce_bucket_size"] + settings["stage3_max_live_parameters"])
    return 4.0 * settings["reduce_bucket_size"] * (2 if settings["overlap_comm"] else 1)


def traffic(launch: str, world: int) -> float:
    """Bytes a parameter that a GPU sends in a step: gradients one way and weights, or sums, the other; under `zero3`
    the weights once more, for the backward pass."""
    return (12 if launch == "zero3" else 8) * (world - 1) / world


def estimates(parameters: int, largest_layer: int, world: int) -> dict[str, float] | None:
    """Bytes a GPU, by DeepSpeed's own estimators; None where it is not installed."""
    if importlib.util.find_spec("deepspeed") is None:
        return None
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    place = {"num_gpus_per_node": min(world, 8), "num_nodes": max(1, world // 8), "cpu_offload": False}
    _, zero2 = estimate_zero2_model_states_mem_needs(parameters, **place)
    _, zero3, _ = estimate_zero3_model_states_mem_needs(parameters, largest_layer, cpu_offload_params=False, **place)
    return {"zero2": zero2, "zero3": zero3}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Memory and step time on many GPUs, computed; memory measured too.")
    parser.add_argument("--num-images", type=int, default=32, help="images a step and GPU (default: %(default)s)")
    parser.add_argument("--num-prompts", type=int, default=6, help="prompts an image (default: %(default)s)")
    parser.add_argument("--gpu", default="H100", choices=list(PEAK_FLOPS), help="in bf16 (default: %(default)s)")
    parser.add_argument("--mfu", type=float, default=0.35, help="share of its peak (default: %(default)s)")
    parser.add_argument(
        "--node-gb-per-s", type=float, default=450, help="between GPUs of a node (default: %(default)s)"
    )
    parser.add_argument("--net-gb-per-s", type=float, default=50, help="a GPU, between nodes (default: %(default)s)")
    parser.add_argument("--measure", action="store_true", help="train in two processes too, under every launch file")
    parser.add_argument("--quick", action="store_true", help="a tiny model; measured is DDP alone: only a smoke test")
    args = parser.parse_args(argv)
    require_at_least(parser, args, num_images=1, num_prompts=1)
    for name in ("mfu", "node_gb_per_s", "net_gb_per_s"):
        if getattr(args, name) <= 0:
            parser.error(f"--{name.replace('_', '-')} is {getattr(args, name)}; expected more than 0")

    sizes = {"tiny": TINY} if args.quick else {name: ROOT / "configs" / "model" / f"{name}.yaml" for name in SIZES}
    found: dict[str, Any] = {"memory_gb": {}, "estimated_gb": {}, "step_s": {}, "parameters": {}}
    with tempfile.TemporaryDirectory() as folder:
        records = write_photos(Path(folder))
        for name, file in sizes.items():
            report_size(args, name, empty_model(yaml.safe_load(file.read_text(encoding="utf-8"))), records, found)
        if args.measure:
            try:
                found |= report_measured(args, Path(folder))
            except subprocess.CalledProcessError as error:
                parser.exit(1, f"cluster.py: {error}\n{error.stderr}")
    options = {name: getattr(args, name) for name in ("num_images", "num_prompts", "gpu", "mfu")}
    print_json({"benchmark": "cluster", **found, **options, **machine()})
    return 0


# -- computed ------------------------------------------------------------------------------------------


def empty_model(shape: Mapping[str, Any]) -> OneLookModel:
    """Of which only the shapes are there."""
    with torch.device("meta"):
        return OneLookModel(OneLookConfig(**shape))


def num_parameters(model: OneLookModel) -> int:
    return sum(value.numel() for value in model.parameters())


def write_photos(folder: Path) -> list[Record]:
    """Outfits as JPEG files, with folder/records.jsonl."""
    records = []
    for index, item in enumerate(draw_outfits(4)):
        item.image.save(folder / f"{index}.jpg", quality=90)
        records.append(replace(item.record, image=str(folder / f"{index}.jpg")))
    write_jsonl(records, folder / "records.jsonl")
    return records


def report_size(
    args: argparse.Namespace, name: str, model: OneLookModel, records: Sequence[Record], found: dict[str, Any]
) -> None:
    parameters = num_parameters(model)
    layers = [sum(p.numel() for p in module.parameters(recurse=False)) for module in model.modules()]
    estimated = {world: estimates(parameters, max(layers), world) for world in WORLDS}
    memory = {
        launch: {n: (held(launch, n).total * parameters + buffers(launch)) / 1e9 for n in WORLDS} for launch in LAUNCHES
    }
    rows = [(launch, *(f"{memory[launch][n]:.2f}" for n in WORLDS)) for launch in LAUNCHES]
    known = {n: values for n, values in estimated.items() if values is not None}
    for stage in ("zero2", "zero3") if known else ():
        rows.append((f"{stage}, as DeepSpeed estimates", *(f"{values[stage] / 1e9:.2f}" for values in known.values())))
    header = ("launch", *(str(n) for n in WORLDS))
    print_table(f"{name}, {parameters:,} parameters: GB a GPU without activations, by number of GPUs", header, rows)

    images = training_flops_of_image(model.config, records, args.num_prompts)
    computing = args.num_images * images / (args.mfu * PEAK_FLOPS[args.gpu]["bf16"])

    def seconds(launch: str, world: int) -> float:
        rate = args.node_gb_per_s if world <= 8 else args.net_gb_per_s
        return computing + traffic(launch, world) * parameters / (1e9 * rate)

    steps = {launch: {n: seconds(launch, n) for n in WORLDS} for launch in LAUNCHES}
    print_table(
        f"{name}: milliseconds a step of {args.num_images} images a GPU, {images / 1e9:.0f} GFLOP each",
        header,
        [(launch, *(f"{1e3 * steps[launch][n]:.0f}" for n in WORLDS)) for launch in LAUNCHES],
        notes=[f"{args.gpu} at an MFU of {args.mfu:.0%}; {args.node_gb_per_s:g} and {args.net_gb_per_s:g} GB/s"],
    )
    found["parameters"][name] = parameters
    found["memory_gb"][name], found["step_s"][name] = memory, steps
    found["estimated_gb"][name] = {n: {k: v / 1e9 for k, v in values.items()} for n, values in known.items()}


def training_flops_of_image(shape: OneLookConfig, records: Sequence[Record], num_prompts: int) -> float:
    """Mean of some portraits at the shape's own patch budget."""
    stage = StageConfig(patch_budget=shape.patch_budget, prompts_per_image=num_prompts)
    processor = build_processor(shape, draw_outfits(4))
    dataset = MixtureDataset(
        {"drawn": PhotoFiles(records)},
        {"drawn": SourceConfig(reader="jsonl", path="records.jsonl")},
        processor,
        lambda _: stage,
        AugmentConfig(crop=0),
        seed=0,
        num_positions=len(records),
    )
    batch = PackingCollator(processor)([dataset[position] for position in range(len(records))])
    return 3 * forward_flops(shape, batch) / len(records)


# -- measured ------------------------------------------------------------------------------------------


def report_measured(args: argparse.Namespace, folder: Path) -> dict[str, dict[str, float]]:
    """Bytes a parameter of a process of two, by launch, and the loss of the larger model, which is to be the same."""
    launches = [name for name in LAUNCHES if importlib.util.find_spec("deepspeed") or not name.startswith("zero")]
    launches = launches[:1] if args.quick else launches
    tiny = yaml.safe_load(TINY.read_text(encoding="utf-8"))
    larger = tiny | ({"hidden_size": 128} if args.quick else {"hidden_size": 640, "num_decoder_layers": 8})
    more = num_parameters(empty_model(larger)) - num_parameters(empty_model(tiny))
    measured, losses = {}, {}
    for launch in launches:
        (small, _), (large, losses[launch]) = (trained(folder, launch, shape) for shape in (tiny, larger))
        measured[launch] = (large - small) / more
    computed = {launch: held(launch, 2).total + buffers(launch) / more for launch in launches}
    print_table(
        f"Two processes on a CPU: most bytes a parameter until the end of a step, {more:,} parameters",
        ("launch", "computed", "measured", "loss of step 3"),
        [(name, f"{computed[name]:.1f}", f"{measured[name]:.1f}", f"{losses[name]:.6f}") for name in launches],
    )
    return {"measured_bytes": measured, "computed_bytes": computed, "loss": losses}


def trained(folder: Path, launch: str, shape: dict[str, Any]) -> tuple[float, float]:
    """Most bytes that one of two processes has held by the end of the third step, and the loss of that step.

    Raises:
        CalledProcessError: training failed.
    """
    run = folder / f"{launch}_{shape['hidden_size']}"
    config = {
        "output_dir": str(run),
        "model": str(run.with_suffix(".yaml")),
        "cpu": True,
        "mixed_precision": "no",
        "num_steps": 3,
        "batch_size": 2,
        "log_every": 1,
        "save_every": 0,
        "trackers": [],
        "optim": {"schedule": "cosine"},
        "data": {
            "num_workers": 0,
            "stages": [{"patch_budget": 12, "prompts_per_image": 1, "max_target_tokens": 24}],
            "sources": {"drawn": {"reader": "jsonl", "path": str(folder / "records.jsonl")}},
        },
    }
    run.with_suffix(".yaml").write_text(yaml.safe_dump(shape), encoding="utf-8")
    file = run.with_suffix(".train.yaml")
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    print(f"training under {launch}, width {shape['hidden_size']}", file=sys.stderr, flush=True)
    words = [sys.executable, "-m", "vlm", "train", str(file), "--launch", launch, "--num-processes", "2"]
    # Memory that is freed goes back at once, so that what is held counts and not what once was.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    subprocess.run(words, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return 1e9 * float(rows[-1]["peak_memory_gb"]), float(rows[-1]["loss"])


if __name__ == "__main__":
    raise SystemExit(main())
