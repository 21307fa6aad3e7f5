"""`vlm train CONFIG`: one loop for every task, through Accelerate.

The loss of a step is the sum of its target tokens' losses over their number, over all micro-batches and
processes; the samples of a step are a pure function of (seed, step), so that a run resumes exactly.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from jsonargparse import ArgumentParser
from torch import Tensor
from torch.utils.data import DataLoader

from tasks import TASKS
from vlm.api import VLM
from vlm.atomic import write_text
from vlm.build import build_model, build_processor
from vlm.checkpoint import load_newest, save_checkpoint
from vlm.config import TrainConfig
from vlm.data.mixture import MixtureDataset, PackingCollator, generator
from vlm.data.positions import Positions
from vlm.data.sources import read_sources, validation_records
from vlm.evaluate import quick_validation
from vlm.model import OneLookModel
from vlm.optim import WeightAverage, decay_start, learning_rate, load_optimizer_state, make_optimizer
from vlm.precision import best_precision
from vlm.processor import OneLookProcessor
from vlm.run_log import RunLog, Throughput, no_other_bars

__all__ = ["Trainer", "main", "parse_config"]

_OF_A_RUN = ("checkpoints", "final", "metrics.jsonl", "tensorboard", "tokenizer", "train.yaml")
"""What a run leaves in its output_dir."""


def parse_config(argv: Sequence[str]) -> tuple[TrainConfig, bool]:
    """`CONFIG.yaml --dotted.override=value ... [--restart]` -> configuration and whether to resume."""
    parser = ArgumentParser(prog="vlm train", description="Train a one-look model.", allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file; may also stand first, without the flag")
    parser.add_argument(
        "--restart",
        action="store_true",
        help="start afresh where output_dir holds a run already; that one is moved to output_dir/previous",
    )
    parser.add_class_arguments(TrainConfig, as_group=False)
    arguments = list(argv)
    if arguments and not arguments[0].startswith("-"):
        arguments.insert(0, "--config")
    parsed = parser.parse_args(arguments)
    restart = bool(parsed.pop("restart"))
    parsed.pop("config", None)
    # jsonargparse 4.49 renamed it.
    values = parser.instantiate(parsed) if hasattr(parser, "instantiate") else parser.instantiate_classes(parsed)
    return TrainConfig(**vars(values)), not restart


class Trainer:
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
        self.accelerator = Accelerator(
            cpu=config.cpu,
            mixed_precision=best_precision(cpu=config.cpu)
            if config.mixed_precision == "auto"
            else config.mixed_precision,
            log_with="tensorboard" if config.tensorboard else None,
            project_dir=str(self.output),
        )
        world = self.accelerator.num_processes
        if config.batch_size % world:
            raise ValueError(
                f"batch_size {config.batch_size} is not a multiple of the {world} processes; change either"
            )
        per_process = config.batch_size // world
        self.micro = min(config.micro_batch_size or per_process, per_process)
        self.records = read_sources(config.data)
        self.validation_records = validation_records(config) if config.eval_every else {}
        model = build_model(config)
        with self.accelerator.main_process_first():
            if self.accelerator.is_main_process:
                self.output.mkdir(parents=True, exist_ok=True)
                if not resume:
                    _move_aside(self.output)
            self.processor = build_processor(config, model.config, self.records)

        state = load_newest(self.output / "checkpoints", model)
        self.first_step = 0 if state is None else int(state["step"])
        if self.first_step > config.num_steps:
            raise ValueError(
                f"the run in {self.output} is at step {self.first_step} already, past num_steps {config.num_steps}; "
                "raise num_steps, use another output_dir, or start afresh with --restart"
            )
        optimizer = make_optimizer(model, config.optim)
        if state is not None:
            load_optimizer_state(optimizer, state["optimizer"])
            self.accelerator.print(f"going on with {self.output} at step {self.first_step} of {config.num_steps}")
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.average = WeightAverage(self.raw_model, config.optim.ema_decay) if config.optim.ema_decay else None
        if self.average is not None and state is not None and "average" in state:
            self.average.load_state_dict(state["average"])
        if self.accelerator.scaler is not None and state is not None and "scaler" in state:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    @property
    def raw_model(self) -> OneLookModel:
        return self.accelerator.unwrap_model(self.model)

    # -- data ----------------------------------------------------------------------------------------

    def positions(self) -> Positions:
        return Positions(
            self.first_step,
            self.config.num_steps,
            self.config.batch_size,
            self.micro,
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )

    def loader(self) -> DataLoader[Any]:
        """The micro-batches of this process, `positions().micro_batches_per_step` a step."""
        config = self.config
        dataset = MixtureDataset(
            self.records,
            config.data.sources,
            self.processor,
            config.stage_of,
            config.data.augment,
            seed=config.seed,
            num_positions=config.num_steps * config.batch_size,
            task_loss_weights=config.task_loss_weights,
        )
        workers = config.data.num_workers
        return DataLoader(
            dataset,
            batch_sampler=self.positions(),  # type: ignore[arg-type]
            collate_fn=PackingCollator(self.processor),
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_one_thread,
        )

    # -- steps ---------------------------------------------------------------------------------------

    def run(self) -> Path:
        """Train to the end; returns the folder of the exported model."""
        config = self.config
        if self.accelerator.is_main_process:
            write_text(self.output / "train.yaml", _as_yaml(config))
        per_step = self.positions().micro_batches_per_step
        micro_batches = iter(self.loader())
        self.model.train()
        with self._logging() as log:
            throughput = Throughput()
            for step in range(self.first_step, config.num_steps):
                with throughput.waiting():
                    batches = [next(micro_batches) for _ in range(per_step)]
                throughput.add(
                    images=config.batch_size,
                    prompts=sum(map(_num_prompts, batches)) * self.accelerator.num_processes,
                )
                values = self.update(batches, step)
                done = step + 1
                last = done == config.num_steps
                if log is not None:
                    log.advance()
                if done % config.log_every == 0 or last:
                    self._log(log, done, values | throughput.read())
                with throughput.paused():
                    if config.eval_every and (done % config.eval_every == 0 or last):
                        self._log(log, done, self.validate(), periodic=False)
                    if last or done == self._decay_start or (config.save_every and done % config.save_every == 0):
                        self.save(done)
            final = self.export()
            if log is not None:
                log.say(f"exported to {final}")
        self.accelerator.end_training()
        return final

    def update(self, batches: Sequence[dict[str, Any]], step: int) -> dict[str, float]:
        """One optimizer step over this process's micro-batches; returns what to log.

        Raises:
            FloatingPointError: the loss or its gradient is not finite. The weights are still those before the step.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.config.num_steps, self.config.optim)
        sums = self.backward(batches, step)
        norm = float(self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.optim.max_grad_norm))
        # The gradient scaler of fp16 skips steps with overflows by itself.
        if not math.isfinite(norm) and self.accelerator.scaler is None:
            raise FloatingPointError(
                f"the gradient of step {step + 1} is not finite ({norm}); its records: {_names(batches)}. {_ADVICE}"
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update(self.raw_model)
        logged = {
            "loss": float(sums[:, 0].sum() / sums[:, 1].sum().clamp(min=1)),
            "grad_norm": norm,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "tokens": float(sums[:, 1].sum()),
        }
        for name, (loss, count) in zip(TASKS, sums.tolist(), strict=True):
            if count:
                logged[f"loss/{name}"] = loss / count
        return logged

    def backward(self, batches: Sequence[dict[str, Any]], step: int) -> Tensor:
        """Gradients of the whole step's loss; returns its sum of token losses and number of tokens, by task.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        accelerator, device = self.accelerator, self.accelerator.device
        weight = torch.stack([batch["token_weights"].sum() for batch in batches]).sum().to(device)
        total = accelerator.reduce(weight, reduction="sum").clamp(min=1e-6)
        sums = torch.zeros(len(TASKS), 2, device=device)
        broken = []
        for index, batch in enumerate(batches):
            tensors = _to_device(batch, device)
            sync = nullcontext() if index + 1 == len(batches) else accelerator.no_sync(self.model)
            with sync, self._dropout_of(step, index):
                output = self.model(**tensors)
                # DDP averages gradients over processes: undo it, so that the step divides by its tokens alone.
                accelerator.backward(output.loss_sum * accelerator.num_processes / total)
            valid = tensors["labels"] != -100
            tasks, losses = tensors["task_ids"][valid], output.token_loss[valid]
            sums.index_add_(0, tasks, torch.stack([losses, torch.ones_like(losses)], dim=1))
            broken.append(~output.token_loss.isfinite().all(dim=1))
        sums = accelerator.reduce(sums, reduction="sum")
        # After the sum over processes, so that all of them stop together.
        if not math.isfinite(float(sums[:, 0].sum())):
            names = _names(batches, [mask.tolist() for mask in broken]) or "on another process"
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

    # -- what comes of it ----------------------------------------------------------------------------

    @contextmanager
    def _logging(self) -> Iterator[RunLog | None]:
        """The log, on the main process; TensorBoard beside it where it is installed."""
        if self.config.tensorboard:
            # What an interrupted run showed of later steps goes: those are done again.
            options = {"tensorboard": {"purge_step": self.first_step + 1}}
            self.accelerator.init_trackers("tensorboard", init_kwargs=options)
        if not self.accelerator.is_main_process:
            yield None
            return
        with RunLog(self.output / "metrics.jsonl", self.first_step, self.config.num_steps) as log:
            if self.config.tensorboard and not self.accelerator.trackers:
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
        if self.accelerator.is_main_process:
            state: dict[str, Any] = {"optimizer": self.optimizer.state_dict()}
            if self.average is not None:
                state["average"] = self.average.state_dict()
            if self.accelerator.scaler is not None:
                state["scaler"] = self.accelerator.scaler.state_dict()
            save_checkpoint(
                self.output / "checkpoints",
                step,
                self.raw_model,
                state,
                keep=self.config.keep_checkpoints,
                protected=frozenset() if self._decay_start is None else frozenset({self._decay_start}),
            )
        self.accelerator.wait_for_everyone()

    def averaged(self) -> tuple[OneLookModel, OneLookProcessor]:
        """A copy as it is used later: the averaged weights, the patch budget of the last stage, evaluation mode."""
        shape = deepcopy(self.raw_model.config)
        shape.patch_budget = self.config.data.stages[-1].patch_budget
        model = OneLookModel(shape).to(self.accelerator.device)
        model.load_state_dict(self.raw_model.state_dict())
        if self.average is not None:
            self.average.copy_to(model)
        return model.eval(), OneLookProcessor(self.processor.tokenizer, shape)

    def validate(self) -> dict[str, float]:
        """Task metrics on a few validation records of every source, with the averaged weights (main process)."""
        values = {}
        if self.accelerator.is_main_process:
            values = quick_validation(VLM(*self.averaged()), self.validation_records)
        self.accelerator.wait_for_everyone()
        return {f"validation/{name}": value for name, value in values.items()}

    def export(self) -> Path:
        """The averaged weights in half precision with tokenizer and configuration, ready for `vlm.load`."""
        final = self.output / "final"
        if self.accelerator.is_main_process:
            temporary = self.output / ".final.tmp"
            shutil.rmtree(temporary, ignore_errors=True)
            model, processor = self.averaged()
            with no_other_bars():
                model.half().save_pretrained(temporary)
            processor.save_pretrained(temporary)
            write_text(temporary / "train.yaml", _as_yaml(self.config, _earlier_runs(self.config.model)))
            shutil.rmtree(final, ignore_errors=True)
            os.replace(temporary, final)
        self.accelerator.wait_for_everyone()
        return final


_ADVICE = (
    "Look at them with `vlm data preview`, or lower optim.learning_rate; started again, the run goes on from its last "
    "checkpoint"
)


def _move_aside(output: Path) -> None:
    """An earlier run's files go to `output`/previous, in place of what was there."""
    found = [output / name for name in _OF_A_RUN if (output / name).exists()]
    if found:
        shutil.rmtree(output / "previous", ignore_errors=True)
        (output / "previous").mkdir()
        for path in found:
            os.replace(path, output / "previous" / path.name)


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


def _num_prompts(batch: dict[str, Any]) -> int:
    return int(batch["segment_ids"].amax(1).clamp(min=0).sum())


def _names(batches: Sequence[dict[str, Any]], chosen: Sequence[Sequence[bool]] | None = None) -> str:
    """Ids of the records in these batches, or of the chosen rows."""
    rows = [batch["record_ids"] for batch in batches]
    return ", ".join(
        name
        for index, names in enumerate(rows)
        for row, name in enumerate(names)
        if chosen is None or chosen[index][row]
    )


def _to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    def move(value: Any) -> Any:
        if isinstance(value, list) and value and isinstance(value[0], Tensor):
            return [move(item) for item in value]
        return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value

    return {name: move(value) for name, value in batch.items()}


def _as_yaml(config: TrainConfig, earlier: Sequence[dict[str, Any]] = ()) -> str:
    plain = json.loads(json.dumps(asdict(config)))  # tuples become lists
    return yaml.safe_dump(plain | ({"earlier": list(earlier)} if earlier else {}), sort_keys=False)


def _earlier_runs(model: str) -> list[dict[str, Any]]:
    """Configurations of the runs that made the checkpoint that a run starts from, oldest first."""
    file = Path(model) / "train.yaml"
    if not file.is_file():
        return []
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    return [*config.pop("earlier", []), config]


def main(argv: Sequence[str] | None = None) -> int:
    config, resume = parse_config(sys.argv[1:] if argv is None else argv)
    Trainer(config, resume=resume).run()
    return 0
