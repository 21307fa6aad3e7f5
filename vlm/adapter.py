"""LoRA and DoRA: small matrices beside some layers are trained, the layers themselves stay (peft does the work).

Here is what is trained and how it lies on disk; `vlm.adapters` lays it beside a loaded model.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vlm.atomic import write_text
from vlm.config import AdapterConfig
from vlm.hub import split_revision
from vlm.info import EMBEDDED
from vlm.optim import fits, require_fits

if TYPE_CHECKING:
    from peft import LoraModel

__all__ = [
    "ADAPTER_FILE",
    "ADDED_TOKENS",
    "Adapter",
    "checksum_of",
    "default_targets",
    "name_base",
    "require_bitsandbytes",
]

ADAPTER_FILE = "adapter_config.json"
"""A folder with it is an adapter; peft names it so."""
ALSO_TRAINED = "also_trained.safetensors"
ADDED_TOKENS = "added_tokens.weight"
"""Embeddings of tokens that the checkpoint lacks, where its family lays them beside the model: always trained."""
BASE = "base.json"
PREFIX = "base_model.model."


class Adapter:
    """What is trained beside a model of any family.

    Args:
        model: gets the adapter, in place; all its other weights are taken out of training, but those that the
            configuration names.
        config: of the adapter.
        base: the checkpoint, as its user named it, or YAML file, that the model is made from.
        seed: of its first weights. With these the model does what it did before.
        device: where a `qlora` base is brought to 4 bits.

    Attributes:
        targets: names of the linear layers that have it.
        trained: names of the weights that are the adapter's, and of the others that are trained.
        checksum: of the weights that are not.

    Raises:
        ValueError: a name in the configuration fits nothing, the export needs a checkpoint as the base, or `qlora`
            needs bitsandbytes.

    Sources: LoRA (arXiv 2106.09685), DoRA (arXiv 2402.09353), QLoRA (arXiv 2305.14314).
    """

    def __init__(
        self, model: Any, config: AdapterConfig, base: str, seed: int, device: torch.device | str = "cpu"
    ) -> None:
        self.config, self.base, self.seed = config, base, seed
        if config.export == "adapter" and Path(base).is_file():
            raise ValueError(
                f"adapter.export is 'adapter', but model {base} is no checkpoint folder that it could name; "
                "export it merged, or start from a checkpoint"
            )
        if config.kind == "qlora":
            require_bitsandbytes("adapter.kind is 'qlora'")
        names = [name for name, _ in model.named_parameters()]
        require_fits("adapter.also_trained", config.also_trained, names, "weight")
        also_trained = config.also_trained
        if ADDED_TOKENS in names:
            _require_others(model, also_trained)
            also_trained = (*also_trained, ADDED_TOKENS)
        if config.targets is None:
            self.targets = default_targets(model)
        else:
            linear = _linear_layers(model)
            require_fits("adapter.targets", config.targets, linear, "linear layer")
            self.targets = [name for name in linear if any(fits(name, target) for target in config.targets)]
        self.also_trained = {
            name
            for name, value in model.named_parameters()
            if value.requires_grad
            and any(fits(name, also) for also in also_trained)
            and name.rpartition(".")[0] not in self.targets
        }
        self.checksum = checksum_of(model, self.also_trained)
        if config.kind == "qlora":
            to_four_bits(model, self.targets, device)
        self.add_to(model)
        self.trained = frozenset(name for name, value in model.named_parameters() if value.requires_grad)

    def add_to(self, model: Any) -> LoraModel:
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

    def whole_weights(self, model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of the trained model as one without 4 bits has them: what was trained beside, not what it was."""
        if self.config.kind != "qlora":
            return dict(weights)
        packed = tuple(f"{name}.base_layer.weight" for name in self.targets)
        plain = {name: value for name, value in weights.items() if not name.startswith(packed)}
        for name in packed:
            plain[name] = from_four_bits(model.get_parameter(name))
        return plain

    def require_base(self, checksum: str | None) -> None:
        """Raises ValueError where a checkpoint's adapter was trained beside other weights."""
        if checksum != self.checksum:
            raise ValueError(
                f"model {self.base} is another than the one that the checkpoint's adapter was trained beside; put that "
                "one back, use another output_dir, or --restart"
            )

    def save(self, folder: Path, model: Any) -> None:
        """What `vlm.adapters` reads: peft's two files, the shape, what else was trained, and the base: its name, where
        it lies and its checksum.

        Args:
            folder: is made.
            model: with the adapter.
        """
        from peft import get_peft_model_state_dict

        folder.mkdir(parents=True)
        peft_config = model.peft_config["default"]
        peft_config.inference_mode = True
        peft_config.save_pretrained(str(folder))
        weights = get_peft_model_state_dict(model, save_embedding_layers=False)
        # As a PeftModel, which holds the model as base_model.model, would have it.
        save_file(
            {f"{PREFIX}{name}": value.contiguous() for name, value in weights.items()},
            folder / "adapter_model.safetensors",
            metadata={"format": "pt"},
        )
        if self.also_trained:
            also = {name: value for name, value in model.state_dict().items() if name in self.also_trained}
            save_file(also, folder / ALSO_TRAINED)
        model.config.save_pretrained(str(folder))
        name_base(folder, self.base, self.checksum)


def _require_others(model: Any, also_trained: Sequence[str]) -> None:
    """Raises ValueError where the table of all tokens is among what is also trained."""
    table = model.get_input_embeddings().weight
    for name, value in model.named_parameters():
        if value is table and any(fits(name, also) for also in also_trained):
            raise ValueError(
                f"adapter.also_trained names {name}, the embeddings of all tokens, but the checkpoint lacks tokens, "
                "whose own embeddings are trained beside it; leave it out, or train without an adapter"
            )


def _linear_layers(model: nn.Module) -> list[str]:
    # The embedding is read by the model itself, not called, so that what lies beside it would not be seen; neither
    # would it be beside the output of torch's own attention, which has another class. The convolutions bring their
    # filters to unit gain, and a sum of two would then be another.
    return [
        name
        for name, module in model.named_modules()
        if (type(module) is nn.Linear or type(module).__module__.startswith("bitsandbytes."))
        and hasattr(module, "in_features")
        and not name.startswith("tokens.")
    ]


def default_targets(model: nn.Module) -> list[str]:
    """The linear layers of all attentions and MLPs: those of the numbered layers of a stack, without embeddings (of
    patches, positions, words) and without heads.

    Raises:
        ValueError: there are none.
    """

    def fitting(name: str) -> bool:
        parts = name.split(".")
        aside = ("embed" in p or p in ("head", "pooler", "classifier") or p.endswith("_head") for p in parts)
        return any(part.isdigit() for part in parts) and not any(aside)

    names = [name for name in _linear_layers(model) if fitting(name)]
    if not names:
        raise ValueError(f"adapter.targets: a {type(model).__name__} has no layers of attention or MLPs; name its own")
    return names


def name_base(folder: Path, base: str, checksum: str | None) -> None:
    """Write into an adapter's folder which checkpoint it belongs to. A Hub id and a relative path stay as they were
    given; of an absolute one, which another machine does not have, the path from the folder is told.

    Args:
        folder: its parent is where the adapter is going to lie.
        base: a directory or Hub id, of a revision as "owner/name@revision".
    """
    told: dict[str, Any] = {"checksum": checksum}
    name, revision = split_revision(base)
    path = Path(base).expanduser()
    if path.is_dir():
        told["path"] = Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
        told["embedded"] = path.resolve() == EMBEDDED.resolve()
        name = told["path"] if path.is_absolute() else path.as_posix()
    file = folder / ADAPTER_FILE
    config = json.loads(file.read_text(encoding="utf-8")) | {"base_model_name_or_path": name, "revision": revision}
    write_text(file, json.dumps(config, indent=2, sort_keys=True) + "\n")
    write_text(folder / BASE, json.dumps(told) + "\n")


def checksum_of(model: nn.Module, without: Collection[str] = ()) -> str:
    """Of a model's own weights, whether there are adapters beside them or not, in float32: a checkpoint in half
    precision gives the same."""
    weights = {
        own: value
        for name, value in model.named_parameters()
        if "lora_" not in name and (own := name.replace(".base_layer", "")) not in without
    }
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


# -- 4 bits --------------------------------------------------------------------------------------------------


def require_bitsandbytes(asked: str) -> None:
    """Raises ValueError where it is not installed."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError(f"{asked}, which needs bitsandbytes: pip install bitsandbytes, or use lora")


def to_four_bits(model: nn.Module, names: Sequence[str], device: torch.device | str) -> None:
    """Replace linear layers by ones whose weights take half a byte each (NF4)."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    for name in names:
        parent, _, attribute = name.rpartition(".")
        linear: Any = model.get_submodule(name)
        packed = Linear4bit(linear.in_features, linear.out_features, linear.bias is not None, quant_type="nf4")
        packed.weight = Params4bit(linear.weight.data, requires_grad=False, quant_type="nf4", module=packed)
        if linear.bias is not None:
            packed.bias = nn.Parameter(linear.bias.data, requires_grad=False)
        setattr(model.get_submodule(parent), attribute, packed.to(device))


def from_four_bits(weight: Any) -> Tensor:
    from bitsandbytes.functional import dequantize_4bit

    whole: Tensor = dequantize_4bit(weight.data, weight.quant_state)
    return whole.float()
