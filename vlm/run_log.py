"""What a training run tells while it goes on: metrics.jsonl, and log lines or, in a terminal, a progress bar."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers.utils import logging as transformers_logging

from vlm.atomic import write_text
from vlm.show import make_console

__all__ = ["MEASURED", "RunLog", "Throughput", "learning_rates", "no_other_bars", "peak_memory"]

_ON_THE_BAR = {"loss": "loss {:.3f}", "images_per_s": "{:.0f} images/s"}
"""There is no room for more on one line; metrics.jsonl has the rest."""
_RATES = {
    "images": "images_per_s",
    "prompts": "prompts_per_s",
    "target_tokens": "target_tokens_per_s",
    "image_tokens": "image_tokens_per_s",
}
"""What `Throughput` counts -> what it gives."""
_ONLY_IN_THE_FILE = ("target_tokens_per_s", "image_tokens_per_s", "target_padding", "image_padding", "peak_memory_gb")
MEASURED = frozenset({*_RATES.values(), *_ONLY_IN_THE_FILE, "data_wait", "mfu"})
"""What depends on the machine, and on how a batch is split over processes, where the rest is the run's own."""


class RunLog:
    """Writes to metrics.jsonl and to the console. A context: the bar ends with it.

    Args:
        file: metrics.jsonl. What it says about steps after `first_step` is taken out: those will be done again.
        first_step: where the run starts or goes on.
        num_steps: where it ends.
        console: None for standard output.
    """

    def __init__(self, file: Path, first_step: int, num_steps: int, *, console: Console | None = None) -> None:
        self.file = file
        self.num_steps = num_steps
        self.console = console or make_console()
        self.progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[shown]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.bar = self.progress.add_task("train", total=num_steps, completed=first_step, shown="")
        _drop_steps_after(first_step, file)

    def __enter__(self) -> RunLog:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.progress.stop()

    def advance(self) -> None:
        """One step is done."""
        self.progress.advance(self.bar)

    def write(self, step: int, values: Mapping[str, float], *, periodic: bool = True) -> None:
        """A row of numbers of `step`; the bar takes up those that come again and again."""
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if periodic and self.console.is_terminal:
            shown = [text.format(values[name]) for name, text in _ON_THE_BAR.items() if name in values]
            self.progress.update(self.bar, shown="  ".join(shown))
        else:
            told = [
                f"{name.removeprefix('loss/')} {value:.4g}"
                for name, value in values.items()
                if name not in _ONLY_IN_THE_FILE and not name.startswith("learning_rate/")
            ]
            self.say("  ".join([f"step {step}/{self.num_steps}", *told]))

    def say(self, text: str) -> None:
        """A line of its own, above the bar where there is one."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
        self.console.file.flush()


def _drop_steps_after(step: int, file: Path) -> None:
    if not file.is_file():
        return
    kept = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # a kill in the middle of the last line
            continue
        if row["step"] <= step:
            kept.append(line + "\n")
    write_text(file, "".join(kept))


class Throughput:
    """What all processes together get through in a second, and what of it is of use.

    Args:
        gather: a list of one item -> a list of the items of all processes (`accelerate.utils.gather_object`).
        peak_flops: operations a second of one device at most (see `vlm.flops`); None where it is not known.
        device: whose memory is told.
    """

    def __init__(
        self,
        gather: Callable[[list[Any]], list[Any]] = list,
        *,
        peak_flops: float | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.gather, self.peak_flops, self.device = gather, peak_flops, device
        self._reset()

    def _reset(self) -> None:
        self.start = time.perf_counter()
        self.waited = 0.0
        self.counts: Counter[str] = Counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """For data."""
        start = time.perf_counter()
        yield
        self.waited += time.perf_counter() - start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time that is none of the training's."""
        start = time.perf_counter()
        yield
        self.start += time.perf_counter() - start

    def add(self, **counts: int) -> None:
        """What this process has done: see `vlm.batches.count`, and `flops`."""
        self.counts.update(counts)

    def read(self) -> dict[str, float]:
        """Since the last reading; for all processes together.

        Rates are sums over the processes, `data_wait` is a share of the time of all of them, `target_padding` and
        `image_padding` are shares of the decoder's positions and of the image tokens, `peak_memory_gb` is that of the
        process with most (10^9 bytes, since it started; with a GPU what is allocated there), and `mfu` is the share
        of `peak_flops`, where that and the step's arithmetic are known.
        """
        own = {"seconds": time.perf_counter() - self.start, "waited": self.waited, **self.counts}
        all_of_them = self.gather([(own, peak_memory(self.device))])
        total: Counter[str] = Counter()
        for counts, _ in all_of_them:
            total.update(counts)
        seconds = total["seconds"] / len(all_of_them)
        values = {name: total[counted] / seconds for counted, name in _RATES.items()}
        values["data_wait"] = total["waited"] / total["seconds"]
        for kind in ("target", "image"):
            if total[f"{kind}_positions"]:
                values[f"{kind}_padding"] = 1 - total[f"{kind}_tokens"] / total[f"{kind}_positions"]
        memory = [peak for _, peak in all_of_them if peak is not None]
        if memory:
            values["peak_memory_gb"] = max(memory) / 1e9
        if self.peak_flops and total["flops"]:
            values["mfu"] = total["flops"] / total["seconds"] / self.peak_flops
        self._reset()
        return values


def peak_memory(device: torch.device | None = None) -> int | None:
    """Most bytes that this process has held: on its GPU, or in main memory; None where the system does not tell."""
    if device is not None and device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.is_file():  # on Linux ru_maxrss begins with what the process that started this one has held
        lines = status.read_text(encoding="utf-8").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def learning_rates(groups: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of an optimizer's groups: the first one's, and where they differ every group's under its `name`, or number."""
    rates = {"learning_rate": groups[0]["lr"]}
    if any(group["lr"] != groups[0]["lr"] for group in groups):
        rates |= {f"learning_rate/{group.get('name', index)}": group["lr"] for index, group in enumerate(groups)}
    return rates


@contextmanager
def no_other_bars() -> Iterator[None]:
    """Without those that transformers shows while it reads or writes a model."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
