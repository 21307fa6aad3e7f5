"""How light falls on a scene."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LIGHTS", "Light"]


@dataclass(frozen=True, kw_only=True)
class Light:
    """How light falls.

    Attributes:
        side: -1 from the image's left, 1 from its right, 0 from above.
        hard: how deep shadows are, 0..1.
        tint: factors on red, green, blue.
        brightness: factor on the whole picture.
    """

    side: float
    hard: float
    tint: tuple[float, float, float]
    brightness: float


LIGHTS: dict[str, Light] = {
    "overcast": Light(side=0.1, hard=0.3, tint=(0.99, 1.0, 1.02), brightness=1.0),
    "sun from the left": Light(side=-0.8, hard=0.9, tint=(1.04, 1.0, 0.95), brightness=1.06),
    "sun from the right": Light(side=0.8, hard=0.9, tint=(1.04, 1.0, 0.95), brightness=1.06),
    "warm evening": Light(side=0.5, hard=0.6, tint=(1.10, 1.0, 0.84), brightness=0.95),
    "lamps": Light(side=-0.3, hard=0.4, tint=(1.07, 1.0, 0.86), brightness=0.92),
    "flash": Light(side=0.0, hard=0.5, tint=(1.0, 1.0, 1.0), brightness=1.08),
    "dim": Light(side=0.3, hard=0.4, tint=(0.96, 0.98, 1.05), brightness=0.82),
}
