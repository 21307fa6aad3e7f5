"""`make demo` without and with a photo."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlm import demo
from vlm.images import open_image


def test_demo_takes_the_drawn_person_or_a_photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(demo, "run_cli", lambda argv: calls.append(list(argv)) or 0)
    monkeypatch.chdir(tmp_path)
    assert demo.main([""]) == 0
    assert demo.main(["--", "my photo.jpg"]) == 0
    assert calls == [
        ["describe", "--draw", "outputs/demo.png", "--", str(demo.PERSON)],
        ["describe", "--draw", "outputs/demo.png", "--", "my photo.jpg"],
    ]


def test_the_drawn_person_is_the_wardrobes() -> None:
    image = open_image(demo.PERSON)
    assert max(image.size) == 560
    assert image.height > image.width
