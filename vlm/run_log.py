"""What a training run tells while it goes on: metrics.jsonl, and log lines or, in a terminal, a progress bar."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers.utils import logging as transformers_logging

from vlm.atomic import write_text
from vlm.show import make_console

__all__ = ["RunLog", "Throughput", "no_other_bars"]

_ON_THE_BAR = {"loss": "loss {:.3f}", "images_per_s": "{:.0f} images/s"}
"""There is no room for more on one line; metrics.jsonl has the rest."""


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
            told = [f"{name.removeprefix('loss/')} {value:.4g}" for name, value in values.items()]
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
    """Images and prompts a second, and the share of the time that the model waited for data."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self.start = time.perf_counter()
        self.waited, self.images, self.prompts = 0.0, 0, 0

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

    def add(self, *, images: int, prompts: int) -> None:
        self.images += images
        self.prompts += prompts

    def read(self) -> dict[str, float]:
        """Since the last reading."""
        seconds = time.perf_counter() - self.start
        values = {
            "images_per_s": self.images / seconds,
            "prompts_per_s": self.prompts / seconds,
            "data_wait": self.waited / seconds,
        }
        self._reset()
        return values


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
