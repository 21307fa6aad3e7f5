"""Runs of several processes, and of the one that they are compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from tests.distributed.runs import STAGE, TWO_STEPS, train, write_config
from tests.vlm.conftest import garments, one_thread, tiny, tiny_model, tiny_processor

__all__ = ["garments", "one_thread", "tiny", "tiny_model", "tiny_processor"]


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """Accelerate keeps its settings for the life of the process; here each run is one of its own."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


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
