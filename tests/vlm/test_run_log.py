"""What a run tells: metrics.jsonl, lines, and the bar of a terminal."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest
from rich.console import Console

from vlm.atomic import write_text
from vlm.run_log import RunLog, Throughput

VALUES = {"loss": 2.5, "learning_rate": 0.001, "loss/vqa": 1.25}


def console(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100)


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_lines_where_there_is_no_terminal(tmp_path: Path) -> None:
    out = console(terminal=False)
    with RunLog(tmp_path / "metrics.jsonl", 0, 40, console=out) as log:
        for step in range(1, 21):
            log.advance()
            if step % 10 == 0:
                log.write(step, VALUES)
        log.say("exported to [bold]runs/x[/bold]")
    assert shown(out).splitlines() == [
        "step 10/40  loss 2.5  learning_rate 0.001  vqa 1.25",
        "step 20/40  loss 2.5  learning_rate 0.001  vqa 1.25",
        "exported to [bold]runs/x[/bold]",
    ]


def test_long_lines_are_not_broken(tmp_path: Path) -> None:
    out = console(terminal=False)
    many = {f"validation/source/measure_{number}": number / 7 for number in range(30)}
    with RunLog(tmp_path / "metrics.jsonl", 0, 40, console=out) as log:
        log.write(10, many)
    assert len(shown(out).splitlines()) == 1


def test_a_bar_on_a_terminal(tmp_path: Path) -> None:
    out = console(terminal=True)
    with RunLog(tmp_path / "metrics.jsonl", 10, 40, console=out) as log:
        log.advance()
        log.write(11, VALUES | {"images_per_s": 81.7})
        log.write(11, {"validation/mine/vqa": 0.5}, periodic=False)
        for _ in range(29):
            log.advance()
    text = shown(out)
    assert "10/40" in text and "40/40" in text
    assert "loss 2.500  82 images/s" in text, "the newest numbers stand on the bar"
    assert "step 11/40  loss" not in text, "and not on lines of their own"
    assert "step 11/40  validation/mine/vqa 0.5" in text


def test_the_bar_ends_with_an_error(tmp_path: Path) -> None:
    out = console(terminal=True)
    with pytest.raises(ValueError, match="stop"), RunLog(tmp_path / "m.jsonl", 0, 40, console=out) as log:
        raise ValueError("stop")
    assert not log.progress.live.is_started
    assert shown(out).rstrip().endswith("\x1b[?25h"), "the cursor is back"


def test_every_number_goes_to_the_file(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    for terminal in (True, False):
        with RunLog(file, 10 if not terminal else 0, 40, console=console(terminal=terminal)) as log:
            log.write(20 if not terminal else 10, VALUES)
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert rows == [{"step": 10, **VALUES}, {"step": 20, **VALUES}]


def test_what_is_done_again_is_taken_out(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(f'{{"step": {step}, "loss": 1.0}}\n' for step in (2, 4, 4, 6)) + '{"step": 8, "lo')
    RunLog(file, 4, 10)
    assert [json.loads(line)["step"] for line in file.read_text(encoding="utf-8").splitlines()] == [2, 4, 4]
    RunLog(file, 0, 10)
    assert file.read_text(encoding="utf-8") == ""
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_throughput() -> None:
    clock = [time.perf_counter()]
    throughput = Throughput()
    with throughput.waiting():
        time.sleep(0.05)
    clock.append(time.perf_counter())
    time.sleep(0.05)
    clock.append(time.perf_counter())
    with throughput.paused():
        time.sleep(0.2)
    clock.append(time.perf_counter())
    throughput.add(images=3, prompts=12)
    throughput.add(images=3, prompts=12)
    values = throughput.read()
    waited, worked = clock[1] - clock[0], clock[2] - clock[0]
    assert values["images_per_s"] == pytest.approx(6 / worked, rel=0.1)
    assert values["prompts_per_s"] == pytest.approx(24 / worked, rel=0.1)
    assert values["data_wait"] == pytest.approx(waited / worked, rel=0.1)
    assert throughput.read()["images_per_s"] == 0.0


def test_texts_are_written_whole(tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    write_text(file, "crêpe: 裙子\n")
    write_text(file, "a: 1\n")
    assert file.read_text(encoding="utf-8") == "a: 1\n"
    assert [path.name for path in tmp_path.iterdir()] == ["train.yaml"]
