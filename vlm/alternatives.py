"""What else a garment might be called: every garment word, scored in its place and box.

Whether a thing is a jacket or a blazer is often open, and a list says one word. The others' probabilities are in the
model all the same: each word is teacher-forced into the list in place of the one that was said, before the same box.
So a detector's every box has a score for every class (as in Deformable DETR, arXiv 2010.04159), and average precision
ranks all of them.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from tasks import TASKS
from tasks.boxes import encode_box
from tasks.ontology import default_ontology
from tasks.results import Detection, Garment
from vlm.families import Family, task_form

if TYPE_CHECKING:
    from vlm.api import VLM
    from vlm.request import EncodedImage

__all__ = ["check_alternatives", "with_alternatives"]


def check_alternatives(family: Family, num: int) -> None:
    """That this checkpoint can name so many other words, before it looks at a photo.

    Raises:
        ValueError: `num` below 1; a checkpoint that finds garments by words of its own.
    """
    if num < 1:
        raise ValueError(f"alternatives is {num}; expected at least 1 word a garment")
    if task_form(family, "detection") is not TASKS["detection"]:
        raise ValueError(
            f"this {family.model.config.model_type} checkpoint finds garments by words of its own; alternatives "
            "are among those of the ontology: leave them out, or fine-tune it (vlm_tasks) or use vlm.load()"
        )


def with_alternatives(model: VLM, look: EncodedImage, detection: Detection, num: int) -> Detection:
    """The detection, its garments with the `num` words that are most probable beside their own.

    An alternative's score is the garment's own, times the odds of the word against the one that was said: what the
    list would have scored had it said so, at most 1. It may be above the garment's own, since a word is chosen before
    its box is known.

    Args:
        model: that found it.
        look: the image it was found in.
        detection: with its scores as they are to be, so calibrated or not.
        num: at least 1.

    Raises:
        ValueError: see `check_alternatives`.
    """
    check_alternatives(model.family, num)
    words = list(default_ontology().garments)
    boxes = all(item.box is not None for item in detection.objects)
    prompt = TASKS["detection"].prompt({"boxes": boxes}, look.image_size)
    said = ""
    objects = []
    for item in detection.objects:
        place = "" if item.box is None else encode_box(item.box, look.image_size)
        texts = [f"{said}{word}{place}" for word in words]
        # One garment at a time: 51 lists of twenty garments are as much as memory should hold.
        [logprobs] = model.family.score(look.features, [(look.index, prompt, texts)])
        objects.append(replace(item, alternatives=_ranked(item, dict(zip(words, logprobs, strict=True)))[:num]))
        said += f"{item.label}{place};"
    return replace(detection, objects=tuple(objects))


def _ranked(item: Garment, logprobs: dict[str, float]) -> tuple[tuple[str, float], ...]:
    own = logprobs.pop(item.label)
    likeliest = sorted(logprobs.items(), key=lambda pair: -pair[1])
    # Beyond e^50 a float may not hold the odds of a word against one that the grammar alone made the model say.
    return tuple((word, min(1.0, item.score * math.exp(min(50.0, value - own)))) for word, value in likeliest)
