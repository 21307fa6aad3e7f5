"""The recipe for one's own catalogue, run for real: a small Florence-2 learns 32 real photos by heart, in all tasks."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Florence2Config, Florence2ForConditionalGeneration

import vlm
from benchmarks.random_florence2 import make_model, make_processor
from tasks.base import Record
from tasks.boxes import iou
from tasks.readers.ccp import read
from tests.vlm.test_train import rows
from vlm.data.corpus import corpus
from vlm.data.records import write_jsonl
from vlm.request import Request

ROOT = Path(__file__).parents[3]
NUM_PHOTOS = 32
VOCAB_SIZE, WIDTH, IMAGE_SIZE = 2200, 96, 64

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def records() -> list[Record]:
    """Street photos with boxes of all that is worn, and one caption each."""
    try:
        boxed = (record for record in read() if record.boxes_complete and record.split == "train")
        found = list(itertools.islice(boxed, NUM_PHOTOS))
    except FileNotFoundError as error:
        pytest.skip(str(error))
    return [replace(record, captions=record.captions[:1]) for record in found]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, records: list[Record]) -> Path:
    """Random weights, without dropout, and with few image tokens: a step takes half a second. Its tokenizer knows the
    catalogue's words, as the public one does: no run of three tokens comes twice in an answer in Florence-2's words."""
    num_image_tokens = (IMAGE_SIZE // 16) ** 2 + 1
    processor = make_processor(
        corpus(records), vocab_size=VOCAB_SIZE, image_size=IMAGE_SIZE, num_image_tokens=num_image_tokens
    )
    tiny = make_model(base=False, vocab_size=VOCAB_SIZE, image_token_id=int(processor.tokenizer.image_token_id))
    vision, text = tiny.config.vision_config.to_dict(), tiny.config.text_config.to_dict()
    vision |= {"patch_stride": [4, 4], "projection_dim": WIDTH, "drop_path_rate": 0.0}
    text |= {"d_model": WIDTH, "encoder_ffn_dim": 2 * WIDTH, "decoder_ffn_dim": 2 * WIDTH, "init_std": 0.02}
    text |= {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
    config = Florence2Config(vision_config=vision, text_config=text, image_token_id=tiny.config.image_token_id)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Florence2ForConditionalGeneration(config)
    model.generation_config = tiny.generation_config
    folder = tmp_path_factory.mktemp("base") / "checkpoint"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def command(folder: Path, base: Path, records: list[Record], *launch: str) -> list[str]:
    """The shipped recipe with what a small model and a short run need."""
    write_jsonl(records, folder / "records.jsonl")
    sources = {"catalogue": {"reader": "jsonl", "path": str(folder / "records.jsonl")}}
    weights = {"attributes": 2.0, "vqa": 1.0, "caption": 2.0, "detection": 2.0, "grounding": 0.5}
    stage = {"prompts_per_image": 6, "max_target_tokens": 256, "task_weights": weights}
    optim: dict[str, Any] = {"learning_rate": 4e-3, "weight_decay": 0.0, "warmup_steps": 20, "ema_decay": 0.0}
    optim |= {"schedule": "wsd", "decay_fraction": 0.4, "modules": {}}
    given = {
        "model": str(base),
        "output_dir": str(folder / "run"),
        "cpu": "true",
        "mixed_precision": "no",
        "tensorboard": "false",
        "num_steps": "200",
        "batch_size": str(NUM_PHOTOS),
        "micro_batch_size": str(NUM_PHOTOS),
        "save_every": "0",
        "data.num_workers": "0",
        "data.augment": json.dumps({"flip": 0.0, "crop": 0.0, "brightness": 0.0}),
        "data.sources": json.dumps(sources),
        "data.stages": json.dumps([stage]),
        "optim": json.dumps(optim),
    }
    options = [f"--{name}={value}" for name, value in given.items()]
    return [sys.executable, "-m", "vlm", "train", "configs/train/finetune_florence2.yaml", *options, *launch]


LEAST = {"attributes": 0.9, "not visible": 0.8, "captions": 0.7, "boxes": 0.9, "answers": 0.45}
"""Shares that come back right. Measured, after one process and after two alike: 673 of 678 attributes, 19 of 19 "not
visible", 29 of 32 captions to the letter, 177 of 177 garments with their boxes, 60 of 96 answers, and a loss of 0.149
from 6.62; after 280 steps all but ten answers were right."""


@pytest.mark.parametrize(
    "launch",
    [(), pytest.param(("--launch", "cpu", "--num-processes", "2"), marks=pytest.mark.distributed)],
    ids=["one", "two"],
)
def test_it_learns_real_photos_by_heart(
    launch: tuple[str, ...], base: Path, records: list[Record], tmp_path: Path
) -> None:
    done = subprocess.run(
        command(tmp_path, base, records, *launch),
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    logged = rows(tmp_path / "run")
    found = right(vlm.load(tmp_path / "run" / "final"), records)
    print(f"loss {logged[0]['loss']:.3f} -> {logged[-1]['loss']:.3f}; right: {found}")
    assert logged[-1]["loss"] < 0.05 * logged[0]["loss"]
    for name, least in LEAST.items():
        num_right, num = found[name]
        assert num_right >= least * num, f"{name}: {num_right} of {num}"


def right(model: vlm.VLM, records: list[Record]) -> dict[str, tuple[int, int]]:
    """What comes back as it was labelled, and how much was asked. An attribute's prompt tells the photo by its box;
    captions and detections are told from the photo alone."""
    asked = [(record, item) for record in records for item in record.objects if item.attributes]
    told = model.generate(
        [
            Request(record.image, "attributes", garment=item.label, box=item.box, attributes=tuple(item.attributes))
            for record, item in asked
        ]
    )
    attributes = [
        (labelled, set(result.values[name].values) == set(labelled))
        for (_, item), result in zip(asked, told, strict=True)
        for name, labelled in item.attributes.items()
    ]
    hidden = [correct for labelled, correct in attributes if labelled == ("not visible",)]
    captions = model.generate([Request(record.image, "caption") for record in records])
    detections = model.generate([Request(record.image, "detection") for record in records])
    boxes = 0
    for record, detection in zip(records, detections, strict=True):
        left = list(record.objects)
        for said in detection.objects:
            found = next((o for o in left if o.label == said.label and o.box and iou(o.box, said.box) >= 0.5), None)
            if found is not None:
                left.remove(found)
                boxes += 1
    questions = [(record, qa) for record in records for qa in record.qa]
    answers = model.generate([Request(record.image, "vqa", text=qa.question) for record, qa in questions])
    told_captions = [said.text == record.captions[0].text for said, record in zip(captions, records, strict=True)]
    told_answers = [said.text == qa.answer for said, (_, qa) in zip(answers, questions, strict=True)]
    return {
        "attributes": (sum(correct for _, correct in attributes), len(attributes)),
        "not visible": (sum(hidden), len(hidden)),
        "captions": (sum(told_captions), len(records)),
        "boxes": (boxes, sum(len(record.objects) for record in records)),
        "answers": (sum(told_answers), len(answers)),
    }
