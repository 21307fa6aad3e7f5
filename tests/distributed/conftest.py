"""Runs of several processes, and of the one that they are compared with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.distributed.runs import STAGE, TWO_STEPS, train, write_config
from tests.vlm.conftest import fresh_accelerator, garments, one_thread, tiny, tiny_model, tiny_processor

__all__ = ["fresh_accelerator", "garments", "one_thread", "tiny", "tiny_model", "tiny_processor"]


@pytest.fixture(autouse=True)
def one_run(fresh_accelerator: None) -> None:
    """Each test."""


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, garments: Path) -> Callable[[dict[str, int]], Path]:
    """Stage -> two steps of one process with the whole batch."""
    made: dict[int, Path] = {}

    def make(stage: dict[str, int] = STAGE) -> Path:
        key = stage["prompts_per_image"]
        if key not in made:
            made[key] = train(write_config(tmp_path_factory.mktemp("whole"), garments, stage=stage, **TWO_STEPS), num=1)
        return made[key]

    return make
