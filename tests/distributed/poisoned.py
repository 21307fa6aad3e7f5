"""`vlm train` in which one process goes wrong in one step: `accelerate launch ... -m tests.distributed.poisoned`.

POISON names what happens ("loss", "gradient"), POISON_RANK where, and POISON_STEPS in which steps (from 0).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import torch

from vlm.train import Trainer, main

KIND, RANK = os.environ["POISON"], int(os.environ["POISON_RANK"])
STEPS = [int(step) for step in os.environ["POISON_STEPS"].split(",")]


class PoisonedTrainer(Trainer):
    def backward(self, batches: Sequence[dict[str, Any]], step: int) -> torch.Tensor:
        if self.accelerator.process_index != RANK or step not in STEPS:
            return super().backward(batches, step)
        if KIND == "loss":  # one picture that is all NaN
            batches[0]["pixel_values"][0][0] = float("nan")
            return super().backward(batches, step)
        # On its way back: the loss itself is fine.
        projection = self.raw_model.image_projection
        hook = projection.register_full_backward_hook(lambda _, grads, __: (torch.full_like(grads[0], float("inf")),))
        try:
            return super().backward(batches, step)
        finally:
            hook.remove()


if __name__ == "__main__":
    import vlm.train

    vlm.train.Trainer = PoisonedTrainer  # type: ignore[misc]
    sys.exit(main(sys.argv[1:]))
