"""`vlm train` on a T5Gemma 2, run for real: a small one of random weights learns a few pictures by heart, in all tasks,
with tokens that it did not have."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from torch import nn
from transformers import AutoProcessor, T5Gemma2ForConditionalGeneration

import vlm
from tasks import TASKS
from tasks.boxes import NUM_BINS, iou
from tests.vlm.families.test_florence2_training import share_right, train, write_config
from tests.vlm.test_train import final_state, identical, losses, rows
from vlm.checkpoint import list_checkpoints
from vlm.data.records import read_records
from vlm.families import FAMILIES
from vlm.families.t5gemma2_tokens import AddedTokens, add_location_tokens, missing_tokens
from vlm.recipe import RECIPES, recipe_of
from vlm.train import Trainer, main, parse_config

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.usefixtures("fresh_accelerator")

SHORT: dict[str, Any] = {"num_steps": 4, "save_every": 1, "keep_checkpoints": 4}


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory, t5gemma2_folder: Path, garments: Path) -> Path:
    return train(tmp_path_factory.mktemp("t5gemma2-run"), garments, t5gemma2_folder)


def test_it_learns_by_heart(learnt: Path, garments: Path) -> None:
    """All tasks, in our words, with boxes of tokens that were added."""
    found = rows(learnt)
    assert found[-1]["loss"] < 0.05 * found[0]["loss"]
    model = vlm.load(learnt / "final")
    assert list(model.family.tasks) == list(TASKS)
    assert all(model.family.tasks[name] is TASKS[name] for name in TASKS)
    records = [record for record in read_records(garments) if record.split == "train"]
    assert share_right(model, records) > 0.8
    answers = [model.ask(record.image, record.qa[0].question).text for record in records]
    assert sum(said == record.qa[0].answer for said, record in zip(answers, records, strict=True)) > 0.5 * len(records)
    found_boxes = [{item.label: item.box for item in model.detect(record.image).objects} for record in records]
    for record, found_box in zip(records, found_boxes, strict=True):
        assert all(iou(found_box[item.label], item.box) > 0.5 for item in record.objects)


def test_what_is_exported(learnt: Path, t5gemma2_folder: Path) -> None:
    """A checkpoint as transformers itself reads it, its table tied."""
    config = json.loads((learnt / "final" / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["T5Gemma2ForConditionalGeneration"]
    assert config["vlm_tasks"] == list(TASKS)
    model = T5Gemma2ForConditionalGeneration.from_pretrained(learnt / "final")
    processor = AutoProcessor.from_pretrained(learnt / "final")
    before = AutoProcessor.from_pretrained(t5gemma2_folder).tokenizer
    assert missing_tokens(processor.tokenizer) == []
    assert len(processor.tokenizer) == len(before) + len(TASKS) + NUM_BINS == model.config.decoder.vocab_size
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.generation_config.eos_token_id == 1


@pytest.mark.parametrize("peft", [(), ("--peft", "lora")])
def test_the_loss_is_the_cross_entropy_of_transformers_logits(
    peft: tuple[str, ...], t5gemma2_folder: Path, garments: Path, tmp_path: Path
) -> None:
    """Computed by hand, prompt by prompt without padding, from the public model's logits; the new tokens are in the
    model's table, or lie beside it."""
    run = Trainer(parse_config([str(write_config(tmp_path, garments, model=t5gemma2_folder)), *peft])[0])
    batch = next(iter(run.loader()))
    run.raw_model.eval()
    tensors = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}
    with torch.no_grad():
        output = run.raw_model(**tensors)
    reference = T5Gemma2ForConditionalGeneration.from_pretrained(t5gemma2_folder).eval()
    processor = AutoProcessor.from_pretrained(t5gemma2_folder)
    new = add_location_tokens(reference, processor)
    read = torch.cat([batch["input_ids"].flatten(), batch["labels"].flatten()])
    assert torch.isin(read, torch.tensor(new)).any(), "new tokens are read and said"
    assert (batch["labels"] == -100).any() and (batch["attention_mask"] == 0).any()
    sums = 0.0
    for row, image in enumerate(batch["image_rows"].tolist()):
        labels = batch["labels"][row][batch["labels"][row] != -100]
        prompt = batch["input_ids"][row][batch["attention_mask"][row] == 1]
        with torch.no_grad():
            logits = reference(
                input_ids=prompt[None],
                pixel_values=batch["pixel_values"][image][None],
                decoder_input_ids=torch.cat([torch.tensor([2]), labels[:-1]])[None],
            ).logits[0]
        expected = F.cross_entropy(logits, labels, reduction="none")
        assert labels[-1] == processor.tokenizer.eos_token_id
        torch.testing.assert_close(output.token_loss[row, : len(labels)], expected, rtol=1e-4, atol=1e-4)
        assert not output.token_loss[row, len(labels) :].any()
        sums += float(expected.sum())
    assert float(output.loss_sum) == pytest.approx(sums, rel=1e-4)


def test_padding_changes_nothing(t5gemma2_folder: Path, garments: Path, tmp_path: Path) -> None:
    run = Trainer(parse_config([str(write_config(tmp_path, garments, model=t5gemma2_folder)), "--peft", "lora"])[0])
    batch = next(iter(run.loader()))
    run.raw_model.eval()
    tensors = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}
    longer = {**tensors}
    for name, value in {"input_ids": 7, "attention_mask": 0, "labels": -100, "token_weights": 0.0}.items():
        longer[name] = F.pad(tensors[name], (0, 20), value=value)
    with torch.no_grad():
        one, other = run.raw_model(**tensors), run.raw_model(**longer)
    num = tensors["labels"].shape[1]
    torch.testing.assert_close(other.token_loss[:, :num], one.token_loss, rtol=1e-5, atol=1e-5)
    assert float(other.num_tokens) == float(one.num_tokens)


def test_tokens_beside_a_table_that_ends_before_them() -> None:
    """A tokenizer may know more tokens than there are rows."""
    torch.manual_seed(0)
    head, hidden = nn.Linear(4, 6, bias=False), torch.randn(3, 4)
    added = AddedTokens(8, torch.randn(2, 4))
    logits = added.logits(head, hidden)
    assert logits.shape == (3, 10)
    assert torch.equal(logits[:, :6], head(hidden)) and not logits[:, 6:8].any()
    torch.testing.assert_close(logits[:, 8:], hidden @ added.weight.T)


@pytest.mark.parametrize("peft", [(), ("--peft", "lora")])
def test_it_goes_on_to_the_bit(peft: tuple[str, ...], t5gemma2_folder: Path, garments: Path, tmp_path: Path) -> None:
    file = str(write_config(tmp_path, garments, model=t5gemma2_folder, **SHORT))
    assert main([file, *peft]) == 0
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    for done in list_checkpoints(tmp_path / "again" / "checkpoints")[2:]:
        shutil.rmtree(done)
    AcceleratorState._reset_state(reset_partial_state=True)
    assert main([file, *peft, f"--output_dir={tmp_path / 'again'}"]) == 0
    assert identical(final_state(tmp_path / "again"), final_state(tmp_path / "run"))
    assert losses(tmp_path / "again") == losses(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("peft", [(), ("--peft", "lora")])
def test_two_processes_are_one_run(
    peft: tuple[str, ...], t5gemma2_folder: Path, garments: Path, tmp_path: Path
) -> None:
    """In float32, so that what is left is the order of sums."""
    for num in (1, 2):
        file = write_config(tmp_path / str(num), garments, model=t5gemma2_folder, num_steps=4)
        command = [*start(file), *peft, *(("--launch", "cpu", "--num-processes", "2") if num == 2 else ())]
        done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
    alone, both = (rows(tmp_path / str(num) / "run") for num in (1, 2))
    assert [row["tokens"] for row in alone] == [row["tokens"] for row in both]
    assert [row["loss"] for row in both] == pytest.approx([row["loss"] for row in alone], rel=1e-3)


@pytest.mark.slow
@pytest.mark.distributed
def test_killed_and_gone_on_with(t5gemma2_folder: Path, garments: Path, tmp_path: Path) -> None:
    """With SIGKILL, somewhere after its first checkpoint: to the bit what it is when nobody kills it."""
    files = {
        name: write_config(tmp_path / name, garments, model=t5gemma2_folder, **{**SHORT, "num_steps": 30})
        for name in ("whole", "killed")
    }
    started = subprocess.Popen([*start(files["killed"]), "--peft", "lora"], cwd=ROOT, env=environment())
    checkpoints = tmp_path / "killed" / "run" / "checkpoints"
    until = time.monotonic() + 300
    while len(list_checkpoints(checkpoints)) < 2 and started.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    started.send_signal(signal.SIGKILL)
    assert started.wait(60) == -signal.SIGKILL, "it was still running"
    for name, file in files.items():
        done = subprocess.run(
            [*start(file), "--peft", "lora"], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert ("going on with" in done.stdout) == (name == "killed")
    killed, whole = (final_state(tmp_path / name / "run") for name in ("killed", "whole"))
    assert identical(killed, whole)


def start(file: Path) -> list[str]:
    return [sys.executable, "-m", "vlm", "train", str(file)]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


# -- which recipe ------------------------------------------------------------------------------------------


def test_every_family_is_trained() -> None:
    assert RECIPES.keys() == FAMILIES.keys()


def test_what_is_refused(t5gemma2_folder: Path, garments: Path, tmp_path: Path) -> None:
    file = str(write_config(tmp_path, garments, model=t5gemma2_folder))

    def run(*options: str) -> Trainer:
        AcceleratorState._reset_state(reset_partial_state=True)
        return Trainer(parse_config([file, *options])[0])

    with pytest.raises(ValueError, match=r"compile is set, but .* is a T5Gemma 2, which brings its own; drop compile"):
        run("--compile=true")
    with pytest.raises(ValueError, match=r"a T5Gemma 2 is trained in one process or DDP; do not shard"):
        run().recipe.require_engine("fsdp2")
    table = "model.encoder.text_model.embed_tokens"
    with pytest.raises(ValueError, match=r"also_trained names model\..*\.weight, the embeddings of all tokens, but"):
        run("--peft=lora", f'--adapter.also_trained=["{table}"]')
    shutil.copytree(t5gemma2_folder, tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "other" / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}), encoding="utf-8")
    other = f"--model={tmp_path / 'other'}"
    with pytest.raises(ValueError, match=r"other: is of model_type 'gpt2', which is not a known family; known: "):
        run(other)
    with pytest.raises(ValueError, match=r"other: model_type 'gpt2' is not trained here, only: onelook, florence2, t5"):
        recipe_of(parse_config([file, other])[0])
