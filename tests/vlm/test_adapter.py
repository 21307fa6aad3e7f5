"""LoRA and DoRA beside a model that stays as it is: trained, gone on with, merged, and loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file

import vlm
from tests.vlm.test_train import final_state, identical, losses, trainer, write_config
from vlm.api import VLM
from vlm.batches import to_device
from vlm.checkpoint import list_checkpoints
from vlm.evaluate import quick_validation
from vlm.model import OneLookModel
from vlm.train import Trainer, main

NO_AVERAGE = {"learning_rate": 1e-2, "warmup_steps": 0, "ema_decay": 0.0}


pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny: VLM) -> Path:
    """A checkpoint to train from."""
    folder = tmp_path_factory.mktemp("base")
    tiny.save_pretrained(folder)
    return folder


def write(folder: Path, records: Path, base: Path, **adapter: Any) -> Path:
    folder.mkdir(exist_ok=True)
    values = {"rank": 4, "dropout": 0.1, "also_trained": ["memory_norm"], **adapter}
    return write_config(
        folder, records, model=base, num_steps=3, save_every=1, keep_checkpoints=3, batch_size=4, adapter=values
    )


@pytest.fixture(scope="module", params=["lora", "dora"])
def config(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, garments: Path, base: Path
) -> Path:
    """Of a finished run of each kind, exported as an adapter."""
    file = write(tmp_path_factory.mktemp(request.param), garments, base, kind=request.param, export="adapter")
    AcceleratorState._reset_state(reset_partial_state=True)
    assert main([str(file)]) == 0
    return file


def weights_of(model: OneLookModel) -> dict[str, torch.Tensor]:
    """By the names that they have without an adapter."""
    return {name.replace(".base_layer", ""): value for name, value in model.state_dict().items()}


def test_a_checkpoint_has_only_what_is_trained(config: Path) -> None:
    weights, state = final_state(config.parent / "run")
    assert {name for name in weights if "lora_" not in name} == {"memory_norm.weight"}
    assert {f"shadow.{name}" for name in weights} | {"num_updates"} == state["average"].keys()
    second = [value for name, value in weights.items() if "lora_B" in name]
    assert second and all(value.abs().max() > 0 for value in second), "they start at 0"


def test_it_goes_on_to_the_bit(config: Path, tmp_path: Path) -> None:
    """Also after a kill; the base stays as it is, to the bit, in spite of weight decay."""
    run = config.parent / "run"
    shutil.copytree(run, tmp_path / "run")
    for done in list_checkpoints(tmp_path / "run" / "checkpoints")[1:]:
        shutil.rmtree(done)
    resumed = trainer(config, f"--output_dir={tmp_path / 'run'}")
    before = load_file(Path(resumed.config.model) / "model.safetensors")
    assert resumed.first_step == 1 and resumed.run() is not None
    assert identical(final_state(tmp_path / "run"), final_state(run))
    assert losses(tmp_path / "run") == losses(run)
    after = weights_of(resumed.raw_model)
    assert {name for name in before if not torch.equal(after[name], before[name])} == {"memory_norm.weight"}


def test_the_folder_loads_merged(config: Path, base: Path) -> None:
    final = config.parent / "run" / "final"
    assert (final / "adapter_model.safetensors").stat().st_size < 0.5 * (base / "model.safetensors").stat().st_size
    averaged, _ = trainer(config).averaged()
    loaded = vlm.load(final).family.model
    assert type(loaded.decoder_layers[0].mlp.down) is torch.nn.Linear
    assert loaded.config.patch_budget == 12, "of the run's last stage"
    expected, before = averaged.state_dict(), load_file(base / "model.safetensors")
    for name, value in loaded.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6, msg=name)
    changed = "decoder_layers.0.self_attention.query.weight"
    assert (expected[changed] - before[changed]).abs().max() > 1e-3
    assert vlm.load(final, dtype="bfloat16").family.model.dtype == torch.bfloat16


def logits(run: Trainer, model: OneLookModel, batch: dict[str, Any]) -> torch.Tensor:
    tensors = to_device(batch, run.accelerator.device)
    with torch.no_grad():
        return model.eval()(**tensors, return_logits=True).logits


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_merged_it_is_what_was_trained(kind: str, tmp_path: Path, garments: Path, base: Path) -> None:
    """Teacher-forced, decoded token by token, validated in the run, and exported."""
    file = write(tmp_path, garments, base, kind=kind)
    run = trainer(file, f"--optim={json.dumps(NO_AVERAGE)}", "--num_steps=2", "--eval_every=2", "--eval_records=1")
    batch = next(iter(run.loader()))
    at_first = logits(run, run.raw_model, batch)
    untouched = logits(run, vlm.load(base).family.model, batch)
    torch.testing.assert_close(at_first, untouched, rtol=0, atol=1e-5, msg="it begins as the base")
    run.run()
    trained, merged = run.raw_model, run.averaged()[0]
    now = logits(run, trained, batch)
    assert (now - at_first).abs().max() > 0.1
    torch.testing.assert_close(logits(run, merged, batch), now, rtol=0, atol=1e-5 * float(now.abs().max()))
    ours, theirs = trained.step_weights(), merged.step_weights()
    for one, other in zip(ours.layers, theirs.layers, strict=True):
        torch.testing.assert_close(one.project.weight, other.project.weight, rtol=0, atol=1e-6)
    [validated] = [row for row in losses(tmp_path / "run") if "loss" not in row]
    measured = quick_validation(VLM(trained, run.averaged()[1]), run.validation_records)
    assert validated == {"step": 2, **{f"validation/{name}": value for name, value in measured.items()}}
    exported = load_file(tmp_path / "run" / "final" / "model.safetensors")
    assert all(torch.equal(value, merged.state_dict()[name].half()) for name, value in exported.items())
    assert vlm.load(tmp_path / "run" / "final").caption(garments.parent / "11.png")


def test_a_base_that_is_gone_or_another(config: Path, tmp_path: Path, garments: Path, base: Path) -> None:
    final = tmp_path / "final"
    shutil.copytree(config.parent / "run" / "final", final)
    with pytest.raises(ValueError, match=r"is an adapter; go on from its run's `export: merged`, or name its base"):
        trainer(write(tmp_path / "next", garments, final))
    told = json.loads((final / "adapter_config.json").read_text(encoding="utf-8"))
    assert not Path(told["base_model_name_or_path"]).is_absolute(), "another machine has no such path"

    def name_base(folder: Path) -> None:
        (final / "base.json").write_text(json.dumps(whole | {"path": None}), encoding="utf-8")
        (final / "adapter_config.json").write_text(json.dumps(told | {"base_model_name_or_path": str(folder)}))

    whole = json.loads((final / "base.json").read_text(encoding="utf-8"))
    name_base(tmp_path / "gone")
    with pytest.raises(
        ValueError, match=r"its base checkpoint cannot be found \(.*gone: no such.*vlm\.load\(CHECKPOINT"
    ):
        vlm.load(final)
    assert vlm.load(base, adapter=final).caption(garments.parent / "11.png")
    shutil.copytree(base, tmp_path / "other")
    weights = load_file(base / "model.safetensors")
    weights["final_norm.weight"] *= 1.01
    save_file(weights, tmp_path / "other" / "model.safetensors", metadata={"format": "pt"})
    name_base(tmp_path / "other")
    with pytest.raises(ValueError, match=r"the adapter was trained beside another checkpoint than .*other; give"):
        vlm.load(final)
    with pytest.raises(ValueError, match=r"the adapter was trained beside another checkpoint than .*other; give"):
        vlm.load(tmp_path / "other", adapter=final)
    with pytest.raises(ValueError, match=r"model .*other is another than the one that the checkpoint's adapter was"):
        trainer(config, f"--model={tmp_path / 'other'}")


def test_what_does_not_fit(config: Path, tmp_path: Path, garments: Path, base: Path) -> None:
    with pytest.raises(ValueError, match=r"step_00000003 is of another model .*, adapter and all, another output_dir"):
        trainer(config, "--adapter.rank=2")
    with pytest.raises(ValueError, match=r"adapter\.targets names 'tower', but no linear layer's name begins so"):
        trainer(write(tmp_path, garments, base, targets=["tower"]))
    with pytest.raises(ValueError, match=r"adapter\.also_trained names 'eyes', but no weight's name begins so"):
        trainer(write(tmp_path, garments, base, also_trained=["eyes"]))
    shape = Path("configs/model/tiny.yaml").resolve()
    with pytest.raises(ValueError, match=r"adapter\.export is 'adapter', but model .*tiny\.yaml is no checkpoint"):
        trainer(write(tmp_path, garments, shape, export="adapter"))
