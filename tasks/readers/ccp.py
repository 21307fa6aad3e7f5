"""Clothing Co-Parsing (Yang, Luo, Lin, CVPR 2014): street photos, with our annotations.

706 of the 1,800 photos have pixel masks; the boxes come from those (see `tasks.readers.ccp_boxes`). 150 of the
706, drawn by a hash with SEED, are the validation split.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.base import QA, ObjectLabel, Provenance, Record, TextLabel
from tasks.boxes import Box
from tasks.readers.labels import WEAK, known_garment, read_attributes, read_weak, with_weak
from tasks.readers.raw import annotations_root, data_root, photo_folder, photo_size, read_rows
from tasks.readers.split import draw_ids

__all__ = ["BOXES", "NUM_VALIDATION", "SEED", "read", "skin_tone_groups"]

BOXES = Path("ccp", "boxes.jsonl")
"""Under the annotations; made by `python -m tasks.readers.ccp_boxes`."""
SEED = 0
NUM_VALIDATION = 150
_APART = 0.1
"""Regions further apart than this share of the photo's width are not parts of one bag, unless nothing else fits."""
_BAGS = ("bag", "clutch", "backpack")


def read(root: Path | None = None, annotations: Path | None = None) -> Iterator[Record]:
    """All 1,800 photos; those without a mask have captions, questions and attributes but no boxes.

    In training photos, labels by rule (`vlm.data.weak`) fill attributes that nobody has annotated.

    `boxes_complete` only where every garment of the annotation was found in the mask. Photos annotated twice keep
    the first annotation; the second is in annotations_second.jsonl, for measuring agreement.

    Raises:
        FileNotFoundError: photos or annotations are not where they are expected.
        ValueError: a word is not in the ontology, or a label by rule is broken; names file and line.
    """
    ours = annotations_root(annotations)
    index = {row["id"]: row for _, row in read_rows(ours / "ccp" / "index.jsonl")}
    folder = photo_folder(data_root(root), "ccp", index)
    boxes = {row["id"]: (where, row["items"]) for where, row in read_rows(ours / BOXES)}
    validation = draw_ids((name for name, row in index.items() if row["mask"]), NUM_VALIDATION, seed=SEED)
    weak = read_weak(ours / "ccp" / WEAK, index)
    for where, row in read_rows(ours / "ccp" / "annotations.jsonl"):
        name = row["id"]
        if name not in index:
            raise ValueError(f"{where}: no photo {name!r} in {ours / 'ccp' / 'index.jsonl'}; add it there")
        provenance = Provenance(source="ccp", annotator=row["annotator"])
        split = "validation" if name in validation else "train"
        objects = _objects(row, where, boxes.get(name), index[name]["width"], provenance)
        objects = with_weak(objects, weak.get(name, ()), source="ccp", split=split)
        yield Record(
            id=name,
            image=str(folder / f"{name}.jpg"),
            image_size=photo_size(index[name]),
            captions=tuple(
                TextLabel(text=row[detail], detail=detail, provenance=provenance) for detail in ("brief", "detailed")
            ),
            objects=objects,
            qa=tuple(QA(question=question, answer=answer, provenance=provenance) for question, answer in row["qa"]),
            objects_complete=True,
            boxes_complete=bool(objects) and all(item.box is not None for item in objects),
            groups={"annotator": row["annotator"]},
            split=split,
            provenance=provenance,
        )


def _objects(
    row: Mapping[str, Any],
    where: str,
    boxes: tuple[str, list[Mapping[str, Any]]] | None,
    width: int,
    provenance: Provenance,
) -> tuple[ObjectLabel, ...]:
    found: list[Mapping[str, Any]] = [{"box": None, "parts": []} for _ in row["items"]]
    if boxes is not None:
        there, found = boxes
        if [(item["item"], item["src"]) for item in row["items"]] != [(item["item"], item["src"]) for item in found]:
            raise ValueError(
                f"{there}: its items are not those of {where}; run `python -m tasks.readers.ccp_boxes` again"
            )
    objects = []
    for item, region in zip(row["items"], found, strict=True):
        known = region["box"] is not None and not _may_be_two_bags(item, row["items"], region["parts"], width)
        objects.append(
            ObjectLabel(
                label=known_garment(item["item"], where),
                box=Box(*region["box"]) if known else None,
                attributes=read_attributes(item, item["item"], where),
                parts=tuple(Box(*part) for part in region["parts"]) if known and len(region["parts"]) > 1 else (),
                provenance=provenance,
            )
        )
    return tuple(objects)


def _may_be_two_bags(
    item: Mapping[str, Any], items: list[Mapping[str, Any]], parts: list[list[int]], width: int
) -> bool:
    """Whether a bag's regions lie apart while another bag is not in the mask: they may be one of each."""
    if item["item"] not in _BAGS or len(parts) < 2:
        return False
    if not any(other["item"] in _BAGS and other["src"] is None for other in items):
        return False
    largest = parts[0]
    return any(max(part[0] - largest[2], largest[0] - part[2]) > _APART * width for part in parts[1:])


def skin_tone_groups(annotations: Path | None = None) -> dict[str, str | None]:
    """Photo id -> apparent skin tone: "1-3", "4-5" or "6-10" on the Monk scale, None where a judge could not tell.

    The mean of two judgements by eye, made by a model (3.5 counts as 3, 5.5 as 5). For audits of finished models
    only: it is never in a Record, so that nothing can be trained on it.
    """
    groups: dict[str, str | None] = {}
    for _, row in read_rows(annotations_root(annotations) / "ccp" / "skin_tone.jsonl"):
        judged = row["monk"]
        mean = None if not judged or None in judged else sum(judged) / len(judged)
        groups[row["id"]] = None if mean is None else "1-3" if mean <= 3.5 else "4-5" if mean <= 5.5 else "6-10"
    return groups
