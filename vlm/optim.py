"""Optimizer groups, learning-rate schedules and the average of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from vlm.config import ModuleConfig, OptimConfig


def fits(name: str, pattern: str) -> bool:
    """Whether a name begins with `pattern`, in which `*` stands for anything."""
    return fnmatchcase(name, pattern + "*")


def require_fits(field: str, patterns: Iterable[str], names: Iterable[str], what: str) -> None:
    """Raises ValueError where one of the patterns that a configuration's `field` gives fits no name."""
    known = list(names)
    for pattern in patterns:
        if not any(fits(name, pattern) for name in known):
            there = ", ".join(dict.fromkeys(name.partition(".")[0] for name in known))
            raise ValueError(f"{field} names {pattern!r}, but no {what}'s name begins so; there are: {there}")


def freeze(model: nn.Module, modules: Mapping[str, ModuleConfig]) -> None:
    """Take the frozen weights out of training.

    Raises:
        ValueError: an entry fits no weight, or nothing is left to train.
    """
    require_fits("optim.modules", modules, (name for name, _ in model.named_parameters()), "weight")
    for name, parameter in model.named_parameters():
        if _setting(name, modules).frozen:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("optim.modules freezes every weight; leave some to be trained")


def _setting(name: str, modules: Mapping[str, ModuleConfig]) -> ModuleConfig:
    return next((modules[pattern] for pattern in reversed(modules) if fits(name, pattern)), ModuleConfig())


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over what is trained; matrices and filters decay, norms and embeddings do not.

    A group tells its `learning_rate_scale`, with which whoever sets the learning rate multiplies it.
    """
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim >= 2 and id(parameter) not in embeddings
            scale = _setting(name, config.modules).learning_rate_scale
            groups.setdefault((scale, decays), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": groups[scale, decays],
                "weight_decay": config.weight_decay if decays else 0.0,
                "learning_rate_scale": scale,
            }
            for scale, decays in sorted(groups, reverse=True)
        ],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=1e-8,
        fused=True,
    )


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Take over the moments; weight decay and the like stay as they are configured now."""
    settings = [{name: value for name, value in g.items() if name != "params"} for g in optimizer.param_groups]
    optimizer.load_state_dict(dict(state))
    for group, values in zip(optimizer.param_groups, settings, strict=True):
        group.update(values)


def learning_rate(step: int, num_steps: int, config: OptimConfig) -> float:
    """Of step `step` (from 0). "wsd": constant, then 1 - sqrt (arXiv 2405.18392)."""
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.schedule == "cosine":
        done = max(0, step - config.warmup_steps) / max(1, num_steps - config.warmup_steps)
        shape = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    else:
        start = decay_start(num_steps, config)
        done = max(0.0, (step - start) / max(1, num_steps - start))
        shape = 1 - math.sqrt(min(1.0, done))
    return config.learning_rate * warmup * (config.min_ratio + (1 - config.min_ratio) * shape)


def decay_start(num_steps: int, config: OptimConfig) -> int:
    """First step of the decay of "wsd"."""
    return round(num_steps * (1 - config.decay_fraction))


def _all_of_it(_: str, value: Tensor) -> Tensor:
    return value


class WeightAverage:
    """Exponential moving average of the trained weights, in float32.

    The decay grows from 0.1 with the number of updates, so that the average is useful early.

    Args:
        model: whose weights are averaged.
        decay: of the average, once there are many updates.
        local: what this process holds of a weight, where they are split over processes (see `vlm.engines`).
    """

    def __init__(
        self, model: nn.Module, decay: float, local: Callable[[nn.Parameter], Tensor] = nn.Parameter.detach
    ) -> None:
        self.decay = decay
        self.local = local
        self.num_updates = 0
        self.shadow = {name: local(p).float().clone() for name, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        shadows, values = [], []
        for name, parameter in model.named_parameters():
            if name in self.shadow:
                shadows.append(self.shadow[name])
                values.append(self.local(parameter).float())
        torch._foreach_lerp_(shadows, values, 1 - decay)

    def state_dict(self, whole: Callable[[str, Tensor], Tensor] = _all_of_it) -> dict[str, Tensor | int]:
        """`whole` puts a weight's average together from what the processes hold."""
        shadows = {f"shadow.{name}": whole(name, value) for name, value in self.shadow.items()}
        return {"num_updates": self.num_updates, **shadows}

    def load_state_dict(
        self, state: Mapping[str, Tensor | int], part: Callable[[str, Tensor], Tensor] = _all_of_it
    ) -> None:
        """`part` takes from a weight's average what this process holds."""
        self.num_updates = int(state["num_updates"])
        for name in self.shadow:
            self.shadow[name].copy_(part(name, state[f"shadow.{name}"]))  # type: ignore[arg-type]

    @torch.no_grad()
    def copy_to(self, model: nn.Module, whole: Callable[[str, Tensor], Tensor] = _all_of_it) -> None:
        """Into a model that holds all of its weights; those that are not trained stay as they are."""
        for name, parameter in model.named_parameters():
            if name in self.shadow:
                parameter.copy_(whole(name, self.shadow[name]).to(parameter.dtype))
