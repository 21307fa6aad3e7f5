"""`vlm info`: what a checkpoint directory holds, whole or broken."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import vlm
from vlm.cli import main


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "onelook", "hidden_size": 8, "vocab_size": 30}))
    save_file({"a": np.zeros((2, 3), np.float16), "b": np.zeros(4, np.float32)}, folder / "model.safetensors")
    return folder


def test_info(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(checkpoint), "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert (info["family"], info["parameters"], info["dtype"]) == ("onelook", 10, "F16, F32")
    assert (info["hidden_size"], info["calibrated"]) == (8, False)
    assert info["weights_bytes"] == (checkpoint / "model.safetensors").stat().st_size
    assert main(["info", str(checkpoint)]) == 0
    assert "parameters" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "no config.json in it"),
        ("config.json", b"{", "is not JSON"),
        ("config.json", b"[]", "expected a JSON object, found list"),
        ("model.safetensors", None, "no *.safetensors in it"),
        ("model.safetensors", b"\xff" * 20, "is damaged or not a safetensors file"),
    ],
)
def test_info_of_a_broken_checkpoint(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes | None, message: str
) -> None:
    (checkpoint / name).unlink()
    if content is not None:
        (checkpoint / name).write_bytes(content)
    assert main(["info", str(checkpoint)]) == 1
    assert message in capsys.readouterr().err


def test_a_reader_that_has_enough_ends_the_run_quietly(checkpoint: Path) -> None:
    code = "import sys; from vlm.cli import main; sys.stdin.readline(); sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "info", str(checkpoint), "--json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(vlm.__file__).parent.parent,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stdin.write(b"go\n")
    process.stdin.close()
    assert b"Error" not in process.stderr.read()
    process.stderr.close()
    assert process.wait() == 1
