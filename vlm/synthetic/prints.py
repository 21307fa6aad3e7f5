"""What is put on cloth once: a print on the chest, a block of a second colour."""

from __future__ import annotations

from vlm.synthetic.cut import Cut, shade
from vlm.synthetic.paths import Path, Point, polygon, skia

__all__ = ["draw_block", "draw_graphic"]


def draw_block(cut: Cut, path: Path, z: float, way: str, hem: float, axis: tuple[Point, Point]) -> None:
    bounds = path.getBounds()
    body = cut.body
    if way == "half":
        region = polygon(
            [body.trunk(0, 10), (bounds.right() + 3, 10), (bounds.right() + 3, 99), (body.trunk(0, hem)[0], 99)]
        )
    else:
        at = (
            body.trunk(0, cut.within(27, 31))[1]
            if way == "yoke"
            else bounds.bottom() - cut.within(0.25, 0.45) * bounds.height()
        )
        top, low = (bounds.top() - 1, at) if way == "yoke" else (at, bounds.bottom() + 1)
        region = skia.Path()
        region.addRect(skia.Rect.MakeLTRB(bounds.left() - 2, top, bounds.right() + 2, low))
    clipped = skia.Op(path, region, skia.PathOp.kIntersect_PathOp)
    if clipped is not None:
        cut.add(clipped, z + 0.05, second=True, axis=axis, shadow=0.0)


def draw_graphic(cut: Cut, path: Path, z: float) -> None:
    """A print on the chest: words, a disc, a star, a face of shapes."""
    rng, body = cut.rng, cut.body
    colour, other = cut.fabric.colours[1], shade(cut.fabric.colours[1], rng.choice([-0.5, 0.5]))
    wide, high = rng.uniform(3.4, 5.4), rng.uniform(2.6, 6.0)
    x, y = body.trunk(0, rng.uniform(28.5, 32))
    kind = rng.choice(["words", "disc", "photo", "shapes", "stripe word"])
    clip = path
    left, right, top, low = x - wide * 0.8, x + wide * 0.8, y - high / 2, y + high / 2
    cut.spot("pattern", [(left, top), (right, top), (right, low), (left, low)], 0.4)
    if kind in ("words", "stripe word"):
        lines = rng.randint(1, 4)
        for line in range(lines):
            top = y - high / 2 + line * high / lines
            at = x - wide * rng.uniform(0.7, 1.0)
            while at < x + wide * rng.uniform(0.7, 1.0):
                letter = rng.uniform(0.5, 1.2) * (1.6 if lines == 1 else 1.0)
                box = skia.Path()
                box.addRect(skia.Rect.MakeXYWH(at, top, letter, high / lines * 0.62))
                if rng.random() < 0.5:
                    box.addRect(
                        skia.Rect.MakeXYWH(
                            at + letter * 0.3, top + high / lines * 0.18, letter * 0.4, high / lines * 0.25
                        )
                    )
                    box.setFillType(skia.PathFillType.kEvenOdd)
                if rng.random() < 0.88:
                    cut.sketch.mark(box, z + 0.1, colour, inside=clip)
                at += letter + 0.35
    else:
        base = skia.Path()
        rect = skia.Rect.MakeXYWH(x - wide * 0.85, y - high * 0.7, wide * 1.7, high * 1.5)
        (base.addOval if kind == "disc" else base.addRect)(rect)
        cut.sketch.mark(base, z + 0.1, colour, inside=clip)
        for _ in range(rng.randint(3, 7)):
            shape = skia.Path()
            size = rng.uniform(0.6, 2.2)
            spot = skia.Rect.MakeXYWH(
                x + rng.uniform(-wide, wide) * 0.7, y + rng.uniform(-high, high) * 0.6, size, size * rng.uniform(0.5, 2)
            )
            (shape.addOval if rng.random() < 0.6 else shape.addRect)(spot)
            tone = rng.choice(
                [other, cut.fabric.colours[0], (rng.randrange(256), rng.randrange(256), rng.randrange(256))]
            )
            cut.sketch.mark(shape, z + 0.11, tone, inside=base, alpha=0.9)
