"""Smooth outlines out of a few points: what bodies and garments are cut from.

Points are (x, y) in body units: 100 from the crown of a standing person to the soles; x to the right, y down.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

try:
    import skia
except ImportError as error:
    raise ImportError(
        "drawing needs skia-python, which is not installed; install it with: pip install 'vlm[synthetic]' "
        "(or: pip install skia-python)"
    ) from error

__all__ = ["Path", "Point", "along", "blend", "circle", "ellipse", "outline", "polygon", "skia", "smooth", "tube"]

Point = tuple[float, float]
Path = Any
"""skia.Path: skia-python has no types that mypy reads."""


def blend(first: Point, second: Point, share: float) -> Point:
    return (first[0] + (second[0] - first[0]) * share, first[1] + (second[1] - first[1]) * share)


def along(points: Sequence[Point], at: float) -> Point:
    """The point at `at` of a polyline, 0 at its start, 1 at its second point, 2 at its third."""
    index = min(max(int(at), 0), len(points) - 2)
    return blend(points[index], points[index + 1], at - index)


def _curve(path: Path, points: Sequence[Point], tension: float = 1 / 6) -> None:
    """Catmull-Rom through the points; the path already stands at the first one."""
    (before_x, before_y), (x, y) = points[0], points[1]
    here_x, here_y = before_x, before_y
    to = path.cubicTo
    for after_x, after_y in (*points[2:], points[-1]):
        to(
            here_x + (x - before_x) * tension,
            here_y + (y - before_y) * tension,
            x - (after_x - here_x) * tension,
            y - (after_y - here_y) * tension,
            x,
            y,
        )
        before_x, before_y, here_x, here_y, x, y = here_x, here_y, x, y, after_x, after_y


def outline(*segments: Sequence[Point], closed: bool = True) -> Path:
    """A path of smooth segments that meet at corners."""
    path = skia.Path()
    started = False
    for points in segments:
        if not started:
            path.moveTo(*points[0])
            started = True
        else:
            path.lineTo(*points[0])
        if len(points) == 2:
            path.lineTo(*points[1])
        elif len(points) > 2:
            _curve(path, points)
    if closed:
        path.close()
    return path


def smooth(points: Sequence[Point]) -> Path:
    """A closed curve through the points."""
    ring = [points[-1], *points, points[0], points[1]]
    path = skia.Path()
    path.moveTo(*points[0])
    for index in range(1, len(ring) - 2):
        before, here, there, after = ring[index - 1 : index + 3]
        path.cubicTo(
            here[0] + (there[0] - before[0]) / 6,
            here[1] + (there[1] - before[1]) / 6,
            there[0] - (after[0] - here[0]) / 6,
            there[1] - (after[1] - here[1]) / 6,
            there[0],
            there[1],
        )
    path.close()
    return path


def polygon(points: Sequence[Point]) -> Path:
    path = skia.Path()
    path.moveTo(*points[0])
    for point in points[1:]:
        path.lineTo(*point)
    path.close()
    return path


def ellipse(centre: Point, rx: float, ry: float, degrees: float = 0.0) -> Path:
    path = skia.Path()
    path.addOval(skia.Rect.MakeLTRB(centre[0] - rx, centre[1] - ry, centre[0] + rx, centre[1] + ry))
    if degrees:
        path.transform(skia.Matrix().setRotate(degrees, *centre))
    return path


def circle(centre: Point, radius: float) -> Path:
    return ellipse(centre, radius, radius)


def tube(
    points: Sequence[Point], widths: Sequence[float], *, round_start: bool = True, round_end: bool = False
) -> Path:
    """A limb or sleeve: an outline around a polyline, `widths` wide at its points."""
    left: list[Point] = []
    right: list[Point] = []
    last = len(points) - 1
    for index, (x, y) in enumerate(points):
        (ax, ay), (bx, by) = points[max(index - 1, 0)], points[min(index + 1, last)]
        dx, dy = bx - ax, by - ay
        length = math.hypot(dx, dy) or 1.0
        half = widths[index] / 2
        nx, ny = dy / length * half, -dx / length * half
        left.append((x + nx, y + ny))
        right.append((x - nx, y - ny))
    caps: list[list[Point]] = []
    for rounded, end, near, first, second in (
        (round_end, last, last - 1, left[-1], right[-1]),
        (round_start, 0, 1, right[0], left[0]),
    ):
        if rounded:
            (x, y), (px, py) = points[end], points[near]
            length = math.hypot(x - px, y - py) or 1.0
            reach = widths[end] / 2
            tip = (x + (x - px) / length * reach, y + (y - py) / length * reach)
            bow = [blend(first, tip, 0.72), blend(second, tip, 0.72)]
            shift = ((x - px) / length * reach * 0.28, (y - py) / length * reach * 0.28)
            caps.append([first, *((bx + shift[0], by + shift[1]) for bx, by in bow), second])
        else:
            caps.append([first, second])
    return outline(left, caps[0], right[::-1], caps[1])
