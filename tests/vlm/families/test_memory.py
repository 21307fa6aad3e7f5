"""What `vlm info` predicts of the memory of a Florence-2 and a T5Gemma 2, against what a process takes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, T5Gemma2ForConditionalGeneration

from benchmarks import random_t5gemma2
from benchmarks.random_florence2 import write_checkpoint
from tasks import TASKS
from vlm.cli import main
from vlm.families.t5gemma2_tokens import add_location_tokens

DESCRIBE = """
import sys
import vlm
from vlm.request import Request
from vlm.run_log import peak_memory
model = vlm.load(sys.argv[1], device="cpu")
[look] = model.encode([sys.argv[2]])
model.generate([Request(look, task, max_new_tokens=4) for task in ("detection", "caption")])
print(peak_memory(), model.info()["parameters"])
"""
"""The two prompts of `describe_outfit`, with few tokens: how many are said hardly matters."""

TOLERANCE = 0.2


def test_info(florence2_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(florence2_folder), "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert (info["family"], info["dtype"]) == ("florence2", "F32")
    assert info["tasks"] == ["caption", "grounding", "detection"]
    assert info["memory_bytes"] > 4 * info["parameters"]
    assert main(["info", str(florence2_folder)]) == 0
    assert "memory_bytes" in capsys.readouterr().out


def test_info_of_another_configuration(
    florence2_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in florence2_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["vision_config"]["patch_stride"] = "four"
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(["info", str(tmp_path)]) == 1
    assert "its configuration is not a Florence-2's" in capsys.readouterr().err


def describe(folder: Path, scratch: Path) -> tuple[int, int]:
    """Peak of a process that describes a photo, in bytes, and number of parameters."""
    Image.linear_gradient("L").resize((600, 800)).convert("RGB").save(scratch / "photo.png")
    done = subprocess.run(
        [sys.executable, "-c", DESCRIBE, str(folder), str(scratch / "photo.png")],
        capture_output=True,
        text=True,
        timeout=900,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == 0, done.stderr
    peak, parameters = map(int, done.stdout.split())
    return peak, parameters


@pytest.mark.slow
def test_a_base_checkpoint_describes_in_the_memory_that_is_predicted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_checkpoint(tmp_path / "base", base=True)
    assert main(["info", str(folder), "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    peak, parameters = describe(folder, tmp_path)
    assert 230e6 < parameters < 233e6
    assert abs(info["parameters"] - parameters) < 0.001 * parameters  # the file has buffers, too
    assert peak == pytest.approx(info["memory_bytes"], rel=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_t5gemma2_describes_in_the_memory_that_is_predicted(
    dtype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 155 million parameters, fine-tuned for our tasks, in either type of file."""
    folder = random_t5gemma2.write_checkpoint(tmp_path / "base", base=True)
    model = T5Gemma2ForConditionalGeneration.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    add_location_tokens(model, processor)
    model.config.vlm_tasks = list(TASKS)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    processor.save_pretrained(folder)
    del model
    assert main(["info", str(folder), "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["dtype"] == {"float32": "F32", "bfloat16": "BF16"}[dtype]
    peak, parameters = describe(folder, tmp_path)
    assert 154e6 < parameters == info["parameters"] < 157e6
    assert peak == pytest.approx(info["memory_bytes"], rel=TOLERANCE)


def test_info_of_a_t5gemma2(t5gemma2_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(t5gemma2_folder), "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert (info["family"], info["dtype"], info["tasks"]) == ("t5gemma2", "F32", ["caption"])
    assert info["memory_bytes"] > 4 * info["parameters"]
    shutil.copytree(t5gemma2_folder, tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    for part, changed in (("vision_config", {"patch_size": "four"}), ("text_config", {"vocab_size": None})):
        encoder = config["encoder"] | {part: config["encoder"][part] | changed}
        (tmp_path / "other" / "config.json").write_text(json.dumps(config | {"encoder": encoder}))
        assert main(["info", str(tmp_path / "other")]) == 1
        assert "other: its configuration is not a T5Gemma 2's" in capsys.readouterr().err
