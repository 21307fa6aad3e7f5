"""What a run starts from: the model and its processor."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.utils.checkpoint import checkpoint

from tasks.base import Record
from vlm.atomic import replacing_folder, write_text
from vlm.config import TrainConfig
from vlm.data.corpus import corpus
from vlm.engines import Engine
from vlm.hub import find_checkpoint, is_hub_id, require_loadable, split_revision
from vlm.model import OneLookConfig, OneLookModel
from vlm.model.vision import VisionTower, unread_weights
from vlm.processor import OneLookProcessor
from vlm.tokenizer import load_tokenizer, train_tokenizer
from vlm.towers import Tower, load_tower, plain_tower

__all__ = ["at_hand", "build_model", "build_processor", "checkpoint_activations", "compile_layers", "note_tower"]

TOWER_FILE = "vision_tower.json"


def at_hand(config: TrainConfig) -> TrainConfig:
    """The run with its model on this machine: a checkpoint on the Hub is fetched, or found in the Hub's cache.

    Raises:
        ValueError: there is no such model or no whole checkpoint, or as `find_checkpoint`.
    """
    path = Path(config.model)
    if not path.exists():
        name, revision = split_revision(config.model)
        if not is_hub_id(str(name)) or path.suffix in (".yaml", ".yml"):
            raise _no_model(config)
        path = find_checkpoint(name, revision=revision)
    if path.is_dir():
        require_loadable(path, config.model)
    return replace(config, model=str(path))


def _no_model(config: TrainConfig, reason: str = "") -> ValueError:
    return ValueError(
        f"model {config.model!r} is neither a YAML file nor a checkpoint folder{reason}; give one of these, or a Hub "
        "id (owner/name, or owner/name@revision)"
    )


def build_model(config: TrainConfig, *, resume: bool = False) -> OneLookModel:
    """From a YAML shape with weights drawn from `config.seed`, or from a checkpoint folder.

    A `vision_tower` in the shape is read from a directory or the Hub, weights and all.

    Args:
        config: of the run.
        resume: the run has checkpoints of its own: a vision tower's weights are in them, and are not read again.

    Raises:
        ValueError: neither is there, or the shape has an unknown field.
    """
    shape, asked = _shape(config)
    tower = _tower(asked, config, resume)
    if tower is not None:
        shape |= {"vision_config": tower.vision_config, "vision_input": tower.vision_input}
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        if Path(config.model).is_dir():
            model = OneLookModel.from_pretrained(
                config.model,
                config=OneLookConfig.from_dict(shape),
                dtype=torch.float32,
                ignore_mismatched_sizes=tower is not None,  # of what lies behind another tower
            )
        else:
            model = OneLookModel(OneLookConfig(**shape))
    if isinstance(model.tower, VisionTower):
        if tower is not None and tower.weights is not None:
            model.tower.model.load_state_dict(tower.weights)
        unread = unread_weights(model.config.vision_config)
        for name, parameter in model.tower.model.named_parameters():
            if name in unread:
                parameter.requires_grad_(False)
    return model


def _shape(config: TrainConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fields of the model with what the configuration changes in them, and those that ask for a vision tower."""
    _check_fields("shape", config.shape)
    if Path(config.model).is_dir():
        shape = OneLookConfig.from_pretrained(config.model).to_dict()
        if shape["vision_config"] is not None and "vision_tower" not in config.shape:
            changed = {name: shape[name] | (config.shape.get(name) or {}) for name in ("vision_config", "vision_input")}
            return shape | config.shape | changed, {}
        asked: Mapping[str, Any] = config.shape
    elif Path(config.model).is_file():
        try:
            shape = yaml.safe_load(Path(config.model).read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise _no_model(config, f" ({' '.join(str(error).split())})") from error
        _check_fields(config.model, shape if isinstance(shape, dict) else [str(shape)])
        asked = {**shape, **config.shape}
    else:
        raise _no_model(config)
    fields = {name: value for name, value in {**shape, **config.shape}.items() if name != "vision_tower"}
    names = ("vision_tower", "vision_config", "vision_input")
    return fields, {name: asked[name] for name in names if asked.get(name)}


def _check_fields(where: str, names: Iterable[str]) -> None:
    known = [name for name in inspect.signature(OneLookConfig).parameters if name != "kwargs"]
    known.insert(known.index("vision_config"), "vision_tower")
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"{where} has unknown fields: {', '.join(unknown)}; known: {', '.join(known)}")


def _tower(asked: dict[str, Any], config: TrainConfig, resume: bool) -> Tower | None:
    saved = Path(config.output_dir) / TOWER_FILE
    if resume and saved.is_file():
        told = json.loads(saved.read_text(encoding="utf-8"))
        if told.pop("asked") == asked:
            return Tower(**told)
    changes, takes = asked.get("vision_config", {}), asked.get("vision_input", {})
    if "vision_tower" in asked:
        return load_tower(str(asked["vision_tower"]), changes, takes)
    return plain_tower(changes, takes) if changes else None


def note_tower(config: TrainConfig, model: OneLookModel) -> None:
    """Into the run's folder, so that it goes on where the tower's own checkpoint is not at hand any more."""
    _, asked = _shape(config)
    if asked:
        shape = model.config.to_dict()
        told = {"asked": asked, "vision_config": shape["vision_config"], "vision_input": shape["vision_input"]}
        write_text(Path(config.output_dir) / TOWER_FILE, json.dumps(told, indent=1) + "\n")


def checkpoint_activations(model: OneLookModel) -> None:
    """Of every layer and image stage keep only what goes in; what happens inside is computed again for the backward
    pass, with the same dropout. Names of weights stay."""
    stages: Iterable[torch.nn.Module] = ()
    if isinstance(model.tower, VisionTower):
        model.tower.checkpoint_activations()
    else:
        stages = (model.tower.stem, *model.tower.blocks)
    for module in (*stages, *model.image_layers, *model.joint_layers, *model.decoder_layers):
        module.forward = partial(checkpoint, module.forward, use_reentrant=False)


def compile_layers(engine: Engine) -> None:
    """Compile the transformer's layers, for batches of any shape, when they are first called. Names of weights stay.

    Not the convolutions: with sides that may be of any length, torch 2.13 is not done with them in twenty minutes.

    Raises:
        ValueError: the engine shards, or there is no C++ compiler.
    """
    if engine.name != "replicated":
        raise ValueError("compile is true, which is for one process or DDP; set it to false, or do not shard")
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        raise ValueError(
            f"compile is true, but there is no C++ compiler {compiler}; install it, name another in CXX, or set "
            "compile to false"
        )
    model: Any = engine.module
    for layer in (*model.image_layers, *model.joint_layers, *model.decoder_layers):
        layer.compile(dynamic=True)


def build_processor(
    config: TrainConfig, shape: OneLookConfig, records: Mapping[str, Sequence[Record]]
) -> OneLookProcessor:
    """With the configured tokenizer, the run's own, or one trained on the sources."""
    if config.tokenizer is not None:
        return OneLookProcessor(load_tokenizer(config.tokenizer), shape)
    own = Path(config.output_dir) / "tokenizer"
    for folder in (Path(config.model), own):
        if (folder / "tokenizer.json").is_file():
            return OneLookProcessor(load_tokenizer(folder), shape)
    tokenizer = train_tokenizer(
        corpus([record for rows in records.values() for record in rows]), vocab_size=shape.vocab_size
    )
    with replacing_folder(own) as part:
        tokenizer.save_pretrained(part)
    return OneLookProcessor(tokenizer, shape)
