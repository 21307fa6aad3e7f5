"""Fashion Product Images (Kaggle, P. Aggarwal): catalogue photos with titles, and our labels of clothes.

Near-duplicates (one product in several colours) share `title_key`; all photos of a key are on one side of the split,
which is drawn by a hash of the key with SEED. A garment that nobody wears has a box where it stands out from a plain
background, and in training photos labels by rule fill attributes that nobody has annotated (see `vlm.data.weak`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.base import QA, ObjectLabel, Provenance, Record, TextLabel
from tasks.readers.clothing import BOXES, CLOTHING_QUESTION, garment_questions, lone_box, read_boxes
from tasks.readers.labels import WEAK, known_garment, read_attributes, read_weak, with_weak
from tasks.readers.raw import annotations_root, data_root, photo_folder, photo_size, read_rows
from tasks.readers.split import share
from tasks.readers.titles import COLOURS, Title, read_title, title_key
from tasks.readers.wording import colour_words, describe, is_plural

__all__ = ["SEED", "VALIDATION_SHARE", "read"]

SEED = 0
VALIDATION_SHARE = 0.05
SHOP_SCORE = 0.7
"""How far the shop's words are believed: its colours are noisy and its categories coarse."""
_CLASSES = {
    "t-shirt": "t-shirt", "trousers": "pants", "jeans": "pants", "leggings": "pants", "shirt": "shirt",
    "dress": "dress", "shorts": "shorts", "skirt": "skirt", "sweater": "longsleeve", "sweatshirt": "longsleeve",
    "jacket": "outwear", "coat": "outwear", "hat": "hat", "cap": "hat", "sneakers": "shoes", "boots": "shoes",
}  # fmt: skip
"""The clothing set's class of a garment that is alone in its photo."""


def read(root: Path | None = None, annotations: Path | None = None, *, boxes: bool = True) -> Iterator[Record]:
    """All 10,253 photos. Clothes carry our labels, everything else the shop's, with a provenance score below 1.

    Args:
        boxes: use the boxes that were found; without them every garment is somewhere in its photo.

    Raises:
        FileNotFoundError: photos or annotations are not where they are expected.
        ValueError: a word is not in the ontology, or a label by rule is broken; names file and line.
    """
    ours = annotations_root(annotations) / "products"
    rows = list(read_rows(ours / "index.jsonl"))
    folder = photo_folder(data_root(root), "products", (row["id"] for _, row in rows))
    labelled = {row["id"]: (where, row) for where, row in read_rows(ours / "annotations.jsonl")}
    found = read_boxes(ours / BOXES) if boxes else {}
    weak = read_weak(ours / WEAK, {row["id"] for _, row in rows})
    for where, row in rows:
        key = title_key(row["title"])
        split = "validation" if share(SEED, key) < VALIDATION_SHARE else "train"
        rng = random.Random(f"products:{row['id']}")
        captions, objects, questions = _labels(row, where, labelled.get(row["id"]), rng)
        alone = len(objects) == 1 and row["id"] in found
        if alone:
            objects = [lone_box(objects[0], found[row["id"]])]
        view = {"view": labelled[row["id"]][1]["view"]} if row["id"] in labelled else {}
        yield Record(
            id=row["id"],
            image=str(folder / f"{row['id']}.jpg"),
            image_size=photo_size(row),
            captions=tuple(captions),
            objects=with_weak(objects, weak.get(row["id"], ()), source="products", split=split),
            qa=tuple(questions),
            objects_complete=alone,
            boxes_complete=alone,
            groups={"title": key, **view},
            split=split,
            provenance=Provenance(source="products"),
        )


def _labels(
    row: Mapping[str, Any], where: str, labelled: tuple[str, Mapping[str, Any]] | None, rng: random.Random
) -> tuple[list[TextLabel], list[ObjectLabel], list[QA]]:
    shop = Provenance(source="products", annotator="shop", score=SHOP_SCORE)
    title = read_title(row["title"], row["subcategory"], row["gender"])
    if labelled is None:
        return _shop_labels(row, where, title, shop, rng)
    where, label = labelled
    ours = Provenance(source="products", annotator=label["annotator"])
    worn = label["view"] == "worn"
    questions = []
    if rng.random() < 0.25:
        answer = "yes" if worn else "no"
        questions.append(QA(question="is the garment worn by a person?", answer=answer, provenance=ours))
    if label["item"] == "other":
        # A sari, a tracksuit, ...: the title has a word for it, the ontology has not.
        colours = tuple(label.get("colour", ()))
        return [_caption(title.phrase(colour_words(colours)), shop)], [], questions
    garment = known_garment(label["item"], where)
    attributes = read_attributes(label, garment, where)
    described = describe(garment, attributes, rng, who=title.who)
    if worn and rng.random() < 0.6:
        described += rng.choice((", worn by a model", ", on a model", ", seen on a person"))
    # Where the two disagree on what it is, the one who looked at the photo is right.
    noun = title.noun if title.garment == garment else garment
    captions = [_caption(described, ours)]
    if title.pattern in (None, attributes.get("pattern", (None,))[0]):
        captions.append(_caption(title.phrase(colour_words(attributes["colour"]), noun), shop))
    questions += garment_questions(garment, attributes, ours, rng)
    if not worn and garment in _CLASSES:
        questions.append(QA(question=CLOTHING_QUESTION, answer=_CLASSES[garment], provenance=ours))
    return captions, [ObjectLabel(label=garment, attributes=attributes, provenance=ours)], questions


def _shop_labels(
    row: Mapping[str, Any], where: str, title: Title, shop: Provenance, rng: random.Random
) -> tuple[list[TextLabel], list[ObjectLabel], list[QA]]:
    colours = COLOURS.get(row["colour"].lower(), ())
    # Of a watch the shop names the dial's colour or the strap's, and nobody knows which.
    known = {} if title.garment == "watch" or not colours else {"colour": colours}
    captions = [_caption(title.phrase(colour_words(known.get("colour", ()))), shop)]
    if title.garment is None:
        return captions, [], []
    garment = known_garment(title.garment, where)
    values: dict[str, Any] = dict(known)
    if title.pattern:
        values["pattern"] = (title.pattern,)
    attributes = read_attributes(values, garment, where)
    plural = is_plural(garment)
    questions = []
    if known and rng.random() < 0.5:
        question = f"what colour {'are' if plural else 'is'} the {garment}?"
        questions.append(QA(question=question, answer=colour_words(colours), provenance=shop))
    if garment in _CLASSES:
        questions.append(QA(question=CLOTHING_QUESTION, answer=_CLASSES[garment], provenance=shop))
    return captions, [ObjectLabel(label=garment, attributes=attributes, provenance=shop)], questions


def _caption(phrase: str, provenance: Provenance) -> TextLabel:
    return TextLabel(text=phrase[0].upper() + phrase[1:] + ".", provenance=provenance)
