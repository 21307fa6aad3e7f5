"""What a run starts from: the model and its processor."""

from __future__ import annotations

import inspect
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.utils.checkpoint import checkpoint

from tasks.base import Record
from vlm.adapter import ADAPTER_FILE
from vlm.config import TrainConfig
from vlm.data.corpus import corpus
from vlm.engines import Engine
from vlm.model import OneLookConfig, OneLookModel
from vlm.processor import OneLookProcessor
from vlm.tokenizer import load_tokenizer, train_tokenizer

__all__ = ["build_model", "build_processor", "checkpoint_activations", "compile_layers"]


def build_model(config: TrainConfig) -> OneLookModel:
    """From a YAML shape with weights drawn from `config.seed`, or from a checkpoint folder.

    Raises:
        ValueError: neither is there, or the shape has an unknown field.
    """
    if Path(config.model, ADAPTER_FILE).is_file():
        raise ValueError(
            f"model {config.model!r} is an adapter; go on from its run's `export: merged`, or name its base checkpoint"
        )
    if Path(config.model).is_dir():
        shape = _changed(OneLookConfig.from_pretrained(config.model).to_dict(), config)
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            return OneLookModel.from_pretrained(
                config.model, config=OneLookConfig.from_dict(shape), dtype=torch.float32
            )
    if not Path(config.model).is_file():
        raise ValueError(f"model {config.model!r} is neither a YAML file nor a checkpoint folder")
    shape = yaml.safe_load(Path(config.model).read_text(encoding="utf-8"))
    _check_fields(config.model, shape if isinstance(shape, dict) else [str(shape)])
    shape = _changed(shape, config)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return OneLookModel(OneLookConfig(**shape))


def _check_fields(where: str, names: Iterable[str]) -> None:
    known = [name for name in inspect.signature(OneLookConfig).parameters if name != "kwargs"]
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"{where} has unknown fields: {', '.join(unknown)}; known: {', '.join(known)}")


def _changed(shape: Mapping[str, Any], config: TrainConfig) -> dict[str, Any]:
    """The shape with what the configuration changes in it."""
    _check_fields("shape", config.shape)
    return {**shape, **config.shape}


def checkpoint_activations(model: OneLookModel) -> None:
    """Of every layer and image stage keep only what goes in; what happens inside is computed again for the backward
    pass, with the same dropout. Names of weights stay."""
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
    temporary = own.with_name(".tokenizer.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    tokenizer.save_pretrained(temporary)
    os.replace(temporary, own)
    return OneLookProcessor(tokenizer, shape)
