"""What an evaluation asks about a record, what the right answers are, and what the model said."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tasks import TASKS
from tasks.base import Record
from tasks.metrics.grounding_accuracy import matches
from tasks.metrics.vqa_accuracy import normalise
from tasks.ontology import attributes_of
from tasks.readers.clothing import CLOTHING_CLASSES, CLOTHING_QUESTION
from tasks.results import Answer, Attributes, Detection, Garment, Grounding
from vlm.alternatives import check_alternatives, with_alternatives
from vlm.closer import closer_attributes
from vlm.images import open_image
from vlm.request import Request

__all__ = ["MEASURES", "Answered", "Probe", "ask", "make_probes", "score_pairs"]

MEASURES = ("detection", "grounding", "attributes", "vqa", "caption", "classification")


@dataclass(frozen=True, kw_only=True, eq=False)
class Probe:
    """One request and its right answer.

    Attributes:
        measure: what it counts towards, one of `MEASURES`.
        task: key in `tasks.TASKS`.
        fields: of `vlm.Request`, beside image and task.
        reference: detection: the record's objects. grounding: true boxes. attributes: name -> values.
            vqa and caption: accepted texts. classification: the class.
    """

    measure: str
    task: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    reference: Any


@dataclass(frozen=True, kw_only=True, eq=False)
class Answered:
    """A record and what the model said about it.

    Attributes:
        pairs: every probe with its result, or None where it could not be parsed.
        class_scores: probability of every class of `CLOTHING_CLASSES`, where classification was asked for.
    """

    record: Record
    pairs: Sequence[tuple[Probe, Any]]
    class_scores: Sequence[float] | None = None

    def of(self, measure: str) -> Iterator[tuple[Probe, Any]]:
        return ((probe, result) for probe, result in self.pairs if probe.measure == measure)


def make_probes(record: Record, measures: Collection[str] = MEASURES, seed: int = 0) -> list[Probe]:
    """Everything to ask about a record, a pure function of its contents and the seed.

    Garments of photos in which some have boxes are asked about by name and box, and those without a box are
    left out; in other photos they are asked about by name, where it names one garment only.

    Raises:
        ValueError: an unknown measure.
    """
    unknown = sorted(set(measures) - set(MEASURES))
    if unknown:
        raise ValueError(f"unknown measure {unknown[0]!r}; known: {', '.join(MEASURES)}")
    return [probe for measure in MEASURES if measure in measures for probe in _PROBES[measure](record, seed)]


def _detection(record: Record, _: int) -> Iterator[Probe]:
    if record.objects_complete:
        yield Probe(measure="detection", task="detection", reference=record.objects)


def _grounding(record: Record, seed: int) -> Iterator[Probe]:
    rng = random.Random(f"{seed}:{record.id}")  # a string is hashed with SHA-512: the same everywhere
    seen = set()
    for example in TASKS["grounding"].examples(record, rng):
        phrase = example.inputs["phrase"]
        if phrase not in seen:
            seen.add(phrase)
            boxes = tuple(box for box, _ in example.label.boxes)
            yield Probe(measure="grounding", task="grounding", fields={"text": phrase}, reference=boxes)


def _attributes(record: Record, _: int) -> Iterator[Probe]:
    some_boxes = any(item.box is not None for item in record.objects)
    labels = [item.label for item in record.objects]
    for item in record.objects:
        asked_for = item.box is not None if some_boxes else labels.count(item.label) == 1
        applicable = attributes_of(item.label)
        known = {name: tuple(values) for name, values in item.attributes.items() if name in applicable and values}
        if asked_for and known:
            fields = {"garment": item.label, "box": item.box, "attributes": tuple(known)}
            yield Probe(measure="attributes", task="attributes", fields=fields, reference=known)


def _vqa(record: Record, _: int) -> Iterator[Probe]:
    for item in record.qa:
        if item.question != CLOTHING_QUESTION:
            yield Probe(measure="vqa", task="vqa", fields={"text": item.question}, reference=(item.answer,))


def _classification(record: Record, _: int) -> Iterator[Probe]:
    for item in record.qa:
        if item.question == CLOTHING_QUESTION and item.answer in CLOTHING_CLASSES:
            yield Probe(measure="classification", task="vqa", fields={"text": item.question}, reference=item.answer)
            return


def _caption(record: Record, _: int) -> Iterator[Probe]:
    texts = tuple(caption.text for caption in record.captions if caption.detail == "brief")
    if texts:
        yield Probe(measure="caption", task="caption", fields={"detail": "brief"}, reference=texts)


_PROBES: Mapping[str, Callable[[Record, int], Iterator[Probe]]] = {
    "detection": _detection,
    "grounding": _grounding,
    "attributes": _attributes,
    "vqa": _vqa,
    "caption": _caption,
    "classification": _classification,
}


def ask(
    model: Any,
    records: Sequence[Record],
    *,
    measures: Collection[str] = MEASURES,
    seed: int = 0,
    batch_size: int = 16,
    max_new_tokens: int | None = None,
    alternatives: int = 0,
    closer: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> list[Answered]:
    """Put every probe of every record to the model. An image is looked at once for all of its probes.

    Args:
        model: a `VLM`.
        batch_size: images at a time.
        max_new_tokens: None for each task's own limit.
        alternatives: words beside its own that each detected garment comes with.
        closer: attributes of garments with boxes are told from a closer look as well (see `vlm.closer`).
        on_progress: called with the number of records done since the last call.

    Raises:
        ValueError: a batch size below 1; alternatives that the checkpoint has not (see `vlm.alternatives`).
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1 image")
    if alternatives:
        check_alternatives(model.family, alternatives)
    limit = {} if max_new_tokens is None else {"max_new_tokens": max_new_tokens}
    answered = []
    for start in range(0, len(records), batch_size):
        batch = records[start : start + batch_size]
        photos = [open_image(record.image) if closer else record.image for record in batch]
        looks = model.encode(photos)
        probes = [make_probes(record, measures, seed) for record in batch]
        requests = [
            Request(look, probe.task, **probe.fields, **limit)
            for look, asked in zip(looks, probes, strict=True)
            for probe in asked
        ]
        told = model.generate(requests, batch_size=batch_size) if requests else []
        if closer:
            owners = [photo for photo, asked in zip(photos, probes, strict=True) for _ in asked]
            told = closer_attributes(model, requests, owners, told, batch_size=batch_size)
        results = iter(told)
        for record, look, asked in zip(batch, looks, probes, strict=True):
            scores = None
            if any(probe.measure == "classification" for probe in asked):
                scores = model.score(look, "vqa", CLOTHING_CLASSES, text=CLOTHING_QUESTION)
            pairs = [(probe, next(results)) for probe in asked]
            if alternatives:
                pairs = [
                    (probe, with_alternatives(model, look, said, alternatives) if isinstance(said, Detection) else said)
                    for probe, said in pairs
                ]
            answered.append(Answered(record=record, pairs=pairs, class_scores=scores))
        if on_progress is not None:
            on_progress(len(batch))
    return answered


def judged_garments(probe: Probe, result: Detection | None) -> tuple[list[Garment], list[Garment]] | None:
    """(found, true) garments of a detection that boxes can be compared for; None where there are no boxes.

    A label that is worn but has no box at all in this photo can be neither right nor wrong: it is left out.
    """
    true = [Garment(label=item.label, box=item.box) for item in probe.reference if item.box is not None]
    if not true:
        return None
    unknown = {item.label for item in probe.reference} - {item.label for item in true}
    found = [] if result is None else [item for item in result.objects if item.box and item.label not in unknown]
    return found, true


def score_pairs(answered: Iterable[Answered]) -> dict[str, list[tuple[float, bool]]]:
    """Calibration key -> (score, was it right) of everything said: see `vlm.calibrate`.

    Attributes count as right by their first value, boxes from an IoU of 0.5.
    """
    pairs: dict[str, list[tuple[float, bool]]] = {}

    def add(key: str, score: float, right: bool) -> None:
        pairs.setdefault(key, []).append((score, right))

    for probe, result in (pair for answer in answered for pair in answer.pairs):
        if isinstance(result, Answer):
            accepted = (probe.reference,) if isinstance(probe.reference, str) else probe.reference
            add("vqa", result.score, normalise(result.text) in {normalise(text) for text in accepted})
        elif isinstance(result, Attributes):
            for name, value in result.values.items():
                if name in probe.reference:
                    add(f"attributes.{name}", value.score, value.values[0] == probe.reference[name][0])
        elif isinstance(result, Grounding):
            right = matches([box for box, _ in result.boxes], probe.reference)
            for index, (_, score) in enumerate(result.boxes):
                add("grounding", score, index in right)
        elif isinstance(result, Detection):
            judged = judged_garments(probe, result)
            for label in sorted({item.label for item in judged[0]}) if judged else ():
                found, true = ([item for item in items if item.label == label] for items in judged)
                right = matches([item.box for item in found], [item.box for item in true])
                for index, item in enumerate(found):
                    add("detection", item.score, index in right)
    return pairs
