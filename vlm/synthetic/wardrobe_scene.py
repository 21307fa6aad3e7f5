"""What is in a drawn picture: who, where, in which light, and what is worn. Nothing here draws.

`draw_scene` samples an outfit that someone might wear. What it says of a garment is what the drawing shows if nothing
covers it; whether it is seen is decided later, from the masks.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from tasks.ontology import attributes_of, default_ontology
from vlm.synthetic import choices

__all__ = ["CELL_KEYS", "Scene", "Worn", "draw_scene"]

SCENE_KEYS = ("kind", "pose", "build", "skin_tone", "hair", "crop", "background", "light")
CELL_KEYS = ("garment", *SCENE_KEYS, *default_ontology().values)
"""What a cell of a plan may fix: the garment, its attributes, and the scene around it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Worn:
    """A garment in a scene.

    Attributes:
        label: garment of the ontology.
        attributes: attribute -> values that the drawing shows where nothing covers them.
        slot: where on the body, e.g. "top", "outer", "feet", "head".
        layer: painter's order; higher is further out.
        tucked: the hem goes into what is worn below.
    """

    label: str
    attributes: Mapping[str, tuple[str, ...]]
    slot: str
    layer: int
    tucked: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """A picture before it is drawn.

    Attributes:
        kind: "person", "flat" (laid out, shot from above) or "hanger".
        skin_tone: 1 to 10 on the Monk scale; only a person shows it.
        crop: "full", "upper" (head to thighs) or "lower" (waist to feet).
    """

    kind: str
    pose: str
    build: str
    skin_tone: int
    hair: str
    crop: str
    background: str
    light: str
    garments: tuple[Worn, ...]


def draw_scene(rng: random.Random, cell: Mapping[str, str | int] | None = None) -> Scene:
    """A plausible scene.

    Args:
        cell: values to force, by the names in `CELL_KEYS`; e.g. {"garment": "coat", "colour": "navy"}. Attributes
            belong to the garment of the cell, or to one that can have them where the cell names none.

    Raises:
        ValueError: an unknown key or value, or an attribute that the garment cannot have; lists the known ones.
    """
    target, wanted = _checked(rng, cell or {})
    forced = {key: str(value) for key, value in (cell or {}).items() if key in SCENE_KEYS}

    def pick(name: str, weights: Mapping[str, float]) -> str:
        return forced.get(name) or choices.weighted(rng, weights)

    kind = pick("kind", choices.KINDS)
    if "kind" not in forced and {"pose", "crop", "skin_tone", "hair", "build"} & set(forced):
        kind = "person"
    background = forced.get("background")
    if "kind" not in forced and background is not None:
        kind = kind if background in choices.FLAT_BACKGROUNDS else "person"
        kind = "flat" if background not in choices.BACKGROUNDS else kind
    crop = "full"
    if kind == "person":
        crop = pick("crop", choices.CROPS)
        if "crop" not in forced and target is not None:
            crop = _crop_that_shows(target, crop)
        garments = _outfit(rng, target, wanted)
    else:
        hangs = {name: weight for name, weight in choices.FLAT.items() if kind == "flat" or choices.hangs(name)}
        label = target or choices.weighted(rng, hangs)
        if kind == "hanger" and not choices.hangs(label):
            if "kind" in forced:
                raise ValueError(f"{label} does not hang on a hanger; draw it flat or worn")
            kind = "flat"
        garments = [_worn(rng, label, wanted)]
    return Scene(
        kind=kind,
        pose=pick("pose", choices.POSES) if kind == "person" else "laid out",
        build=pick("build", choices.BUILDS),
        skin_tone=int(forced.get("skin_tone") or rng.randint(1, 10)),
        hair=pick("hair", choices.HAIR),
        crop=crop,
        background=background
        or choices.weighted(rng, choices.BACKGROUNDS if kind == "person" else choices.FLAT_BACKGROUNDS),
        light=pick("light", choices.LIGHTS),
        garments=tuple(sorted(garments, key=lambda worn: worn.layer)),
    )


def _checked(rng: random.Random, cell: Mapping[str, str | int]) -> tuple[str | None, dict[str, str]]:
    """(garment, its forced attributes) of a cell."""
    ontology = default_ontology()
    known: dict[str, tuple[str, ...]] = {
        "kind": tuple(choices.KINDS),
        "pose": tuple(choices.POSES),
        "build": tuple(choices.BUILDS),
        "skin_tone": tuple(map(str, range(1, 11))),
        "hair": tuple(choices.HAIR),
        "crop": tuple(choices.CROPS),
        "background": tuple({**choices.BACKGROUNDS, **choices.FLAT_BACKGROUNDS}),
        "light": tuple(choices.LIGHTS),
        "garment": tuple(ontology.garments),
        **ontology.values,
    }
    for key, value in cell.items():
        if key not in known:
            raise ValueError(f"a cell has no {key!r}; known: {', '.join(CELL_KEYS)}")
        if str(value) not in known[key]:
            raise ValueError(f"{key} cannot be {value!r}; use one of: {', '.join(known[key])}")
    wanted = {name: str(cell[name]) for name in ontology.values if name in cell}
    if "garment" in cell:
        label = str(cell["garment"])
        for name, value in wanted.items():
            if not choices.possible(label, name, value):
                raise ValueError(
                    f"a drawn {label} cannot have the {name} {value!r}; "
                    f"it can have: {', '.join(choices.drawable(label, name)) or 'none'}"
                )
        return label, wanted
    if not wanted:
        return None, wanted
    able = {
        label: weight
        for label, weight in choices.COMMON.items()
        if all(choices.possible(label, name, value) for name, value in wanted.items())
    }
    if not able:
        raise ValueError(f"no garment can be drawn with all of {wanted}; drop one of them or name the garment")
    return choices.weighted(rng, able), wanted


def _crop_that_shows(label: str, crop: str) -> str:
    slot = choices.slot_of(label)
    if slot in ("feet", "legwear", "lower", "whole"):
        return "full" if crop == "upper" else crop
    if slot in ("top", "outer", "mid", "head", "eyes", "neck", "ears", "back", "chest", "collar"):
        return "full" if crop == "lower" else crop
    return crop


def _worn(rng: random.Random, label: str, wanted: Mapping[str, str] | None = None, slot: str | None = None) -> Worn:
    """A garment with a value for each of its attributes."""
    wanted = dict(wanted or {})
    slot = slot or choices.slot_of(label)
    found: dict[str, tuple[str, ...]] = {}
    for name in attributes_of(label):
        found[name] = (wanted[name],) if name in wanted else (choices.value(rng, label, name),)
    found = choices.agreed(rng, label, found, wanted)
    return Worn(label=label, attributes=found, slot=slot, layer=choices.LAYERS[slot])


def _outfit(rng: random.Random, target: str | None, wanted: Mapping[str, str]) -> list[Worn]:
    """Garments that go together; `target`, where given, is one of them."""
    taken: dict[str, Worn] = {}
    place = None if target is None else "top" if target == "bodysuit" else choices.slot_of(target)

    def put(table: Mapping[str, float], slot: str, chance: float = 1.0) -> None:
        """The target where it belongs in this slot, or one of the table."""
        if place == slot and target is not None:
            taken[slot] = _worn(rng, target, wanted, slot)
        elif rng.random() < chance:
            taken[slot] = _worn(rng, choices.weighted(rng, table), None, slot)

    if place == "whole" or (place not in ("top", "lower") and rng.random() < 0.2):
        put(choices.WHOLE, "whole")
    else:
        put({**choices.TOPS, "bodysuit": 0.3}, "top")
        put(choices.LOWER, "lower")
        if taken["top"].label in ("shirt", "blouse") and place != "top":
            put(choices.MID, "mid", 0.16)
    put(choices.OUTER, "outer", 0.42)
    _tuck(rng, taken, target)
    bare = any(
        taken[slot].label in ("skirt", "dress", "shorts") and taken[slot].attributes["length"] != ("maxi",)
        for slot in ("whole", "lower")
        if slot in taken
    )
    if target == "tights" and not bare:  # nothing of them would be seen
        taken.pop("whole", None)
        taken.setdefault("top", _worn(rng, choices.weighted(rng, choices.TOPS)))
        taken["lower"] = _worn(rng, "skirt", {"length": rng.choice(["mini", "above knee", "knee"])})
    put({"tights": 3.0, "socks": 1.4} if bare else {"socks": 1.0}, "legwear", 0.3 if bare else 0.12)
    put(choices.SHOES, "feet", 0.985)
    for slot, labels in choices.EXTRAS.items():
        label = choices.maybe(rng, labels)
        if slot == place and target is not None:
            taken[slot] = _worn(rng, target, wanted)
        elif label and (slot != "collar" or _has_collar(taken)):
            taken[slot] = _worn(rng, label)
    if "collar" in taken and not _has_collar(taken):  # a tie wants a collar to hang from
        taken.pop("whole", None)
        taken["top"] = _worn(rng, "shirt", {"neckline": "collared", "closure": "buttoned"})
        taken.setdefault("lower", _worn(rng, "trousers"))
        _tuck(rng, taken, target)
    if "collar" in taken:
        taken.pop("chest", None)
        if target != "scarf":
            taken.pop("neck", None)
    return list(taken.values())


def _has_collar(taken: Mapping[str, Worn]) -> bool:
    top = taken.get("top")
    return top is not None and top.label == "shirt" and _first(top, ("neckline", "closure")) == ["collared", "buttoned"]


def _first(worn: Worn, names: Iterable[str]) -> list[str]:
    return [worn.attributes[name][0] for name in names]


def _tuck(rng: random.Random, taken: dict[str, Worn], target: str | None) -> None:
    top = taken.get("top")
    if top is None or "lower" not in taken:
        return
    often = 0.5 if taken["lower"].label in ("skirt", "trousers") else 0.3
    if top.label in ("sweatshirt", "hoodie", "kurta", "cardigan") or _first(top, ["length"])[0] not in (
        "hip",
        "cropped",
    ):
        often = 0.0
    if top.label == "bodysuit" or rng.random() < (often * 0.4 if top.label == target else often):
        taken["top"] = replace(top, tucked=True)
