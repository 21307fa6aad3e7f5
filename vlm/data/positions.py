"""Which positions of the mixture a process loads, micro-batch by micro-batch."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["Positions"]


class Positions:
    """Batch sampler: the positions of every micro-batch of this process, from `first_step` on.

    Step s holds positions s * batch .. (s + 1) * batch - 1; process `rank` takes every `world`-th of them, so that
    what a step sees does not depend on the number of processes.

    Args:
        first_step: where the run starts or goes on.
        num_steps: where it ends.
        batch: images a step, a multiple of `world`.
        micro: most images a forward pass.
        rank, world: index and number of processes.
    """

    def __init__(self, first_step: int, num_steps: int, batch: int, micro: int, rank: int = 0, world: int = 1) -> None:
        assert batch % world == 0, (batch, world)
        self.steps = range(first_step, num_steps)
        self.batch, self.micro, self.rank, self.world = batch, micro, rank, world

    @property
    def micro_batches_per_step(self) -> int:
        return -(-(self.batch // self.world) // self.micro)

    def __len__(self) -> int:
        return len(self.steps) * self.micro_batches_per_step

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            own = range(step * self.batch + self.rank, (step + 1) * self.batch, self.world)
            for start in range(0, len(own), self.micro):
                yield list(own[start : start + self.micro])
