"""What a run tells: metrics.jsonl, lines, and the bar of a terminal."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest
from rich.console import Console

from vlm.atomic import write_text
from vlm.run_log import MEASURED, RunLog, Throughput, learning_rates, peak_memory

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


def test_what_few_look_for_is_only_in_the_file(tmp_path: Path) -> None:
    out, file = console(terminal=False), tmp_path / "metrics.jsonl"
    measured = dict.fromkeys(MEASURED, 0.5) | {"learning_rate/tower": 0.1}
    with RunLog(file, 0, 40, console=out) as log:
        log.write(10, VALUES | measured)
    [line] = shown(out).splitlines()
    assert "images_per_s 0.5" in line and "mfu 0.5" in line
    for name in ("padding", "memory", "tokens_per_s", "tower"):
        assert name not in line
    assert json.loads(file.read_text(encoding="utf-8")) == {"step": 10, **VALUES, **measured}


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


def test_shares_and_sums_over_processes() -> None:
    """This process, and another that did half as much, waited all the time, and holds more."""
    others: list[tuple[dict[str, float], int]] = [
        (
            {"seconds": 4.0, "waited": 4.0, "images": 2, "target_tokens": 10, "target_positions": 10}
            | {"image_tokens": 20, "image_positions": 40, "flops": 100},
            10**15,
        )
    ]
    throughput = Throughput(lambda own: own + others, peak_flops=10.0)
    throughput.start -= 4.0
    throughput.add(images=4, target_tokens=20, target_positions=30, image_tokens=40, image_positions=40, flops=60)
    values = throughput.read()
    assert values == {
        "images_per_s": pytest.approx(6 / 4, rel=0.01),
        "prompts_per_s": 0.0,
        "target_tokens_per_s": pytest.approx(30 / 4, rel=0.01),
        "image_tokens_per_s": pytest.approx(60 / 4, rel=0.01),
        "data_wait": pytest.approx(0.5, rel=0.01),
        "target_padding": pytest.approx(0.25),
        "image_padding": pytest.approx(0.25),
        "peak_memory_gb": pytest.approx(10**6),
        "mfu": pytest.approx(160 / 8 / 10, rel=0.01),
    }
    assert values.keys() == MEASURED


def test_no_share_of_a_peak_that_nobody_knows() -> None:
    throughput = Throughput()
    throughput.add(images=1, flops=10)
    assert "mfu" not in throughput.read()
    throughput = Throughput(peak_flops=10.0)
    throughput.add(images=1, flops=0)  # not known, as where some weights are not trained
    assert "mfu" not in throughput.read()


def test_peak_memory_rises_with_what_is_held() -> None:
    before = peak_memory()
    if before is None:
        pytest.skip("the system does not tell")
    assert before > 50e6, "bytes: Python with torch alone takes more"
    # More than whatever the process has had at its peak.
    held = bytearray(b"x") * (before + 64 * 2**20)
    assert before + 64 * 2**20 <= peak_memory() < 4 * before + 2**30  # type: ignore[operator]
    del held


def test_learning_rates_of_groups() -> None:
    assert learning_rates([{"lr": 0.1}, {"lr": 0.1}]) == {"learning_rate": 0.1}
    assert learning_rates([{"lr": 0.1, "name": "rest"}, {"lr": 0.01, "name": "tower"}, {"lr": 0.1}]) == {
        "learning_rate": 0.1,
        "learning_rate/rest": 0.1,
        "learning_rate/tower": 0.01,
        "learning_rate/2": 0.1,
    }


def test_texts_are_written_whole(tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    write_text(file, "crêpe: 裙子\n")
    write_text(file, "a: 1\n")
    assert file.read_text(encoding="utf-8") == "a: 1\n"
    assert [path.name for path in tmp_path.iterdir()] == ["train.yaml"]
