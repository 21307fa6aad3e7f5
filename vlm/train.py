"""`vlm train CONFIG`: one loop for every task, through Accelerate.

The loss of a step is the sum of its target tokens' losses over their number, over all micro-batches and
processes; the samples of a step are a pure function of (seed, step), so that a run resumes exactly.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader

from tasks import TASKS
from tasks.base import Record
from tasks.readers import READERS
from vlm.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from vlm.config import TrainConfig
from vlm.data.corpus import corpus
from vlm.data.mixture import MixtureDataset, PackingCollator, generator
from vlm.model import OneLookConfig, OneLookModel
from vlm.optim import WeightAverage, decay_start, learning_rate, make_optimizer
from vlm.processor import OneLookProcessor
from vlm.tokenizer import load_tokenizer, train_tokenizer


def parse_config(argv: Sequence[str]) -> tuple[TrainConfig, bool]:
    """`CONFIG.yaml --dotted.override=value ... [--restart]` -> configuration and whether to resume."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="vlm train", description="Train a one-look model.")
    parser.add_argument("--config", action="config", help="YAML file; may also stand first, without the flag")
    parser.add_argument("--restart", action="store_true", help="ignore checkpoints in output_dir and start afresh")
    parser.add_class_arguments(TrainConfig, as_group=False)
    arguments = list(argv)
    if arguments and not arguments[0].startswith("-"):
        arguments.insert(0, "--config")
    parsed = parser.parse_args(arguments)
    restart = bool(parsed.pop("restart"))
    parsed.pop("config", None)
    values = parser.instantiate_classes(parsed)
    return TrainConfig(**values.as_dict() if hasattr(values, "as_dict") else vars(values)), not restart


def read_sources(config: TrainConfig, split: str | None = None) -> dict[str, list[Record]]:
    """Source name -> records of its split (or of `split`)."""
    found: dict[str, list[Record]] = {}
    for name, source in config.data.sources.items():
        if source.reader not in READERS:
            raise ValueError(f"source {name}: unknown reader {source.reader!r}; known: {', '.join(READERS)}")
        root = source.path or config.data.data_root
        wanted = split or source.split
        records = READERS[source.reader](Path(root) if root else None)
        found[name] = [
            record
            for record in records
            if record.split == wanted and source.boxes in (None, any(item.box is not None for item in record.objects))
        ]
    return found


def build_model(config: TrainConfig) -> OneLookModel:
    """From a YAML shape with weights drawn from `config.seed`, or from a checkpoint folder."""
    if Path(config.model).is_dir():
        return OneLookModel.from_pretrained(config.model, dtype=torch.float32)
    if not Path(config.model).is_file():
        raise ValueError(f"model {config.model!r} is neither a YAML file nor a checkpoint folder")
    shape = yaml.safe_load(Path(config.model).read_text())
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return OneLookModel(OneLookConfig(**shape))


def build_processor(config: TrainConfig, model: OneLookModel, records: dict[str, list[Record]]) -> OneLookProcessor:
    """With the configured tokenizer, the run's own, or one trained on the sources."""
    own = Path(config.output_dir) / "tokenizer"
    for folder in (config.tokenizer, config.model, own):
        if folder and (Path(folder) / "tokenizer.json").is_file():
            return OneLookProcessor(load_tokenizer(folder), model.config)
    tokenizer = train_tokenizer(
        corpus([record for rows in records.values() for record in rows]), vocab_size=model.config.vocab_size
    )
    tokenizer.save_pretrained(own)
    return OneLookProcessor(tokenizer, model.config)


class Positions:
    """Batch sampler: the positions of every micro-batch of this process, from `first_step` on.

    Step s holds positions s * B .. (s + 1) * B - 1; process r takes every world-th of them.
    """

    def __init__(self, first_step: int, num_steps: int, batch: int, micro: int, rank: int, world: int) -> None:
        self.steps = range(first_step, num_steps)
        self.batch, self.micro, self.rank, self.world = batch, micro, rank, world

    def __len__(self) -> int:
        return len(self.steps) * len(list(self._micro_batches(0)))

    def _micro_batches(self, step: int) -> Iterator[list[int]]:
        own = list(range(step * self.batch + self.rank, (step + 1) * self.batch, self.world))
        for start in range(0, len(own), self.micro):
            yield own[start : start + self.micro]

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            yield from self._micro_batches(step)


class Trainer:
    """Holds what a run needs; `run` goes through the steps."""

    def __init__(self, config: TrainConfig, *, resume: bool = True) -> None:
        self.config = config
        self.output = Path(config.output_dir)
        self.output.mkdir(parents=True, exist_ok=True)
        self.accelerator = Accelerator(
            cpu=config.cpu,
            mixed_precision=config.mixed_precision,
            log_with="tensorboard" if config.tensorboard else None,
            project_dir=str(self.output),
        )
        world = self.accelerator.num_processes
        if config.batch_size % world:
            raise ValueError(
                f"batch_size {config.batch_size} is not a multiple of the {world} processes; change either"
            )
        self.per_process = config.batch_size // world
        self.micro = min(config.micro_batch_size or self.per_process, self.per_process)

        self.records = read_sources(config)
        model = build_model(config)
        with self.accelerator.main_process_first():
            self.processor = build_processor(config, model, self.records)
        self.average = WeightAverage(model, config.optim.ema_decay) if config.optim.ema_decay else None
        optimizer = make_optimizer(model, config.optim)
        self.first_step = 0
        checkpoints = list_checkpoints(self.output / "checkpoints")
        if resume and checkpoints:
            state = load_checkpoint(checkpoints[-1], model)
            optimizer.load_state_dict(state["optimizer"])
            if self.average is not None:
                self.average.load_state_dict(state["average"])
            torch.set_rng_state(state["rng"])
            self.first_step = int(state["step"])
            self.accelerator.print(f"resuming {self.output} at step {self.first_step}")
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        if self.average is not None:
            device = self.accelerator.device
            self.average.shadow = {name: value.to(device) for name, value in self.average.shadow.items()}

    @property
    def raw_model(self) -> OneLookModel:
        return self.accelerator.unwrap_model(self.model)

    def loader(self) -> DataLoader[Any]:
        config = self.config
        dataset = MixtureDataset(
            self.records,
            config.data.sources,
            self.processor,
            lambda position: config.stage_at(position // config.batch_size),
            config.data.augment,
            seed=config.seed,
            num_positions=config.num_steps * config.batch_size,
            task_loss_weights=config.task_loss_weights,
        )
        positions = Positions(
            self.first_step,
            config.num_steps,
            config.batch_size,
            self.micro,
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )
        workers = config.data.num_workers
        return DataLoader(
            dataset,
            batch_sampler=positions,  # type: ignore[arg-type]
            collate_fn=PackingCollator(self.processor),
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_one_thread,
        )

    def update(self, batches: list[dict[str, Any]], step: int) -> dict[str, float]:
        """One optimizer step over this process's micro-batches; returns what to log."""
        device, accelerator = self.accelerator.device, self.accelerator
        weight = torch.stack([batch["token_weights"].sum() for batch in batches]).sum().to(device)
        total = accelerator.reduce(weight, reduction="sum")
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.config.num_steps, self.config.optim)
        sums = torch.zeros(len(TASKS), 2, device=device)
        for index, batch in enumerate(batches):
            tensors = _to_device(batch, device)
            context = accelerator.no_sync(self.model) if index + 1 < len(batches) else _nothing()
            with context:
                output = self.model(**tensors)
                # DDP averages gradients over processes: undo it, so that the step divides by its tokens alone.
                accelerator.backward(output.loss_sum * accelerator.num_processes / total.clamp(min=1e-6))
            for task in range(len(TASKS)):
                here = (tensors["task_ids"] == task) & (tensors["labels"] != -100)
                sums[task] += torch.stack([output.token_loss[here].sum(), here.sum()])
        norm = accelerator.clip_grad_norm_(self.model.parameters(), self.config.optim.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update(self.raw_model)
        sums = accelerator.reduce(sums, reduction="sum")
        logged = {
            "loss": float(sums[:, 0].sum() / sums[:, 1].sum().clamp(min=1)),
            "grad_norm": float(norm),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "tokens": float(sums[:, 1].sum()),
        }
        for (name, _), (loss, count) in zip(TASKS.items(), sums.tolist(), strict=True):
            if count:
                logged[f"loss/{name}"] = loss / count
        return logged

    def run(self) -> Path:
        """Train to the end; returns the folder of the exported model."""
        config, accelerator = self.config, self.accelerator
        if config.tensorboard:
            accelerator.init_trackers("tensorboard")
        if accelerator.is_main_process:
            write_text(self.output / "train.yaml", yaml.safe_dump(_plain(config), sort_keys=False))
        micro_steps = -(-self.per_process // self.micro)
        batches = iter(self.loader())
        self.model.train()
        clock, waited, images, prompts = time.perf_counter(), 0.0, 0, 0
        for step in range(self.first_step, config.num_steps):
            start = time.perf_counter()
            step_batches = [next(batches) for _ in range(micro_steps)]
            waited += time.perf_counter() - start
            images += config.batch_size
            prompts += sum(int(batch["segment_ids"].amax(1).clamp(min=0).sum()) for batch in step_batches)
            logged = self.update(step_batches, step)
            done = step + 1
            if done % config.log_every == 0 or done == config.num_steps:
                seconds = time.perf_counter() - clock
                logged.update(
                    images_per_s=images / seconds,
                    prompts_per_s=prompts * accelerator.num_processes / seconds,
                    data_wait=waited / seconds,
                )
                self.log(done, logged)
                clock, waited, images, prompts = time.perf_counter(), 0.0, 0, 0
            if config.eval_every and (done % config.eval_every == 0 or done == config.num_steps):
                self.validate(done)
                clock = time.perf_counter()
            at_decay = config.optim.schedule == "wsd" and done == decay_start(config.num_steps, config.optim)
            if done == config.num_steps or at_decay or (config.save_every and done % config.save_every == 0):
                self.save(done)
        final = self.export()
        accelerator.end_training()
        return final

    def log(self, step: int, values: dict[str, float]) -> None:
        if not self.accelerator.is_main_process:
            return
        with (self.output / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self.config.tensorboard:
            self.accelerator.log(values, step=step)
        shown = "  ".join(f"{name.removeprefix('loss/')} {value:.4g}" for name, value in values.items())
        print(f"step {step}/{self.config.num_steps}  {shown}", flush=True)

    def save(self, step: int) -> None:
        if self.accelerator.is_main_process:
            state: dict[str, Any] = {"optimizer": self.optimizer.state_dict(), "rng": torch.get_rng_state()}
            if self.average is not None:
                state["average"] = self.average.state_dict()
            # The start of the decay stays: a longer run goes on from there without the decay.
            save_checkpoint(
                self.output / "checkpoints",
                step,
                self.raw_model,
                state,
                keep=self.config.keep_checkpoints,
                protected=frozenset({decay_start(self.config.num_steps, self.config.optim)}),
            )
        self.accelerator.wait_for_everyone()

    def averaged_model(self) -> OneLookModel:
        """A copy with the averaged weights, in evaluation mode."""
        model = OneLookModel(self.raw_model.config)
        model.load_state_dict({k: v.detach().cpu() for k, v in self.raw_model.state_dict().items()})
        if self.average is not None:
            self.average.copy_to(model)
        return model.eval()

    def validate(self, step: int) -> None:
        """Task metrics on a few validation records of every source, with the averaged weights."""
        from vlm.api import VLM
        from vlm.evaluate import quick_validation

        if self.accelerator.is_main_process:
            model = VLM(self.averaged_model(), self.processor)
            records = {}
            for name, rows in read_sources(self.config, "validation").items():
                if not rows:  # every ccp photo held back has boxes
                    continue
                generator(self.config.seed, "validation", name).shuffle(rows)
                records[name] = rows[: self.config.eval_records]
            values = quick_validation(model, records)
            self.log(step, {f"validation/{name}": value for name, value in values.items()})
        self.accelerator.wait_for_everyone()

    def export(self) -> Path:
        """The averaged weights in half precision with tokenizer and configuration, ready for `vlm.load`."""
        final = self.output / "final"
        if self.accelerator.is_main_process:
            temporary = self.output / ".final.tmp"
            model = self.averaged_model().to(torch.float16)
            model.config.patch_budget = self.config.data.stages[-1].patch_budget
            model.save_pretrained(temporary)
            self.processor.save_pretrained(temporary)
            write_text(temporary / "train.yaml", yaml.safe_dump(_plain(self.config), sort_keys=False))
            import shutil

            shutil.rmtree(final, ignore_errors=True)
            os.replace(temporary, final)
        self.accelerator.wait_for_everyone()
        return final


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


class _nothing:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def _to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    def move(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(device, non_blocking=True)
        return (
            [move(item) for item in value]
            if isinstance(value, list) and value and isinstance(value[0], Tensor)
            else value
        )

    return {name: move(value) for name, value in batch.items()}


def _plain(config: TrainConfig) -> dict[str, Any]:
    from dataclasses import asdict

    return json.loads(json.dumps(asdict(config)))


def write_text(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def main(argv: Sequence[str] | None = None) -> int:
    config, resume = parse_config(sys.argv[1:] if argv is None else argv)
    final = Trainer(config, resume=resume).run()
    print(f"exported to {final}")
    return 0
