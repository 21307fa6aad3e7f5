"""Boxes and labels on a photo."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from tasks.boxes import Box
from tasks.results import Garment, Outfit

__all__ = ["draw_boxes", "draw_labels", "draw_outfit", "garment_line", "text_panel"]

PALETTE = (
    (230, 25, 75), (0, 130, 200), (245, 130, 48), (60, 160, 75), (145, 30, 180), (0, 150, 150), (200, 40, 180),
    (128, 90, 30), (0, 0, 160), (170, 140, 0), (110, 110, 110), (120, 0, 0),
)  # fmt: skip
"""White text is readable on all of them."""
MIN_SIDE = 900
"""Smaller photos are enlarged to this longer side, so that labels fit beside the boxes."""
_FONT_SHARE = 0.02
_MIN_FONT = 13


def draw_boxes(image: Image.Image, garments: Sequence[Garment]) -> Image.Image:
    """The photo with every garment that has a box: its label and score. Small photos come out enlarged."""
    placed = [item for item in garments if item.box is not None]
    return draw_labels(image, [(f"{item.label} {item.score:.2f}", item.box) for item in placed if item.box])


def draw_outfit(image: Image.Image, outfit: Outfit) -> Image.Image:
    """`draw_boxes`, and beside it the summary and the garments with their attributes."""
    drawing = draw_boxes(image, outfit.garments)
    numbers: dict[int, int] = {}
    for index, item in enumerate(outfit.garments):
        if item.box is not None:
            numbers[index] = len(numbers)
    lines = [(outfit.summary, None), ("", None)]
    lines += [
        (garment_line(item), PALETTE[numbers[index] % len(PALETTE)] if index in numbers else None)
        for index, item in enumerate(outfit.garments)
    ]
    panel = text_panel(lines, width=max(320, round(drawing.width * 0.6)), size=_font_size(drawing))
    joined = Image.new("RGB", (drawing.width + panel.width, max(drawing.height, panel.height)), "white")
    joined.paste(drawing, (0, 0))
    joined.paste(panel, (drawing.width, 0))
    return joined


def garment_line(item: Garment) -> str:
    """ "coat: colour tan, sleeve long"; what is not visible is left out."""
    if item.attributes is None:
        return item.label
    told = [f"{name} {value}" for name, value in item.attributes.values.items() if value.values != ("not visible",)]
    return f"{item.label}: {', '.join(told)}" if told else item.label


def draw_labels(
    image: Image.Image, labels: Sequence[tuple[str, Box]], parts: Sequence[Sequence[Box]] = ()
) -> Image.Image:
    """The photo with a box and its text for each label, in the colours of PALETTE in turn.

    Args:
        image: the upright photo; it is not changed.
        labels: (text, box in the photo's pixels). Boxes are clipped; those outside the photo are left out.
        parts: for each label, thin boxes of its separate regions.
    """
    scale = max(1.0, MIN_SIDE / max(image.size))
    size = (round(image.width * scale), round(image.height * scale))
    drawing = image.convert("RGB").resize(size, Image.Resampling.BICUBIC) if scale > 1 else image.convert("RGB")
    if drawing is image:
        drawing = image.copy()
    pen = ImageDraw.Draw(drawing)
    font_size = _font_size(drawing)
    font = ImageFont.load_default(font_size)
    line = max(2, font_size // 6)
    shown = []
    for index, (text, box) in enumerate(labels):
        clipped = box.clip((image.height, image.width))
        if clipped is None:
            continue
        corners = tuple(value * scale for value in clipped.xyxy)
        colour = PALETTE[index % len(PALETTE)]
        for part in parts[index] if index < len(parts) else ():
            pen.rectangle(tuple(value * scale for value in part.xyxy), outline=colour, width=1)
        pen.rectangle(corners, outline=colour, width=line)
        shown.append((text, corners, colour))
    # Texts last, so that no box's line runs through one.
    taken: list[tuple[float, float, float, float]] = []
    for text, corners, colour in shown:
        left, top, right, bottom = font.getbbox(text)
        width, height = right - left + 2 * line + 2, bottom - top + 2 * line + 2
        spot = _free_spot(corners, (width, height), drawing.size, taken)
        taken.append(spot)
        pen.rectangle(spot, fill=colour)
        pen.text((spot[0] + line + 1 - left, spot[1] + line + 1 - top), text, fill="white", font=font)
    return drawing


def text_panel(lines: Sequence[tuple[str, tuple[int, int, int] | None]], *, width: int, size: int = 16) -> Image.Image:
    """Wrapped lines of text on white, each after a square of its colour if it has one."""
    font = ImageFont.load_default(size)
    margin, step = size // 2, round(size * 1.35)
    wrapped: list[tuple[str, tuple[int, int, int] | None, int]] = []
    for text, colour in lines:
        indent = margin + (step if colour else 0)
        for number, row in enumerate(_wrap(text, font, width - indent - margin)):
            wrapped.append((row, colour if number == 0 else None, indent))
    panel = Image.new("RGB", (width, step * len(wrapped) + 2 * margin), "white")
    pen = ImageDraw.Draw(panel)
    for number, (row, colour, indent) in enumerate(wrapped):
        y = margin + number * step
        if colour:
            pen.rectangle((margin, y + 2, margin + size - 2, y + size), fill=colour)
        pen.text((indent, y), row, fill=(30, 30, 30), font=font)
    return panel


def _font_size(drawing: Image.Image) -> int:
    return max(_MIN_FONT, round(max(drawing.size) * _FONT_SHARE))


def _free_spot(
    box: tuple[float, ...], size: tuple[float, float], image: tuple[int, int], taken: Sequence[tuple[float, ...]]
) -> tuple[float, float, float, float]:
    """Where a text of `size` goes: at one of the box's corners, or further down, where it covers no other text."""
    x1, y1, x2, y2 = box
    width, height = size
    tries = [(x1, y1 - height), (x1, y1), (x2 - width, y1 - height), (x2 - width, y1), (x1, y2), (x1, y2 - height)]
    tries += [(x1, y1 + step * height) for step in range(1, 12)]
    spots = []
    for x, y in tries:
        x = min(max(0.0, x), max(0.0, image[0] - width - 1))
        y = min(max(0.0, y), max(0.0, image[1] - height - 1))
        spots.append((x, y, x + width, y + height))
    free = (
        spot
        for spot in spots
        if all(
            spot[2] <= other[0] or other[2] <= spot[0] or spot[3] <= other[1] or other[3] <= spot[1] for other in taken
        )
    )
    return next(free, spots[0])


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    rows = [""]
    for word in text.split():
        longer = f"{rows[-1]} {word}".strip()
        if font.getlength(longer) <= width or not rows[-1]:
            rows[-1] = longer
        else:
            rows.append(word)
    return rows
