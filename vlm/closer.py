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
from tasks.results import Attributes
from vlm.data.augment import ZOOM_MARGIN, cut, shift, zoom_size
from vlm.images import open_image
from vlm.request import EncodedImage, Request, as_box

if TYPE_CHECKING:
    from vlm.api import VLM, AnyImage

__all__ = ["closer_attributes", "crop_around", "photo_itself", "surer"]

MARGIN = sum(ZOOM_MARGIN) / 2
"""Side of the crop against its garment's box: the middle of what training's zooms have."""


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
    model: VLM,
    requests: Sequence[Request],
    photos: Sequence[Image.Image],
    told: Sequence[Any],
    *,
    batch_size: int = 8,
) -> list[Any]:
    """The results with what the surer of two looks says of each attribute: the one that told them, and one at a crop
    around the box.

    Args:
        requests: of any tasks.
        photos: each request's, upright.
        told: each request's result; those without attributes, or of requests without a box, stay as they are.
        batch_size: crops at a time.
    """
    again: dict[int, Request] = {}
    for index, (request, photo, first) in enumerate(zip(requests, photos, told, strict=True)):
        box = as_box(request.box)
        if box is not None and isinstance(first, Attributes) and first.values:
            window = crop_around(box, (photo.height, photo.width))
            again[index] = replace(
                request, image=cut(photo, window), box=shift(box, window), attributes=tuple(first.values)
            )
    closer = dict(zip(again, model.generate(list(again.values()), batch_size=batch_size), strict=True))
    return [surer(first, closer[index]) if index in closer else first for index, first in enumerate(told)]


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
