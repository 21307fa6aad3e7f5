"""`vlm train CONFIG`: one loop for every task, through Accelerate.

The loss of a step is the sum of its target tokens' losses over their number, over all micro-batches and
processes; the samples of a step are a pure function of (seed, step), so that a run resumes exactly.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch.utils.data import DataLoader

from vlm.adapter import Adapter
from vlm.api import VLM
from vlm.atomic import replacing_folder, write_text
from vlm.build import at_hand, checkpoint_activations, compile_layers
from vlm.checkpoint import Best, list_checkpoints, load_newest, require_same_groups, save_checkpoint, untied
from vlm.config import TrainConfig
from vlm.data.mixture import MixtureDataset
from vlm.data.positions import Positions
from vlm.data.sources import read_sources, validation_records
from vlm.engines import make_accelerator, make_engine
from vlm.evaluate import quick_validation
from vlm.flops import peak_flops_of
from vlm.launch import PREEMPTED
from vlm.optim import WeightAverage, decay_start, freeze, make_optimizer
from vlm.peers import Peers, ProcessError
from vlm.precision import best_precision
from vlm.recipe import recipe_of
from vlm.run_folder import as_yaml, earlier_runs, move_aside
from vlm.run_log import RunLog, Throughput, no_other_bars
from vlm.trackers import check_trackers, start_trackers
from vlm.train_options import parse_config
from vlm.training_step import TrainingStep

__all__ = ["Trainer", "main", "parse_config"]


class Trainer(TrainingStep):
    """Holds what a run needs; `run` goes through the steps.

    Args:
        config: of the run.
        resume: go on from the newest checkpoint in `output_dir`; otherwise what is there is moved aside.

    Raises:
        ValueError: sizes that do not fit the number of processes, sources that lack what is asked of them, or a
            checkpoint that does not fit the configuration.
    """

    def __init__(self, config: TrainConfig, *, resume: bool = True) -> None:
        self.config = config
        self.output = Path(config.output_dir)
        check_trackers(config.trackers or ())
        precision = best_precision(cpu=config.cpu) if config.mixed_precision == "auto" else config.mixed_precision
        self.accelerator = make_accelerator(
            cpu=config.cpu,
            mixed_precision=precision,
            project_dir=self.output,
        )
        self.peak_flops = config.peak_flops or peak_flops_of(self.accelerator.device, precision)
        world = self.accelerator.num_processes
        if config.batch_size % world:
            raise ValueError(
                f"batch_size {config.batch_size} is not a multiple of the {world} processes; change either"
            )
        per_process = config.batch_size // world
        self.micro = min(config.micro_batch_size or per_process, per_process)
        self.pictures = read_sources(config.data)
        self.validation_records = validation_records(config) if config.eval_every else {}
        started = resume and bool(list_checkpoints(self.output / "checkpoints"))
        with self.accelerator.local_main_process_first():  # which fetches it for the others of its machine
            self.at_hand = at_hand(config)
        self.recipe = recipe_of(self.at_hand)
        # Beside an adapter the checkpoints have none of the model's own weights.
        model = self.recipe.build_model(resume=started and config.adapter is None)
        self.adapter = None
        if config.adapter is not None:
            self.adapter = Adapter(model, config.adapter, config.model, config.seed, self.accelerator.device)
        with self.accelerator.main_process_first():
            if self.accelerator.is_main_process:
                self.output.mkdir(parents=True, exist_ok=True)
                if not resume:
                    move_aside(self.output)
                if not started:
                    self.recipe.note(model)
            texts = {name: pictures.records for name, pictures in self.pictures.items()}
            self.processor = self.recipe.build_processor(model, texts)

        with warnings.catch_warnings():
            if not self.accelerator.is_main_process:
                warnings.simplefilter("ignore")  # what is wrong with a checkpoint need be said only once
            trained = self.adapter.trained if self.adapter else None
            state = load_newest(self.output / "checkpoints", model, trained) or {}
        self.first_step = int(state.get("step", 0))
        if self.first_step > config.num_steps:
            raise ValueError(
                f"the run in {self.output} is at step {self.first_step} already, past num_steps {config.num_steps}; "
                "raise num_steps, use another output_dir, or start afresh with --restart"
            )
        freeze(model, config.optim.modules)
        if config.activation_checkpointing:
            checkpoint_activations(model)
        self.engine = make_engine(
            self.accelerator,
            model,
            lambda module: make_optimizer(module, config.optim),
            max_grad_norm=config.optim.max_grad_norm,
            micro_batch_size=self.micro,
            mixed_precision=precision,
        )
        self.recipe.require_engine(self.engine.name)
        if config.compile:
            compile_layers(self.engine)
        self.model, self.optimizer = self.engine.model, self.engine.optimizer
        self.average = None
        if config.optim.ema_decay:
            self.average = WeightAverage(model, config.optim.ema_decay, self.engine.local)
        self.skipped, self.skipped_in_a_row = state.get("skipped", (0, 0))
        self.best = Best(self.output / "checkpoints")
        self.peers = Peers(self.accelerator.process_index, world, self._samples)
        if state:
            self._resume(state)

    def _resume(self, state: dict[str, Any]) -> None:
        require_same_groups(state, self.engine.order, self.output)
        if self.adapter is not None:
            self.adapter.require_base(state.get("base"))
        self.engine.load_optimizer_state(state["optimizer"])
        if self.average is not None and "average" in state:
            self.average.load_state_dict(state["average"], self.engine.part)
        if self.accelerator.scaler is not None and "scaler" in state:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.accelerator.print(f"going on with {self.output} at step {self.first_step} of {self.config.num_steps}")

    @property
    def raw_model(self) -> Any:
        return self.engine.module

    # -- data ----------------------------------------------------------------------------------------

    def positions(self, first_step: int | None = None, rank: int | None = None) -> Positions:
        """Of this process from the run's first step, unless others are given."""
        return Positions(
            self.first_step if first_step is None else first_step,
            self.config.num_steps,
            self.config.batch_size,
            self.micro,
            self.accelerator.process_index if rank is None else rank,
            self.accelerator.num_processes,
        )

    def dataset(self) -> MixtureDataset:
        config = self.config
        return MixtureDataset(
            self.pictures,
            config.data.sources,
            self.processor,
            config.stage_of,
            config.data.augment,
            seed=config.seed,
            num_positions=config.num_steps * config.batch_size,
            task_loss_weights=config.task_loss_weights,
            temperature=config.data.temperature,
        )

    def loader(self) -> DataLoader[Any]:
        """The micro-batches of this process, `positions().micro_batches_per_step` a step."""
        workers = self.config.data.num_workers
        return DataLoader(
            self.dataset(),
            batch_sampler=self.positions(),  # type: ignore[arg-type]
            collate_fn=self.recipe.collator(self.processor),
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_start_worker,
        )

    def _samples(self, step: int, rank: int) -> str:
        """The records that a process has in a step, as far as they have names, and their positions."""
        positions = self.positions(step, rank)
        micro_batches = itertools.islice(positions, positions.micro_batches_per_step)
        first = list(itertools.chain.from_iterable(micro_batches))
        schedule = self.dataset().schedule
        drawn = [schedule(position) for position in first]
        names = [
            self.pictures[name].records[index].id if index < len(self.pictures[name].records) else f"{name}[{index}]"
            for name, index in drawn
        ]
        return f"{', '.join(names)} (positions {first[0]} to {first[-1]})"

    # -- the run --------------------------------------------------------------------------------------

    def run(self) -> Path | None:
        """Train to the end; returns the folder of the exported model, or None where a signal stopped it.

        Raises:
            ProcessError: this or another process failed (see `vlm.peers`).
        """
        config = self.config
        if self.accelerator.is_main_process:
            write_text(self.output / "train.yaml", as_yaml(config))
        self.model.train()
        final = None
        with self._logging() as log, self.peers, _iterating(self.loader()) as micro_batches:
            throughput = Throughput(gather_object, peak_flops=self.peak_flops, device=self.accelerator.device)
            for step in range(self.first_step, config.num_steps):
                with self.peers.step_of_all(step):
                    self._step(step, micro_batches, throughput, log)
                if self.stopped and step + 1 < config.num_steps:
                    break
            else:
                final = self.export()
            if log is not None:
                log.say(f"exported to {final}" if final else f"told to stop: saved at step {step + 1}; start it again")
        self.accelerator.end_training()
        return final

    def _step(self, step: int, micro_batches: Iterator[Any], throughput: Throughput, log: RunLog | None) -> None:
        """A step with all that comes after it: log, validation, checkpoint."""
        config, done = self.config, step + 1
        with throughput.waiting():
            batches = [next(micro_batches) for _ in range(self.positions().micro_batches_per_step)]
        for batch in batches:
            throughput.add(**self.recipe.count(self.raw_model, batch))
            if self.peak_flops:  # without it they are the share of nothing
                throughput.add(flops=self.recipe.flops(self.raw_model, batch))
        values = self.update(batches, step)
        last = done == config.num_steps
        if log is not None:
            log.advance()
        if done % config.log_every == 0 or last:
            self._log(log, done, values | throughput.read())
        if self.stopped:
            self.peers.is_stopping()
        with throughput.paused():
            best = False
            if config.eval_every and (done % config.eval_every == 0 or last) and (last or not self.stopped):
                measured = self.validate()
                self._log(log, done, measured, periodic=False)
                best = self._is_best(done, measured)
            due = config.save_every and done % config.save_every == 0
            if last or best or due or self.stopped or done == self._decay_start:
                self.save(done)

    # -- what comes of it ----------------------------------------------------------------------------

    @contextmanager
    def _logging(self) -> Iterator[RunLog | None]:
        """The log, on the main process, and the trackers beside it."""
        names = self.config.trackers
        if names is None:
            names = ("tensorboard",) if self.config.tensorboard else ()
        started = start_trackers(self.accelerator, names, self.output, asdict(self.config), first_step=self.first_step)
        if not self.accelerator.is_main_process:
            yield None
            return
        with RunLog(self.output / "metrics.jsonl", self.first_step, self.config.num_steps) as log:
            if len(started) < len(names):
                log.say("no TensorBoard logs: it is not installed (pip install tensorboard)")
            yield log

    def _log(self, log: RunLog | None, step: int, values: dict[str, float], *, periodic: bool = True) -> None:
        if log is not None:
            log.write(step, values, periodic=periodic)
            self.accelerator.log(values, step=step)

    @property
    def _decay_start(self) -> int | None:
        """The checkpoint there stays: a longer run goes on from it without the decay."""
        optim = self.config.optim
        return decay_start(self.config.num_steps, optim) if optim.schedule == "wsd" else None

    def save(self, step: int) -> None:
        """A checkpoint of `step` finished steps."""
        state: dict[str, Any] = {
            "optimizer": self.engine.optimizer_state(),
            "trained": self.engine.order,
            "skipped": (self.skipped, self.skipped_in_a_row),
        }
        if self.average is not None:
            state["average"] = self.average.state_dict(self.engine.whole)
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        weights = untied(self.engine.weights())
        if self.adapter is not None:
            state["base"] = self.adapter.checksum
            weights = {name: value for name, value in weights.items() if name in self.adapter.trained}
        if self.accelerator.is_main_process:
            save_checkpoint(
                self.output / "checkpoints",
                step,
                weights,
                state,
                keep=self.config.keep_checkpoints,
                protected=frozenset(kept for kept in (self._decay_start, self.best.step) if kept is not None),
            )
        self.accelerator.wait_for_everyone()

    def _is_best(self, step: int, measured: dict[str, float]) -> bool:
        """Whether its validation is the best so far; all processes hear it from the main one."""
        name = self.config.keep_best
        if name is None:
            return False
        found = 0.0
        if self.accelerator.is_main_process:
            if name not in measured:
                raise ValueError(f"keep_best is {name!r}; measured: {', '.join(measured)}")
            found = float(self.best.take(step, name, measured[name]))
        flag = torch.tensor(found, device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, reduction="sum"))

    def averaged(self, *, merged: bool = True) -> tuple[Any, Any]:
        """A copy as it is used later: the averaged weights, the patch budget of the last stage, evaluation mode; an
        adapter is taken into the weights if `merged`.

        Where weights are split over the processes, it is for all of them together.
        """
        model = self.recipe.empty_copy(self.raw_model)
        adapted, weights = None, self.engine.weights()
        if self.adapter is not None:
            adapted, weights = self.adapter.add_to(model), self.adapter.whole_weights(self.raw_model, weights)
        model.to(self.accelerator.device).load_state_dict(weights)
        if self.average is not None:
            self.average.copy_to(model, self.engine.whole)
        if adapted is not None and merged:
            model = self.recipe.merged(adapted.merge_and_unload())
        return model.eval(), self.recipe.processor_for(self.processor, model)

    def _averaged_where_needed(self, *, merged: bool = True) -> tuple[Any, Any] | None:
        """`averaged` in the main process, and in the others as far as they must help."""
        if self.accelerator.is_main_process or self.engine.name != "replicated":
            return self.averaged(merged=merged)
        return None

    def validate(self) -> dict[str, float]:
        """Task metrics on a few validation records of every source, with the averaged weights. All processes ask;
        the main one has the values."""
        values = quick_validation(
            VLM(*self.averaged()),
            self.validation_records,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
        )
        self.accelerator.wait_for_everyone()
        return {f"validation/{name}": value for name, value in values.items()}

    def export(self) -> Path:
        """The averaged weights in half precision with tokenizer and configuration, or the adapter in float32, ready for
        `vlm.load`."""
        final = self.output / "final"
        merged = self.config.adapter is None or self.config.adapter.export == "merged"
        averaged = self._averaged_where_needed(merged=merged)
        if self.accelerator.is_main_process and averaged is not None:
            model, processor = averaged
            with replacing_folder(final, overwrite=True) as part:
                if self.adapter is not None and not merged:
                    self.adapter.save(part, model)
                else:
                    with no_other_bars():
                        model.half().save_pretrained(part)
                processor.save_pretrained(str(part))
                write_text(part / "train.yaml", as_yaml(self.config, earlier_runs(self.at_hand.model)))
        self.accelerator.wait_for_everyone()
        return final


@contextmanager
def _iterating(loader: DataLoader[Any]) -> Iterator[Iterator[Any]]:
    """Its batches; its workers end with the context, whatever else still holds on to them."""
    batches = iter(loader)
    try:
        yield batches
    finally:
        if loader.num_workers:
            batches._shutdown_workers()  # type: ignore[attr-defined]


def _start_worker(_: int) -> None:
    torch.set_num_threads(1)
    # A scheduler signals all processes of a job; a loader's go on until the checkpoint is written, or for so long.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(25))


def main(argv: Sequence[str] | None = None) -> int:
    """0, or `vlm.launch.PREEMPTED` where a signal stopped the run at a checkpoint, or 1."""
    config, resume = parse_config(sys.argv[1:] if argv is None else argv)
    try:
        final = Trainer(config, resume=resume).run()
    except ProcessError as error:
        if os.environ.get("VLM_TRACEBACK"):
            raise
        print(f"vlm: {error}", file=sys.stderr, flush=True)
        return 1
    return 0 if final is not None else PREEMPTED
