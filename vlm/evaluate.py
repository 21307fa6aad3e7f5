"""`vlm eval`: what a checkpoint can do, measured with the task metrics, with intervals and counts."""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from accelerate.utils import gather_object

from tasks.base import Record
from tasks.metrics import (
    attribute_accuracy,
    caption_facts,
    cider_d,
    detection_map,
    grounding_accuracy,
    presence_f1,
    top1_accuracy,
    vqa_accuracy,
)
from tasks.metrics.bootstrap import Statistics, bootstrap, bootstrap_images, total
from tasks.readers.clothing import CLOTHING_CLASSES
from tasks.results import Detection, Garment
from vlm.atomic import write_text
from vlm.audit import group_values
from vlm.calibrate import expected_calibration_error, in_fitting_half
from vlm.probes import MEASURES, Answered, Probe, ask, judged_garments, score_pairs
from vlm.suite import choose_records, load_suite, read_sources

__all__ = [
    "HEADLINES",
    "evaluate_records",
    "main_eval",
    "quick_validation",
    "value_at",
]

HEADLINES: Mapping[str, str] = {
    "presence/micro_F1": "garment presence, micro F1",
    "detection/AP50": "detection, AP50",
    "detection/AP50_ten_commonest": "detection, AP50 of the ten commonest garments",
    "detection/alternatives/AP50": "detection, AP50 with alternative words",
    "detection/alternatives/AP50_ten_commonest": "detection, AP50 of the ten commonest, with alternative words",
    "detection/F1@0.5": "detection, F1@0.5",
    "grounding/Acc@0.5": "grounding, Acc@0.5 (phrases with one box)",
    "grounding/Acc@0.5_incl_none": "grounding, Acc@0.5 (and phrases that are not there)",
    "attributes/mean_balanced_accuracy": "attributes, mean balanced accuracy",
    "vqa/exact_match": "VQA, exact match",
    "caption/CIDEr-D": "brief caption, CIDEr-D (0 to 10)",
    "caption_facts/precision": "brief caption, precision of its facts (garment, colour, pattern)",
    "classification/top1_accuracy": "clothing top-1 (scored classes)",
    "classification_greedy/top1_accuracy": "clothing top-1 (greedy answer)",
}
"""Path in a source's table -> its name."""

MIN_RECORDS = 30
"""Fewer images of a group are too thin for a verdict."""

_Summarise = Callable[[Statistics], Mapping[str, Any]]


def evaluate_records(
    model: Any,
    records: Sequence[Record],
    *,
    measures: Collection[str] = MEASURES,
    batch_size: int = 16,
    limit: int | None = None,
    seed: int = 0,
    max_new_tokens: int | None = None,
    num_resamples: int = 1000,
    on_progress: Callable[[int], None] | None = None,
    groups: Mapping[str, Mapping[str, str]] | None = None,
    alternatives: int = 0,
    closer: bool = False,
) -> dict[str, Any]:
    """The validation table of one source.

    Args:
        model: a `VLM`.
        records: of one source.
        measures: what to ask, where the records know the answer.
        batch_size: images at a time.
        limit: only the first so many.
        seed: of the phrases that are drawn, with the record's id, and of the resamples.
        max_new_tokens: None for each task's own limit.
        num_resamples: of the bootstrap over images; 0 for no intervals.
        on_progress: called with the number of records done since the last call.
        groups: group -> record id -> its value, to split the headlines by.
        alternatives: words beside its own by which each detected garment is ranked too: average precision of all of
            these is under "alternatives" of "detection".
        closer: attributes of garments with boxes are told from a closer look as well.

    Returns:
        Measure -> values (see `tasks.metrics`), with "intervals" (path -> [low, high], 95 %) in each; measures
        that no record supports are left out. "calibration" holds ECE by kind of score, over the records that
        calibration is not fitted on; "groups" the headlines of every group's values, and "spreads" how far apart
        these are (see `spreads`).
    """
    answered = ask(
        model,
        records[:limit],
        measures=measures,
        seed=seed,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        alternatives=alternatives,
        closer=closer,
        on_progress=on_progress,
    )
    table = tabulate(answered, seed=seed, num_resamples=num_resamples)
    if groups:
        table["groups"] = {name: _by_value(answered, values, seed, num_resamples) for name, values in groups.items()}
        table["spreads"] = {name: spreads(answered, values, seed=seed) for name, values in groups.items()}
    return table


def _by_value(
    answered: Sequence[Answered], values: Mapping[str, str], seed: int, num_resamples: int
) -> dict[str, dict[str, Any]]:
    """Value -> number of records, and every headline with its interval (average precision is left out: with few
    boxes of a garment it says nothing)."""
    rows = {}
    for value in sorted(set(values.values()), key=lambda word: (len(word), word)):
        chosen = [answer for answer in answered if values.get(answer.record.id) == value]
        if not chosen:
            continue
        table = tabulate(chosen, seed=seed, num_resamples=num_resamples, average_precision=False)
        row: dict[str, Any] = {"num_records": len(chosen)}
        for path, found in _headlines(table):
            measure, inner = path.split("/", 1)
            row[path] = {"value": found, "interval": table[measure]["intervals"].get(inner)}
        rows[value] = row
    return rows


def tabulate(
    answered: Sequence[Answered], *, seed: int = 0, num_resamples: int = 1000, average_precision: bool = True
) -> dict[str, Any]:
    """As `evaluate_records`, of what was already asked; `average_precision` needs the extra `eval`."""
    table: dict[str, Any] = {"num_records": len(answered)}
    for name, (counts, summarise) in _counts(answered).items():
        images = [image for image in counts if image]
        if images:
            values = dict(summarise(total(images)))
            values["intervals"] = bootstrap(images, summarise, num_resamples=num_resamples, seed=seed)
            table[name] = values
    if average_precision:
        _add_average_precision(table, answered, seed, num_resamples)
    table["calibration"] = _calibration(answered)
    return table


def _counts(answered: Sequence[Answered]) -> dict[str, tuple[list[Statistics], _Summarise]]:
    """Measure -> the counts of every image, none where it was not asked for, and what makes values of their sum."""
    captions = [list(answer.of("caption")) for answer in answered]
    flat = [pair for pairs in captions for pair in pairs]
    texts = [None if result is None else result.text for _, result in flat]
    scores = iter(cider_d.scores(texts, [probe.reference for probe, _ in flat]))
    said = iter(texts)
    return {
        "presence": (_each(answered, "detection", _presence), presence_f1.summarise),
        "detection": (_each(answered, "detection", _detection), detection_map.summarise),
        "grounding": (_each(answered, "grounding", _grounding), grounding_accuracy.summarise),
        "attributes": (_each(answered, "attributes", _attributes), attribute_accuracy.summarise),
        "vqa": (_each(answered, "vqa", _vqa), vqa_accuracy.summarise),
        "caption": (
            [total(cider_d.statistics(next(said), next(scores)) for _ in pairs) for pairs in captions],
            cider_d.summarise,
        ),
        "caption_facts": ([_caption_facts(answer) for answer in answered], caption_facts.summarise),
        "classification": ([_scored_class(answer) for answer in answered], top1_accuracy.summarise),
        "classification_greedy": (_each(answered, "classification", _greedy_class), top1_accuracy.summarise),
    }


def spreads(
    answered: Sequence[Answered], values: Mapping[str, str], *, seed: int = 0, num: int = 500
) -> dict[str, dict[str, float]]:
    """Headline -> how far the groups' best and worst value are apart, and how often chance puts them as far apart.

    The best and the worst of ten groups differ where nothing does. So the groups' values are dealt out to the images
    anew, `num` times: "p_value" is the share of these, and of the real one, with at least this "spread". Groups of
    fewer than `MIN_RECORDS` images are left out, and so is average precision. CIDEr-D weighs words by all of these
    images together, while the groups' own tables weigh them within each group.

    Args:
        answered: as `evaluate_records` asked.
        values: record id -> its group's value.
        seed: of the dealing.
        num: at least 1.
    """
    chosen = [answer for answer in answered if answer.record.id in values]
    names = [values[answer.record.id] for answer in chosen]
    large = {name for name in names if names.count(name) >= MIN_RECORDS}
    kept = [index for index, name in enumerate(names) if name in large]
    if len(large) < 2:
        return {}
    counts = {name: row for name, row in _counts([chosen[index] for index in kept]).items() if any(row[0])}
    names = [names[index] for index in kept]
    rng = random.Random(f"{seed}:spreads")
    found: list[dict[str, float]] = []
    for _ in range(num + 1):  # the first is the real one
        found.append(_spread(counts, names))
        names = rng.sample(names, len(names))
    return {
        path: {"spread": spread, "p_value": sum(other.get(path, 0.0) >= spread - 1e-12 for other in found) / (num + 1)}
        for path, spread in found[0].items()
    }


def _spread(counts: Mapping[str, tuple[list[Statistics], _Summarise]], names: Sequence[str]) -> dict[str, float]:
    """Headline -> best minus worst of the groups, where all of them have a value. `names` has each image's group."""
    rows: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        rows.setdefault(name, []).append(index)
    by_path: dict[str, list[float]] = {}
    for indices in rows.values():
        table = {name: summarise(total(images[i] for i in indices)) for name, (images, summarise) in counts.items()}
        for path, value in _headlines(table):
            by_path.setdefault(path, []).append(value)
    return {path: max(row) - min(row) for path, row in by_path.items() if len(row) == len(rows)}


def _each(
    answered: Sequence[Answered], measure: str, statistics: Callable[[Probe, Any], Statistics]
) -> list[Statistics]:
    """Of every image, summed over its probes, so that a resample keeps an image's probes together."""
    return [total(statistics(probe, result) for probe, result in answer.of(measure)) for answer in answered]


def _presence(probe: Probe, result: Any) -> Statistics:
    said = None if result is None else {item.label for item in result.objects}
    return presence_f1.statistics(said, {item.label for item in probe.reference})


def _items(probe: Probe, result: Any) -> tuple[list[dict[str, Any]] | None, list[dict[str, Any]]] | None:
    judged = judged_garments(probe, result)
    if judged is None:
        return None
    found, true = (
        [{"label": item.label, "box": item.box.xyxy, "score": item.score} for item in items if item.box]
        for items in judged
    )
    return (None if result is None else found), true


def _detection(probe: Probe, result: Any) -> Statistics:
    items = _items(probe, result)
    return {} if items is None else detection_map.statistics(*items)


def _ranked(result: Any) -> Any:
    """With every garment's alternatives as garments of their own."""
    if result is None:
        return None
    every = (
        Garment(label, item.box, score=score)
        for item in result.objects
        for label, score in ((item.label, item.score), *item.alternatives)
    )
    return Detection(tuple(every), result.truncated)


def _add_average_precision(table: dict[str, Any], answered: Sequence[Answered], seed: int, num: int) -> None:
    pairs = [pair for answer in answered for pair in answer.of("detection")]
    said = [items for items in (_items(*pair) for pair in pairs) if items is not None]
    if not said:
        return
    values, intervals = _average_precision(said, seed, num)
    table["detection"] |= values
    table["detection"]["intervals"] |= intervals
    if any(item.alternatives for _, result in pairs if result is not None for item in result.objects):
        every = [items for items in (_items(probe, _ranked(result)) for probe, result in pairs) if items is not None]
        values, intervals = _average_precision(every, seed, num)
        table["detection"]["alternatives"] = values
        table["detection"]["intervals"] |= {f"alternatives/{path}": interval for path, interval in intervals.items()}


def _average_precision(
    images: Sequence[tuple[Any, list[dict[str, Any]]]], seed: int, num: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Values and intervals, from (found, true) of each image."""
    commonest = detection_map.commonest_labels([true for _, true in images])  # the same in every resample

    def compute(indices: Sequence[int]) -> dict[str, Any]:
        found, true = ([images[i][side] for i in indices] for side in range(2))
        return detection_map.average_precision(found, true, commonest=commonest)

    def overall(indices: Sequence[int]) -> dict[str, Any]:
        return {name: value for name, value in compute(indices).items() if name != "labels"}

    values = {**compute(range(len(images))), "ten_commonest": commonest}
    return values, dict(bootstrap_images(len(images), overall, num_resamples=num, seed=seed))


def _grounding(probe: Probe, result: Any) -> Statistics:
    if result is None:
        return grounding_accuracy.statistics(None, probe.reference)
    surest_first = sorted(result.boxes, key=lambda pair: -pair[1])
    return grounding_accuracy.statistics([box for box, _ in surest_first], probe.reference)


def _attributes(probe: Probe, result: Any) -> Statistics:
    values = {} if result is None else result.values
    return total(
        attribute_accuracy.statistics(values[name].values if name in values else None, true, name)
        for name, true in probe.reference.items()
    )


def _caption_facts(answer: Answered) -> Statistics:
    objects, complete = answer.record.objects, answer.record.objects_complete
    return total(
        caption_facts.statistics(None if result is None else result.text, objects, complete=complete)
        for _, result in answer.of("caption")
    )


def _vqa(probe: Probe, result: Any) -> Statistics:
    return vqa_accuracy.statistics(None if result is None else result.text, probe.reference)


def _greedy_class(probe: Probe, result: Any) -> Statistics:
    return top1_accuracy.statistics(None if result is None else result.text.strip(), probe.reference)


def _scored_class(answer: Answered) -> Statistics:
    asked = next(answer.of("classification"), None)
    if asked is None or answer.class_scores is None:
        return {}
    best = max(range(len(CLOTHING_CLASSES)), key=lambda index: answer.class_scores[index])
    return top1_accuracy.statistics(CLOTHING_CLASSES[best], asked[0].reference)


def _calibration(answered: Sequence[Answered]) -> dict[str, Any]:
    pairs = score_pairs(answer for answer in answered if not in_fitting_half(answer.record.id))
    kinds: dict[str, list[tuple[float, bool]]] = {}
    for key, rows in pairs.items():
        kinds.setdefault(key.split(".")[0], []).extend(rows)
    return {kind: {"ECE": expected_calibration_error(rows), "num": len(rows)} for kind, rows in sorted(kinds.items())}


def value_at(table: Mapping[str, Any], path: str) -> Any:
    """`value_at(table, "detection/AP50")`; None where there is no such value."""
    found: Any = table
    for name in path.split("/"):
        if not isinstance(found, Mapping) or name not in found:
            return None
        found = found[name]
    return found


def _headlines(table: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Path and value of those that a source's table has."""
    for path in HEADLINES:
        value = value_at(table, path)
        if value is not None and math.isfinite(value):
            yield path, float(value)


def quick_validation(
    model: Any,
    records: Mapping[str, Sequence[Record]],
    num: int | None = None,
    *,
    batch_size: int = 16,
    rank: int = 0,
    world: int = 1,
) -> dict[str, float]:
    """The headlines as floats, for a training log: {"ccp/detection/AP50": 0.3, ...}; average precision only where
    the extra `eval` is installed.

    Args:
        model: a `VLM`.
        records: source -> validation records.
        num: at most so many of each source; None for all that are given.
        batch_size: images at a time.
        rank, world: this process of several, each of which calls this and asks its part of the records, none of them
            twice. The headlines, of all records, come out in process 0; nothing in the others.
    """
    installed = find_spec("faster_coco_eval") is not None
    values = {}
    for name, rows in records.items():
        chosen = rows[:num]
        answered = _of_all(ask(model, chosen[rank::world], batch_size=batch_size), len(chosen), world)
        if rank:
            continue
        table = tabulate(answered, num_resamples=0, average_precision=installed)
        values |= {f"{name}/{path}": value for path, value in _headlines(table)}
    return values


def _of_all(answered: list[Answered], num: int, world: int) -> list[Answered]:
    """What the processes asked, in the order of the records; process r has asked every world-th one from r on."""
    if world == 1:
        return answered
    found = iter(gather_object(answered))
    parts = [[next(found) for _ in range(rank, num, world)] for rank in range(world)]
    return [parts[index % world][index // world] for index in range(num)]


def main_eval(
    checkpoint: str | os.PathLike[str] | None = None,
    suite: str | os.PathLike[str] = "validation",
    output: str | os.PathLike[str] | None = None,
    data_root: str | os.PathLike[str] | None = None,
    limit: int | None = None,
) -> dict[str, Any]:
    """Measure a checkpoint, print the table, write the results as JSON (atomically) where `output` is given.

    Args:
        checkpoint: None for the embedded one, a directory or a Hub id.
        suite: a name in configs/eval or a YAML file.
        output: JSON file; `vlm.card` makes a model card of it.
        data_root: folder of the data sets; None for the default.
        limit: at most so many records of each source.
    """
    from rich.progress import Progress

    from vlm.api import load
    from vlm.card import headline_table
    from vlm.hub import find_checkpoint
    from vlm.show import make_console

    settings = load_suite(suite)
    folder = find_checkpoint(checkpoint)
    model = load(folder)
    everything = read_sources(settings, data_root)
    results: dict[str, Any] = {
        "checkpoint": "embedded" if checkpoint is None else _name(checkpoint),
        "suite": Path(suite).stem,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "config": _without_folders(asdict(settings)),
        "limit": limit,
        "versions": {name: metadata.version(name) for name in ("vlm", "torch", "transformers")},
        "model": {key: value for key, value in model.info().items() if key not in ("config", "device")},
        "data": {name: _num_by_split(rows) for name, rows in everything.items()},
        "training": _training(folder),
        "calibration": dict(model.calibration.report) if model.calibration is not None else None,
        "sources": {},
    }
    with Progress(transient=True) as progress:
        for name, source in settings.sources.items():
            records = choose_records(everything[name], settings, name, limit)
            bar = progress.add_task(name, total=len(records))
            results["sources"][name] = evaluate_records(
                model,
                records,
                measures=source.measures,
                batch_size=settings.batch_size,
                seed=settings.seed,
                num_resamples=settings.num_resamples,
                on_progress=lambda done, bar=bar: progress.advance(bar, done),  # type: ignore[misc]
                alternatives=source.alternatives,
                closer=source.closer,
                groups={group: group_values(group, source.reader, records) for group in source.by},
            )
    if output is not None:
        write_text(Path(output), json.dumps(results, indent=1, allow_nan=False) + "\n")
    make_console().print(headline_table(results), markup=False, soft_wrap=True)
    return results


def _name(checkpoint: str | os.PathLike[str]) -> str:
    """A Hub id as it is, and of a directory its last part: results name no machine."""
    return Path(checkpoint).resolve().name if Path(checkpoint).is_dir() else str(checkpoint)


def _num_by_split(rows: Sequence[Record]) -> dict[str, int]:
    return {split: sum(record.split == split for record in rows) for split in sorted({row.split for row in rows})}


def _training(folder: Path) -> Any:
    """The run's configuration as `vlm train` exports it."""
    file = folder / "train.yaml"
    return _without_folders(yaml.safe_load(file.read_text(encoding="utf-8"))) if file.is_file() else None


def _without_folders(value: Any) -> Any:
    """Absolute paths become their last part: results are published and name no machine."""
    if isinstance(value, Mapping):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_folders(item) for item in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
