"""How weights, gradients and moments lie over the processes: whole on each (DDP), ZeRO, or fully_shard.

A step, a checkpoint and an export are the same for all of them. A checkpoint has no trace of its engine: weights,
moments and averages are put together when it is written and taken apart when it is read, so that a run may go on with
another engine and another number of processes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import Tensor, nn
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from vlm.batches import split_groups
from vlm.optim import load_optimizer_state

__all__ = ["Engine", "FullyShardedEngine", "ZeroEngine", "make_accelerator", "make_engine"]

_MOMENTS = ("exp_avg", "exp_avg_sq")


def make_accelerator(*, cpu: bool, mixed_precision: str, project_dir: Path) -> Accelerator:
    """Accelerate's state of this process, and the process group.

    Raises:
        ValueError: fp16 with an engine that shards.
        RuntimeError: the launcher started several processes that do not know of each other.
    """
    sharded = next((name for name in ("DEEPSPEED", "FSDP") if _is_set(f"ACCELERATE_USE_{name}")), None)
    if sharded and mixed_precision == "fp16":
        raise ValueError("mixed_precision is fp16, which ZeRO and FSDP are not set up for here; use bf16 or no")
    # A launched process without a GPU, and without `cpu`, would be taken for a run of its own.
    cpu = cpu or ("LOCAL_RANK" in os.environ and not torch.cuda.is_available())
    options: dict[str, Any] = {"project_dir": str(project_dir)}
    if sharded == "DEEPSPEED":
        if cpu:
            os.environ["ACCELERATE_TORCH_DEVICE"] = os.environ["DS_ACCELERATOR"] = "cpu"
            options["kwargs_handlers"] = [InitProcessGroupKwargs(backend="gloo")]
        # Its weights stay in float32; what is computed in bf16 is up to autocast, as with the other engines.
        accelerator = Accelerator(mixed_precision="no", **options)
        # It has told transformers, which would load a checkpoint into parts under ZeRO 3; the engine parts it, once.
        unset_hf_deepspeed_config()
    else:
        # Accelerate would not shard on a CPU, and not say so: `FullyShardedEngine` does, on any device.
        use_fsdp = os.environ.pop("ACCELERATE_USE_FSDP", None)
        try:
            # Without it DDP keeps every gradient twice: where it is, and in the bucket that goes between processes.
            options["kwargs_handlers"] = [DistributedDataParallelKwargs(gradient_as_bucket_view=True)]
            accelerator = Accelerator(cpu=cpu, mixed_precision=mixed_precision, **options)
        finally:
            if use_fsdp is not None:
                os.environ["ACCELERATE_USE_FSDP"] = use_fsdp
    started = int(os.environ.get("WORLD_SIZE", 1))
    if accelerator.num_processes != started:
        raise RuntimeError(
            f"the launcher started {started} processes, but this one knows of {accelerator.num_processes}; "
            "start them with `vlm train CONFIG --launch NAME`"
        )
    return accelerator


def make_engine(accelerator: Accelerator, *args: Any, **kwargs: Any) -> Engine:
    """The engine that the launcher asked for; the arguments are those of `Engine`.

    Raises:
        ValueError: one that shards, and a model in 4 bits.
    """
    if (_is_set("ACCELERATE_USE_DEEPSPEED") or _is_set("ACCELERATE_USE_FSDP")) and any(
        parameter.dtype == torch.uint8 for parameter in args[0].parameters()
    ):
        raise ValueError("adapter.kind is qlora, which is for one process or DDP; use lora, or do not shard")
    if _is_set("ACCELERATE_USE_DEEPSPEED"):
        return ZeroEngine(accelerator, *args, **kwargs)
    if _is_set("ACCELERATE_USE_FSDP"):
        return FullyShardedEngine(accelerator, *args, **kwargs)
    return Engine(accelerator, *args, **kwargs)


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("true", "1")


class Engine:
    """Everything whole in every process: one process alone, or DDP.

    All methods but `part` and `accumulating` are for all processes together.

    Args:
        accelerator: of this process.
        module: the model, with the weights that the run starts from.
        make_optimizer: model -> its optimizer.
        max_grad_norm: gradients are clipped to this norm.
        micro_batch_size: rows of a forward pass.
        mixed_precision: "no" or "bf16"; "fp16" where nothing is sharded.

    Attributes:
        module: the model itself, without what an engine wraps around it.
        model: what is called in a step.
        optimizer: what has `param_groups`.
        order: names of the weights in each of its groups.
    """

    name = "replicated"

    def __init__(
        self,
        accelerator: Accelerator,
        module: nn.Module,
        make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
        *,
        max_grad_norm: float,
        micro_batch_size: int,
        mixed_precision: str = "no",
    ) -> None:
        self.accelerator = accelerator
        self.module = module
        self.max_grad_norm = max_grad_norm
        self.micro_batch_size = micro_batch_size
        self.bf16 = mixed_precision == "bf16"
        self.model: Any
        self.optimizer: Any
        self.order: list[list[str]]
        self._prepare(make_optimizer)

    def _prepare(self, make_optimizer: Callable[[nn.Module], torch.optim.Optimizer]) -> None:
        self.model, self.optimizer = self.accelerator.prepare(self.module, self._made(make_optimizer))

    def _made(self, make_optimizer: Callable[[nn.Module], torch.optim.Optimizer]) -> torch.optim.Optimizer:
        optimizer = make_optimizer(self.module)
        names = {id(parameter): name for name, parameter in self._named()}
        self.order = [[names[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups]
        return optimizer

    # -- a step --------------------------------------------------------------------------------------

    def accumulating(self, last: bool) -> AbstractContextManager[Any]:
        """Around a micro-batch's forward and backward pass; gradients go between processes after the last."""
        return nullcontext() if last else self.accelerator.no_sync(self.model)

    def forward(self, **tensors: Any) -> Any:
        return self.model(**tensors)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`, averaged over the processes."""
        self.accelerator.backward(loss)

    def step(self) -> float:
        """Clip and step; returns the norm of the gradients before. Where it is not finite nothing is changed."""
        norm = float(self._clip())
        if norm - norm == 0 or self.accelerator.scaler is not None:  # the scaler of fp16 leaves out steps by itself
            self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def _clip(self) -> Tensor:
        norm: Tensor = self.accelerator.clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
        return norm

    # -- parts and wholes ----------------------------------------------------------------------------

    def part(self, name: str, whole: Tensor) -> Tensor:
        """This process's part of a tensor of the shape of the parameter `name`."""
        return whole

    def whole(self, name: str, part: Tensor) -> Tensor:
        """Put together from the parts of all processes."""
        return part

    def local(self, parameter: nn.Parameter) -> Tensor:
        """What this process holds of a parameter."""
        return parameter.detach()

    def weights(self) -> dict[str, Tensor]:
        """All weights, whole."""
        return self.module.state_dict()

    def optimizer_state(self) -> dict[str, Any]:
        """`state_dict` of the optimizer as it would be in one process alone."""
        state: dict[str, Any] = self.optimizer.state_dict()
        return state

    def load_optimizer_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `optimizer_state` gave, here or under another engine."""
        load_optimizer_state(self.optimizer, state)

    def _named(self) -> Iterator[tuple[str, nn.Parameter]]:
        return self.module.named_parameters()


class FullyShardedEngine(Engine):
    """PyTorch's fully_shard (FSDP2): weights, gradients and moments split over the processes.

    The model is one unit, put together for a step. Processes look at different numbers of picture shapes, so they
    call the image layers a different number of times: units of single layers would wait for each other for ever.
    """

    name = "fsdp2"

    def _prepare(self, make_optimizer: Callable[[nn.Module], torch.optim.Optimizer]) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
        from torch.distributed.tensor import DTensor

        device = self.accelerator.device
        mesh = init_device_mesh(device.type, (self.accelerator.num_processes,))
        self.model = fully_shard(self.module.to(device), mesh=mesh)
        assert all(isinstance(parameter, DTensor) for _, parameter in self._named()), "fully_shard did not shard"
        self.optimizer = self._made(make_optimizer)
        self._parameters = dict(self._named())

    def accumulating(self, last: bool) -> AbstractContextManager[Any]:
        self.model.set_requires_gradient_sync(last)
        return nullcontext()

    def forward(self, **tensors: Any) -> Any:
        with self.accelerator.autocast():
            return self.model(**tensors)

    def _clip(self) -> Tensor:
        norm: Any = nn.utils.clip_grad_norm_(self.module.parameters(), self.max_grad_norm)
        return norm.full_tensor()

    def part(self, name: str, whole: Tensor) -> Tensor:
        return self._spread(self._parameters[name], whole).to_local()

    def whole(self, name: str, part: Tensor) -> Tensor:
        from torch.distributed.tensor import DTensor

        like: Any = self._parameters[name]
        spread = DTensor.from_local(
            part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
        )
        return spread.full_tensor()

    def local(self, parameter: nn.Parameter) -> Tensor:
        part: Any = parameter.detach()
        return part.to_local()

    def weights(self) -> dict[str, Tensor]:
        return {name: _full(value) for name, value in self.module.state_dict().items()}

    def optimizer_state(self) -> dict[str, Any]:
        state = self.optimizer.state_dict()
        whole = {
            index: {key: _full(value) for key, value in values.items()} for index, values in state["state"].items()
        }
        return {**state, "state": whole}

    def load_optimizer_state(self, state: Mapping[str, Any]) -> None:
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        parts = {
            index: {
                key: self._spread(parameters[index], value) if key in _MOMENTS else value
                for key, value in values.items()
            }
            for index, values in state["state"].items()
        }
        load_optimizer_state(self.optimizer, {**state, "state": parts})

    def _spread(self, like: Any, whole: Tensor) -> Any:
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(whole.detach().to(self.accelerator.device), like.device_mesh, like.placements)


def _full(value: Any) -> Any:
    return value.full_tensor() if hasattr(value, "full_tensor") else value


class ZeroEngine(Engine):
    """DeepSpeed's ZeRO: 1 splits the moments, 2 the gradients too, 3 the weights too.

    Stage 3 puts the weights of a layer together whenever it is called, which all processes must do equally often.
    """

    name = "zero"

    def _prepare(self, make_optimizer: Callable[[nn.Module], torch.optim.Optimizer]) -> None:
        plugin = self.accelerator.state.deepspeed_plugin
        config = plugin.deepspeed_config
        config["train_micro_batch_size_per_gpu"] = self.micro_batch_size
        config["gradient_clipping"] = self.max_grad_norm
        # The end of a step is told to it: the number of micro-batches is this run's own affair.
        config["gradient_accumulation_steps"] = 1
        if self.bf16:
            config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
        self.stage = int(plugin.zero_stage)
        optimizer = self._made(make_optimizer)
        self._shapes = {name: parameter.shape for name, parameter in self._named()}
        self._settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        self.model, self.optimizer = self.accelerator.prepare(self.module, optimizer)
        assert self.model.zero_optimization_stage() == self.stage, "DeepSpeed took another stage"
        self._parameters = dict(self._named())
        if self.stage == 3:
            from deepspeed.runtime.zero import register_external_parameter

            # The model reads these two itself, where others are read by the layer that they belong to.
            for parameter in self.module.tokens.parameters():
                register_external_parameter(self.module, parameter)
            # And DoRA takes the lengths of the rows of the layer that it lies beside.
            for module in self.module.modules():
                for dora in getattr(module, "lora_magnitude_vector", {}).values():
                    for parameter in module.get_base_layer().parameters():
                        register_external_parameter(dora, parameter)

    def accumulating(self, last: bool) -> AbstractContextManager[Any]:
        self.model.set_gradient_accumulation_boundary(last)
        return nullcontext()

    def forward(self, **tensors: Any) -> Any:
        if self.stage == 3:
            num = torch.tensor(len(tensors["pixel_values"]), device=self.accelerator.device)
            num = int(self.accelerator.reduce(num, reduction="max"))
            tensors |= split_groups(tensors["pixel_values"], tensors["image_index"], num)
        return self.model(**tensors)

    def backward(self, loss: Tensor) -> None:
        self.model.backward(loss)

    def step(self) -> float:
        if self.stage == 3 and self.accelerator.device.type == "cpu":
            # Their parts have been taken; DeepSpeed 0.19 would hand them to a stream, of which a CPU has none.
            self.module.zero_grad(set_to_none=True)
        # It clips by itself, and leaves out a step whose norm is not finite.
        self.model.step()
        return float(self.model.get_global_grad_norm())

    def part(self, name: str, whole: Tensor) -> Tensor:
        if self.stage < 3:
            return whole
        parameter: Any = self._parameters[name]
        size, world = parameter.ds_tensor.numel(), self.accelerator.num_processes
        flat = nn.functional.pad(whole.flatten(), (0, size * world - whole.numel()))
        return flat[size * self.accelerator.process_index :][:size].to(parameter.ds_tensor.device).clone()

    def whole(self, name: str, part: Tensor) -> Tensor:
        if self.stage < 3:
            return part
        device, shape = self.accelerator.device, self._shapes[name]
        parts = [torch.empty(part.numel(), dtype=part.dtype, device=device) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, part.detach().flatten().to(device))
        return torch.cat(parts)[: shape.numel()].view(shape)

    def local(self, parameter: nn.Parameter) -> Tensor:
        part: Any = parameter.ds_tensor if self.stage == 3 else parameter
        return part.detach()

    def weights(self) -> dict[str, Tensor]:
        if self.stage < 3:
            return self.module.state_dict()
        return {name: self.whole(name, self.local(parameter)) for name, parameter in self._named()}

    def optimizer_state(self) -> dict[str, Any]:
        from deepspeed.utils import safe_get_full_optimizer_state, safe_get_local_optimizer_state

        self._link_moments()
        steps = self._steps()
        state: dict[int, dict[str, Tensor]] = {}
        groups: list[dict[str, Any]] = []
        for names, settings, live in zip(self.order, self._settings, self.optimizer.param_groups, strict=True):
            first = sum(len(group["params"]) for group in groups)
            groups.append({key: live[key] for key in settings} | {"params": list(range(first, first + len(names)))})
            for index, name in enumerate(names, first):
                parameter = self._parameters[name]
                if steps:
                    state[index] = {"step": steps[0].detach().clone()}
                    for key in _MOMENTS:
                        if self.stage < 3:
                            state[index][key] = safe_get_full_optimizer_state(parameter, key)
                        else:
                            state[index][key] = self.whole(name, safe_get_local_optimizer_state(parameter, key))
        return {"state": state, "param_groups": groups}

    def load_optimizer_state(self, state: Mapping[str, Any]) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        if not state["state"]:
            return
        zero = self.model.optimizer
        # The moments come to be in the first step; here they are wanted before.
        flats = zero.single_partition_of_fp32_groups if self.stage < 3 else zero.fp32_partitioned_groups_flat
        for flat in flats:
            step = state["state"][0]["step"].detach().clone().to(flat.device)
            zero.optimizer.state[flat] = {"step": step, **{key: torch.zeros_like(flat) for key in _MOMENTS}}
        self._link_moments()
        for index, name in enumerate(name for names in self.order for name in names):
            for key in _MOMENTS:
                value = state["state"][index][key].to(self.accelerator.device)
                if self.stage < 3:
                    safe_set_full_optimizer_state(self._parameters[name], value, key)
                else:
                    safe_set_local_optimizer_state(self._parameters[name], self.part(name, value), key)

    def _link_moments(self) -> None:
        """Tell stages 1 and 2 where in its group's moments a parameter's are. DeepSpeed 0.19 does it after the step of
        the first group, when the others have none."""
        from deepspeed.utils import lazy_init_hp_params_optimizer_state

        zero = self.model.optimizer
        if self.stage < 3 and self._steps():
            for parameters, flat in zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True):
                lazy_init_hp_params_optimizer_state(parameters, flat, zero.optimizer.state)

    def _steps(self) -> list[Tensor]:
        base = self.model.optimizer.optimizer
        return [values["step"] for values in base.state.values() if "step" in values]
