"""clothing-dataset-small (A. Grigorev, CC0): single garments of ten classes, with our labels.

Nearly all photos of the published validation split share a contributor with training, so the split here is our own:
contributors of at most MAX_GROUP photos, drawn with SEED so that together they have NUM_VALIDATION photos and the
class shares of the whole, are the validation split, and nothing of theirs is in training.

The garment has a box where it stands out from a plain background, and in training photos labels by rule fill
attributes that nobody has annotated (see `vlm.data.weak`).
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tasks.base import QA, ObjectLabel, Provenance, Record, TextLabel
from tasks.boxes import Box
from tasks.readers.labels import WEAK, known_garment, read_attributes, read_weak, with_weak
from tasks.readers.raw import annotations_root, data_root, photo_folder, photo_size, read_rows
from tasks.readers.split import balanced_groups
from tasks.readers.wording import colour_words, describe, is_plural

__all__ = ["BOXES", "CLOTHING_CLASSES", "CLOTHING_QUESTION", "garment_questions", "lone_box", "read", "read_boxes"]

BOXES = "boxes.jsonl"
"""Beside the annotations; made by `python -m vlm.data.weak`."""

CLOTHING_QUESTION = "what kind of clothing is this?"
"""Asked in training and in evaluation; the answer is one of CLOTHING_CLASSES."""
CLOTHING_CLASSES = (
    "t-shirt", "pants", "longsleeve", "shirt", "dress", "shorts", "shoes", "outwear", "hat", "skirt",
)  # fmt: skip

SEED = 0
NUM_VALIDATION = 341
MAX_GROUP = 50
_TRIALS = 200

_VIEWS = {
    "flat": ("laid flat", "photographed flat", "on a plain surface", ""),
    "worn": ("worn by a person", "on a person"),
    "ghost": ("",),
}
_CLOSINGS = {"buttoned": "with buttons", "zipped": "with a zip", "wrapped": "it is wrapped"}


def read(root: Path | None = None, annotations: Path | None = None, *, boxes: bool = True) -> Iterator[Record]:
    """All 3,409 photos: class, caption, questions, and the garment with its attributes.

    The published class answers CLOTHING_QUESTION; caption and attributes come from our labels. Where the garment has
    a box nothing else is in the photo, so that detection may be trained on it.

    Args:
        boxes: use the boxes that were found; without them every garment is somewhere in its photo.

    Raises:
        FileNotFoundError: photos or annotations are not where they are expected.
        ValueError: a word is not in the ontology, or a label by rule is broken; names file and line.
    """
    ours = annotations_root(annotations) / "clothing"
    index = {row["id"]: row for _, row in read_rows(ours / "index.jsonl")}
    folder = photo_folder(data_root(root), "clothing", index)
    validation = _validation_contributors(index)
    found = read_boxes(ours / BOXES) if boxes else {}
    weak = read_weak(ours / WEAK, index)
    for where, row in read_rows(ours / "annotations.jsonl"):
        name = row["id"]
        if name not in index:
            raise ValueError(f"{where}: no photo {name!r} in {ours / 'index.jsonl'}; add it there")
        facts = index[name]
        if facts["label"] not in CLOTHING_CLASSES:
            raise ValueError(f"{where}: unknown class {facts['label']!r}; known: {', '.join(CLOTHING_CLASSES)}")
        split = "validation" if facts["contributor"] in validation else "train"
        rng = random.Random(f"clothing:{name}")
        provenance = Provenance(source="clothing", annotator=row["annotator"])
        published = Provenance(source="clothing", annotator="published")
        captions: tuple[TextLabel, ...] = ()
        objects: tuple[ObjectLabel, ...] = ()
        questions = [QA(question=CLOTHING_QUESTION, answer=facts["label"], provenance=published)]
        if row["item"] != "other":
            label = known_garment(row["item"], where)
            attributes = read_attributes(row, label, where)
            captions = (TextLabel(text=_caption(row, attributes, rng), provenance=provenance),)
            garment = ObjectLabel(label=label, attributes=attributes, provenance=provenance)
            objects = (lone_box(garment, found.get(name)),)
            questions += garment_questions(label, attributes, provenance, rng)
        yield Record(
            id=name,
            image=str(folder / f"{name}.jpg"),
            image_size=photo_size(facts),
            captions=captions,
            objects=with_weak(objects, weak.get(name, ()), source="clothing", split=split),
            qa=tuple(questions),
            objects_complete=bool(objects) and name in found,
            boxes_complete=bool(objects) and name in found,
            groups={"contributor": facts["contributor"], "view": row["view"]},
            split=split,
            provenance=provenance,
        )


def read_boxes(path: Path) -> dict[str, Box]:
    """Photo id -> the box of its only garment; empty where the file is missing."""
    if not path.is_file():
        return {}
    return {row["id"]: Box(*row["box"]) for _, row in read_rows(path)}


def lone_box(item: ObjectLabel, box: Box | None) -> ObjectLabel:
    """The garment with the box that a plain background gave it, if any; its provenance says so."""
    if box is None:
        return item
    known = item.provenance or Provenance(source="unknown")
    by = "weak: plain background" if known.annotator is None else f"{known.annotator}, box: weak: plain background"
    return replace(item, box=box, provenance=replace(known, annotator=by))


def _validation_contributors(index: Mapping[str, Mapping[str, Any]]) -> frozenset[str]:
    classes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in index.values():
        classes[row["contributor"]][row["label"]] += 1
    return balanced_groups(classes, NUM_VALIDATION, max_group=MAX_GROUP, trials=_TRIALS, seed=SEED)


def _caption(row: Mapping[str, Any], attributes: Mapping[str, tuple[str, ...]], rng: random.Random) -> str:
    phrase = describe(row["item"], attributes, rng)
    view = rng.choice(_VIEWS[row["view"]])
    text = f"{phrase}, {view}" if view and rng.random() < 0.7 else phrase
    return text[0].upper() + text[1:] + "."


def garment_questions(
    item: str, attributes: Mapping[str, tuple[str, ...]], provenance: Provenance, rng: random.Random
) -> list[QA]:
    """Questions about two of the attributes that are labelled, drawn with `rng`."""
    plural = is_plural(item)
    is_it, has_it = ("are", "do") if plural else ("is", "does")
    value = {name: values[0] for name, values in attributes.items() if values[0] != "not visible"}
    pool: list[list[tuple[str, str]]] = []
    if "colour" in value:
        pool.append([(f"what colour {is_it} the {item}?", colour_words(attributes["colour"]))])
    if "pattern" in value:
        plain = "yes" if value["pattern"] == "solid" else "no"
        pool.append(
            [(f"what pattern {has_it} the {item} have?", value["pattern"]), (f"{is_it} the {item} plain?", plain)]
        )
    if "sleeve" in value:
        long = "yes" if value["sleeve"] == "long" else "no"
        pool.append([("how long are the sleeves?", value["sleeve"]), (f"{has_it} the {item} have long sleeves?", long)])
    if "neckline" in value:
        pool.append([(f"what neckline {has_it} the {item} have?", value["neckline"])])
    if value.get("closure") in _CLOSINGS:
        pool.append([(f"how {has_it} the {item} close?", _CLOSINGS[value["closure"]])])
    chosen = [rng.choice(questions) for questions in rng.sample(pool, min(2, len(pool)))]
    return [QA(question=question, answer=answer, provenance=provenance) for question, answer in chosen]
