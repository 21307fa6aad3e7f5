"""`vlm train` on a Florence-2, run for real: a small one of random weights learns a few pictures by heart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from transformers import Florence2ForConditionalGeneration

import vlm
from tasks import TASKS
from tasks.base import Record
from tasks.results import Attributes
from tests.vlm import test_train
from tests.vlm.test_train import rows
from vlm.data.records import read_records
from vlm.request import Request
from vlm.train import Trainer, main, parse_config

ROOT = Path(__file__).parents[3]


pytestmark = pytest.mark.usefixtures("fresh_accelerator")


def write_config(folder: Path, records: Path, *, model: Path, **values: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    data = {
        "num_workers": 0,
        "augment": {"flip": 0.0, "crop": 0.0, "brightness": 0.0},
        "stages": [{"prompts_per_image": 4, "max_target_tokens": 200}],
        "sources": {"drawn": {"reader": "jsonl", "path": str(records)}},
    }
    optim = {"learning_rate": 3e-3, "warmup_steps": 5, "weight_decay": 0.0, "ema_decay": 0.0}
    settings = {"num_steps": 150, "save_every": 0, "data": data, "optim": optim, **values}
    return test_train.write_config(folder, records, model=model, **settings)


def share_right(model: Any, records: list[Record]) -> float:
    """Of the labelled attributes of all garments, as the model tells them."""
    asked = [(record, item) for record in records for item in record.objects if item.attributes]
    found = model.generate(
        [Request(record.image, "attributes", garment=item.label, box=item.box) for record, item in asked]
    )
    right = []
    for (_, item), result in zip(asked, found, strict=True):
        assert isinstance(result, Attributes)
        for name, values in item.attributes.items():
            right.append(name in result.values and set(result.values[name].values) == set(values))
    return sum(right) / len(right)


def train(folder: Path, records: Path, model: Path, *arguments: str, **values: Any) -> Path:
    """The run's folder."""
    file = write_config(folder, records, model=model, **values)
    AcceleratorState._reset_state(reset_partial_state=True)
    assert main([str(file), *arguments]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory, plain_florence2: Path, garments: Path) -> Path:
    return train(tmp_path_factory.mktemp("florence2-run"), garments, plain_florence2)


@pytest.mark.slow
def test_it_learns_by_heart(learnt: Path, garments: Path) -> None:
    found = rows(learnt)
    assert found[-1]["loss"] < 0.15 * found[0]["loss"]
    assert {f"loss/{task}" for task in TASKS} <= set().union(*found)
    model = vlm.load(learnt / "final")
    assert list(model.family.tasks) == ["caption", "vqa", "grounding", "detection", "attributes"]
    records = [record for record in read_records(garments) if record.split == "train"]
    assert share_right(model, records) > 0.5
    answers = [model.ask(record.image, record.qa[0].question).text for record in records]
    assert set(answers) <= {record.qa[0].answer for record in records}


def test_the_loss_is_the_cross_entropy_of_transformers_logits(
    florence2_folder: Path, garments: Path, tmp_path: Path
) -> None:
    """Computed by hand, prompt by prompt without padding, from the public model's logits for the processor's inputs."""
    run = Trainer(parse_config([str(write_config(tmp_path, garments, model=florence2_folder))])[0])
    batch = next(iter(run.loader()))
    run.raw_model.eval()
    tensors = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}
    with torch.no_grad():
        output = run.raw_model(**tensors)
    reference = Florence2ForConditionalGeneration.from_pretrained(florence2_folder).eval()
    image_token, num = reference.config.image_token_id, run.processor.processor.num_image_tokens
    assert (batch["labels"] == -100).any() and (batch["attention_mask"] == 0).any()
    for row, image in enumerate(batch["image_rows"].tolist()):
        labels = batch["labels"][row][batch["labels"][row] != -100]
        prompt = batch["input_ids"][row][batch["attention_mask"][row] == 1]
        with torch.no_grad():
            logits = reference(
                input_ids=torch.cat([torch.full((num,), image_token), prompt])[None],
                pixel_values=batch["pixel_values"][image][None],
                decoder_input_ids=torch.cat([torch.tensor([2]), labels[:-1]])[None],
            ).logits[0]
        expected = F.cross_entropy(logits, labels, reduction="none")
        assert torch.allclose(output.token_loss[row, : len(labels)], expected, atol=1e-4)
        assert not output.token_loss[row, len(labels) :].any()


def test_the_loss_falls_and_the_export_tells_its_tasks(plain_florence2: Path, garments: Path, tmp_path: Path) -> None:
    assert main([str(write_config(tmp_path, garments, model=plain_florence2, num_steps=16))]) == 0
    found = rows(tmp_path / "run")
    assert found[-1]["loss"] < 0.7 * found[0]["loss"]
    config = json.loads((tmp_path / "run" / "final" / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["Florence2ForConditionalGeneration"]
    assert config["vlm_tasks"] == ["vqa", "attributes"]
    assert "attributes" in vlm.load(tmp_path / "run" / "final").family.tasks


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_are_one_run(plain_florence2: Path, garments: Path, tmp_path: Path) -> None:
    """In float32, so that what is left is the order of sums."""
    for num in (1, 2):
        file = write_config(tmp_path / str(num), garments, model=plain_florence2, num_steps=4)
        command = [sys.executable, "-m", "vlm", "train", str(file)]
        command += ["--launch", "cpu", "--num-processes", "2"] if num == 2 else []
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr[-3000:]
    alone, both = (rows(tmp_path / str(num) / "run") for num in (1, 2))
    assert [row["tokens"] for row in alone] == [row["tokens"] for row in both]
    assert [row["loss"] for row in both] == pytest.approx([row["loss"] for row in alone], rel=1e-3)
