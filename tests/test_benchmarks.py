"""The benchmarks run, and end with one JSON object. How fast anything is depends on the machine and is not tested."""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tasks.base import ObjectLabel, Record, TextLabel
from tasks.boxes import Box
from tasks.results import Attributes, Garment, Outfit, Value
from vlm.data.records import write_jsonl

ROOT = Path(__file__).parent.parent


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    # One thread: threads that wait for one another on a busy machine take minutes over a tiny model.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, f"benchmarks/{script}", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for inner in value.values() for number in numbers(inner)]
    if isinstance(value, list):
        return [number for inner in value for number in numbers(inner)]
    return [value] if isinstance(value, (int, float)) else []


def last_line(done: subprocess.CompletedProcess[str], *keys: str) -> dict[str, Any]:
    """The JSON object at the end, in which these keys hold finite positive numbers."""
    assert done.returncode == 0, done.stderr
    *table, last = done.stdout.splitlines()
    assert table
    found = json.loads(last)
    for key in keys:
        values = numbers(found[key])
        assert values, key
        assert all(math.isfinite(number) and number > 0 for number in values), key
    return found


def write_coats(folder: Path, colours: Sequence[str]) -> Path:
    """Records of pictures of one colour each, every second one for validation."""
    rows = []
    for number, colour in enumerate(colours):
        Image.new("RGB", (48, 64), colour).save(folder / f"{number}.png")
        coat = ObjectLabel(label="coat", box=Box(2, 3, 40, 60), attributes={"colour": (colour,)})
        rows.append(
            Record(
                id=f"{number}",
                image=str(folder / f"{number}.png"),
                image_size=(64, 48),
                objects=(coat,),
                captions=(TextLabel(text=f"A {colour} coat."),),
                objects_complete=True,
                boxes_complete=True,
                split="validation" if number % 2 else "train",
            )
        )
    write_jsonl(rows, folder / "records.jsonl")
    return folder / "records.jsonl"


def test_packing() -> None:
    done = run("packing.py", "--quick")
    found = last_line(done, "packed_vs_single", "packed_vs_repeated", "samples_per_s", "num_prompts", "losses")
    assert found["num_prompts"] == 8
    assert set(found["samples_per_s"]) == {"packed", "single", "repeated", "single_sorted", "repeated_sorted"}
    assert found["max_loss_difference"] < 1e-3
    assert "the same in float32" in done.stdout


def test_train_throughput() -> None:
    done = run("train_throughput.py", "--quick", "--peak-flops", "1e12")
    found = last_line(done, "packed_vs_peer", "packed_vs_single", "samples_per_s", "mfu", "losses", "data_wait")
    assert set(found["samples_per_s"]) == {"packed", "single", "peer"}
    assert found["losses"]["packed"] == pytest.approx(found["losses"]["single"], abs=1e-4)
    assert found["parameters"]["packed"] == found["parameters"]["single"]
    assert 0.75 < found["parameters"]["peer"] / found["parameters"]["packed"] < 1.25
    # An image that is encoded once for eight prompts is fewer operations than one that is encoded eight times.
    assert found["gflop_per_sample"]["packed"] < 0.8 * found["gflop_per_sample"]["single"]
    assert "waiting" in done.stdout


def test_scaling() -> None:
    found = last_line(run("scaling.py", "--quick"), "efficiency", "images_per_s", "loader_images_per_s")
    assert set(found["images_per_s"]) == set(found["efficiency"]) == {"1", "2"}
    assert found["efficiency"]["1"] == 1
    assert {"pillow", "draft", "whole"} <= set(found["loader_images_per_s"])
    assert found["difference"]["pillow"] == 0
    # Of 255: another way to the same picture, not another picture.
    assert max(found["difference"].values()) < 3


def test_cluster() -> None:
    found = last_line(run("cluster.py", "--quick", "--measure"), "memory_gb", "step_s", "measured_bytes")
    assert set(found["measured_bytes"]) == {"multi_gpu"}
    memory, parameters = found["memory_gb"]["tiny"], found["parameters"]["tiny"]
    assert memory["multi_gpu"]["512"] == pytest.approx(20e-9 * parameters, rel=1e-5)
    # A part of the model, and buffers that are the same for any number.
    parts = [memory["zero3"][num] - memory["zero3"]["512"] for num in ("1", "8")]
    assert parts == pytest.approx([24e-9 * parameters * (1 / n - 1 / 512) for n in (1, 8)], rel=1e-3)


def test_scaling_md_says_what_is_computed() -> None:
    """Its table of memory, from the formula of benchmarks/cluster.py."""
    done = run("cluster.py")
    memory = last_line(done, "memory_gb")["memory_gb"]
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    for launch, values in memory["base"].items():
        cells = [f"{sizes[num]:.2f}" for sizes in (values, memory["large"][launch]) for num in ("8", "64", "512")]
        assert f"| `{launch}` | {' | '.join(cells)} |" in text


def test_wardrobe() -> None:
    found = last_line(run("wardrobe.py", "--quick"), "images_per_s", "written_vs_drawn", "decoded_vs_drawn", "rates")
    assert set(found["rates"]) == {"drawn", "written", "decoded"}


@pytest.mark.parametrize("num_garments", [8, 0])
def test_describe(num_garments: int) -> None:
    done = run("describe.py", "--quick", "--num-garments", str(num_garments))
    found = last_line(
        done,
        "reuse_vs_prompt_by_prompt",
        "tokens_per_s_vs_transformers",
        "tokens_per_s_vs_transformers_scored",
        "seconds_per_photo",
        "tokens_per_s",
        "num_prompts",
    )
    assert found["num_garments"] == num_garments
    assert num_garments == 0 or found["num_prompts"] == 2 + num_garments
    assert "The answers are the same" in done.stdout
    assert "The tokens are the same" in done.stdout


@pytest.mark.parametrize("num_beams", [1, 3])
def test_families(num_beams: int) -> None:
    done = run("families.py", "--quick", "--num-beams", str(num_beams))
    found = last_line(done, "ours_vs_transformers", "ours_vs_transformers_batch", "seconds_per_photo", "parameters")
    assert (found["family"], found["num_prompts"], found["num_beams"]) == ("florence2", 8, num_beams)
    assert set(found["seconds_per_photo"]["3 photos"]) == {"vlm", "transformers"}
    assert "The tokens are the same" in done.stdout


def test_described(tmp_path: Path) -> None:
    records = write_coats(tmp_path, ["red", "blue"])
    done = run("described.py", "--records", str(records), "--draw", str(tmp_path / "drawn"))
    found = last_line(done, "num_photos", "named", "annotated")
    assert (found["num_photos"], found["annotated"]) == (2, 2)
    assert found["exact"] + found["family"] + found["missed"] == 2
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["0.png", "1.png"]


def test_described_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A word is right once, its family counts where the word itself is not named, and a colour where it is."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    compare = importlib.import_module("described").compare

    def worn(label: str, *colours: str) -> ObjectLabel:
        return ObjectLabel(label=label, attributes={"colour": colours} if colours else {})

    def named(label: str, colour: str) -> Garment:
        return Garment(label=label, attributes=Attributes(values={"colour": Value(values=(colour,))}))

    record = Record(
        id="1", image="1.png", image_size=(64, 48), objects=(worn("coat", "tan", "black"), worn("boots"), worn("bag"))
    )
    outfit = Outfit(
        summary="", garments=(named("coat", "black"), named("coat", "tan"), named("heels", "red"), named("bag", "red"))
    )
    assert compare(outfit, record) == {
        "named": 4, "annotated": 3, "exact": 2, "coloured": 1, "colour_right": 1, "family": 1, "missed": 0
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("packing.py", "--quick", "--num-prompts", "1000"), "--num-prompts is 1000"),
        (("train_throughput.py", "--quick", "--num-prompts", "1000"), "--num-prompts is 1000"),
        (("scaling.py", "--processes", "2"), "--processes is [2]; expected 1, to compare with"),
        (("describe.py", "--checkpoint", "./missing"), "./missing: no such directory"),
        (("describe.py", "--quick", "--photos", "missing.jpg"), "missing.jpg: no such file"),
        (
            ("families.py", "--quick", "--max-new-tokens", "8", "--num-beams", "0"),
            "--num-beams is 0; expected at least 1",
        ),
    ],
)
def test_what_is_wrong_is_said(arguments: tuple[str, ...], error: str) -> None:
    done = run(*arguments)
    assert done.returncode
    assert error in done.stderr
    assert "Traceback" not in done.stderr


def test_ablations(tmp_path: Path) -> None:
    """Runs of a few steps; what is there is read, not run again."""
    records = write_coats(tmp_path, ["red", "blue", "green", "black", "white", "pink"])
    source = {"reader": "jsonl", "path": str(records)}
    base = {
        "output_dir": str(tmp_path / "runs"),
        "model": "configs/model/tiny.yaml",
        "tokenizer": "vlm/embedded",
        "shape": {"vocab_size": 6144, "first_location_id": 4120},
        "num_steps": 3,
        "batch_size": 4,
        "cpu": True,
        "tensorboard": False,
        "data": {
            "num_workers": 0,
            "stages": [{"patch_budget": 12, "prompts_per_image": 3}],
            "sources": {"mine": source},
        },
        "optim": {"warmup_steps": 1},
    }
    config = tmp_path / "ablations.yaml"
    variants = {"base": {}, "the same": {"log_every": 1}, "other": {"data.stages.0.prompts_per_image": 1}}
    settings = {"base": base, "variants": variants, "validation": {"mine": source}, "prompts_per_record": 4}
    config.write_text(json.dumps(settings), encoding="utf-8")
    found = last_line(run("ablations.py", str(config)), "loss", "loss_not_averaged", "loss_by_task", "seconds")
    assert set(found["loss"]) == set(variants)
    assert found["difference"]["the same"] == [0, 0, 0]
    assert found["difference"]["other"][0] == pytest.approx(found["loss"]["other"] - found["loss"]["base"], abs=1e-5)
    assert found["difference"]["other"][1] <= found["difference"]["other"][0] <= found["difference"]["other"][2]
    again = last_line(run("ablations.py", str(config), "--only", "other"), "loss")
    assert again["seconds"]["other"] == found["seconds"]["other"]
    done = run("ablations.py", str(config), "--only", "nothing")
    assert done.returncode == 2 and "there is no variant 'nothing'; known: base, the same, other" in done.stderr
