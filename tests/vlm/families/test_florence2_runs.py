"""Runs of `vlm train` on a small Florence-2: an adapter beside it, a kill, bfloat16, validation, and replay."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from PIL import Image, ImageDraw
from safetensors.torch import load_file

import vlm
from tasks.base import QA, ObjectLabel, Record, TextLabel
from tasks.boxes import Box
from tests.vlm.families.test_florence2_training import train, write_config
from tests.vlm.test_adapters import answers, assert_close
from tests.vlm.test_train import final_state, identical, losses, rows
from vlm.api import VLM
from vlm.checkpoint import list_checkpoints
from vlm.data.records import write_jsonl
from vlm.evaluate import quick_validation
from vlm.request import Request
from vlm.train import Trainer, parse_config

ROOT = Path(__file__).parents[3]
LORA = ("--peft", "lora")

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


def in_processes(file: Path, *arguments: str) -> subprocess.Popen[str]:
    """`vlm train` as a command."""
    return subprocess.Popen(
        [sys.executable, "-m", "vlm", "train", str(file), *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


# -- an adapter --------------------------------------------------------------------------------------------

OPTIM = {"learning_rate": 2e-2, "warmup_steps": 0, "weight_decay": 0.1, "ema_decay": 0.0}


def test_an_adapter(plain_florence2: Path, garments: Path, tmp_path: Path) -> None:
    """Exported alone and merged; beside its checkpoint it brings the tasks that it learnt, in our words."""
    values = {"num_steps": 12, "optim": OPTIM}
    final = train(tmp_path / "alone", garments, plain_florence2, *LORA, **values) / "final"
    whole = train(tmp_path / "whole", garments, plain_florence2, "--adapter.kind=lora", **values)
    assert losses(whole) == losses(final.parent)
    assert rows(whole)[-1]["loss"] < 0.8 * rows(whole)[0]["loss"]
    assert not (final / "model.safetensors").exists()
    assert (final / "adapter_model.safetensors").stat().st_size < 0.7 * _size(plain_florence2)
    assert json.loads((final / "config.json").read_text(encoding="utf-8"))["vlm_tasks"] == ["vqa", "attributes"]

    beside, merged = vlm.load(plain_florence2, adapter=final), vlm.load(final)
    photo = garments.parent / "11.png"
    asked = [
        Request(photo, "caption", max_new_tokens=8),
        Request(photo, "vqa", text="what is worn?", max_new_tokens=8),
        Request(photo, "attributes", garment="coat", box=Box(12, 8, 36, 32)),
    ]
    now = answers(beside, asked)
    assert_close(now, answers(merged, asked))
    state = merged.family.model.state_dict()
    for name, value in load_file(whole / "final" / "model.safetensors").items():
        assert torch.equal(value, state[name].half()), name
    with beside.use_adapter(None):
        assert list(beside.family.tasks) == ["caption", "grounding", "detection"]
        assert answers(beside, asked[:1]) == answers(vlm.load(plain_florence2), asked[:1]) != now[:1]
        with pytest.raises(ValueError, match="was not trained for task 'attributes', only for caption, grounding, det"):
            beside.attributes(photo, "coat")


def _size(folder: Path) -> int:
    return (folder / "model.safetensors").stat().st_size


# -- however it is run -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [(), LORA], ids=["whole", "adapter"])
def test_killed_and_gone_on_with(
    arguments: tuple[str, ...], florence2_folder: Path, garments: Path, tmp_path: Path
) -> None:
    """With SIGKILL, somewhere after its second checkpoint, dropout and all."""
    values = {"num_steps": 30, "save_every": 1, "keep_checkpoints": 2}
    whole = train(tmp_path / "whole", garments, florence2_folder, *arguments, **values)
    killed = in_processes(write_config(tmp_path / "killed", garments, model=florence2_folder, **values), *arguments)
    run, until = tmp_path / "killed" / "run", time.monotonic() + 300
    while len(list_checkpoints(run / "checkpoints")) < 2 and killed.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    out, _ = killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL, out[-3000:]
    assert 2 <= len(rows(run)) < 30, "it was to be killed in the middle"
    train(tmp_path / "killed", garments, florence2_folder, *arguments, **values)
    assert losses(run) == losses(whole)
    assert identical(final_state(run), final_state(whole))


def test_bfloat16_is_near(plain_florence2: Path, garments: Path, tmp_path: Path) -> None:
    runs = [
        train(tmp_path / name, garments, plain_florence2, f"--mixed_precision={name}", num_steps=8)
        for name in ("no", "bf16")
    ]
    exact, near = ([row["loss"] for row in rows(run)] for run in runs)
    assert exact != near == pytest.approx(exact, rel=0.02)
    assert {value.dtype for value in final_state(runs[1])[0].values()} == {torch.float32}


def test_validated_while_it_trains(plain_florence2: Path, garments: Path, tmp_path: Path) -> None:
    """With the task metrics, of the averaged weights; the run goes on as one that is not."""
    optim = {"learning_rate": 3e-3, "warmup_steps": 0, "ema_decay": 0.5}
    values: dict[str, Any] = {"num_steps": 6, "optim": optim}
    plain = train(tmp_path / "plain", garments, plain_florence2, **values)
    file = write_config(tmp_path, garments, model=plain_florence2, eval_every=4, eval_records=2, **values)
    AcceleratorState._reset_state(reset_partial_state=True)
    run = Trainer(parse_config([str(file)])[0])
    run.run()
    found = losses(tmp_path / "run")
    assert [row for row in found if "loss" in row] == losses(plain)
    validated = [row for row in found if "loss" not in row]
    assert [row["step"] for row in validated] == [4, 6]
    measured = quick_validation(VLM(*run.averaged()), run.validation_records)
    assert validated[-1] == {"step": 6, **{f"validation/{name}": value for name, value in measured.items()}}
    for name in ("presence/micro_F1", "detection/F1@0.5", "grounding/Acc@0.5", "vqa/exact_match"):
        assert 0 <= validated[-1][f"validation/drawn/{name}"] <= 1


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_beside_an_adapter(plain_florence2: Path, garments: Path, tmp_path: Path) -> None:
    """Validation among them: what one process gives."""
    values: dict[str, Any] = {"num_steps": 4, "eval_every": 4, "eval_records": 3, "optim": OPTIM}
    alone = train(tmp_path / "alone", garments, plain_florence2, *LORA, **values)
    file = write_config(tmp_path / "both", garments, model=plain_florence2, **values)
    both = in_processes(file, *LORA, "--launch", "cpu", "--num-processes", "2")
    out, _ = both.communicate(timeout=600)
    assert both.returncode == 0, out[-3000:]
    ours, theirs = losses(tmp_path / "both" / "run"), losses(alone)
    assert [row.keys() for row in ours] == [row.keys() for row in theirs]
    for row, other in zip(ours, theirs, strict=True):
        assert row == pytest.approx(other, rel=1e-2 if "grad_norm" in row else 1e-9)


# -- against forgetting ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """records.jsonl of what `garments` has nothing of: a hat in the middle of a dark picture."""
    folder = tmp_path_factory.mktemp("hats")
    records = []
    for number, (colour, rgb) in enumerate({"white": (250, 250, 250), "pink": (250, 160, 200)}.items()):
        for top in (8, 20, 32):
            box, name = Box(16, top, 48, top + 20), f"{number}-{top}"
            image = Image.new("RGB", (64, 64), (20, 20, 20))
            ImageDraw.Draw(image).ellipse(box.xyxy, fill=rgb)
            image.save(folder / f"{name}.png")
            records.append(
                Record(
                    id=f"hat-{name}",
                    image=str(folder / f"{name}.png"),
                    image_size=(64, 64),
                    captions=(TextLabel(text=f"Nothing but a {colour} hat."),),
                    objects=(ObjectLabel(label="hat", box=box, attributes={"colour": (colour,)}),),
                    qa=(QA(question="what is shown?", answer=f"one {colour} hat"),),
                    objects_complete=True,
                    boxes_complete=True,
                )
            )
    write_jsonl(records, folder / "records.jsonl")
    return folder / "records.jsonl"


def loss_on(records: Path, model: Path, folder: Path) -> float:
    """Of a checkpoint, over two passes of the records."""
    AcceleratorState._reset_state(reset_partial_state=True)
    run = Trainer(parse_config([str(write_config(folder, records, model=model, num_steps=3))])[0])
    run.raw_model.eval()
    with torch.no_grad():
        outputs = [
            run.raw_model(**{name: value for name, value in batch.items() if isinstance(value, torch.Tensor)})
            for batch in run.loader()
        ]
    return float(sum(output.loss_sum for output in outputs) / sum(output.num_tokens for output in outputs))


@pytest.mark.slow
def test_replay_keeps_what_was_learnt(plain_florence2: Path, garments: Path, hats: Path, tmp_path: Path) -> None:
    """In the recipe's shares: a model that knows `garments` by heart learns `hats`, with them among it or without.

    Measured, the loss on `garments`: 0.12 before, 0.26 with replay, 2.76 without; on `hats` 6.2, 0.54, 0.41.
    """
    recipe = yaml.safe_load((ROOT / "configs" / "train" / "finetune_florence2.yaml").read_text(encoding="utf-8"))
    assert recipe["data"]["sources"].keys() == {"catalogue", "replay"}
    shares = {name: source["weight"] for name, source in recipe["data"]["sources"].items()}
    before = train(tmp_path / "before", garments, plain_florence2) / "final"
    old: dict[str, float] = {}
    new = {"before": loss_on(hats, before, tmp_path / "measured")}
    for name, replayed in {"with": garments, "without": hats}.items():
        sources = {
            source: {"reader": "jsonl", "path": str(path), "weight": shares[source]}
            for source, path in (("catalogue", hats), ("replay", replayed))
        }
        final = train(tmp_path / name, hats, before, f"--data.sources={json.dumps(sources)}", num_steps=40) / "final"
        old[name], new[name] = (loss_on(records, final, tmp_path / "measured") for records in (garments, hats))
    assert max(new["with"], new["without"]) < 0.2 * new["before"], "it learns the new ones either way"
    assert old["with"] < 0.25 * old["without"]
