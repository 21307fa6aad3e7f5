"""Bodies: a jointed figure in a pose, and where on it cloth can lie.

A standing figure is 100 units high: crown at y = 0, soles at 97.5. `level` is the height on a standing figure (waist
37.5, hips 47.5, knees 71.5, ankles 92.5); `Body.edge` turns it into a place on the posed one.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

from vlm.synthetic.paths import Point, along, blend

__all__ = ["ANKLE", "BUILDS", "FLAT_POSES", "HIP", "KNEE", "MONK", "Body", "pose_body"]

SHOULDER, ARMPIT, CHEST, WAIST, HIP, KNEE, ANKLE = 19.0, 25.0, 28.0, 37.5, 47.5, 71.5, 92.5

MONK = ("f6ede4", "f3e7db", "f7ead0", "eadaba", "d7bd96", "a07e56", "825c43", "604134", "3a312a", "292420")
"""The Monk skin tone scale 1 to 10 (E. Monk, skintone.google), as published."""


@dataclass(frozen=True, kw_only=True)
class Build:
    """Half widths of the trunk in units, and factors on limbs and head."""

    shoulder: float
    chest: float
    waist: float
    hip: float
    limb: float
    head: float = 1.0


BUILDS: Mapping[str, Build] = {
    "slim": Build(shoulder=8.4, chest=6.9, waist=5.6, hip=7.9, limb=0.84),
    "regular": Build(shoulder=9.2, chest=7.8, waist=6.6, hip=8.6, limb=0.95),
    "broad": Build(shoulder=10.8, chest=9.0, waist=7.9, hip=8.7, limb=1.06),
    "curvy": Build(shoulder=9.2, chest=8.6, waist=6.9, hip=10.2, limb=1.08),
    "large": Build(shoulder=10.9, chest=10.2, waist=10.4, hip=11.2, limb=1.25),
    "small": Build(shoulder=8.6, chest=7.2, waist=6.4, hip=8.0, limb=0.92, head=1.16),
}


@dataclass(frozen=True)
class Body:
    """A posed figure. Pairs are (image left, image right)."""

    build: Build
    head: Point
    head_radius: tuple[float, float]
    neck: Point
    spine: tuple[Point, Point]
    turn: float
    tilt: float
    arms: tuple[tuple[Point, Point, Point], tuple[Point, Point, Point]]
    hands: tuple[Point, Point]
    arms_behind: tuple[bool, bool]
    in_pocket: tuple[bool, bool]
    legs: tuple[tuple[Point, Point, Point], tuple[Point, Point, Point]]
    toes: tuple[Point, Point]
    front_leg: int
    sitting: bool
    arm_widths: tuple[float, float, float, float, float]
    leg_widths: tuple[float, float, float, float, float]

    def trunk(self, u: float, level: float) -> Point:
        """A point of the trunk; `u` is units to the right of the spine on a figure that faces us."""
        (top_x, top_y), (low_x, low_y) = self.spine
        share = (level - SHOULDER) / (HIP - SHOULDER)
        x = top_x + (low_x - top_x) * share
        y = top_y + (low_y - top_y) * share
        return (x + u * self.turn, y + u * self.tilt * max(0.0, 1 - share))

    def half(self, level: float) -> float:
        """Half width of the trunk at a level."""
        build = self.build
        marks = (
            (ARMPIT, build.chest * 1.02), (CHEST + 1, build.chest), (WAIST, build.waist), (42.5, build.hip * 0.93),
            (HIP + 1.5, build.hip),
        )  # fmt: skip
        if level <= marks[0][0]:
            return marks[0][1]
        for (low, first), (high, second) in itertools.pairwise(marks):
            if level <= high:
                share = (level - low) / (high - low)
                share = share * share * (3 - 2 * share)
                return first + (second - first) * share
        return marks[-1][1]

    def leg(self, side: int, level: float) -> tuple[Point, float]:
        """(centre, half width) of a leg at a level below the hips."""
        at = (level - HIP - 1.5) / (KNEE - HIP - 1.5) if level <= KNEE else 1 + (level - KNEE) / (ANKLE - KNEE)
        at = max(0.0, at)
        spot = min(at * 2, 4.0)
        index = min(int(spot), 3)
        widths = self.leg_widths
        width = widths[index] + (widths[index + 1] - widths[index]) * (spot - index)
        points = self.legs[side]
        if at > 2:  # past the ankle, straight on
            return blend(points[1], points[2], at - 1), width / 2
        return along(points, at), width / 2

    def arm(self, side: int, at: float) -> tuple[Point, float]:
        """(centre, half width) of an arm; 0 at the shoulder, 1 at the elbow, 2 at the wrist."""
        spot = min(at * 2, 4.0)
        index = min(int(spot), 3)
        width = self.arm_widths[index] + (self.arm_widths[index + 1] - self.arm_widths[index]) * (spot - index)
        points = self.arms[side]
        return (along(points, at) if at <= 2 else blend(points[1], points[2], at - 1)), width / 2

    def edge(self, side: int, level: float, ease: float = 0.0, flare: float = 0.0) -> Point:
        """The outer edge of cloth around the figure at a level.

        Args:
            side: 0 image left, 1 image right.
            ease: units between body and cloth.
            flare: further units for each unit below the hips.
        """
        sign = 2 * side - 1
        if level <= HIP:
            return self.trunk(sign * (self.half(level) + ease), level)
        (left, left_half), (right, right_half) = self.leg(0, level), self.leg(1, level)
        y = (left[1] + right[1]) / 2
        if side == 0:
            limb = min(left[0] - left_half, right[0] - right_half)
        else:
            limb = max(left[0] + left_half, right[0] + right_half)
        middle = (self.spine[1][0] * 0.5 + (left[0] + right[0]) / 4) if level < KNEE else (left[0] + right[0]) / 2
        cloth = middle + sign * self.turn * (self.build.hip * 0.98 + flare * (level - HIP))
        share = min(1.0, (level - HIP) / 8)
        outer = limb + sign * ease
        if sign * (cloth + sign * ease - outer) > 0 or share < 1:
            wide = cloth + sign * ease if flare >= 0 else cloth
            outer = max(outer, wide) if side else min(outer, wide)
        return (outer, y)


_Arm = tuple[float, float]
# pose -> (upper arm, forearm) in degrees from straight down, outwards; below 0 is across the body
_ARMS: Mapping[str, tuple[_Arm, _Arm]] = {
    "standing": ((9, 4), (9, 4)),
    "walking": ((13, 4), (6, 12)),
    "hand on hip": ((40, -52), (8, 3)),
    "hands on hips": ((41, -52), (41, -52)),
    "arms crossed": ((11, -99), (11, -94)),
    "sitting": ((14, -22), (14, -24)),
    "turned": ((8, 10), (7, -4)),
    "arms raised": ((138, 172), (142, 176)),
    "hands in pockets": ((20, -17), (20, -17)),
    "hands in front": ((13, -48), (13, -50)),
    "hand at face": ((24, -148), (9, 4)),
    "hands behind": ((13, -14), (13, -14)),
    "legs crossed": ((10, 2), (10, -20)),
    "one arm out": ((55, 66), (8, 3)),
    **dict.fromkeys(("laid out", "pair from above", "pair from the side"), ((27, 22), (27, 22))),
    "gloves": ((-6, -4), (-6, -4)),
}
# pose -> (thigh, shin) in degrees for each leg, outwards
_LEGS: Mapping[str, tuple[_Arm, _Arm]] = {
    "walking": ((5, -5), (4, -2)),
    "sitting": ((17, -3), (15, -2)),
    "turned": ((5, -3), (6, 2)),
    "legs crossed": ((-2, -9), (-2, -7)),
    "arms raised": ((6, 4), (6, 4)),
    "laid out": ((5, 4), (5, 4)),
    "pair from above": ((-1, 0), (-1, 0)),
    "pair from the side": ((0, 0), (0, 0)),
}
_STAND: tuple[_Arm, _Arm] = ((4, 1), (4, 1))
FLAT_POSES = ("laid out", "gloves", "pair from above", "pair from the side")
"""How cloth and shoes lie that nobody wears."""


def _step(start: Point, sign: float, degrees: float, length: float, aspect: float = 1.0) -> Point:
    angle = math.radians(degrees)
    return (start[0] + sign * math.sin(angle) * length * aspect, start[1] + math.cos(angle) * length)


def pose_body(pose: str, build_name: str, rng: random.Random, *, heels: bool = False) -> Body:
    """A figure in a pose, a little different each time; mirrored half of the time."""
    build = BUILDS[build_name]

    def vary(value: float, by: float) -> float:
        return value + rng.uniform(-by, by)

    flat = pose in FLAT_POSES
    mirror = rng.random() < 0.5 and not flat
    turned = pose == "turned" or (pose == "walking" and rng.random() < 0.4)
    turn = rng.uniform(0.68, 0.84) if turned else rng.uniform(0.92, 1.02)
    if flat:
        turn = 1.0
    sway = 0.0 if flat else rng.uniform(-1.6, 1.6)
    lean = 0.0 if flat else rng.uniform(-1.3, 1.3)
    sink = rng.uniform(10, 14) if pose == "sitting" else 0.0
    spine = ((lean, SHOULDER + sink), (sway, HIP + sink))
    tilt = 0.0 if flat else rng.uniform(-0.06, 0.06)
    arm_pose, leg_pose = _ARMS[pose], _LEGS.get(pose, _STAND)
    if mirror:
        arm_pose, leg_pose = arm_pose[::-1], leg_pose[::-1]
    limb = build.limb * rng.uniform(0.95, 1.06)
    arms, hands, behind, pockets = [], [], [], []
    for side in (0, 1):
        sign = 2 * side - 1
        joint = (spine[0][0] + sign * (build.shoulder - 2.1) * turn, spine[0][1] + 2.7 + sign * (build.shoulder) * tilt)
        jitter = 1.5 if flat else 5.0
        upper, fore = vary(arm_pose[side][0], jitter), vary(arm_pose[side][1], jitter)
        shorter = 0.86 if pose in ("hand at face", "arms crossed", "hands in front") else 1.0
        elbow = _step(joint, sign, upper, 15.6)
        wrist = _step(elbow, sign, fore, 13.4 * shorter)
        arms.append((joint, elbow, wrist))
        hands.append(blend(elbow, wrist, 1 + 3.2 / 13.4))
        behind.append(pose == "hands behind" or (turned and not mirror and side == 1 and rng.random() < 0.5))
        pockets.append(pose == "hands in pockets" and rng.random() < 0.9)
    legs, toes = [], []
    tilted = rng.uniform(-1.0, 4.0)
    stride = rng.uniform(0.5, 1.0) if pose == "walking" else 0.0
    front = rng.randint(0, 1)
    raised = 2.4 if heels else 0.0
    spread = 0.0 if flat else rng.uniform(-1.2, 2.2) * (pose in ("standing", "hands on hips", "arms crossed"))
    for side in (0, 1):
        sign = 2 * side - 1
        start = (spine[1][0] + sign * 4.1 * build.hip / 8.6 * turn, HIP + 1.5 + sink)
        thigh, shin = vary(leg_pose[side][0], 1.0) + spread, vary(leg_pose[side][1], 1.0) + spread
        back = stride if side != front else 0.0
        if pose == "sitting":
            knee = _step(start, sign, thigh, rng.uniform(9.5, 12), 1.3)
            ankle = _step(knee, sign, shin, 21.0 - raised)
        else:
            swing = (9 * stride if turned else 3.5 * stride) * (1 if side == front else -1)
            knee = _step(start, sign, thigh, 22.5 - back * 0.6)
            knee = (knee[0] + swing * 0.5 * (1 if mirror else -1), knee[1])
            ankle = _step(knee, sign, shin, 21.0 - raised - back * 3.4)
            ankle = (ankle[0] + swing * 0.5 * (1 if mirror else -1), ankle[1])
        legs.append((start, knee, ankle))
        facing = (1 if mirror else -1) * rng.uniform(3.0, 5.0) if turned else sign * rng.uniform(0.4, 2.6)
        drop = rng.uniform(3.6, 4.6) + (raised * 1.1)
        if pose == "pair from the side":
            ankle = (ankle[0] + side * 3.0, ankle[1] + side * tilted)
            facing, drop = 5.6, 3.9 + raised * 1.1
        elif pose == "pair from above":
            facing, drop = sign * 0.5, 6.5
        legs[side] = (start, knee, ankle)
        toes.append((ankle[0] + facing, ankle[1] + drop + (0.0 if turned else 0.8)))
    head_scale = build.head * rng.uniform(0.95, 1.06)
    nod = 0.0 if flat else rng.uniform(-1.2, 1.2)
    neck = (spine[0][0], spine[0][1] - 2.2)
    return Body(
        build=build,
        head=(neck[0] + nod + (-1 if not mirror else 1) * (0.8 if turned else 0.0), neck[1] - 10.0 * head_scale),
        head_radius=(4.3 * head_scale, 6.2 * head_scale),
        neck=neck,
        spine=spine,
        turn=turn,
        tilt=tilt,
        arms=(arms[0], arms[1]),
        hands=(hands[0], hands[1]),
        arms_behind=(behind[0], behind[1]),
        in_pocket=(pockets[0], pockets[1]),
        legs=(legs[0], legs[1]),
        toes=(toes[0], toes[1]),
        front_leg=front,
        sitting=pose == "sitting",
        arm_widths=tuple(width * limb for width in (4.9, 4.3, 3.5, 3.3, 2.3)),  # type: ignore[arg-type]
        leg_widths=tuple(width * limb for width in (8.8, 7.8, 5.4, 5.6, 3.2)),  # type: ignore[arg-type]
    )
