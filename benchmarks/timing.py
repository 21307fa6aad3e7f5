"""How the benchmarks measure and report: interleaved rounds, medians, a table, and one JSON object as the last line."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table


def take_turns(ways: Mapping[str, Callable[[], Any]], *, repeats: int, warmup: int) -> dict[str, list[Any]]:
    """What every way returns, `repeats` times each after `warmup` that do not count.

    The ways take turns (a, b, c, a, b, c, ...), so that a machine that slows down or speeds up does so for all.
    """
    found: dict[str, list[Any]] = {name: [] for name in ways}
    for turn in range(warmup + repeats):
        for name, run in ways.items():
            start = time.perf_counter()
            value = run()
            taken = time.perf_counter() - start
            if turn >= warmup:
                found[name].append(value)
            print(f"round {turn - warmup + 1}/{repeats}  {name}  {taken:.3f} s", file=sys.stderr, flush=True)
    return found


def interleave(
    ways: Mapping[str, Callable[[], Any]],
    *,
    repeats: int,
    warmup: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of every way, taken in turns; with `time.process_time` as the clock other work on the machine does not
    count."""

    def timed(run: Callable[[], Any]) -> Callable[[], float]:
        def seconds() -> float:
            start = clock()
            run()
            return clock() - start

        return seconds

    return take_turns({name: timed(run) for name, run in ways.items()}, repeats=repeats, warmup=warmup)


def require_at_least(parser: argparse.ArgumentParser, args: argparse.Namespace, **least: int) -> None:
    """End with usage where an option is below its least value."""
    for name, value in least.items():
        if getattr(args, name) < value:
            parser.error(f"--{name.replace('_', '-')} is {getattr(args, name)}; expected at least {value}")


def medians(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in seconds.items()}


def machine() -> dict[str, Any]:
    """What a number was measured on."""
    return {
        "num_cpus": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "processor": _processor(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:  # only Linux has it
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> None:
    """The first column is a name, the others are numbers."""
    table = Table(title=title, title_justify="left")
    for index, name in enumerate(header):
        table.add_column(name, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.print(table)
    for note in notes:
        console.print(note, highlight=False)


def print_json(values: Mapping[str, Any]) -> None:
    """The last line of a benchmark: everything it found, floats to six digits."""

    def short(value: Any) -> Any:
        if isinstance(value, float):
            return float(f"{value:.6g}")
        if isinstance(value, Mapping):
            return {key: short(inner) for key, inner in value.items()}
        return [short(inner) for inner in value] if isinstance(value, (list, tuple)) else value

    print(json.dumps(short(values), allow_nan=False), flush=True)
