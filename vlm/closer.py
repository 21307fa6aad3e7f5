"""A closer look: each garment cropped out of the photo and looked at again, larger.

One look shrinks a street photo to a few hundred image tokens, of which a shirt's dots get a handful. Here every garment
gets a look of its own, at a crop with half as much around it again, as training's zooms show (`AugmentConfig.zoom`),
and what the surer of the two looks says counts. It costs a look for every garment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from PIL import Image

from tasks.boxes import Box, ImageSize
from tasks.ontology import default_ontology
from tasks.results import Attributes, Garment
from vlm.data.augment import ZOOM_MARGIN, zoom_size
from vlm.images import open_image
from vlm.request import EncodedImage, Request

if TYPE_CHECKING:
    from vlm.api import VLM, AnyImage

__all__ = ["closer_attributes", "crop_around", "photo_itself", "surer"]

MARGIN = sum(ZOOM_MARGIN) / 2
"""Side of the crop against its garment's box: the middle of what training's zooms have."""
UNNAMED = "garment"
"""Label of what is only known by its box; no word of the ontology."""


def crop_around(box: Box, image_size: ImageSize) -> Box:
    """The window of the image's own aspect around a box, `MARGIN` times as large, in whole pixels inside the image.

    Args:
        box: in pixels.
        image_size: (height, width).
    """
    height, width = image_size
    high, wide = zoom_size(box, image_size, MARGIN)
    x = min(max(0, round((box.x1 + box.x2 - wide) / 2)), width - wide)
    y = min(max(0, round((box.y1 + box.y2 - high) / 2)), height - high)
    return Box(x, y, x + wide, y + high)


def closer_attributes(
    model: VLM, photos: Sequence[Image.Image], garments: Sequence[Garment], *, batch_size: int = 8, **options: Any
) -> list[Garment]:
    """The garments with what the surer of two looks says of each attribute: the one that told their attributes, and
    one at a crop around each.

    Args:
        photos: each garment's, upright.
        garments: with attributes of the whole photo; those without a box or attributes stay as they are.
        batch_size: crops at a time.
        **options: see `Request`.
    """
    known = default_ontology().garments
    numbers, asked = [], []
    for number, (photo, garment) in enumerate(zip(photos, garments, strict=True)):
        if garment.box is None or garment.attributes is None or not garment.attributes.values:
            continue
        window = crop_around(garment.box, (photo.height, photo.width))
        box = garment.box
        numbers.append(number)
        asked.append(
            Request(
                photo.crop((int(window.x1), int(window.y1), int(window.x2), int(window.y2))),
                "attributes",
                garment=garment.label if garment.label in known else None,
                box=Box(box.x1 - window.x1, box.y1 - window.y1, box.x2 - window.x1, box.y2 - window.y1),
                attributes=tuple(garment.attributes.values),
                **options,
            )
        )
    found = list(garments)
    for number, closer in zip(numbers, model.generate(asked, batch_size=batch_size), strict=True):
        first = found[number].attributes
        assert first is not None  # those without are not asked about
        found[number] = replace(found[number], attributes=surer(first, closer))
    return found


def photo_itself(image: AnyImage) -> Image.Image:
    """The image, upright, to be cropped from.

    Raises:
        ValueError: it cannot be opened, or it is only what the model saw of it.
    """
    if isinstance(image, EncodedImage):
        raise ValueError("a closer look is taken of the photo itself; pass the image in place of what encode() gave")
    return open_image(image)


def surer(first: Attributes, second: Attributes) -> Attributes:
    """Of each attribute of the first the value with the higher score; the first's where both are as sure."""
    values = {
        name: max(value, second.values.get(name, value), key=lambda either: either.score)
        for name, value in first.values.items()
    }
    return replace(first, values=values)
