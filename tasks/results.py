"""What the tasks give: frozen, validated, JSON-ready.

Every `score` is a probability in [0, 1]. Boxes are pixels of the original image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from tasks.boxes import Box


def _check_score(owner: str, score: float) -> None:
    if not 0.0 <= score <= 1.0:  # NaN fails too
        raise ValueError(f"{owner}.score is {score}; expected a probability in [0, 1]")


def _box_list(box: Box | None) -> list[float] | None:
    return None if box is None else [round(value, 2) for value in box.xyxy]


@dataclass(frozen=True, slots=True)
class Caption:
    """A description. `score` is the geometric mean of its tokens' probabilities."""

    text: str
    score: float = 1.0
    truncated: bool = False

    def __post_init__(self) -> None:
        _check_score("Caption", self.score)

    def to_dict(self) -> dict[str, Any]:
        return {"text": self.text, "score": self.score, "truncated": self.truncated}


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to a question. `score` is the probability of the whole answer."""

    text: str
    score: float = 1.0
    truncated: bool = False

    def __post_init__(self) -> None:
        _check_score("Answer", self.score)

    def to_dict(self) -> dict[str, Any]:
        return {"text": self.text, "score": self.score, "truncated": self.truncated}


@dataclass(frozen=True, slots=True)
class Value:
    """One attribute's value: usually one word, up to two for colours, dominant first."""

    values: tuple[str, ...]
    score: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(self.values))
        if not self.values:
            raise ValueError("Value.values is empty; use ('not visible',) for what cannot be seen")
        _check_score("Value", self.score)

    def __str__(self) -> str:
        return " and ".join(self.values)

    def to_dict(self) -> dict[str, Any]:
        return {"values": list(self.values), "score": self.score}


@dataclass(frozen=True, slots=True)
class Attributes:
    """Attribute name -> Value, in the order asked."""

    values: Mapping[str, Value]
    truncated: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", MappingProxyType(dict(self.values)))

    def __hash__(self) -> int:
        return hash((frozenset(self.values.items()), self.truncated))  # equal in any order, as mappings are

    def __reduce__(self) -> tuple[type[Attributes], tuple[dict[str, Value], bool]]:
        """A read-only view can be neither copied nor pickled; what it shows can."""
        return Attributes, (dict(self.values), self.truncated)

    def to_dict(self) -> dict[str, Any]:
        return {
            "values": {name: value.to_dict() for name, value in self.values.items()},
            "truncated": self.truncated,
        }


@dataclass(frozen=True, slots=True)
class Garment:
    """A garment or accessory: what it is, where it is, and, where asked, its attributes and what else it might be
    called: (word, score), the most probable first."""

    label: str
    box: Box | None = None
    attributes: Attributes | None = None
    score: float = 1.0
    alternatives: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if not self.label:
            raise ValueError("Garment.label is empty; expected a garment word")
        _check_score("Garment", self.score)
        object.__setattr__(self, "alternatives", tuple((word, float(score)) for word, score in self.alternatives))
        for _, score in self.alternatives:
            _check_score("Garment.alternatives", score)

    def to_dict(self) -> dict[str, Any]:
        """`alternatives` is there where there are any."""
        found = {
            "label": self.label,
            "box": _box_list(self.box),
            "score": self.score,
            "attributes": None if self.attributes is None else self.attributes.to_dict()["values"],
        }
        if self.alternatives:
            found["alternatives"] = [{"label": word, "score": score} for word, score in self.alternatives]
        return found


@dataclass(frozen=True, slots=True)
class Detection:
    """Everything worn that was found, largest first."""

    objects: tuple[Garment, ...] = ()
    truncated: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "objects", tuple(self.objects))

    def to_dict(self) -> dict[str, Any]:
        return {"objects": [item.to_dict() for item in self.objects], "truncated": self.truncated}


@dataclass(frozen=True, slots=True)
class Grounding:
    """Where a phrase is: zero or more boxes. `score` is the probability of what was said,
    so for an empty `boxes` it is the probability that the phrase is not in the picture."""

    phrase: str
    boxes: tuple[tuple[Box, float], ...] = ()
    score: float = 1.0
    truncated: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "boxes", tuple((box, float(score)) for box, score in self.boxes))
        for _, score in self.boxes:
            _check_score("Grounding.boxes", score)
        _check_score("Grounding", self.score)

    def to_dict(self) -> dict[str, Any]:
        return {
            "phrase": self.phrase,
            "boxes": [{"box": _box_list(box), "score": score} for box, score in self.boxes],
            "score": self.score,
            "truncated": self.truncated,
        }


@dataclass(frozen=True, slots=True)
class Outfit:
    """What is worn, in words and in fields."""

    summary: str
    garments: tuple[Garment, ...] = ()
    score: float = 1.0
    truncated: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "garments", tuple(self.garments))
        _check_score("Outfit", self.score)

    def to_dict(self) -> dict[str, Any]:
        return {
            "summary": self.summary,
            "score": self.score,
            "truncated": self.truncated,
            "garments": [garment.to_dict() for garment in self.garments],
        }


Result = Caption | Answer | Attributes | Detection | Grounding | Outfit
