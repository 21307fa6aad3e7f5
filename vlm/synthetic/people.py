"""Skin, faces and hair of a posed figure."""

from __future__ import annotations

import random

from vlm.synthetic.body import ANKLE, ARMPIT, HIP, MONK, SHOULDER, WAIST, Body
from vlm.synthetic.paths import Point, blend, ellipse, outline, skia, smooth, tube
from vlm.synthetic.pieces import HAIR, OTHER, SKIN, Colour, Sketch

__all__ = ["ARM_Z", "arm_z", "draw_person", "hand_z", "skin_colour"]

ARM_Z = 40.0
_HAIR_COLOURS: tuple[Colour, ...] = (
    (24, 20, 18), (34, 26, 22), (52, 36, 26), (78, 52, 34), (106, 72, 44), (150, 110, 66), (196, 160, 104),
    (214, 186, 136), (126, 58, 32), (150, 78, 44), (150, 148, 146), (206, 204, 200), (140, 40, 60), (60, 80, 140),
)  # fmt: skip
_HAIR_MIXED = (4, 4, 4, 3, 3, 2, 2, 1, 1, 1, 1, 0.6, 0.3, 0.2)
_HAIR_DARK = (12, 7, 4, 1.5, 0.5, 0.3, 0.3, 0.1, 0.3, 0.2, 0.8, 0.3, 0.2, 0.1)
_LIPS: tuple[Colour, ...] = ((170, 80, 80), (180, 40, 60), (150, 90, 84), (190, 110, 110), (120, 50, 56))


def skin_colour(tone: int) -> Colour:
    digits = MONK[tone - 1]
    return (int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:], 16))


def arm_z(body: Body, side: int) -> float:
    return 8.0 if body.arms_behind[side] else ARM_Z + 0.2 * side


def hand_z(body: Body, side: int) -> float:
    if body.in_pocket[side]:
        return 15.0
    return 8.5 if body.arms_behind[side] else ARM_Z + 3.4


def tint(colour: Colour, by: float) -> Colour:
    """Lighter (above 0) or darker."""
    goal = 255 if by > 0 else 0
    return tuple(round(c + (goal - c) * abs(by)) for c in colour)  # type: ignore[return-value]


def draw_person(sketch: Sketch, body: Body, skin_tone: int, hair: str, rng: random.Random) -> None:
    skin = skin_colour(skin_tone)
    _limbs(sketch, body, skin)
    _trunk(sketch, body, skin)
    _head(sketch, body, skin, rng)
    colour = rng.choices(_HAIR_COLOURS, _HAIR_DARK if skin_tone > 6 else _HAIR_MIXED)[0]
    _hair(sketch, body, hair, colour, rng)
    if body.sitting:
        _seat(sketch, body, rng)


def _limbs(sketch: Sketch, body: Body, skin: Colour) -> None:
    for side in (0, 1):
        leg = [body.leg(side, level) for level in (HIP + 1.5, 60.0, 69.0, 75.0, 80.0, 88.0, ANKLE)]
        z = 10.0 + (0.4 if side == body.front_leg else 0.0)
        axis = (leg[0][0], leg[-1][0])
        sketch.add(tube([p for p, _ in leg], [2 * w for _, w in leg]), z, SKIN, colour=skin, axis=axis, plain=True)
        ankle, toe = leg[-1][0], body.toes[side]
        heel = (ankle[0] - (toe[0] - ankle[0]) * 0.12, ankle[1] + 2.4)
        foot = tube([blend(leg[-2][0], ankle, 0.7), heel, toe], [3.2, 3.8, 3.0], round_end=True)
        sketch.add(foot, z + 0.05, SKIN, colour=skin, plain=True)
        arm = [body.arm(side, at) for at in (0.0, 0.5, 0.95, 1.1, 1.5, 2.0)]
        z = arm_z(body, side)
        tubed = tube([p for p, _ in arm], [2 * w for _, w in arm], round_end=True)
        sketch.add(tubed, z, SKIN, colour=skin, axis=(arm[0][0], arm[-1][0]), plain=True)
        wrist, hand = arm[-1][0], body.hands[side]
        tip = blend(wrist, hand, 1.75)
        palm = tube([wrist, blend(wrist, hand, 0.8), tip], [2.2, 3.5, 1.9], round_end=True)
        sketch.add(palm, hand_z(body, side), SKIN, colour=skin, plain=True)
        sign = 1 - 2 * side
        thumb = tube([blend(wrist, hand, 0.4), (hand[0] + sign * 1.9, hand[1] - 0.3)], [1.4, 1.0], round_end=True)
        sketch.add(thumb, hand_z(body, side) + 0.01, SKIN, colour=tint(skin, -0.04), plain=True, shadow=0.1)


def _trunk(sketch: Sketch, body: Body, skin: Colour) -> None:
    right: list[Point] = [body.trunk(2.3, SHOULDER - 4.5), body.trunk(2.7, SHOULDER - 2.2)]
    right += [
        body.trunk(body.build.shoulder * 0.62, SHOULDER - 0.7),
        body.trunk(body.build.shoulder - 0.4, SHOULDER + 1),
    ]
    right += [body.trunk(body.half(level), level) for level in (ARMPIT + 1, 30, WAIST, 42, HIP)]
    right += [body.trunk(2.2, 52.5)]
    left: list[Point] = [body.trunk(-2.3, SHOULDER - 4.5), body.trunk(-2.7, SHOULDER - 2.2)]
    left += [
        body.trunk(-body.build.shoulder * 0.62, SHOULDER - 0.7),
        body.trunk(-body.build.shoulder + 0.4, SHOULDER + 1),
    ]
    left += [body.trunk(-body.half(level), level) for level in (ARMPIT + 1, 30, WAIST, 42, HIP)]
    left += [body.trunk(-2.2, 52.5)]
    axis = (body.trunk(0, SHOULDER), body.trunk(0, HIP))
    sketch.add(outline(right, left[::-1]), 9.0, SKIN, colour=skin, axis=axis, plain=True)
    for sign in (-1, 1):  # collarbones
        line = outline([body.trunk(sign * 1.2, 19.6), body.trunk(sign * 6, 18.8)], closed=False)
        sketch.mark(line, 9.1, tint(skin, -0.35), stroke=0.5, blur=0.4, alpha=0.35)


def _head(sketch: Sketch, body: Body, skin: Colour, rng: random.Random) -> None:
    (x, y), (rx, ry) = body.head, body.head_radius
    neck = tube([(x, y + ry * 0.3), body.neck, body.trunk(0, SHOULDER + 0.5)], [4.3, 4.4, 5.6])
    sketch.add(neck, 9.2, SKIN, colour=tint(skin, -0.07), plain=True)
    shadow = ellipse((x, y + ry * 1.0), rx * 0.75, ry * 0.3)
    sketch.mark(shadow, 9.3, tint(skin, -0.6), blur=0.8, alpha=0.45)
    face = smooth([
        (x, y - ry), (x + rx * 0.72, y - ry * 0.72), (x + rx, y - ry * 0.1), (x + rx * 0.9, y + ry * 0.38),
        (x + rx * 0.52, y + ry * 0.84), (x, y + ry), (x - rx * 0.52, y + ry * 0.84), (x - rx * 0.9, y + ry * 0.38),
        (x - rx, y - ry * 0.1), (x - rx * 0.72, y - ry * 0.72),
    ])  # fmt: skip
    for sign in (-1, 1):
        sketch.add(ellipse((x + sign * rx, y + ry * 0.1), 0.8, 1.5), 49.9, SKIN, colour=tint(skin, -0.1), plain=True)
    sketch.add(face, 50.0, SKIN, colour=skin, axis=((x, y - ry), (x, y + ry)), plain=True, shadow=0.2)
    look = x + rng.uniform(-0.5, 0.5) + (rx * 0.2 if body.turn < 0.85 and body.head[0] > body.neck[0] else 0.0)
    if body.turn < 0.85 and body.head[0] <= body.neck[0]:
        look -= rx * 0.2
    iris = rng.choice([(60, 40, 28), (40, 30, 24), (70, 90, 110), (80, 90, 60)])
    for sign in (-1, 1):
        eye = (look + sign * rx * 0.42, y + ry * 0.02)
        sketch.mark(ellipse(eye, rx * 0.25, ry * 0.1), 50.2, tint(skin, -0.55), blur=0.5, alpha=0.5, inside=face)
        sketch.mark(ellipse(eye, rx * 0.19, ry * 0.06), 50.3, (226, 220, 214), alpha=0.55, inside=face)
        sketch.mark(ellipse(eye, rx * 0.11, ry * 0.07), 50.4, iris, inside=face)
        brow = outline(
            [(eye[0] - rx * 0.24, eye[1] - ry * 0.17), (eye[0] + rx * 0.24, eye[1] - ry * 0.18)], closed=False
        )
        sketch.mark(brow, 50.4, tint(skin, -0.7), stroke=0.5, blur=0.15, alpha=0.7, inside=face)
    nose = outline([(look + 0.2, y + ry * 0.05), (look + 0.5, y + ry * 0.38), (look - 0.5, y + ry * 0.4)], closed=False)
    sketch.mark(nose, 50.3, tint(skin, -0.45), stroke=0.45, blur=0.3, alpha=0.45, inside=face)
    mouth = ellipse((look, y + ry * 0.6), rx * rng.uniform(0.26, 0.4), ry * 0.07)
    lips = _LIPS[rng.randrange(len(_LIPS))]
    sketch.mark(mouth, 50.3, blend_colour(tint(skin, -0.3), lips, 0.6), blur=0.15, alpha=0.85, inside=face)
    cheek = ellipse((x + rx * 0.8, y + ry * 0.4), rx * 0.5, ry * 0.6)
    sketch.mark(cheek, 50.1, tint(skin, -0.5), blur=1.2, alpha=0.25, inside=face)
    if rng.random() < 0.12:
        beard = outline(
            [(x - rx, y + ry * 0.2), (x - rx * 0.6, y + ry * 0.55), (x, y + ry * 0.42), (x + rx * 0.6, y + ry * 0.55)],
            [(x + rx, y + ry * 0.2), (x + rx * 0.6, y + ry * 0.95), (x, y + ry * 1.08), (x - rx * 0.6, y + ry * 0.95)],
        )
        sketch.mark(beard, 50.25, rng.choice(_HAIR_COLOURS[:5]), blur=0.4, alpha=0.75)


def blend_colour(first: Colour, second: Colour, share: float) -> Colour:
    return tuple(round(a + (b - a) * share) for a, b in zip(first, second, strict=True))  # type: ignore[return-value]


def _hair(sketch: Sketch, body: Body, hair: str, colour: Colour, rng: random.Random) -> None:
    if hair == "bald":
        return
    (x, y), (rx, ry) = body.head, body.head_radius
    parting = rng.uniform(-0.5, 0.5) * rx
    line = y - ry * rng.uniform(0.42, 0.62)
    side_end = y + ry * (0.15 if hair in ("short", "crop", "bun", "ponytail", "afro") else 0.5)
    lift = {"crop": 0.25, "short": 0.7, "afro": 1.0, "curly": 1.3}.get(hair, 0.8)
    wide = rx + (0.25 if hair == "crop" else 0.7)
    fall = line if hair != "fringe" else y - ry * 0.2
    cap = outline(
        [(x - wide, side_end), (x - wide - 0.2, y - ry * 0.3), (x - rx * 0.7, y - ry - lift * 0.6), (x, y - ry - lift),
         (x + rx * 0.7, y - ry - lift * 0.6), (x + wide + 0.2, y - ry * 0.3), (x + wide, side_end)],
        [(x + rx * 0.86, side_end), (x + rx * 0.84, y - ry * 0.25), (x + parting + rx * 0.3, fall), (x + parting,
        fall - 0.3)],
        [(x + parting - rx * 0.3, fall), (x - rx * 0.84, y - ry * 0.25), (x - rx * 0.86, side_end)],
    )  # fmt: skip
    sketch.add(cap, 55.0, HAIR, colour=colour, axis=((x, y - ry), (x, y + ry)), shadow=0.4)
    for _ in range(5):
        at = rng.uniform(-0.9, 0.9)
        strand = outline(
            [
                (x + parting * 0.5, y - ry - lift * 0.7),
                (x + at * rx * 0.8, y - ry * 0.7),
                (x + at * wide * 1.1, side_end),
            ],
            closed=False,
        )
        sketch.mark(
            strand, 55.1, tint(colour, rng.choice([-0.4, 0.16, 0.25])), stroke=0.5, blur=0.25, alpha=0.6, inside=cap
        )
    reach = {"long": rng.uniform(8, 17), "shoulder": rng.uniform(3, 6), "bob": rng.uniform(-1.5, 1.5),
        "fringe": rng.uniform(0, 8),
             "curly": rng.uniform(0, 9), "braids": rng.uniform(8, 16)}.get(hair)  # fmt: skip
    if reach is not None:
        bottom = y + ry + reach
        spread = wide + rng.uniform(0.6, 2.0) + (1.8 if hair == "curly" else 0.0)
        back = outline(
            [(x - spread, bottom), (x - spread - 0.3, y + ry * 0.4), (x - wide, y - ry * 0.5), (x, y - ry - lift * 0.8),
             (x + wide, y - ry * 0.5), (x + spread + 0.3, y + ry * 0.4), (x + spread, bottom)],
            [(x + spread * 0.3, bottom + 1), (x - spread * 0.4, bottom + 0.6)],
        )  # fmt: skip
        sketch.add(back, 5.0, HAIR, colour=tint(colour, -0.3))
        for sign in (-1, 1):
            if hair in ("bob", "shoulder") or rng.random() < 0.75:
                thick = 3.6 if hair != "braids" else 1.8
                end = (x + sign * (spread - 0.8 + rng.uniform(-0.4, 0.8)), bottom + rng.uniform(-1, 1))
                lock = tube(
                    [(x + sign * rx * 0.86, y - ry * 0.35), (x + sign * (wide + 0.2), y + ry * 0.35),
                     (x + sign * (spread - 0.3), y + ry + reach * 0.4), end],
                    [1.6, thick * 0.66, thick, thick * 0.4], round_end=True,
                )  # fmt: skip
                sketch.add(lock, 54.0, HAIR, colour=colour, axis=((x + sign * wide, y), end))
                strand = outline(
                    [(x + sign * rx, y), (x + sign * (spread - 0.4), y + ry + reach * 0.4), end], closed=False
                )
                sketch.mark(strand, 54.1, tint(colour, 0.2), stroke=0.6, blur=0.3, alpha=0.6, inside=lock)
    if hair == "bun":
        sketch.add(ellipse((x + parting, y - ry - 1.4), 2.6, 2.2), 49.0, HAIR, colour=colour)
    if hair == "ponytail":
        sign = rng.choice([-1, 1])
        tail = tube(
            [(x + sign * rx * 0.5, y - ry * 0.7), (x + sign * (rx + 2.6), y), (x + sign * (rx + 1.6), y + ry + 6)],
            [2.2, 3.6, 1.0], round_end=True,
        )  # fmt: skip
        sketch.add(tail, 5.0, HAIR, colour=tint(colour, -0.12))
    if hair in ("afro", "curly"):
        count, size, low = (13, 3.0, 0.3) if hair == "afro" else (11, 2.1, 0.8)
        cloud = skia.Path()
        for index in range(count):
            share = index / (count - 1) * 2 - 1
            height = y - ry * (0.75 - (abs(share) ** 2) * (0.75 + low)) - (1.5 if hair == "afro" else 0.2)
            cloud.addPath(ellipse((x + share * (rx + 1.2), height), size, size * rng.uniform(0.9, 1.2)))
        sketch.add(cloud, 49.0, HAIR, colour=colour)


def _seat(sketch: Sketch, body: Body, rng: random.Random) -> None:
    left, right = body.legs[0][0], body.legs[1][0]
    colour = rng.choice([(120, 96, 70), (70, 70, 74), (150, 146, 140), (90, 50, 40), (200, 196, 190)])
    top = left[1] + 4
    wide = rng.uniform(3, 12)
    seat = skia.Path()
    seat.addRoundRect(skia.Rect.MakeLTRB(left[0] - wide - 5, top, right[0] + wide + 5, top + 6), 1.5, 1.5)
    sketch.add(seat, 3.0, OTHER, colour=colour)
    box = skia.Path()
    box.addRect(skia.Rect.MakeLTRB(left[0] - wide - 3, top + 5, right[0] + wide + 3, 97))
    sketch.add(box, 2.9, OTHER, colour=tint(colour, -0.3))
