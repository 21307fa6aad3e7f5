"""One optimizer step: the sum of its target tokens' losses over their number, over all micro-batches and processes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from tasks import TASKS
from vlm.batches import record_names, to_device
from vlm.config import TrainConfig
from vlm.data.mixture import generator
from vlm.engines import Engine
from vlm.optim import WeightAverage, learning_rate
from vlm.peers import Peers
from vlm.run_log import learning_rates

__all__ = ["TrainingStep"]

_ADVICE = (
    "Look at them with `vlm data preview`, or lower optim.learning_rate; started again, the run goes on from its last "
    "checkpoint"
)


class TrainingStep:
    """What a step needs; `vlm.train.Trainer` makes it and goes through the steps.

    Attributes:
        config: of the run.
        engine: how the model lies over the processes.
        average: of the weights, updated after every step.
        peers: the other processes.
        skipped, skipped_in_a_row: steps that were left out, because their gradient was not finite.
        stopped: whether a signal asked one of the processes to stop, as of the last step.
    """

    config: TrainConfig
    accelerator: Accelerator
    engine: Engine
    average: WeightAverage | None
    peers: Peers
    skipped = 0
    skipped_in_a_row = 0
    stopped = False

    def update(self, batches: Sequence[dict[str, Any]], step: int) -> dict[str, float]:
        """One optimizer step over this process's micro-batches; returns what to log.

        Where the gradient is not finite the weights stay as they are, up to `max_skipped_steps` times in a row.

        Raises:
            FloatingPointError: the loss is not finite, or the gradient was not too often. The weights are still those
                before the step.
        """
        rate = learning_rate(step, self.config.num_steps, self.config.optim)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate * group["learning_rate_scale"]
        sums = self.backward(batches, step)
        norm = self.engine.step()
        if math.isfinite(norm):
            self.skipped_in_a_row = 0
            if self.average is not None:
                self.average.update(self.engine.module)
        else:
            self._skip(batches, step, norm)
        logged = {
            "loss": float(sums[:, 0].sum() / sums[:, 1].sum().clamp(min=1)),
            "grad_norm": norm,
            **learning_rates(self.engine.optimizer.param_groups),
            "tokens": float(sums[:, 1].sum()),
        }
        for name, (loss, count) in zip(TASKS, sums.tolist(), strict=True):
            if count:
                logged[f"loss/{name}"] = loss / count
        if self.skipped:
            logged["skipped_steps"] = self.skipped
        return logged

    def _skip(self, batches: Sequence[dict[str, Any]], step: int, norm: float) -> None:
        self.skipped += 1
        scaler = self.accelerator.scaler
        if scaler is not None and scaler.get_scale() >= 1:
            return  # fp16: too large a scale overflows, and is halved until it does not
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row > self.config.max_skipped_steps:
            raise FloatingPointError(
                f"the gradient of step {step + 1} is not finite ({norm}); its records: "
                f"{self._names_of_all(record_names(batches))}. {_ADVICE}"
            )

    def _names_of_all(self, names: str) -> str:
        """What the processes name, each of them where there are several; for all processes together."""
        if self.accelerator.num_processes == 1:
            return names
        found = enumerate(gather_object([names]))
        return "; ".join(f"{given} (process {rank})" for rank, given in found if given)

    def backward(self, batches: Sequence[dict[str, Any]], step: int) -> Tensor:
        """Gradients of the whole step's loss; returns its sum of token losses and number of tokens, by task.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        accelerator, device = self.accelerator, self.accelerator.device
        weight = torch.stack([batch["token_weights"].sum() for batch in batches]).sum().to(device)
        total = accelerator.reduce(weight, reduction="sum").clamp(min=1e-6)
        # The last row tells the others that a signal asks this process to stop.
        sums = torch.zeros(len(TASKS) + 1, 2, device=device)
        sums[-1] = float(self.peers.stop_asked)
        broken = []
        for index, batch in enumerate(batches):
            tensors = to_device(batch, device)
            with self.engine.accumulating(index + 1 == len(batches)), self._dropout_of(step, index):
                output = self.engine.forward(**tensors)
                # Engines average gradients over processes: undo it, so that the step divides by its tokens alone.
                self.engine.backward(output.loss_sum * accelerator.num_processes / total)
            valid = tensors["labels"] != -100
            tasks, losses = tensors["task_ids"][valid], output.token_loss[valid]
            sums.index_add_(0, tasks, torch.stack([losses, torch.ones_like(losses)], dim=1))
            broken.append(~output.token_loss.isfinite().all(dim=1))
        sums = accelerator.reduce(sums, reduction="sum")
        self.stopped = bool(sums[-1, 0])
        sums = sums[:-1]
        # After the sum over processes, so that all of them stop together.
        if not math.isfinite(float(sums[:, 0].sum())):
            names = self._names_of_all(record_names(batches, [mask.tolist() for mask in broken]))
            raise FloatingPointError(f"the loss of step {step + 1} is not finite; the records: {names}. {_ADVICE}")
        return sums

    @contextmanager
    def _dropout_of(self, step: int, micro_batch: int) -> Iterator[None]:
        """Dropout is a function of seed, step and process, as the samples are: nothing has to be restored."""
        device = self.accelerator.device
        seed = generator(self.config.seed, "dropout", step, micro_batch, self.accelerator.process_index).getrandbits(63)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield
