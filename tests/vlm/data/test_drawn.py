"""Pictures drawn while a run goes on: the same ones at the same positions, wherever they are drawn."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from vlm.config import AugmentConfig, DataConfig, SourceConfig, StageConfig, TrainConfig
from vlm.data.drawn import NUM_TEXTS, DrawnPictures
from vlm.data.mixture import MixtureDataset, PackingCollator
from vlm.data.positions import Positions
from vlm.data.sources import read_sources, validation_records
from vlm.processor import OneLookProcessor

pytest.importorskip("skia", reason="drawing needs skia-python: pip install 'vlm[synthetic]'")

from vlm.synthetic.drawing import draw
from vlm.synthetic.held_out import held_out

NUM = 10


def one_source(**values: Any) -> DataConfig:
    return DataConfig(sources={"mine": SourceConfig(reader="wardrobe", **{"num": NUM, "size": 64, **values})})


def write_plan(folder: Path, *cells: dict[str, str]) -> str:
    file = folder / "plan.jsonl"
    file.write_text("".join(json.dumps({"cell": cell, "missing": 1}) + "\n" for cell in cells), encoding="utf-8")
    return str(file)


def test_items_are_the_wardrobes(tmp_path: Path) -> None:
    cells = [{"garment": "coat", "colour": "red"}, {"kind": "flat"}]
    pictures = read_sources(one_source(seed=3, plan=write_plan(tmp_path, *cells)))["mine"]
    assert len(pictures) == NUM
    for index in (0, 3, 4):
        image, record = pictures[index]
        expected = draw(3, index, size=64, cell=cells[index % 2])
        assert (image.tobytes(), record) == (expected.image.tobytes(), expected.record)
        assert record.split == "train"
    with pytest.raises(IndexError, match=f"picture {NUM} of {NUM}"):
        pictures[NUM]


def test_without_end_but_light() -> None:
    """What is sent to a worker does not grow with the number of pictures, and nothing is drawn before it is asked."""
    pictures = DrawnPictures(10**9, size=64)
    assert len(pickle.dumps(pictures)) < 1000
    assert pictures[10**9 - 1][1].id == f"wardrobe-0-{10**9 - 1}"
    assert (len(pictures), len(pictures.records)) == (10**9, NUM_TEXTS)
    few = DrawnPictures(2, size=64)
    assert list(few.records) == [record for _, record in few]


def test_a_sample_is_the_same_wherever_it_is_drawn(tiny_processor: OneLookProcessor) -> None:
    data = DataConfig(sources=one_source().sources, stages=(StageConfig(patch_budget=12, prompts_per_image=3),))
    config = TrainConfig(output_dir="x", model="x", data=data)

    def batches(workers: int, start: str | None = None) -> list[dict[str, Any]]:
        dataset = MixtureDataset(
            read_sources(data), data.sources, tiny_processor, config.stage_of, AugmentConfig(), seed=0, num_positions=99
        )
        loader = DataLoader(
            dataset,
            batch_sampler=Positions(2, 4, batch=4, micro=3),  # type: ignore[arg-type]
            collate_fn=PackingCollator(tiny_processor),
            num_workers=workers,
            multiprocessing_context=start,
        )
        return list(loader)

    alone = batches(0)
    # Positions 8 to 15: the end of the first pass, and the beginning of the next.
    expected = [f"wardrobe-0-{index % NUM:06d}" for index in range(8, 16)]
    assert [name for batch in alone for name in batch["record_ids"]] == expected
    for other in (batches(2), batches(1, "spawn")):
        for first, second in zip(alone, other, strict=True):
            assert first.keys() == second.keys()
            assert all(same(first[name], second[name]) for name in first)


def same(first: Any, second: Any) -> bool:
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else bool(first == second)


# -- what is wrong is said before a run begins ---------------------------------------------------------


def test_without_skia(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("vlm.synthetic.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "skia", None)
    with pytest.raises(ValueError, match=r"the reader wardrobe cannot draw: .*pip install 'vlm\[synthetic\]'"):
        read_sources(one_source())


def test_plans_that_cannot_be_drawn(tmp_path: Path) -> None:
    garment, pattern, colour = min(held_out())
    kept = {"garment": garment, "pattern": pattern, "colour": colour}
    for cells, message in (
        ([{"garment": "coat"}, {"garment": "cote"}], "garment cannot be 'cote'; use one of: "),
        (
            [{"garment": "hat"}, kept],
            r"the plan asks for .* kept for tests \(configs/coverage/held_out.yaml\); drop it",
        ),
        ([], r"plan.jsonl: asks for no pictures; drop `plan` of the source"),
    ):
        with pytest.raises(ValueError, match=message):
            read_sources(one_source(plan=write_plan(tmp_path, *cells)))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_sources(one_source(plan=str(tmp_path / "nowhere.jsonl")))


def test_none_are_for_validation() -> None:
    assert len(read_sources(one_source(), "validation")["mine"]) == 0
    with pytest.raises(ValueError, match="eval_every is 5, but no source has validation records"):
        validation_records(TrainConfig(output_dir="x", model="x", data=one_source(), eval_every=5))
