"""Samples are a pure function of (seed, position)."""

from __future__ import annotations

import pickle
import random
from collections import Counter
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from tasks import TASKS
from tasks.base import ObjectLabel, Record, TextLabel
from tasks.boxes import Box
from vlm.config import AugmentConfig, SourceConfig, StageConfig
from vlm.data.mixture import BLOCK, MixtureDataset, PackingCollator, SourceSchedule, draw_examples
from vlm.data.pictures import PhotoFiles
from vlm.data.positions import Positions
from vlm.data.rare import repeat_factors, repeated_rows, value_weights
from vlm.data.records import read_records
from vlm.processor import OneLookProcessor

# -- which record --------------------------------------------------------------------------------------

SIZES = {"a": 7, "b": 40, "c": 1300, "unused": 5}
WEIGHTS = {"a": 3.0, "b": 1.5, "c": 5.5, "unused": 0.0}


def drawn(schedule: SourceSchedule, source: str, num: int) -> list[int]:
    """The first `num` records that come from a source."""
    found: list[int] = []
    position = 0
    while len(found) < num:
        name, index = schedule(position)
        if name == source:
            found.append(index)
        position += 1
    return found


def test_every_block_has_the_exact_shares() -> None:
    schedule = SourceSchedule(SIZES, WEIGHTS, seed=0)
    layouts = []
    for block in range(3):
        names = [schedule(block * BLOCK + offset)[0] for offset in range(BLOCK)]
        assert Counter(names) == {"a": 300, "b": 150, "c": 550}
        layouts.append(names)
    assert layouts[0] != layouts[1] != layouts[2], "a block has an order of its own"


@given(st.dictionaries(st.text("abcdef", min_size=1), st.floats(0.01, 100), min_size=1, max_size=6))
def test_shares_add_up_and_are_as_near_as_whole_positions_allow(weights: dict[str, float]) -> None:
    schedule = SourceSchedule(dict.fromkeys(weights, 3), weights, seed=1)
    assert sum(schedule.counts.values()) == BLOCK
    total = sum(weights.values())
    for name, weight in weights.items():
        assert abs(schedule.counts[name] - BLOCK * weight / total) < 1


@pytest.mark.parametrize("source", ["a", "b", "c"])
def test_no_record_comes_twice_within_a_pass(source: str) -> None:
    size = SIZES[source]
    indices = drawn(SourceSchedule(SIZES, WEIGHTS, seed=0), source, 3 * size)
    passes = [indices[start : start + size] for start in range(0, len(indices), size)]
    assert all(sorted(each) == list(range(size)) for each in passes)
    assert passes[0] != passes[1], "a pass has an order of its own"


def test_any_position_can_be_asked_for_first() -> None:
    positions = random.Random(0).sample(range(5 * BLOCK), 300)
    in_order = SourceSchedule(SIZES, WEIGHTS, seed=0)
    expected = {position: in_order(position) for position in sorted(positions)}
    for position in positions:
        assert SourceSchedule(SIZES, WEIGHTS, seed=0)(position) == expected[position]
    jumping = SourceSchedule(SIZES, WEIGHTS, seed=0)
    assert {position: jumping(position) for position in positions} == expected


def test_another_seed_is_another_order() -> None:
    first, second = ([SourceSchedule(SIZES, WEIGHTS, seed=seed)(n) for n in range(100)] for seed in (0, 1))
    assert first != second


def test_order_stays_from_version_to_version() -> None:
    """A change here changes every run that goes on from a checkpoint."""
    schedule = SourceSchedule(SIZES, WEIGHTS, seed=0)
    found = [schedule(position) for position in (0, 1, 2, 999, 1000, 12345)]
    assert found == [("a", 5), ("a", 1), ("c", 939), ("c", 947), ("b", 37), ("c", 830)]


def test_sources_in_order_need_no_shuffling() -> None:
    """However many pictures there are, and without a change to what the others give."""
    num = 10**12
    schedule = SourceSchedule({**SIZES, "drawn": num}, {**WEIGHTS, "drawn": 5.0}, seed=0, in_order=["drawn"])
    assert drawn(schedule, "drawn", 700) == list(range(700))
    far = next(found for found in map(schedule, range(3 * num, 3 * num + BLOCK)) if found[0] == "drawn")
    assert far == ("drawn", 3 * num // BLOCK * schedule.counts["drawn"] % num)
    few = SourceSchedule({"a": 3, "b": 4}, {"a": 1.0, "b": 1.0}, seed=0, in_order=["a"])
    assert drawn(few, "a", 7) == [0, 1, 2, 0, 1, 2, 0]
    assert drawn(few, "b", 20) == drawn(SourceSchedule({"a": 3, "b": 4}, {"a": 1.0, "b": 1.0}, seed=0), "b", 20)


def test_sources_without_records_are_named() -> None:
    with pytest.raises(ValueError, match="sources without records: b, c; set their weight to 0 or check their paths"):
        SourceSchedule({"a": 1, "b": 0, "c": 0, "unused": 0}, WEIGHTS, seed=0)


# -- which positions -----------------------------------------------------------------------------------


@given(
    per_process=st.integers(1, 9),
    world=st.integers(1, 4),
    micro=st.integers(1, 10),
    first=st.integers(0, 3),
    num=st.integers(0, 3),
)
def test_positions(per_process: int, world: int, micro: int, first: int, num: int) -> None:
    batch = per_process * world
    seen: dict[int, list[int]] = {step: [] for step in range(first, first + num)}
    for rank in range(world):
        sampler = Positions(first, first + num, batch, micro, rank, world)
        batches = list(sampler)
        assert len(sampler) == len(batches) == num * sampler.micro_batches_per_step
        assert all(1 <= len(positions) <= micro for positions in batches)
        for index, positions in enumerate(batches):
            seen[first + index // sampler.micro_batches_per_step] += positions
    for step, positions in seen.items():
        assert sorted(positions) == list(range(step * batch, (step + 1) * batch))


def test_a_resumed_run_goes_on_where_it_was() -> None:
    whole = list(Positions(0, 5, batch=6, micro=4))
    assert list(Positions(2, 5, batch=6, micro=4)) == whole[4:]
    assert whole[:3] == [[0, 1, 2, 3], [4, 5], [6, 7, 8, 9]]


def test_rows_come_as_often_as_they_are_named() -> None:
    schedule = SourceSchedule({"a": 4, "b": 50}, {"a": 1.0, "b": 1.0}, seed=0, rows={"a": [0, 1, 1, 3, 3, 3]})
    found = drawn(schedule, "a", 12)
    assert sorted(found[:6]) == sorted(found[6:]) == [0, 1, 1, 3, 3, 3]
    assert drawn(schedule, "b", 90) == drawn(SourceSchedule({"a": 6, "b": 50}, {"a": 1.0, "b": 1.0}, seed=0), "b", 90)


# -- which prompts -------------------------------------------------------------------------------------


def record_of(garments: Path, name: str = "drawn-1") -> Record:
    return next(record for record in read_records(garments) if record.id == name)


def test_prompts_differ_and_follow_their_weights(garments: Path) -> None:
    record = record_of(garments)
    counts: Counter[str] = Counter()
    for seed in range(200):
        examples = draw_examples(record, {"vqa": 3.0, "attributes": 1.0, "detection": 0.0}, 1, random.Random(seed))
        counts[examples[0].task] += 1
    assert set(counts) == {"vqa", "attributes"}
    assert counts["vqa"] == pytest.approx(150, abs=20)
    many = draw_examples(record, dict.fromkeys(TASKS, 1.0), 1000, random.Random(0))
    prompts = [TASKS[example.task].prompt(example.inputs, record.image_size) for example in many]
    assert len(prompts) == len(set(prompts)) > 10
    assert {example.task for example in many} == set(TASKS)


def test_no_more_than_there_is(garments: Path) -> None:
    assert len(draw_examples(record_of(garments), {"caption": 1.0}, 5, random.Random(0))) == 1
    assert draw_examples(Record(id="1", image="1", image_size=(2, 2)), {"caption": 1.0}, 5, random.Random(0)) == []


# -- samples -------------------------------------------------------------------------------------------


def dataset(
    garments: Path,
    processor: OneLookProcessor,
    *,
    seed: int = 0,
    stage: StageConfig | None = None,
    augment: AugmentConfig | None = None,
    rare: float | None = None,
    balance: float | None = None,
    **options: Any,
) -> MixtureDataset:
    records = [record for record in read_records(garments) if record.split == "train"]
    return MixtureDataset(
        {"first": PhotoFiles(records[:4]), "second": PhotoFiles(records[4:])},
        {
            "first": SourceConfig(reader="jsonl", weight=1, repeat_rare=rare),
            "second": SourceConfig(reader="jsonl", weight=3, balance_values=balance),
        },
        processor,
        Fixed(stage or StageConfig(patch_budget=12, prompts_per_image=4)),
        augment or AugmentConfig(),
        seed=seed,
        num_positions=64,
        **options,
    )


def test_a_stage_may_have_sources_of_its_own(garments: Path, tiny_processor: OneLookProcessor) -> None:
    first = StageConfig(patch_budget=12, sources={"second": 1.0})
    last = StageConfig(patch_budget=12)
    mixed = dataset(garments, tiny_processor, stage=last)
    staged = dataset(garments, tiny_processor)
    staged.stage_at = lambda position: first if position < 20 else last
    assert {staged.schedule(position)[0] for position in range(20)} == {"second"}
    after = [staged.schedule(position) for position in range(20, 64)]
    assert after == [mixed.schedule(position) for position in range(20, 64)]
    assert {name for name, _ in after} == {"first", "second"}


def test_a_temperature_evens_sources_out(garments: Path, tiny_processor: OneLookProcessor) -> None:
    def shares(temperature: float | None) -> list[float]:
        made = dataset(garments, tiny_processor, temperature=temperature)
        drawn_from = Counter(made.schedule(position)[0] for position in range(BLOCK))
        return [drawn_from["first"] / BLOCK, drawn_from["second"] / BLOCK]

    sizes = [len(pictures) for pictures in dataset(garments, tiny_processor).pictures.values()]
    by_size = [1 * sizes[0], 3 * sizes[1]]
    assert shares(None) == [0.25, 0.75]
    assert shares(1.0) == pytest.approx([size / sum(by_size) for size in by_size], abs=1e-3)
    assert shares(1e6) == pytest.approx([0.25, 0.75], abs=2e-3)


def test_rare_labels_come_more_often(garments: Path, tiny_processor: OneLookProcessor) -> None:
    made = dataset(garments, tiny_processor, rare=1.0)
    records = made.pictures["first"].records
    factors = repeat_factors(records, 1.0)
    rows = repeated_rows(records, 1.0)
    found = Counter(index for name, index in map(made.schedule, range(BLOCK)) if name == "first")
    assert len(rows) > len(records) and sum(found.values()) == BLOCK / 4
    for number, factor in enumerate(factors):
        expected = found.total() * rows.count(number) / len(rows)
        assert found[number] == pytest.approx(expected, abs=rows.count(number) + 1)
        assert abs(rows.count(number) - factor) < 1


class Fixed:
    """One stage for all positions; unlike a lambda it can be sent to a worker."""

    def __init__(self, stage: StageConfig) -> None:
        self.stage = stage

    def __call__(self, position: int) -> StageConfig:
        return self.stage


def same(first: Any, second: Any) -> bool:
    """Samples or batches, equal to the bit."""
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if is_dataclass(first):
        return type(first) is type(second) and same(vars(first), vars(second))
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[name], second[name]) for name in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


def test_a_sample_is_a_function_of_seed_and_position(garments: Path, tiny_processor: OneLookProcessor) -> None:
    samples = dataset(garments, tiny_processor)
    whole = [samples[position] for position in range(16)]
    fresh = dataset(garments, tiny_processor)
    random.seed(3)
    torch.manual_seed(3)
    for position in (11, 3, 3, 15, 0):
        assert same(fresh[position], whole[position])
    other = dataset(garments, tiny_processor, seed=1)
    assert not any(same(other[position], whole[position]) for position in range(16))
    assert len({sample.pixels.numpy().tobytes() for sample in whole}) == 16, "a record comes back in another variation"


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_change_nothing(num_workers: int, garments: Path, tiny_processor: OneLookProcessor) -> None:
    def batches(workers: int) -> list[dict[str, Any]]:
        loader = DataLoader(
            dataset(garments, tiny_processor),
            batch_sampler=Positions(1, 5, batch=6, micro=4),  # type: ignore[arg-type]
            collate_fn=PackingCollator(tiny_processor),
            num_workers=workers,
        )
        return list(loader)

    alone, with_workers = batches(0), batches(num_workers)
    assert [batch["positions"] for batch in alone[:2]] == [[6, 7, 8, 9], [10, 11]]
    assert same(alone, with_workers)


def test_workers_may_be_started_in_any_way(garments: Path, tiny_processor: OneLookProcessor) -> None:
    """From Python 3.14 on they are not forked: what they need is pickled."""
    samples = dataset(garments, tiny_processor)
    again = pickle.loads(pickle.dumps(samples))
    assert same(again[5], samples[5])


def test_stages_set_size_tasks_and_number(garments: Path, tiny_processor: OneLookProcessor) -> None:
    stage = StageConfig(patch_budget=6, prompts_per_image=2, task_weights={"vqa": 1, "caption": 0})
    samples = dataset(garments, tiny_processor, stage=stage)
    stride = tiny_processor.config.stride
    for position in range(12):
        sample = samples[position]
        assert sample.position == position
        assert sample.tasks == ("vqa", "vqa")
        assert len(sample.prompts) == len(sample.targets) == 2
        assert 4 <= sample.pixels[0].numel() / stride**2 <= 6
        for prompt, target in zip(sample.prompts, sample.targets, strict=True):
            assert tiny_processor.decode(prompt).startswith("<vqa>")
            assert target.ids[-1] == tiny_processor.config.eos_token_id


def test_targets_fit_into_their_room(garments: Path, tiny_processor: OneLookProcessor) -> None:
    stage = StageConfig(patch_budget=6, prompts_per_image=6, max_target_tokens=20)
    roomy = StageConfig(patch_budget=6, prompts_per_image=6, max_target_tokens=1000)
    full, cut = (dataset(garments, tiny_processor, stage=each) for each in (roomy, stage))
    for position in range(12):
        lengths = [len(target.ids) for target in cut[position].targets]
        assert len(lengths) == 1 or sum(lengths) <= 20
        assert set(cut[position].prompts) <= set(full[position].prompts)
        assert len(cut[position].tasks) == len(cut[position].prompts)
    assert sum(len(cut[p].prompts) for p in range(12)) < sum(len(full[p].prompts) for p in range(12))


def test_loss_weights_reach_the_tokens(garments: Path, tiny_processor: OneLookProcessor) -> None:
    samples = dataset(garments, tiny_processor, task_loss_weights={"vqa": 0.25})
    weights: dict[str, set[float]] = {}
    for position in range(16):
        for task, target in zip(samples[position].tasks, samples[position].targets, strict=True):
            weights.setdefault(task, set()).add(target.weight)
    assert weights["vqa"] == {0.25}
    assert weights["caption"] == {1.0}


def test_values_are_balanced_in_the_source_that_asks_for_it(garments: Path, tiny_processor: OneLookProcessor) -> None:
    plain = dataset(garments, tiny_processor, task_loss_weights={"attributes": 2.0})
    balanced = dataset(garments, tiny_processor, task_loss_weights={"attributes": 2.0}, balance=0.5)
    weights = value_weights(balanced.pictures["second"].records, 0.5)
    seen: dict[str, set[float]] = {"first": set(), "second": set()}
    for position in range(64):
        name, _ = balanced.schedule(position)
        one, other = plain[position], balanced[position]
        assert one.tasks == other.tasks
        for task, target, weighed in zip(one.tasks, one.targets, other.targets, strict=True):
            assert target.ids == weighed.ids
            if task != "attributes":
                assert target.weights == weighed.weights
                continue
            seen[name] |= {weight / 2.0 for weight in weighed.weights}
    assert seen["first"] == {1.0}
    assert len(seen["second"]) > 1
    assert seen["second"] <= {1.0, *weights.values()}


def test_a_position_always_gives_a_sample(garments: Path, tiny_processor: OneLookProcessor) -> None:
    """Of a crop that leaves nothing, the whole picture; where the stage's tasks do not suit, any task."""
    record = replace(
        record_of(garments),
        objects=(ObjectLabel(label="ring", box=Box(0, 0, 2, 2)),),
        captions=(TextLabel(text="A ring."),),
        qa=(),
        objects_complete=False,
    )
    samples = dataset(garments, tiny_processor, augment=AugmentConfig(crop=1, min_crop=0.1))
    samples.stage_at = Fixed(StageConfig(task_weights={"caption": 1.0}))
    image = tiny_processor.open_image(record.image)
    drawn = [samples.make_sample(0, image, record, random.Random(seed)) for seed in range(20)]
    assert all(sample.tasks for sample in drawn)
    whole = tiny_processor.pixels(image, samples.stage_at(0).patch_budget)
    assert 0 < sum(torch.equal(sample.pixels, whole) for sample in drawn) < 20
    samples.stage_at = Fixed(StageConfig(task_weights={"attributes": 1.0}))
    assert samples.make_sample(0, image, record, random.Random(0)).tasks
    with pytest.raises(ValueError, match="record empty has no labels that any task can ask for; leave it out"):
        samples.make_sample(0, image, Record(id="empty", image="x", image_size=(64, 48)), random.Random(0))


def test_a_wrong_size_is_said(garments: Path, tiny_processor: OneLookProcessor) -> None:
    samples = dataset(garments, tiny_processor)
    samples.pictures = {
        name: PhotoFiles(replace(record, image_size=(10, 20)) for record in pictures.records)
        for name, pictures in samples.pictures.items()
    }
    with pytest.raises(ValueError, match=r"\d\.png is 64 x \d\d but its record says \(10, 20\); run `vlm data check`"):
        samples[0]


# -- batches -------------------------------------------------------------------------------------------


def test_every_label_has_its_task(garments: Path, tiny_processor: OneLookProcessor) -> None:
    samples = dataset(garments, tiny_processor)
    rows = [samples[position] for position in range(4)]
    batch = PackingCollator(tiny_processor)(rows)
    assert batch["record_ids"] == [sample.record_id for sample in rows]
    assert torch.equal(batch["task_ids"] == -1, batch["labels"] == -100)
    names = list(TASKS)
    for row, sample in enumerate(rows):
        ids = [token for target in sample.targets for token in target.ids]
        tasks = [task for task, target in zip(sample.tasks, sample.targets, strict=True) for _ in target.ids]
        assert batch["labels"][row, : len(ids)].tolist() == ids
        assert [names[index] for index in batch["task_ids"][row, : len(ids)]] == tasks
