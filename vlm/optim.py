"""Optimizer groups, learning-rate schedules and the average of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vlm.config import OptimConfig


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW; matrices and filters decay, norms and embeddings do not."""
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.ndim >= 2 and id(p) not in embeddings]
    others = [p for p in trained if p.ndim < 2 or id(p) in embeddings]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), eps=1e-8, fused=True)


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
        self.shadow = {name: local(p).float().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        shadows, values = [], []
        for name, parameter in model.named_parameters():
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
        """Into a model that holds all of its weights."""
        for name, parameter in model.named_parameters():
            parameter.copy_(whole(name, self.shadow[name]).to(parameter.dtype))
