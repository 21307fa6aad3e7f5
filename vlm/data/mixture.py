"""Samples as a pure function of (seed, position).

Position -> source, record, augmentation and the prompts drawn, whatever the number of workers or processes:
a run resumes from one integer.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from tasks import TASKS
from tasks.base import Example, Record
from tasks.results import Attributes
from vlm.config import AugmentConfig, SourceConfig, StageConfig
from vlm.data.augment import augment
from vlm.data.maps import GarmentMap, garment_map
from vlm.data.pictures import Pictures
from vlm.data.rare import Label, repeated_rows, value_weights
from vlm.data.regions import Region, region_classes, regions_of
from vlm.data.token_weights import token_factors
from vlm.processor import OneLookProcessor, PackedTarget

BLOCK = 1000
"""Positions a block: each holds every source in its exact share, in an order of its own."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One packed row before padding."""

    position: int
    record_id: str
    pixels: Tensor
    prompts: tuple[tuple[int, ...], ...]
    targets: tuple[PackedTarget, ...]
    tasks: tuple[str, ...]
    regions: tuple[Region, ...] = ()
    garments: GarmentMap | None = None


def generator(*keys: int | str) -> random.Random:
    """An explicit generator for these keys (Python hashes strings of seeds with SHA-512: stable everywhere)."""
    return random.Random(":".join(str(key) for key in keys))


class SourceSchedule:
    """Which record of which source stands at a position: exact shares in every block, without replacement
    within a pass over a source.

    Args:
        in_order: sources whose passes are not shuffled: of millions of pictures the order alone would take seconds
            and memory in every worker.
        rows: for sources whose records come differently often: the numbers of a pass, some of them several times.

    Raises:
        ValueError: a source with a weight but no records.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        weights: Mapping[str, float],
        seed: int,
        in_order: Collection[str] = (),
        rows: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self.rows = {name: np.asarray(numbers) for name, numbers in (rows or {}).items()}
        sizes = {name: len(self.rows.get(name, range(size))) for name, size in sizes.items()}
        self.names = [name for name in sizes if weights.get(name, 0) > 0]
        empty = [name for name in self.names if sizes[name] == 0]
        if empty:
            raise ValueError(f"sources without records: {', '.join(empty)}; set their weight to 0 or check their paths")
        self.sizes = dict(sizes)
        self.seed = seed
        self.in_order = frozenset(in_order)
        total = sum(weights[name] for name in self.names)
        exact = [BLOCK * weights[name] / total for name in self.names]
        counts = [int(value) for value in exact]
        # Largest remainders get the rest, so that the counts add up to a block.
        order = sorted(range(len(exact)), key=lambda i: counts[i] - exact[i])
        for index in order[: BLOCK - sum(counts)]:
            counts[index] += 1
        self.counts = dict(zip(self.names, counts, strict=True))
        self._layout = np.repeat(np.arange(len(self.names)), counts)
        self._blocks: dict[int, np.ndarray] = {}
        self._passes: dict[tuple[str, int], np.ndarray] = {}

    def _shuffled(self, cache: dict, key: object, values: np.ndarray, *seeds: int | str) -> np.ndarray:
        if key not in cache:
            if len(cache) > 8:
                cache.clear()
            order = list(range(len(values)))
            generator(self.seed, *seeds).shuffle(order)
            cache[key] = values[order]
        return cache[key]

    def __call__(self, position: int) -> tuple[str, int]:
        block, offset = divmod(position, BLOCK)
        layout = self._shuffled(self._blocks, block, self._layout, "block", block)
        source = int(layout[offset])
        name = self.names[source]
        drawn = block * self.counts[name] + int((layout[:offset] == source).sum())
        number, index = divmod(drawn, self.sizes[name])
        if name in self.in_order:
            return name, index
        rows = self.rows.get(name)
        values = np.arange(self.sizes[name]) if rows is None else rows
        order = self._shuffled(self._passes, (name, number), values, "pass", name, number)
        return name, int(order[index])


def draw_examples(
    record: Record,
    task_weights: Mapping[str, float],
    num: int,
    rng: random.Random,
    forms: Mapping[str, Any] = TASKS,
) -> list[Example]:
    """Up to `num` different examples of the record, tasks in proportion to their weights.

    Args:
        forms: in which the tasks are asked; what they have no words for is left out.
    """
    pools: dict[str, list[Example]] = {}
    for name, weight in task_weights.items():
        if weight > 0:
            examples = list(TASKS[name].examples(record, rng))
            rng.shuffle(examples)
            if forms is not TASKS:
                examples = [example for example in examples if _can_ask(forms.get(name), example)]
            if examples:
                pools[name] = examples
    drawn: list[Example] = []
    while pools and len(drawn) < num:
        names = list(pools)
        name = rng.choices(names, [task_weights[n] for n in names])[0]
        drawn.append(pools[name].pop())
        if not pools[name]:
            del pools[name]
    return drawn


def _can_ask(form: Any, example: Example) -> bool:
    # Without boxes only our own detection can be asked.
    return form is not None and (form is TASKS[example.task] or example.inputs.get("boxes", True))


class MixtureDataset(Dataset[Sample]):
    """Position -> `Sample`.

    Args:
        pictures: source name -> its pictures.
        stage_at: position -> stage.
        task_loss_weights: factor on a task's tokens.
        temperature: see `DataConfig.temperature`.
    """

    def __init__(
        self,
        pictures: Mapping[str, Pictures],
        sources: Mapping[str, SourceConfig],
        processor: Any,
        stage_at: Callable[[int], StageConfig],
        augment_config: AugmentConfig | None,
        *,
        seed: int,
        num_positions: int,
        task_loss_weights: Mapping[str, float] | None = None,
        temperature: float | None = None,
    ) -> None:
        self.pictures = dict(pictures)
        self.sources = dict(sources)
        self.temperature = temperature
        self._rows = {
            name: repeated_rows(found.records, threshold)
            for name, found in self.pictures.items()
            if (threshold := sources[name].repeat_rare) is not None
        }
        self._value_weights = {
            name: value_weights(found.records, power)
            for name, found in self.pictures.items()
            if (power := sources[name].balance_values) is not None
        }
        self._schedules: dict[tuple[tuple[str, float], ...] | None, SourceSchedule] = {}
        self.processor = processor
        self.forms: Mapping[str, Any] = processor.tasks
        self.stage_at = stage_at
        self.augment_config = augment_config
        self.seed = seed
        self.num_positions = num_positions
        self.task_loss_weights = dict(task_loss_weights or {})

    def __len__(self) -> int:
        return self.num_positions

    def schedule(self, position: int) -> tuple[str, int]:
        """The source and the number of the record at a position."""
        staged = self.stage_at(position).sources
        key = None if staged is None else tuple(staged.items())
        if key not in self._schedules:
            self._schedules[key] = self._make_schedule(staged)
        return self._schedules[key](position)

    def _make_schedule(self, staged: Mapping[str, float] | None) -> SourceSchedule:
        """Of a stage's own weights, or of those of the sources."""
        sizes = {name: len(rows) for name, rows in self.pictures.items()}
        weights = {
            name: self.sources[name].weight if staged is None else staged.get(name, 0.0) for name in self.pictures
        }
        if self.temperature is not None:
            weights = {name: weight * sizes[name] ** (1 / self.temperature) for name, weight in weights.items()}
        in_order = [name for name, rows in self.pictures.items() if rows.in_order]
        return SourceSchedule(sizes, weights, self.seed, in_order, self._rows)

    def __getitem__(self, position: int) -> Sample:
        name, index = self.schedule(position)
        image, record = self.pictures[name][index]
        rng = generator(self.seed, "sample", position)
        if (image.height, image.width) != tuple(record.image_size):
            raise ValueError(
                f"{record.image} is {image.height} x {image.width} but its record says {record.image_size}; "
                "run `vlm data check` on the source"
            )
        return self.make_sample(position, image, record, rng, self._value_weights.get(name))

    def make_sample(
        self,
        position: int,
        image: Image.Image,
        record: Record,
        rng: random.Random,
        value_factors: Mapping[Label, float] | None = None,
    ) -> Sample:
        """The sample at a position, of this picture.

        Args:
            value_factors: factors on the losses of attributes' values (see `vlm.data.rare.value_weights`).
        """
        stage = self.stage_at(position)
        variants = [(image, record)]
        if self.augment_config is not None:
            variants.insert(0, augment(image, record, self.augment_config, rng))
        # A crop may leave nothing to ask about, and a stage's tasks may not suit a record: then the whole picture,
        # then any task, so that a position always gives a sample.
        any_task = dict.fromkeys(self.forms, 1.0)
        for variant, weights in itertools.product(variants, (stage.task_weights, any_task)):
            image, record = variant
            examples = draw_examples(record, weights, stage.prompts_per_image, rng, self.forms)
            if examples:
                break
        else:
            raise ValueError(f"record {record.id} has no labels that any task can ask for; leave it out of the source")
        prompts, targets, tasks = [], [], []
        room = stage.max_target_tokens
        for example in examples:
            task = self.forms[example.task]
            text = task.target(example.label, record.image_size)
            ids = self.processor.encode_target(text)
            if len(ids) > room and (prompts or example is not examples[-1]):
                continue  # a row that nothing fits into takes its last example all the same
            room -= len(ids)
            prompts.append(tuple(self.processor.encode_prompt(task.prompt(example.inputs, record.image_size))))
            weight = example.weight * self.task_loss_weights.get(example.task, 1.0)
            weights: float | list[float] = weight
            if value_factors is not None and isinstance(example.label, Attributes):
                factors = token_factors(example.label, text, ids, self.processor.tokenizer, value_factors)
                weights = [weight * factor for factor in factors]
            targets.append(PackedTarget(ids=tuple(ids), weight=weights))
            tasks.append(example.task)
        pixels = self.processor.pixels(image, stage.patch_budget)
        labels: dict[str, Any] = {}
        if isinstance(self.processor, OneLookProcessor):
            grid = self.processor.grid(pixels)
            labels["regions"] = tuple(regions_of(record, grid))
            labels["garments"] = garment_map(record, grid) if self.processor.config.map_weight else None
        return Sample(
            position=position,
            record_id=record.id,
            pixels=pixels,
            prompts=tuple(prompts),
            targets=tuple(targets),
            tasks=tuple(tasks),
            **labels,
        )


class PackingCollator:
    """Samples -> one batch of packed rows (see `OneLookProcessor.collate`), plus what the log wants to know."""

    def __init__(self, processor: OneLookProcessor) -> None:
        self.processor = processor
        self.task_index = {name: index for index, name in enumerate(TASKS)}

    def __call__(self, samples: Sequence[Sample]) -> dict:
        batch = self.processor.collate(
            [sample.pixels for sample in samples],
            [sample.prompts for sample in samples],
            [sample.targets for sample in samples],
        )
        batch["positions"] = [sample.position for sample in samples]
        batch["record_ids"] = [sample.record_id for sample in samples]
        tasks = batch["labels"].new_full(batch["labels"].shape, -1)
        for row, sample in enumerate(samples):
            start = 0
            for task, target in zip(sample.tasks, sample.targets, strict=True):
                tasks[row, start : start + len(target.ids)] = self.task_index[task]
                start += len(target.ids)
        batch["task_ids"] = tasks
        self.add_regions(batch, samples)
        return batch

    def add_regions(self, batch: dict, samples: Sequence[Sample]) -> None:
        """R regions of all pictures: their rows, their weights padded to the picture with most tokens, their labels."""
        longest = max(math.prod(self.processor.grid(sample.pixels)) for sample in samples)
        found = [(row, region) for row, sample in enumerate(samples) for region in sample.regions]
        weights = torch.zeros(len(found), longest)
        labels = torch.zeros(len(found), len(region_classes()), dtype=torch.long)
        for index, (_, region) in enumerate(found):
            weights[index, : len(region.weights)] = region.weights
            labels[index] = region.labels
        batch["region_rows"] = torch.tensor([row for row, _ in found], dtype=torch.long)
        batch["region_weights"], batch["region_labels"] = weights, labels
        if self.processor.config.map_weight:
            maps = [sample.garments for sample in samples if sample.garments is not None]
            for name in ("inside", "outside"):
                parts = [getattr(item, f"{name}_IG") for item in maps]
                batch[f"map_{name}"] = pad_sequence(parts, batch_first=True)
            batch["map_somewhere"] = torch.stack([item.somewhere_G for item in maps])
