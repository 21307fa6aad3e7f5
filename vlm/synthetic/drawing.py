"""A picture of the wardrobe: (seed, index) -> image, record, masks."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tasks.base import Provenance, Record
from vlm.synthetic import choices
from vlm.synthetic.accessories import draw_accessory
from vlm.synthetic.background import draw_background
from vlm.synthetic.bags import draw_bag
from vlm.synthetic.body import Body, pose_body
from vlm.synthetic.bottoms import draw_bodysuit, draw_dress, draw_hosiery, draw_jumpsuit, draw_skirt, draw_trousers
from vlm.synthetic.cut import Cut
from vlm.synthetic.fabric import Fabric, make_fabric
from vlm.synthetic.folder import WARDROBE, record_id
from vlm.synthetic.footwear import HEELED, draw_footwear
from vlm.synthetic.ground_truth import label_objects, look
from vlm.synthetic.held_out import is_held_out
from vlm.synthetic.light import LIGHTS, Light
from vlm.synthetic.paths import ellipse, outline, skia
from vlm.synthetic.people import draw_person
from vlm.synthetic.pieces import OTHER, Piece, Sketch
from vlm.synthetic.render import Camera, MaskCanvas, figure_bounds, paint_pieces
from vlm.synthetic.tops import draw_cape, draw_upper, hem_level
from vlm.synthetic.wardrobe_scene import Scene, Worn, draw_scene
from vlm.synthetic.wording import describe_record

__all__ = ["Drawn", "draw"]

_TRIES = 20
_SHOES = frozenset({"boots", "sneakers", "sandals", "heels", "flats", "loafers", "lace-up shoes", "shoes"})


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A picture and all that is known of it.

    Attributes:
        image: RGB.
        record: boxes and attributes of every garment that is seen; its image is named "images/<id>.jpg".
        id_mask: HxW; 0 background, n for the scene's nth garment (from 1), 250 skin, 251 hair, 252 furniture.
        scene: what was to be drawn, garments that nothing is seen of included.
    """

    image: Image.Image
    record: Record
    id_mask: NDArray[np.uint8]
    scene: Scene


def draw(
    seed: int,
    index: int,
    *,
    size: int = 256,
    cell: Mapping[str, str | int] | None = None,
    held_out: bool = False,
) -> Drawn:
    """The picture with this seed and index; always the same one.

    Args:
        size: pixels of the longer side; the picture is upright, 3:4 to 9:16.
        cell: what to force, see `wardrobe_scene.draw_scene`.
        held_out: whether it may show combinations that are kept for tests (`vlm.synthetic.held_out`).

    Raises:
        ValueError: a cell that cannot be drawn or is kept for tests, or a size below 64.
    """
    if size < 64:
        raise ValueError(f"size is {size}; expected at least 64 pixels, or nothing of a garment is seen")
    name = record_id(seed, index)
    # One generator each: a change to how backgrounds are drawn leaves the people as they are.
    rngs = {
        part: random.Random(f"{name}/{part}")
        for part in ("scene", "cloth", "body", "cut", "place", "camera", "words", "lens")
    }
    scene, fabrics = _dressed(rngs["scene"], rngs["cloth"], cell or {}, held_out)
    scene = replace(scene, garments=tuple(fabric.worn for fabric in fabrics.values()))
    heels = any(worn.label in HEELED for worn in scene.garments)
    pose = scene.pose
    if scene.kind != "person" and scene.garments[0].slot == "feet":
        pose = rngs["body"].choice(["pair from above", "pair from the side", "pair from the side"])
    elif scene.kind != "person" and scene.garments[0].label in ("gloves", "socks"):
        pose = {"gloves": "gloves", "socks": "pair from above"}[scene.garments[0].label]
    body = pose_body(pose, scene.build, rngs["body"], heels=heels)
    sketch = Sketch()
    if scene.kind == "person":
        draw_person(sketch, body, scene.skin_tone, scene.hair, rngs["body"])
    labels = frozenset(worn.label for worn in scene.garments)
    layers = {worn.slot for worn in scene.garments}
    for number, fabric in fabrics.items():
        over = {"top": {"mid", "outer"}, "whole": {"outer"}, "mid": {"outer"}}.get(fabric.worn.slot, set())
        cut = Cut(
            sketch=sketch,
            body=body,
            fabric=fabric,
            owner=number,
            rng=rngs["cut"],
            flat=scene.kind != "person",
            clothed=labels,
            covered=bool(over & layers),
        )
        _draw_garment(cut)
    if scene.kind == "hanger":
        _hanger(sketch, body, 36.0 if "lower" in layers else 16.8, rngs["cut"])
    pieces = sketch.ordered()
    camera = _camera(scene, pieces, size, rngs["camera"])
    light = LIGHTS[scene.light]
    image = _photograph(scene, pieces, fabrics, body, camera, light, rngs)
    masks = MaskCanvas(camera, pieces)
    id_mask, seen = look(masks, pieces, sketch.probes, fabrics)
    height, width = camera.size
    provenance = Provenance(source=WARDROBE, annotator="generator")
    groups = {
        "pose": scene.pose,
        "crop": scene.crop,
        "background": scene.background,
        "light": scene.light,
        "kind": scene.kind,
    }
    if scene.kind == "person":
        groups = {"skin_tone": str(scene.skin_tone), **groups}
    record = Record(
        id=name,
        image=f"images/{name}.jpg",
        image_size=(height, width),
        objects=label_objects(fabrics, seen, height * width, provenance),
        objects_complete=True,
        boxes_complete=True,
        groups=groups,
        provenance=provenance,
    )
    return Drawn(image=image, record=describe_record(record, rngs["words"]), id_mask=id_mask, scene=scene)


def _dressed(
    rng: random.Random, cloth: random.Random, cell: Mapping[str, str | int], held_out: bool
) -> tuple[Scene, dict[int, Fabric]]:
    """A scene and the cloth of its garments by number, from 1; of what training may see, unless `held_out`."""
    for _ in range(_TRIES):
        scene = draw_scene(rng, cell)
        fabrics = [_cloth(worn, cloth, cell, held_out) for worn in scene.garments]
        cut = {number: fabric for number, fabric in enumerate(fabrics, start=1) if fabric is not None}
        if len(cut) == len(fabrics):
            return scene, cut
    raise ValueError(
        f"{dict(cell)} is kept for tests; see configs/coverage/held_out.yaml, or allow it with held_out=True in data "
        "that no training sees"
    )


def _cloth(worn: Worn, rng: random.Random, cell: Mapping[str, str | int], held_out: bool) -> Fabric | None:
    """None where what the cell forces leaves only cloth that is kept for tests."""
    for _ in range(_TRIES):
        fabric = make_fabric(worn, rng)
        # Which of its colours are seen is known only once it is drawn.
        colours = (*fabric.worn.attributes["colour"], *fabric.names)
        if held_out or not is_held_out(worn.label, {**fabric.worn.attributes, "colour": colours}):
            return fabric
        changed = {"colour": (choices.value(rng, worn.label, "colour"),)}
        if "colour" in cell:
            changed = {} if "pattern" in cell else {"pattern": ("solid",)}
        worn = replace(worn, attributes={**worn.attributes, **changed})
    return None


def _draw_garment(cut: Cut) -> None:
    label = cut.label
    if label in _SHOES:
        draw_footwear(cut)
    elif label in ("bag", "clutch", "backpack"):
        draw_bag(cut)
    elif label in ("trousers", "jeans", "shorts", "leggings"):
        draw_trousers(cut)
    elif label == "skirt":
        draw_skirt(cut)
    elif label == "dress":
        draw_dress(cut)
    elif label == "jumpsuit":
        draw_jumpsuit(cut)
    elif label == "bodysuit":
        draw_bodysuit(cut)
    elif label in ("tights", "socks"):
        draw_hosiery(cut)
    elif label == "cape":
        draw_cape(cut, hem_level(cut))
    elif cut.slot in ("top", "mid", "outer"):
        hem = 47.5 if cut.fabric.worn.tucked else hem_level(cut)
        draw_upper(cut, hem, flare=cut.within(0.02, 0.14) if hem > 53 else 0.0)
    else:
        draw_accessory(cut)


def _hanger(sketch: Sketch, body: Body, level: float, rng: random.Random) -> None:
    colour = rng.choice([(150, 110, 70), (60, 60, 62), (220, 220, 222), (170, 130, 90)])
    x, y = body.trunk(0, level)
    reach = body.build.shoulder - 1.5
    bar = outline([(x - reach, y + 3.4), (x, y), (x + reach, y + 3.4)], closed=False)
    sketch.add(bar, 1.0, OTHER, colour=colour, stroke=1.1)
    hook = outline([(x, y), (x, y - 2.6), (x + 1.6, y - 4.0), (x + 0.4, y - 5.6), (x - 1.4, y - 4.6)], closed=False)
    sketch.add(hook, 1.1, OTHER, colour=(150, 150, 154), stroke=0.5)


def _camera(scene: Scene, pieces: Sequence[Piece], size: int, rng: random.Random) -> Camera:
    shapes = [piece for piece in pieces if piece.owner]
    ratio = rng.uniform(9 / 16, 3 / 4)
    height, width = size, max(36, round(size * ratio))
    bounds = skia.Rect.MakeEmpty()
    for piece in shapes:
        bounds.join(piece.path.getBounds())
    middle = bounds.centerX()
    if scene.kind != "person":
        margin = rng.uniform(1.08, 1.4)
        scale = min(width / bounds.width(), height / bounds.height()) / margin
        shift_x = width / 2 - middle * scale + rng.uniform(-0.03, 0.03) * width
        shift_y = height / 2 - bounds.centerY() * scale + rng.uniform(-0.03, 0.03) * height
        turn = rng.uniform(-7, 7) if scene.kind == "flat" and scene.background != "white" else rng.uniform(-1.5, 1.5)
        # The turn is about (0, 50): keep the middle of the garment where it is.
        angle = math.radians(turn)
        rx, ry = middle * scale, (bounds.centerY() - 50) * scale
        shift_x -= rx * math.cos(angle) - ry * math.sin(angle) - rx
        shift_y -= rx * math.sin(angle) + ry * math.cos(angle) - ry
        return Camera(size=(height, width), scale=scale, shift=(shift_x, shift_y), turn=turn)
    head_top = min(bounds.top(), 0.0)
    if scene.crop == "upper":
        top, low = head_top - rng.uniform(0.5, 7), rng.uniform(46, 70)
    elif scene.crop == "lower":
        top, low = rng.uniform(28, 44), rng.uniform(99, 104)
    else:
        top, low = head_top - rng.uniform(1, 14), 99 + rng.uniform(0.5, 8)
    scale = height / (low - top)
    if scene.crop == "full":
        scale = min(scale, width / (bounds.width() * 0.92))
    spare = height - (low - top) * scale
    centre = 0.0 if scene.crop != "full" else middle * 0.6
    shift_x = width / 2 - centre * scale + rng.uniform(-0.07, 0.07) * width
    shift_y = -top * scale + spare * rng.uniform(0.3, 0.8)
    return Camera(size=(height, width), scale=scale, shift=(shift_x, shift_y), turn=rng.uniform(-2, 2))


def _photograph(
    scene: Scene,
    pieces: Sequence[Piece],
    fabrics: Mapping[int, Fabric],
    body: Body,
    camera: Camera,
    light: Light,
    rngs: Mapping[str, random.Random],
) -> Image.Image:
    height, width = camera.size
    person = skia.Surface(width, height)
    canvas = person.getCanvas()
    canvas.clear(0)
    canvas.concat(camera.matrix())
    paint_pieces(canvas, pieces, fabrics, light, rngs["lens"])
    fall = skia.GradientShader.MakeLinear(
        [skia.Point(light.side * 30, 0), skia.Point(-light.side * 10, 100)],
        [skia.Color(255, 250, 240, round(18 * light.hard)), skia.Color(10, 8, 20, round(50 + 40 * light.hard))],
    )
    # Where the figure is not, there is nothing to shade or to soften.
    part = figure_bounds(camera, pieces)
    canvas.resetMatrix()
    canvas.clipRect(skia.Rect.Make(part))
    canvas.concat(camera.matrix())
    canvas.drawPaint(skia.Paint(Shader=fall, BlendMode=skia.BlendMode.kSrcATop))
    whole, figure = person.makeImageSnapshot(), person.makeImageSnapshot(part)
    photo = skia.Surface(width, height)
    canvas = photo.getCanvas()
    place, lens = rngs["place"], rngs["lens"]
    zoom = camera.scale * 100 / height
    draw_background(canvas, scene.background, height, width, place, zoom=min(zoom, 1.8))
    _ground_shadow(canvas, scene, body, camera, light, whole, lens)
    paint = skia.Paint()
    soft = lens.choice([0.0, 0.0, 0.3, 0.5, 0.8]) * height / 256
    if soft:
        paint.setImageFilter(skia.ImageFilters.Blur(soft, soft, skia.TileMode.kDecal))
    canvas.drawImage(figure, part.left(), part.top(), skia.SamplingOptions(), paint)
    return _develop(photo.toarray(colorType=skia.ColorType.kRGBA_8888_ColorType), light, lens)


def _ground_shadow(
    canvas: Any, scene: Scene, body: Body, camera: Camera, light: Light, figure: Any, rng: random.Random
) -> None:
    if scene.kind != "person":
        off = camera.scale * rng.uniform(0.3, 1.6)
        shadow = skia.ImageFilters.DropShadowOnly(
            -light.side * off + 0.01, off, off * 1.2, off * 1.2, skia.Color(0, 0, 0, round(110 * (0.3 + light.hard)))
        )
        if scene.background != "white" or rng.random() < 0.5:
            canvas.drawImage(figure, 0, 0, skia.SamplingOptions(), skia.Paint(ImageFilter=shadow))
        return
    if scene.crop == "upper":
        return
    canvas.save()
    canvas.concat(camera.matrix())
    strength = (0.35 + 0.3 * light.hard) * (0.5 if scene.background == "white" else 1.0)
    x = (body.toes[0][0] + body.toes[1][0]) / 2
    y = max(body.toes[0][1], body.toes[1][1])
    wide = abs(body.toes[1][0] - body.toes[0][0]) / 2 + 5
    for radius, alpha, blur in ((1.5, 0.4, 2.6), (1.0, 0.8, 1.2)):
        dark = skia.Paint(
            AntiAlias=True,
            Color=skia.Color(0, 0, 0, round(255 * strength * alpha)),
            MaskFilter=skia.MaskFilter.MakeBlur(skia.kNormal_BlurStyle, blur),
        )
        canvas.drawPath(ellipse((x - light.side * 3, y + 0.6), wide * radius, 1.7 * radius), dark)
    if light.hard > 0.7 and scene.background not in ("white", "studio"):
        long = skia.Paint(
            AntiAlias=True,
            Color=skia.Color(10, 10, 24, round(90 * light.hard)),
            MaskFilter=skia.MaskFilter.MakeBlur(skia.kNormal_BlurStyle, 1.5),
        )
        reach = -light.side * rng.uniform(16, 40)
        canvas.drawPath(
            ellipse((x + reach * 0.5, y + 0.3 - rng.uniform(0, 3)), abs(reach) * 0.55, 3.2, 5 * light.side), long
        )
    canvas.restore()


def _develop(pixels: NDArray[np.uint8], light: Light, rng: random.Random) -> Image.Image:
    """HxWx4 RGBA -> light's colour, contrast, vignette, sensor noise and JPEG."""
    height, width, _ = pixels.shape
    noise = np.random.default_rng(rng.getrandbits(63))
    gain = light.brightness * rng.uniform(0.88, 1.1)
    tint = np.array([value * rng.uniform(0.98, 1.02) for value in light.tint], dtype=np.float32)
    contrast = rng.uniform(0.88, 1.12)
    # One plane a colour, changed in place: with three colours next to each other numpy goes pixel by pixel.
    planes = np.empty((3, height, width), dtype=np.float32)
    for colour in range(3):
        planes[colour] = pixels[..., colour]
    planes -= 118
    planes *= contrast
    planes += 118
    planes *= (gain * tint)[:, None, None]
    if rng.random() < 0.4:
        y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)[None]
        planes *= 1 - np.float32(rng.uniform(0.04, 0.16)) * (x * x + y * y)
    level = rng.choice([1.0, 2.0, 3.5, 6.0])
    grain = noise.standard_normal((height, width), dtype=np.float32)
    grain *= np.float32(level)
    planes += grain
    np.clip(planes, 0, 255, out=planes)
    developed = np.empty((height, width, 3), dtype=np.uint8)
    for colour in range(3):
        developed[..., colour] = planes[colour].astype(np.uint8)
    image = Image.fromarray(developed)
    if rng.random() < 0.6:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=rng.randint(45, 92))
        image = Image.open(buffer, formats=("JPEG",)).convert("RGB")
    return image
