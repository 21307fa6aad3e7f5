"""`vlm train`, run for real: a tiny model on a few drawn garments."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

import vlm
from vlm.build import build_model, build_processor
from vlm.checkpoint import list_checkpoints
from vlm.config import TrainConfig
from vlm.data.regions import region_sizes
from vlm.model import OneLookConfig
from vlm.run_log import MEASURED
from vlm.tokenizer import train_tokenizer
from vlm.train import Trainer, main, parse_config

ROOT = Path(__file__).parents[2]
TINY = ROOT / "configs" / "model" / "tiny.yaml"


pytestmark = pytest.mark.usefixtures("fresh_accelerator")


def write_config(folder: Path, records: Path, *, model: Path = TINY, **values: Any) -> Path:
    """A run of a few seconds: 8 small pictures a step, no warm-up."""
    config = {
        "output_dir": str(folder / "run"),
        "model": str(model),
        "num_steps": 24,
        "batch_size": 8,
        "mixed_precision": "no",
        "cpu": True,
        "log_every": 1,
        "save_every": 8,
        "tensorboard": False,
        "data": {
            "num_workers": 0,
            "stages": [{"patch_budget": 12, "prompts_per_image": 3, "max_target_tokens": 40}],
            "sources": {"drawn": {"reader": "jsonl", "path": str(records)}},
        },
        "optim": {"learning_rate": 3e-3, "warmup_steps": 0, "ema_decay": 0.9},
        **values,
    }
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    return file


def write_shape(folder: Path, **values: Any) -> Path:
    """The tiny model with some things different."""
    file = folder / "model.yaml"
    shape = yaml.safe_load(TINY.read_text(encoding="utf-8"))
    file.write_text(yaml.safe_dump(shape | values), encoding="utf-8")
    return file


@pytest.fixture
def config(tmp_path: Path, garments: Path) -> Path:
    return write_config(tmp_path, garments)


def trainer(file: Path, *overrides: str) -> Trainer:
    AcceleratorState._reset_state(reset_partial_state=True)
    config, resume = parse_config([str(file), *overrides])
    return Trainer(config, resume=resume)


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def losses(run: Path) -> list[dict[str, float]]:
    """What was logged, without what was measured."""
    return [{name: value for name, value in row.items() if name not in MEASURED} for row in rows(run)]


def final_state(run: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    newest = list_checkpoints(run / "checkpoints")[-1]
    return load_file(newest / "model.safetensors"), torch.load(newest / "state.pt", weights_only=True)


def identical(first: Any, second: Any) -> bool:
    """To the bit, however deep."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(identical(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(identical, first, second))
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    return bool(first == second)


# -- a run ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, garments: Path) -> Path:
    """The output of a finished run, with validation and TensorBoard."""
    folder = tmp_path_factory.mktemp("trained")
    file = write_config(
        folder,
        garments,
        num_steps=60,
        save_every=20,
        keep_checkpoints=1,
        eval_every=40,
        eval_records=2,
        tensorboard=True,
        log_every=10,
    )
    AcceleratorState._reset_state(reset_partial_state=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module="vlm|jsonargparse")
        assert main([str(file), "--mixed_precision=bf16"]) == 0
    return folder / "run"


def test_the_loss_falls(trained: Path) -> None:
    found = [row for row in rows(trained) if "loss" in row]
    assert [row["step"] for row in found] == [10, 20, 30, 40, 50, 60]
    assert found[-1]["loss"] < 0.6 * found[0]["loss"]
    for row in found:
        assert row["tokens"] > 0 and 0 <= row["data_wait"] <= 1
        # Every step has 8 pictures, and so many tokens as the one that is logged.
        assert row["target_tokens_per_s"] == pytest.approx(row["images_per_s"] * row["tokens"] / 8, rel=0.3)
        assert 1 <= row["image_tokens_per_s"] / row["images_per_s"] <= 12
        assert 0 < row["target_padding"] < 1 and 0 <= row["image_padding"] < 1
        assert 0.1 < row["peak_memory_gb"] < 100
        assert "mfu" not in row, "nobody knows what this CPU can do"
        tasks = [value for name, value in row.items() if name.startswith("loss/")]
        assert min(tasks) <= row["loss"] <= max(tasks)
    assert found[0]["learning_rate"] == 3e-3
    assert found[-1]["learning_rate"] < found[-2]["learning_rate"] < 3e-3, "the decay of the last third"


def test_the_share_of_a_peak_that_is_given(config: Path) -> None:
    assert main([str(config), "--num_steps=2", "--peak_flops=1e13", "--save_every=0"]) == 0
    for row in rows(config.parent / "run"):
        # 10 to 1,000 MFLOP a picture.
        assert 1e7 < row["mfu"] * 1e13 / row["images_per_s"] < 1e9


def test_validation_with_task_metrics(trained: Path) -> None:
    found = [row for row in rows(trained) if "loss" not in row]
    assert [row["step"] for row in found] == [40, 60]
    for name in ("presence/micro_F1", "detection/F1@0.5", "grounding/Acc@0.5", "vqa/exact_match"):
        assert 0 <= found[-1][f"validation/drawn/{name}"] <= 1


def shown_in_tensorboard(run: Path, name: str) -> list[tuple[int, float]]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(run / "tensorboard")).Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_tensorboard_has_the_same_numbers(trained: Path) -> None:
    for name in ("loss", "loss/vqa", "validation/drawn/vqa/exact_match"):
        logged = [(row["step"], pytest.approx(row[name])) for row in rows(trained) if name in row]
        assert shown_in_tensorboard(trained, name) == logged


def test_tensorboard_shows_no_step_twice(copied: Path, trained: Path) -> None:
    """After a resumed run too: what was logged after its checkpoint is taken out."""
    run = copied.parent / "run"
    shutil.rmtree(run / "checkpoints" / "step_00000060")
    assert main([str(copied), "--tensorboard=true"]) == 0
    assert shown_in_tensorboard(run, "loss") == shown_in_tensorboard(trained, "loss")


def test_the_export_loads_and_answers(trained: Path, garments: Path) -> None:
    model = vlm.load(trained / "final")
    assert model.family.model.config.patch_budget == 12, "as in the last stage, not as in the model's YAML"
    photo = garments.parent / "11.png"
    assert "coat" in model.caption(photo).text
    assert model.detect(photo).objects is not None
    assert yaml.safe_load((trained / "final" / "train.yaml").read_text(encoding="utf-8"))["num_steps"] == 60
    assert (trained / "train.yaml").read_bytes() == (trained / "final" / "train.yaml").read_bytes()


def test_the_export_is_the_average_in_half_precision(trained: Path) -> None:
    exported = load_file(trained / "final" / "model.safetensors")
    weights, state = final_state(trained)
    assert set(exported) == set(weights)
    for name, value in exported.items():
        assert torch.equal(value, state["average"][f"shadow.{name}"].half()), name
    assert any(not torch.equal(value, weights[name].half()) for name, value in exported.items())


def test_checkpoints_that_are_kept(trained: Path) -> None:
    """The newest, and the start of the decay."""
    assert [path.name for path in list_checkpoints(trained / "checkpoints")] == ["step_00000042", "step_00000060"]
    assert sorted(path.name for path in trained.iterdir()) == [
        "checkpoints",
        "final",
        "metrics.jsonl",
        "tensorboard",
        "tokenizer",
        "train.yaml",
    ]


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, and the file that goes on with it."""
    shutil.copytree(trained, tmp_path / "run")
    values = yaml.safe_load((trained / "train.yaml").read_text(encoding="utf-8"))
    values |= {"output_dir": str(tmp_path / "run"), "eval_every": 0, "tensorboard": False}
    # In the same order: tasks are drawn in the order of their weights.
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return tmp_path / "config.yaml"


def test_a_finished_run_ends_at_once(copied: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = copied.parent / "run"
    shutil.rmtree(run / "final")  # as after a kill between the last checkpoint and the export
    assert main([str(copied)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert f"going on with {run} at step 60 of 60" in out
    assert f"exported to {run / 'final'}" in out
    assert rows(run) == rows(trained)
    assert identical(load_file(run / "final" / "model.safetensors"), load_file(trained / "final" / "model.safetensors"))


def test_fewer_steps_than_are_done_is_an_error(copied: Path) -> None:
    with pytest.raises(ValueError, match="is at step 60 already, past num_steps 30; raise num_steps, use another"):
        main([str(copied), "--num_steps=30"])


def test_a_damaged_newest_checkpoint_costs_only_its_steps(copied: Path, trained: Path) -> None:
    run = copied.parent / "run"
    damaged = run / "checkpoints" / "step_00000060" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    with pytest.warns(UserWarning, match="step_00000060 is not a whole checkpoint: .*; trying the one before"):
        assert main([str(copied)]) == 0
    assert identical(final_state(run), final_state(trained))
    trained_rows, again = ([row for row in losses(path) if "loss" in row] for path in (trained, run))
    assert again == trained_rows


def test_the_best_stays_beside_the_newest(tmp_path: Path, garments: Path) -> None:
    """The first of those that are equal; best.json names it."""
    optim = {"learning_rate": 3e-3, "warmup_steps": 0, "schedule": "cosine", "ema_decay": 0.0}
    name = "validation/drawn/detection/F1@0.5"
    values = {"num_steps": 6, "eval_every": 1, "eval_records": 2, "save_every": 1, "keep_checkpoints": 2}
    file = write_config(tmp_path, garments, **values, keep_best=name, optim=optim)
    assert main([str(file)]) == 0
    measured = {row["step"]: row[name] for row in rows(tmp_path / "run") if name in row}
    best = min(step for step, value in measured.items() if value == max(measured.values()))
    kept = [int(path.name[-8:]) for path in list_checkpoints(tmp_path / "run" / "checkpoints")]
    assert kept == sorted({best, 5, 6})
    told = json.loads((tmp_path / "run" / "checkpoints" / "best.json").read_text(encoding="utf-8"))
    assert (told["step"], told["metric"], told["value"]) == (best, name, max(measured.values()))


def test_restart_keeps_the_earlier_run_aside(copied: Path, trained: Path) -> None:
    run = copied.parent / "run"
    assert main([str(copied), "--restart", "--num_steps=2", "--seed=5"]) == 0
    assert identical(final_state(run / "previous"), final_state(trained))
    assert rows(run / "previous") == rows(trained)
    assert [row["step"] for row in rows(run)] == [2]
    assert [path.name for path in list_checkpoints(run / "checkpoints")] == ["step_00000001", "step_00000002"]
    assert main([str(copied), "--restart", "--num_steps=1"]) == 0
    assert [row["step"] for row in rows(run / "previous")] == [2]


def test_another_shape_does_not_go_on(copied: Path, tmp_path: Path) -> None:
    model = write_shape(tmp_path, num_decoder_layers=1)
    with pytest.raises(ValueError, match=r"step_00000060 is of another model \(decoder_layers\.1\..* is unknown;"):
        main([str(copied), f"--model={model}"])


def test_a_checkpoint_can_be_trained_further(trained: Path, tmp_path: Path, garments: Path) -> None:
    """The exported folder as the model: its weights and its tokenizer, and steps that begin anew."""
    file = write_config(tmp_path, garments, model=trained / "final", num_steps=2)
    assert main([str(file)]) == 0
    first = next(row for row in rows(trained) if "loss" in row)["loss"]
    assert rows(tmp_path / "run")[0]["loss"] < 0.7 * first
    assert not (tmp_path / "run" / "tokenizer").exists()
    assert (tmp_path / "run" / "final" / "tokenizer.json").is_file()


# -- what is trained, and how fast -----------------------------------------------------------------------


def test_frozen_weights_stay_and_the_rest_goes_at_its_own_rate(config: Path, tmp_path: Path) -> None:
    """To the bit, in spite of weight decay and averaging; AdamW's first step is as long as the learning rate."""
    before = build_model(parse_config([str(config)])[0]).state_dict()
    modules = "--optim.modules={tower: {frozen: true}, decoder_layers.1.: {learning_rate_scale: 0.1}}"
    assert main([str(config), modules, "--num_steps=1", "--optim.weight_decay=0"]) == 0
    weights, state = final_state(tmp_path / "run")
    for name, value in weights.items():
        moved = float((value - before[name]).abs().max())
        if name.startswith("tower"):
            assert torch.equal(value, before[name]), name
            assert f"shadow.{name}" not in state["average"]
        elif name.startswith("decoder_layers"):
            rate = 3e-4 if name.startswith("decoder_layers.1.") else 3e-3
            assert moved == pytest.approx(rate, rel=1e-2), name
    assert [row["learning_rate"] for row in rows(tmp_path / "run")] == [3e-3]
    exported = load_file(tmp_path / "run" / "final" / "model.safetensors")
    assert torch.equal(exported["tower.stem.conv.weight"], before["tower.stem.conv.weight"].half())


def test_other_groups_do_not_go_on(config: Path) -> None:
    """Moments would go to other weights; another scale of the same group is fine."""
    frozen, scaled = "--optim.modules={tower: {frozen: true}}", "--optim.modules={tower: {learning_rate_scale: %s}}"
    assert main([str(config), scaled % 0.5, "--num_steps=1"]) == 0
    with pytest.raises(ValueError, match=r"trained other weights, or put .* \(tower\..* was trained and is not; tower"):
        main([str(config), frozen, "--num_steps=2"])
    with pytest.raises(ValueError, match=r"other groups; set optim\.modules as .*train\.yaml has it, use another"):
        main([str(config), "--num_steps=2"])
    assert main([str(config), scaled % 0.25, "--num_steps=2"]) == 0


# -- kill and resume -----------------------------------------------------------------------------------

NUM_STEPS = 40


@pytest.fixture(scope="module")
def killable(tmp_path_factory: pytest.TempPathFactory, garments: Path) -> Callable[[str], Path]:
    """Name -> a configuration with dropout, whose output goes to a folder of that name."""
    folder = tmp_path_factory.mktemp("killed")
    model = write_shape(folder, dropout=0.1, region_classes=region_sizes())

    def make(name: str) -> Path:
        (folder / name).mkdir(exist_ok=True)
        return write_config(folder / name, garments, model=model, num_steps=NUM_STEPS, save_every=5, batch_size=6)

    return make


@pytest.fixture(scope="module")
def unbroken(killable: Callable[[str], Path]) -> Path:
    file = killable("unbroken")
    AcceleratorState._reset_state(reset_partial_state=True)
    assert main([str(file)]) == 0
    return file.parent / "run"


@pytest.fixture(scope="module")
def killed(killable: Callable[[str], Path]) -> Path:
    """What SIGKILL leaves of the same run with two workers, after a checkpoint and in the middle of a pass."""
    file = killable("killed")
    run = file.parent / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "vlm", "train", str(file), "--data.num_workers=2"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    deadline = time.monotonic() + 600
    while not (run / "metrics.jsonl").is_file() or len((run / "metrics.jsonl").read_text().splitlines()) < 13:
        assert process.poll() is None, process.communicate()[1].decode()[-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert not (run / "final").exists(), "it was to be killed in the middle"
    assert 10 <= int(list_checkpoints(run / "checkpoints")[-1].name[-8:]) < NUM_STEPS
    return run


@pytest.mark.parametrize("num_workers", [2, 1])
def test_resumed_is_identical_to_the_bit(
    num_workers: int, killed: Path, unbroken: Path, killable: Callable[[str], Path]
) -> None:
    file = killable(f"resumed-{num_workers}")
    run = file.parent / "run"
    shutil.copytree(killed, run)
    assert main([str(file), f"--data.num_workers={num_workers}"]) == 0
    weights, state = final_state(run)
    expected_weights, expected_state = final_state(unbroken)
    assert identical(weights, expected_weights)
    assert identical(state["average"], expected_state["average"])
    assert identical(state, expected_state)
    assert [row["step"] for row in rows(run)] == list(range(1, NUM_STEPS + 1))
    assert losses(run) == losses(unbroken)


def test_another_seed_is_another_run(unbroken: Path, killable: Callable[[str], Path]) -> None:
    file = killable("seed")
    assert main([str(file), "--seed=1", "--num_steps=2"]) == 0
    assert losses(file.parent / "run")[0]["loss"] != losses(unbroken)[0]["loss"]


# -- a step --------------------------------------------------------------------------------------------


def gradients(file: Path, *overrides: str) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Sums and gradients of the first step."""
    run = trainer(file, *overrides)
    loader = iter(run.loader())
    run.model.train()
    batches = [next(loader) for _ in range(run.positions().micro_batches_per_step)]
    sums = run.backward(batches, 0)
    return sums, {name: value.grad for name, value in run.raw_model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("micro", [4, 3, 1])
def test_micro_batches_give_the_whole_batch(micro: int, tmp_path: Path, garments: Path) -> None:
    """Token by token: a mean of the micro-batches' means would be another."""
    config = write_config(tmp_path, garments, model=write_shape(tmp_path, region_classes=region_sizes()))
    weights = "--task_loss_weights={vqa: 0.5, detection: 3.0}"
    sums, whole = gradients(config, weights)
    micro_sums, parts = gradients(config, weights, f"--micro_batch_size={micro}")
    torch.testing.assert_close(micro_sums, sums, rtol=1e-5, atol=1e-5)
    assert parts.keys() == whole.keys()
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_activation_checkpointing_is_exact_and_keeps_less(tmp_path: Path, garments: Path) -> None:
    """With dropout, which must be the same when a layer is computed again."""
    config = write_config(tmp_path, garments, model=write_shape(tmp_path, dropout=0.1))

    def measured(*overrides: str) -> tuple[int, torch.Tensor, dict[str, torch.Tensor]]:
        kept = 0

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal kept
            kept += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            sums, found = gradients(config, *overrides)
        return kept, sums, found

    whole, sums, expected = measured()
    less, again, found = measured("--activation_checkpointing=true")
    assert less < 0.5 * whole
    torch.testing.assert_close(again, sums, rtol=1e-6, atol=1e-6)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-6 * float(value.abs().max()), msg=name)


@pytest.mark.slow
def test_compiled_steps_are_the_same(config: Path, tmp_path: Path) -> None:
    """Of batches of several shapes; the checkpoint has no trace of it."""
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("torch.compile needs a C++ compiler")
    short = ("--num_steps=3", "--optim.schedule=cosine")
    assert main([str(config), *short]) == 0
    AcceleratorState._reset_state(reset_partial_state=True)
    assert main([str(config), *short, "--compile=true", f"--output_dir={tmp_path / 'compiled'}"]) == 0
    expected, found = rows(tmp_path / "run"), rows(tmp_path / "compiled")
    assert [row["loss"] for row in found] == pytest.approx([row["loss"] for row in expected], rel=1e-4)
    assert final_state(tmp_path / "compiled")[0].keys() == final_state(tmp_path / "run")[0].keys()


def test_compiling_needs_a_compiler(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        ValueError, match=r"there is no C\+\+ compiler no-such-compiler; install it, name another in CXX"
    ):
        trainer(config, "--compile=true")


def test_loss_weights_count(config: Path) -> None:
    """The loss is the weighted sum over the sum of weights; what is logged is unweighted."""
    sums, plain = gradients(config)
    same_sums, double = gradients(
        config, "--task_loss_weights={caption: 2, vqa: 2, grounding: 2, detection: 2, attributes: 2}"
    )
    other_sums, weighted = gradients(config, "--task_loss_weights={detection: 5}")
    torch.testing.assert_close(sums, same_sums)
    torch.testing.assert_close(sums, other_sums)
    name = "decoder_layers.0.mlp.down.weight"
    torch.testing.assert_close(double[name], plain[name])
    assert not torch.allclose(weighted[name], plain[name])


def test_gradients_are_clipped(config: Path) -> None:
    run = trainer(config, "--optim.max_grad_norm=1e-3")
    batch = next(iter(run.loader()))
    norms = []

    def measure(*_: object) -> None:
        grads = [value.grad.norm() for value in run.raw_model.parameters() if value.grad is not None]
        norms.append(float(torch.stack(grads).norm()))

    run.optimizer.optimizer.register_step_pre_hook(measure)
    logged = run.update([batch], 0)
    assert logged["grad_norm"] > 0.1, "what is logged is the norm before"
    assert norms == [pytest.approx(1e-3, rel=1e-3)]


def test_dropout_is_a_function_of_the_step(killable: Callable[[str], Path]) -> None:
    run = trainer(killable("dropout"))
    batch = next(iter(run.loader()))
    run.model.train()
    before = torch.get_rng_state()
    first, again, other = (float(run.backward([batch], step)[:, 0].sum()) for step in (3, 3, 4))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), before), "the global generator is left alone"
    two = [float(run.backward([batch, batch], 3)[:, 0].sum()) for _ in range(2)]
    assert two[0] == two[1] != pytest.approx(2 * first, abs=1e-6), "each micro-batch has masks of its own"


def test_a_loss_that_is_not_finite_names_step_and_records(config: Path) -> None:
    with pytest.raises(FloatingPointError) as caught:
        main([str(config), "--optim.learning_rate=1e30"])
    message = str(caught.value)
    assert message.startswith("the loss of step 2 is not finite; the records: drawn-")
    assert "started again, the run goes on from its last checkpoint" in message
    names = message.partition("the records: ")[2].partition(". Look")[0].split(", ")
    batch = list(trainer(config).loader())[1]
    assert set(names) <= set(batch["record_ids"])
    run = config.parent / "run"
    assert [row["step"] for row in rows(run)] == [1]
    assert not (run / "checkpoints").exists()


def test_only_the_records_to_blame_are_named(config: Path) -> None:
    run = trainer(config)
    batch = next(iter(run.loader()))
    # One picture that is all NaN: its row alone is lost, rows do not see each other.
    group, row = batch["image_index"][0], 0
    batch["pixel_values"][0][row] = float("nan")
    culprit = batch["record_ids"][int(group[row])]
    with pytest.raises(FloatingPointError, match=f"the loss of step 1 is not finite; the records: {culprit}\\. Look"):
        run.update([batch], 0)


def test_a_gradient_that_is_not_finite_is_left_out_and_too_many_stop(config: Path) -> None:
    run = trainer(config, "--max_skipped_steps=1")
    batch = next(iter(run.loader()))
    weight = run.raw_model.image_projection.weight
    before = weight.detach().clone()
    weight.register_hook(lambda grad: grad * float("inf"))
    assert run.update([batch], 3)["skipped_steps"] == 1
    assert torch.equal(weight, before)
    with pytest.raises(
        FloatingPointError, match=r"the gradient of step 5 is not finite \((nan|inf)\); its records: drawn"
    ):
        run.update([batch], 4)
    assert torch.equal(weight, before)


def test_overflows_of_fp16_are_counted_and_end_a_run_when_scaling_no_longer_helps(config: Path) -> None:
    """With a GPU's gradient scaler on the CPU, where Accelerate itself has none."""
    run = trainer(config, "--max_skipped_steps=0")
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    run.accelerator.scaler = scaler
    run.optimizer = run.engine.optimizer = AcceleratedOptimizer(run.optimizer.optimizer, scaler=scaler)
    run.accelerator._optimizers = [run.optimizer]
    batch = next(iter(run.loader()))
    weight = run.raw_model.image_projection.weight
    assert "skipped_steps" not in run.update([batch], 3)
    before, average = weight.detach().clone(), run.average.shadow["image_projection.weight"].clone()
    hook = weight.register_hook(lambda grad: grad * float("inf"))
    # 4 -> 2 -> 1: the next might do.
    assert [run.update([batch], step)["skipped_steps"] for step in (4, 5)] == [1, 2]
    assert scaler.get_scale() == 1 and run.skipped_in_a_row == 0
    with pytest.raises(FloatingPointError, match="the gradient of step 7 is not finite"):
        run.update([batch], 6)
    assert torch.equal(weight, before)
    assert torch.equal(run.average.shadow["image_projection.weight"], average)
    hook.remove()
    run.update([batch], 7)
    assert not torch.equal(weight, before) and run.skipped_in_a_row == 0


# -- what a run starts from ----------------------------------------------------------------------------


def test_initial_weights_come_from_the_seed(config: Path) -> None:
    def weights(*overrides: str) -> torch.Tensor:
        return build_model(parse_config([str(config), *overrides])[0]).image_projection.weight

    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = weights()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    assert torch.equal(weights(), first)
    assert not torch.equal(weights("--seed=1"), first)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hiden_size: 64\nfoo: 1\n", r"model\.yaml has unknown fields: foo, hiden_size; known: vocab_size, "),
        ("just words\n", r"model\.yaml has unknown fields: just words; known: vocab_size, "),
        (None, r"model\.yaml' is neither a YAML file nor a checkpoint folder"),
    ],
)
def test_models_that_are_none(text: str | None, message: str, config: Path, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "model.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        build_model(parse_config([str(config), f"--model={tmp_path / 'model.yaml'}"])[0])


def test_which_tokenizer(config: Path, tmp_path: Path) -> None:
    def vocabulary(*overrides: str) -> dict[str, int]:
        read: TrainConfig = parse_config([str(config), *overrides])[0]
        shape = OneLookConfig(**yaml.safe_load(TINY.read_text(encoding="utf-8")))
        return build_processor(read, shape, {}).tokenizer.get_vocab()

    (tmp_path / "run").mkdir()
    trained = vocabulary()
    own = tmp_path / "run" / "tokenizer"
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["tokenizer"]
    train_tokenizer(["zebra zebra zebra"], vocab_size=2560).save_pretrained(own)
    assert vocabulary() != trained, "the run's own is taken up again"
    train_tokenizer(["gnu gnu gnu"], vocab_size=2560).save_pretrained(tmp_path / "given")
    assert "gnu" in vocabulary(f"--tokenizer={tmp_path / 'given'}")
    with pytest.raises(ValueError, match=r"nowhere has no tokenizer\.json"):
        vocabulary(f"--tokenizer={tmp_path / 'nowhere'}")


def test_validation_needs_records(tmp_path: Path, garments: Path) -> None:
    some = [line for line in garments.read_text(encoding="utf-8").splitlines() if '"train"' in line]
    file = garments.with_name("only-train.jsonl")
    file.write_text("\n".join(some) + "\n", encoding="utf-8")
    try:
        with pytest.raises(ValueError, match="eval_every is 5, but no source has validation records; give some"):
            main([str(write_config(tmp_path, file, eval_every=5))])
    finally:
        file.unlink()


def test_boxed_and_unboxed_records_may_be_weighted_apart(tmp_path: Path, garments: Path) -> None:
    lines = [json.loads(line) for line in garments.read_text(encoding="utf-8").splitlines()]
    for row in lines[:4]:
        row["boxes_complete"] = False
        for item in row["objects"]:
            del item["box"]
    for row in lines:
        row["image"] = str(garments.parent / row["image"])
    file = tmp_path / "mixed.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in lines), encoding="utf-8")
    source = {"reader": "jsonl", "path": str(file)}
    sources = {"boxed": {**source, "boxes": True}, "unboxed": {**source, "boxes": False}, "all": source}
    run = trainer(write_config(tmp_path, file, data={"sources": sources, "num_workers": 0}))
    assert {name: len(pictures) for name, pictures in run.pictures.items()} == {"boxed": 7, "unboxed": 4, "all": 11}
    assert next(iter(run.loader()))["record_ids"]


def test_drawn_pictures_are_trained_on_and_resumed(tmp_path: Path, garments: Path) -> None:
    """Beside others; a run that goes on, with workers, is the unbroken one to the bit."""
    pytest.importorskip("skia", reason="drawing needs skia-python: pip install 'vlm[synthetic]'")
    sources = {
        "drawn": {"reader": "wardrobe", "num": 7, "seed": 5, "size": 64},
        "read": {"reader": "jsonl", "path": str(garments)},
    }
    data = {"num_workers": 0, "stages": [{"patch_budget": 12, "prompts_per_image": 2}], "sources": sources}
    file = write_config(tmp_path, garments, num_steps=5, batch_size=4, save_every=2, keep_checkpoints=3, data=data)
    names = {name for batch in trainer(file).loader() for name in batch["record_ids"]}
    assert {name for name in names if name.startswith("wardrobe-5-")} == {f"wardrobe-5-{n:06d}" for n in range(7)}
    assert any(name.startswith("drawn-") for name in names)
    assert main([str(file)]) == 0
    run = tmp_path / "run"
    whole, logged = final_state(run), losses(run)
    for done in list_checkpoints(run / "checkpoints")[1:]:
        shutil.rmtree(done)
    assert main([str(file), "--data.num_workers=2"]) == 0
    assert identical(final_state(run), whole)
    assert losses(run) == logged
    source = yaml.safe_load((run / "train.yaml").read_text(encoding="utf-8"))["data"]["sources"]["drawn"]
    assert (source["num"], source["seed"], source["size"], source["plan"]) == (7, 5, 64, None)


# -- the configuration that is shipped -----------------------------------------------------------------


@pytest.mark.slow
def test_tiny_yaml_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    file = ROOT / "configs" / "train" / "tiny.yaml"
    try:
        assert main([str(file), f"--output_dir={tmp_path / 'run'}"]) == 0
    except FileNotFoundError as error:
        pytest.skip(str(error))
    found = [row["loss"] for row in rows(tmp_path / "run") if "loss" in row]
    assert found[-1] < 0.8 * found[0]
    assert any(name.startswith("validation/ccp/") for row in rows(tmp_path / "run") for name in row)
