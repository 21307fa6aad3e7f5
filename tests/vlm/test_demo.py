"""`make demo` without and with a photo."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from vlm import demo


def test_demo_takes_the_astronaut_or_a_photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("skimage")
    calls: list[list[str]] = []
    monkeypatch.setattr(demo, "run_cli", lambda argv: calls.append(list(argv)) or 0)
    monkeypatch.chdir(tmp_path)
    assert demo.main([""]) == 0
    assert demo.main(["--", "my photo.jpg"]) == 0
    assert calls == [
        ["describe", "--draw", "outputs/demo.png", "--", "outputs/astronaut.png"],
        ["describe", "--draw", "outputs/demo.png", "--", "my photo.jpg"],
    ]
    with Image.open("outputs/astronaut.png") as image:
        assert image.size == (512, 512)
