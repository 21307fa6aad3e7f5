"""LoRA and DoRA: small matrices beside some layers are trained, the layers themselves stay (peft does the work)."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vlm.config import AdapterConfig
from vlm.model import OneLookConfig, OneLookModel
from vlm.optim import fits, require_fits

if TYPE_CHECKING:
    from peft import LoraModel

__all__ = ["ADAPTER_FILE", "Adapter", "load_adapted"]

ADAPTER_FILE = "adapter_config.json"
"""A folder with it is an adapter; peft names it so."""
_ALSO_TRAINED = "also_trained.safetensors"
_BASE = "base.json"


class Adapter:
    """What is trained beside a model.

    Args:
        model: gets the adapter, in place; all its other weights are taken out of training, but those that the
            configuration names.
        config: of the adapter.
        base: the checkpoint, or YAML file, that the model is made from.
        seed: of its first weights. With these the model does what it did before.

    Attributes:
        trained: names of the weights that are the adapter's, and of the others that are trained.
        checksum: of the weights that are not.

    Raises:
        ValueError: a name in the configuration fits nothing, or the export needs a checkpoint as the base.

    Sources: LoRA (arXiv 2106.09685), DoRA (arXiv 2402.09353).
    """

    def __init__(self, model: OneLookModel, config: AdapterConfig, base: str, seed: int) -> None:
        self.config, self.base, self.seed = config, base, seed
        if config.export == "adapter" and not Path(base).is_dir():
            raise ValueError(
                f"adapter.export is 'adapter', but model {base} is no checkpoint folder that it could name; "
                "export it merged, or start from a checkpoint"
            )
        names = [name for name, _ in model.named_parameters()]
        require_fits("adapter.also_trained", config.also_trained, names, "weight")
        # The embedding is read by the model itself, not called, so that what lies beside it would not be seen; the
        # convolutions bring their filters to unit gain, and a sum of two would then be another.
        linear = [
            name
            for name, module in model.named_modules()
            if type(module) is nn.Linear and not name.startswith("tokens.")
        ]
        require_fits("adapter.targets", config.targets, linear, "linear layer")
        self.targets = [name for name in linear if any(fits(name, target) for target in config.targets)]
        self.also_trained = {
            name
            for name in names
            if any(fits(name, also) for also in config.also_trained) and name.rpartition(".")[0] not in self.targets
        }
        rest = {name: value for name, value in model.named_parameters() if name not in self.also_trained}
        self.checksum = _checksum(rest)
        self.add_to(model)
        self.trained = frozenset(name for name, value in model.named_parameters() if value.requires_grad)

    def add_to(self, model: OneLookModel) -> LoraModel:
        """Lay the adapter, as it is at first, beside the layers of a model of the same shape."""
        from peft import LoraConfig, LoraModel

        config = LoraConfig(
            r=self.config.rank,
            lora_alpha=self.config.alpha,
            lora_dropout=self.config.dropout,
            use_dora=self.config.kind == "dora",
            target_modules=self.targets,
        )
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            added = LoraModel(model, config, "default")
        for name, parameter in model.named_parameters():
            if name in self.also_trained:
                parameter.requires_grad_(True)
        return added

    def require_base(self, checksum: str | None) -> None:
        """Raises ValueError where a checkpoint's adapter was trained beside other weights."""
        if checksum != self.checksum:
            raise ValueError(
                f"model {self.base} is another than the one that the checkpoint's adapter was trained beside; put that "
                "one back, use another output_dir, or --restart"
            )

    def save(self, folder: Path, model: OneLookModel) -> None:
        """What `load_adapted` reads: peft's two files, the shape, the checksum of the base and what else was trained.

        Args:
            folder: is made.
            model: with the adapter.
        """
        from peft import get_peft_model_state_dict

        folder.mkdir(parents=True)
        peft_config = model.peft_config["default"]  # type: ignore[index]
        peft_config.base_model_name_or_path = str(Path(self.base).resolve())
        peft_config.inference_mode = True
        peft_config.save_pretrained(str(folder))
        weights = get_peft_model_state_dict(model, save_embedding_layers=False)
        # As a PeftModel, which holds the model as base_model.model, would have it.
        save_file(
            {f"base_model.model.{name}": value.contiguous() for name, value in weights.items()},
            folder / "adapter_model.safetensors",
            metadata={"format": "pt"},
        )
        if self.also_trained:
            also = {name: value for name, value in model.state_dict().items() if name in self.also_trained}
            save_file(also, folder / _ALSO_TRAINED)
        model.config.save_pretrained(str(folder))
        (folder / _BASE).write_text(json.dumps({"checksum": self.checksum}) + "\n", encoding="utf-8")


def load_adapted(folder: Path) -> OneLookModel:
    """The base checkpoint of an adapter, with the adapter merged into it, in float32.

    Raises:
        ValueError: the base is not there or has changed, or the adapter is damaged.
    """
    from peft import PeftModel

    from vlm.families import load_family
    from vlm.hub import find_checkpoint

    file = folder / ADAPTER_FILE
    try:
        name = json.loads(file.read_text(encoding="utf-8"))["base_model_name_or_path"]
        path = find_checkpoint(name)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder}: is an adapter, and its base checkpoint cannot be found ({error}); write where it lies into "
            f"base_model_name_or_path of {file}"
        ) from error
    model: OneLookModel = load_family(path, device=torch.device("cpu"), dtype=torch.float32).model
    try:
        also_file, base_file = folder / _ALSO_TRAINED, folder / _BASE
        also = load_file(also_file) if also_file.is_file() else {}
        if base_file.is_file():  # an adapter that peft itself has written has none
            rest = {name: value for name, value in model.named_parameters() if name not in also}
            if json.loads(base_file.read_text(encoding="utf-8"))["checksum"] != _checksum(rest):
                raise ValueError(
                    f"its base checkpoint {path} is another than it was trained beside; put that one back, or write "
                    f"where it lies into base_model_name_or_path of {file}"
                )
        missing = model.load_state_dict(also, strict=False).unexpected_keys
        if missing:
            raise ValueError(f"{also_file} has weights that the base lacks: {', '.join(missing)}")
        with warnings.catch_warnings():
            # Peft 0.21 asks transformers for something that has another name now, which is nothing to a user.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            adapted = PeftModel.from_pretrained(model, str(folder), torch_device="cpu")
        merged: OneLookModel = adapted.merge_and_unload()
    except (ValueError, OSError, RuntimeError, KeyError, SafetensorError) as error:
        raise ValueError(f"{folder}: the adapter cannot be read: {error}") from error
    merged.config.patch_budget = OneLookConfig.from_pretrained(str(folder)).patch_budget
    return merged.requires_grad_(True)


def _checksum(weights: Mapping[str, Tensor]) -> str:
    """Of values in float32, which a checkpoint in half precision gives too."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
