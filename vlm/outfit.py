"""The main job: what is worn, in words and in fields, from one look."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from PIL import Image

from tasks.boxes import iou
from tasks.ontology import default_ontology
from tasks.results import Caption, Detection, Garment, Outfit
from vlm.closer import closer_attributes, photo_itself
from vlm.request import EncodedImage, Reply, Request

if TYPE_CHECKING:
    from vlm.api import VLM, AnyImage

__all__ = ["describe_outfit", "describe_outfits", "is_worn"]

DUPLICATE_IOU = 0.7
"""Two boxes of one label that overlap more than this are one garment said twice."""

OTHER_WORDS = frozenset({
    "clothing", "footwear", "suit", "swimwear", "underwear", "trench", "costume", "uniform", "gown", "robe", "kimono",
    "sari", "poncho", "pyjamas", "pajamas", "bikini", "bra", "stockings", "slippers", "heel", "shoe", "boot",
    "sneaker", "sandal", "loafer", "sock", "glove", "earring", "handbag", "purse", "wallet", "headgear", "helmet",
    "beanie", "beret", "headscarf", "hijab", "veil", "turban", "mask", "goggles", "scarves", "pants", "jean",
    "waistcoat", "tuxedo", "outerwear", "jersey", "tracksuit", "dungarees", "overalls", "fedora", "sombrero", "tiara",
    "crown",
})  # fmt: skip
"""Last words of what else is worn, in the names that detectors of everything give: Open Images, Objects365, LVIS."""

NOTHING_FOUND = "No garments were found in this picture."


def describe_outfit(
    model: VLM,
    image: AnyImage,
    *,
    detail: str = "brief",
    min_score: float = 0.0,
    num_beams: int = 1,
    closer: bool = False,
) -> Outfit:
    """Describe what is worn in an image: a summary, and every garment with box, attributes and scores.

    The image is looked at once (and each garment once more where a closer look is asked for). Garments and summary
    come from one packed pass over its features, the attributes of all garments from a second. A checkpoint that was
    not trained for attributes gives garments with boxes and scores, and None for attributes; what it finds that is not
    worn (people, cars) is left out.

    Args:
        model: what `vlm.load` gives.
        image: anything that `VLM` takes as an image.
        detail: of the summary, "brief" or "detailed".
        min_score: garments less sure than this are left out.
        num_beams: of all decoding.
        closer: every garment's attributes are told from a second look as well, at a crop around it (see `vlm.closer`).

    Returns:
        The outfit, largest garment first. `score` is the summary's. Where nothing is found the summary says
        so, and `score` is the probability of that.

    Raises:
        ValueError: an image that cannot be opened, or an option out of range; a closer look at an encoded image.
    """
    return describe_outfits(model, [image], detail=detail, min_score=min_score, num_beams=num_beams, closer=closer)[0]


def describe_outfits(
    model: VLM,
    images: Sequence[AnyImage],
    *,
    detail: str = "brief",
    min_score: float = 0.0,
    num_beams: int = 1,
    closer: bool = False,
    batch_size: int = 8,
) -> list[Outfit]:
    """`describe_outfit` of many images, `batch_size` at a time."""
    if not 0.0 <= min_score <= 1.0:
        raise ValueError(f"min_score is {min_score}; expected a probability in [0, 1]")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1 image")
    outfits: list[Outfit] = []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        photos = [photo_itself(image) for image in batch] if closer else None
        looks = model.encode(batch if photos is None else photos)
        outfits += _describe(model, looks, photos, detail, min_score, num_beams)
    return outfits


def _describe(
    model: VLM,
    looks: Sequence[EncodedImage],
    photos: Sequence[Image.Image] | None,
    detail: str,
    min_score: float,
    num_beams: int,
) -> list[Outfit]:
    """`photos` are those looked at, where a closer look is taken of each garment."""
    replies = model.reply(
        [
            request
            for look in looks
            for request in (
                Request(look, "detection", num_beams=num_beams),
                Request(look, "caption", detail=detail, num_beams=num_beams),
            )
        ],
        batch_size=len(looks),
    )
    detections = [_worn(model.result(reply)) for reply in replies[0::2]]
    captions: list[Caption] = [model.result(reply) for reply in replies[1::2]]
    garments = [without_duplicates([g for g in d.objects if g.score >= min_score]) for d in detections]
    if "attributes" in model.family.tasks:
        known = default_ontology().garments
        asked = [
            Request(
                look,
                "attributes",
                garment=garment.label if garment.label in known else None,
                box=garment.box,
                num_beams=num_beams,
            )
            for look, worn in zip(looks, garments, strict=True)
            for garment in worn
        ]
        told = model.generate(asked, batch_size=len(looks))
        if photos is not None:
            owners = [photo for photo, worn in zip(photos, garments, strict=True) for _ in worn]
            told = closer_attributes(model, asked, owners, told, batch_size=len(looks))
        attributes = iter(told)
    else:
        attributes = itertools.repeat(None)
    outfits = []
    for caption, detection, reply, worn in zip(captions, detections, replies[0::2], garments, strict=True):
        full = tuple(replace(garment, attributes=next(attributes)) for garment in worn)
        cut = detection.truncated or any(garment.attributes.truncated for garment in full if garment.attributes)
        if full:
            outfits.append(Outfit(caption.text, full, caption.score, cut or caption.truncated))
        else:
            outfits.append(Outfit(NOTHING_FOUND, (), _nothing_score(detection, reply), cut))
    return outfits


def is_worn(label: str) -> bool:
    """Whether a label means something worn: the ontology's words, and what detectors of everything call such things.

    The last word decides: a "pencil skirt" is worn, a "dress shop" is not.
    """
    words = label.casefold().replace("-", " ").split()
    if not words:
        return False
    return not _last_words_worn().isdisjoint((words[-1], words[-1].removesuffix("s"), words[-1].removesuffix("es")))


@lru_cache(maxsize=1)
def _last_words_worn() -> frozenset[str]:
    return OTHER_WORDS | {name.replace("-", " ").split()[-1] for name in default_ontology().garments}


def _worn(detection: Detection) -> Detection:
    return replace(detection, objects=tuple(found for found in detection.objects if is_worn(found.label)))


def _nothing_score(detection: Detection, reply: Reply) -> float:
    """Probability that nothing is worn: what the model gave its "none", or what the surest garment leaves."""
    if detection.objects:
        return 1.0 - max(garment.score for garment in detection.objects)
    return min(1.0, math.exp(reply.generated.logprob))


def without_duplicates(garments: Sequence[Garment]) -> list[Garment]:
    """Of near-equal boxes of one label the surest stays; the order is kept."""
    kept: list[Garment] = []
    for garment in sorted(garments, key=lambda g: -g.score):
        if not any(_same(garment, other) for other in kept):
            kept.append(garment)
    return [garment for garment in garments if any(garment is other for other in kept)]


def _same(first: Garment, second: Garment) -> bool:
    if first.label != second.label or first.box is None or second.box is None:
        return False
    return iou(first.box, second.box) > DUPLICATE_IOU
