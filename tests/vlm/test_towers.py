"""Vision encoders from a directory: their weights, their pixels, and training with one in place of the image layers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

import vlm
from tests.distributed.runs import ALL, skip_without
from tests.vlm.test_train import TINY, final_state, identical, losses, trainer, write_config
from tests.vlm.towers import IMAGE_PROCESSORS, SHAPES, save_tower
from vlm.batches import to_device
from vlm.build import build_model, checkpoint_activations
from vlm.checkpoint import list_checkpoints
from vlm.info import checkpoint_info
from vlm.model import OneLookConfig, OneLookModel
from vlm.model.vision import VisionTower, unread_weights
from vlm.processor import OneLookProcessor
from vlm.towers import load_tower
from vlm.train import Trainer, main, parse_config

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one checkpoint of each kind."""
    root = tmp_path_factory.mktemp("towers")
    for model_type in SHAPES:
        save_tower(model_type, root / model_type)
    return root


def one_look(tower: Any, **shape: Any) -> OneLookModel:
    config = OneLookConfig(
        hidden_size=32, head_dim=16, vision_config=tower.vision_config, vision_input=tower.vision_input, **shape
    )
    model = OneLookModel(config).eval()
    model.tower.model.load_state_dict(tower.weights)
    return model


def config_with(
    tower: Path, folder: Path, records: Path, *, shape: dict[str, Any] | None = None, **values: Any
) -> Path:
    """A run of three steps whose model's YAML is the tiny one and a line."""
    lines = yaml.safe_load(TINY.read_text(encoding="utf-8")) | {"vision_tower": str(tower)} | (shape or {})
    (folder / "model.yaml").write_text(yaml.safe_dump(lines), encoding="utf-8")
    return write_config(
        folder,
        records,
        **{"model": folder / "model.yaml", "num_steps": 3, "save_every": 1, "keep_checkpoints": 3, "batch_size": 4}
        | values,
    )


# -- what is loaded ----------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("model_type", SHAPES)
def test_features_are_the_encoders_own(model_type: str, towers: Path, photos: list[Image.Image]) -> None:
    """Normed, and laid out as a grid: against the encoder as its makers call it, on what their processor makes."""
    whole = save_tower(model_type, towers / "again")
    shutil.rmtree(towers / "again")
    encoder = getattr(whole, "vision_model", whole)
    model = one_look(load_tower(str(towers / model_type), {}, {}), patch_budget=16)
    processor = OneLookProcessor.__new__(OneLookProcessor)  # a tokenizer has no part in it
    processor.config, processor.patch_budget = model.config, 16
    [pixels] = processor.collate_images([photos[2]])["pixel_values"]
    resized = processor.resize(photos[2])
    stride = model.config.stride
    assert resized.size == (4 * stride, 4 * stride)
    if model_type in IMAGE_PROCESSORS:
        inputs = IMAGE_PROCESSORS[model_type]()(resized, return_tensors="pt", do_resize=False)
    else:
        told = json.loads((towers / model_type / "preprocessor_config.json").read_text(encoding="utf-8"))
        values = (np.asarray(resized) / 255 - told["image_mean"]) / told["image_std"]
        inputs = {"pixel_values": torch.from_numpy(values).permute(2, 0, 1)[None].float()}
    if model_type != "siglip2":
        torch.testing.assert_close(pixels, inputs["pixel_values"], atol=1e-5, rtol=1e-5)
    expected = encoder(**inputs).last_hidden_state
    expected = expected.flatten(2).transpose(1, 2) if expected.ndim == 4 else expected  # convolutions keep the grid
    expected = expected[:, model.tower.num_prefix_tokens :]
    found = model.tower(pixels).flatten(2).transpose(1, 2)
    assert model.tower.num_prefix_tokens == {"clip": 1, "dinov2": 1, "dinov3_vit": 5}.get(model_type, 0)
    torch.testing.assert_close(found, model.tower.norm(expected), atol=1e-5, rtol=1e-5)


def test_a_part_of_its_layers(towers: Path) -> None:
    """CLIP's tokens before its last layer are the better ones for what is asked here."""
    tower = load_tower(str(towers / "clip"), {"num_hidden_layers": 1}, {})
    whole = save_tower("clip", towers / "again").vision_model
    shutil.rmtree(towers / "again")
    model = one_look(tower)
    pixels = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        inner = whole(pixels, output_hidden_states=True).hidden_states[1][:, 1:]
        torch.testing.assert_close(
            model.tower(pixels).flatten(2).transpose(1, 2), model.tower.norm(inner), atol=1e-5, rtol=1e-5
        )


def test_sizes(towers: Path, photos: list[Image.Image]) -> None:
    """A budget of patches with the picture's aspect where the encoder can; the size that it is held to elsewhere."""
    free = load_tower(str(towers / "siglip"), {}, {})
    held = load_tower(str(towers / "siglip"), {}, {"image_size": [32, 32]})
    for tower, sizes in ((free, [(16, 24), (24, 16)]), (held, [(32, 32), (32, 32)])):
        config = OneLookConfig(vision_config=tower.vision_config, vision_input=tower.vision_input, patch_budget=6)
        processor = OneLookProcessor.__new__(OneLookProcessor)
        processor.config, processor.patch_budget = config, 6
        assert [processor.resize(photo).size for photo in photos[:2]] == sizes


def test_what_cannot_be_loaded(towers: Path, tmp_path: Path) -> None:
    def copy(model_type: str, name: str) -> Path:
        return Path(shutil.copytree(towers / model_type, tmp_path / name))

    with pytest.raises(ValueError, match=r"nowhere: no such directory"):
        load_tower(str(tmp_path / "nowhere"), {}, {})
    silent = copy("dinov2", "silent")
    (silent / "preprocessor_config.json").unlink()
    with pytest.raises(
        ValueError, match=r"silent: has no preprocessor_config\.json that tells image_mean .*vision_input"
    ):
        load_tower(str(silent), {}, {})
    assert load_tower(str(silent), {}, {"mean": [0.4] * 3, "std": [0.2] * 3}).vision_input["mean"] == [0.4] * 3
    pickled = copy("dinov2", "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pickled: has no \.safetensors weights; pickled weights are not loaded"):
        load_tower(str(pickled), {}, {})
    other = copy("dinov2", "other")
    weights = load_file(other / "model.safetensors")
    gone = next(name for name in weights if "mlp" in name)
    save_file({n: v for n, v in weights.items() if n != gone}, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"other: its weights lack 1 of the encoder's, encoder\.layer\.0\.mlp"):
        load_tower(str(other), {}, {})
    damaged = copy("dinov2", "damaged")
    (damaged / "model.safetensors").write_bytes((damaged / "model.safetensors").read_bytes()[:100])
    with pytest.raises(ValueError, match=r"damaged: the weights cannot be read"):
        load_tower(str(damaged), {}, {})
    remote = copy("dinov2", "remote")
    told = json.loads((remote / "config.json").read_text(encoding="utf-8"))
    told |= {"model_type": "their_own", "auto_map": {"AutoConfig": "configuration.Theirs"}}
    (remote / "config.json").write_text(json.dumps(told), encoding="utf-8")
    (remote / "configuration.py").write_text("raise SystemExit('this was run')", encoding="utf-8")
    with pytest.raises(ValueError, match=r"remote: its config\.json names no model that transformers has"):
        load_tower(str(remote), {}, {})


# -- training ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", SHAPES)
def test_a_run(model_type: str, towers: Path, tmp_path: Path, garments: Path) -> None:
    """From the tower's own weights, every one of which learns; what is exported stands alone."""
    tower = Path(shutil.copytree(towers / model_type, tmp_path / "tower"))
    file = config_with(tower, tmp_path, garments, activation_checkpointing=model_type == "dinov2")
    weights = load_tower(str(tower), {}, {}).weights
    unread = unread_weights(build_model(parse_config([str(file)])[0]).config.vision_config)
    assert main([str(file)]) == 0
    shutil.rmtree(tower)
    after, state = final_state(tmp_path / "run")
    for name, value in weights.items():
        moved = not torch.equal(after[f"tower.model.{name}"], value)
        assert moved == (name not in unread), name
        assert (f"shadow.tower.model.{name}" in state["average"]) == moved
    model = vlm.load(tmp_path / "run" / "final")
    assert isinstance(model.family.model.tower, VisionTower) and len(model.family.model.image_layers) == 0
    photo = garments.parent / "11.png"
    alone = model.caption(photo)
    batch = model.generate([vlm.Request(garments.parent / "12.png", "detection"), vlm.Request(photo, "caption")])
    assert batch[1].text == alone.text and batch[1].score == pytest.approx(alone.score, abs=1e-5)
    info = checkpoint_info(tmp_path / "run" / "final")
    assert info["parameters"] == sum(parameter.numel() for parameter in model.family.model.parameters())
    assert info["vision_tower"] == model.family.model.config.vision_config.model_type


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("name", ALL)
def test_several_processes_give_what_one_gives(name: str, towers: Path, tmp_path: Path, garments: Path) -> None:
    """None waits for the gradient of a weight that the tower's tokens do not depend on."""
    skip_without(name)
    file = config_with(towers / "clip", tmp_path, garments)
    assert main([str(file)]) == 0
    command = [sys.executable, "-m", "vlm", "train", str(file), f"--output_dir={tmp_path / 'two'}"]
    done = subprocess.run(
        [*command, "--launch", name, "--num-processes", "2"],
        capture_output=True,
        text=True,
        timeout=280,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for one, two in zip(losses(tmp_path / "run"), losses(tmp_path / "two"), strict=True):
        assert two == pytest.approx(one, rel=1e-4)
    # As exported: in half precision, and gathered where an engine has weights in parts.
    weights, others = (load_file(tmp_path / run / "final" / "model.safetensors") for run in ("run", "two"))
    assert weights.keys() == others.keys()
    for key, value in weights.items():
        torch.testing.assert_close(others[key], value, rtol=2e-3, atol=4e-4, msg=key)


def test_it_goes_on_without_the_towers_folder(towers: Path, tmp_path: Path, garments: Path) -> None:
    """To the bit; and started afresh it says what is gone."""
    tower = Path(shutil.copytree(towers / "siglip", tmp_path / "tower"))
    file = config_with(tower, tmp_path, garments)
    assert main([str(file)]) == 0
    run = tmp_path / "run"
    shutil.copytree(run, tmp_path / "other")
    for done in list_checkpoints(tmp_path / "other" / "checkpoints")[1:]:
        shutil.rmtree(done)
    shutil.rmtree(tower)
    resumed = trainer(file, f"--output_dir={tmp_path / 'other'}")
    assert resumed.first_step == 1 and resumed.run() is not None
    assert identical(final_state(tmp_path / "other"), final_state(run))
    assert losses(tmp_path / "other") == losses(run)
    for overrides in (["--restart"], ["--shape.vision_tower=nowhere"]):
        with pytest.raises(ValueError, match=r"(tower|nowhere): no such directory"):
            trainer(file, f"--output_dir={tmp_path / 'other'}", *overrides)


def gradients(run: Trainer) -> dict[str, float]:
    """Of the loss of the run's first step; by name."""
    batch = to_device(next(iter(run.loader())), run.accelerator.device)
    run.raw_model.train()(**batch).loss.backward()
    return {
        name: float(parameter.grad.norm())
        for name, parameter in run.raw_model.named_parameters()
        if parameter.grad is not None
    }


def test_frozen_or_at_its_own_rate(towers: Path, tmp_path: Path, garments: Path) -> None:
    optim = {"learning_rate": 1e-3, "warmup_steps": 0, "ema_decay": 0.0}
    modules = {"tower.model": {"learning_rate_scale": 0.1}, "tower.model.embeddings": {"frozen": True}}
    file = config_with(towers / "dinov3_vit", tmp_path, garments, optim=optim | {"modules": modules})
    run = trainer(file)
    scales = {
        name: group["learning_rate_scale"]
        for group, names in zip(run.optimizer.param_groups, run.engine.order, strict=True)
        for name in names
    }
    learnt = {name for name in scales if name.startswith("tower.model.")}
    assert learnt and {scales[name] for name in learnt} == {0.1}
    assert not any(name.startswith("tower.model.embeddings") for name in learnt)
    assert scales["tower.norm.weight"] == scales["image_projection.weight"] == 1.0
    found = gradients(run)
    assert found.keys() == scales.keys() and all(value > 0 for value in found.values())
    frozen = trainer(file, '--optim.modules={"tower": {"frozen": true}}', f"--output_dir={tmp_path / 'frozen'}")
    assert not any(name.startswith("tower.") for name in gradients(frozen))
    before = {name: value.clone() for name, value in frozen.raw_model.tower.state_dict().items()}
    frozen.raw_model.zero_grad()
    frozen.run()
    assert identical(before, dict(frozen.raw_model.tower.state_dict()))


def test_its_gradient_is_that_of_the_loss(towers: Path, tmp_path: Path, garments: Path) -> None:
    """Central differences in the direction of the gradient of each of a few weights."""
    run = trainer(config_with(towers / "siglip2", tmp_path, garments))
    model = run.raw_model.eval()
    batch = next(iter(run.loader()))
    model(**batch).loss.backward()
    chosen = ["embeddings.patch_embedding.weight", "encoder.layers.0.self_attn.q_proj.weight", "post_layernorm.bias"]
    for name in chosen:
        weight = model.tower.model.get_parameter(name)
        gradient = weight.grad
        step = 1e-2 * gradient / gradient.norm()
        with torch.no_grad():
            ends = []
            for sign in (1, -2):
                weight.add_(sign * step)
                ends.append(float(model(**batch).loss))
            weight.add_(step)
        assert (ends[0] - ends[1]) / 2e-2 == pytest.approx(float(gradient.norm()), rel=2e-2), name


def test_activation_checkpointing_changes_nothing(towers: Path, tmp_path: Path, garments: Path) -> None:
    run = trainer(config_with(towers / "clip", tmp_path, garments))
    plain = gradients(run)
    run.raw_model.zero_grad()
    called: list[int] = []
    inner = run.raw_model.tower.model.encoder.layers[0].mlp
    inner.register_forward_pre_hook(lambda *_: called.append(1))
    checkpoint_activations(run.raw_model)
    again = gradients(run)
    assert plain.keys() == again.keys() and len(called) == 2 * len(next(iter(run.loader()))["pixel_values"])
    for name, value in plain.items():
        assert again[name] == pytest.approx(value, rel=1e-5), name


def test_another_tower_for_a_checkpoint(towers: Path, tmp_path: Path, garments: Path, tiny: vlm.VLM) -> None:
    """The rest of the checkpoint stays; and of one with a tower, fields of it can be changed."""
    tiny.save_pretrained(tmp_path / "base")
    changes = [f"--shape.vision_tower={towers / 'dinov2'}", f"--model={tmp_path / 'base'}"]
    file = write_config(tmp_path, garments, num_steps=1, batch_size=2)
    model = build_model(parse_config([str(file), *changes])[0])
    assert isinstance(model.tower, VisionTower) and model.tower.stride == 14
    expected = load_tower(str(towers / "dinov2"), {}, {}).weights
    assert identical(dict(model.tower.model.state_dict()), expected)
    before = tiny.family.model.state_dict()
    kept = [name for name in model.state_dict() if name.startswith(("joint", "decoder", "tokens"))]
    assert kept and all(torch.equal(model.state_dict()[name], before[name]) for name in kept)
    model.save_pretrained(tmp_path / "with_tower")
    changes = [f"--model={tmp_path / 'with_tower'}", '--shape.vision_config={"hidden_dropout_prob": 0.1}']
    again = build_model(parse_config([str(file), *changes])[0])
    assert again.config.vision_config.hidden_dropout_prob == 0.1
    assert identical(dict(again.state_dict()), dict(model.state_dict()))
