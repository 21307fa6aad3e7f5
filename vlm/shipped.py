"""Where configs and model cards are: at the root of a checkout, and beside the code in an installed package."""

from __future__ import annotations

from pathlib import Path

__all__ = ["CARDS", "CHECKOUT", "CONFIGS", "config_file"]

CHECKOUT = Path(__file__).parent.parent / "configs"
CONFIGS = (Path(__file__).parent / "_configs", CHECKOUT)
"""In a wheel, and in a checkout."""
_CARDS_CHECKOUT = Path(__file__).parent.parent / "model_cards"
CARDS = _CARDS_CHECKOUT if _CARDS_CHECKOUT.is_dir() else Path(__file__).parent / "_model_cards"
"""Model cards, the results that they are made of, and the template."""


def config_file(name: Path) -> Path:
    """A file by its path within configs/.

    Raises:
        FileNotFoundError: the package was installed without it.
    """
    for folder in CONFIGS:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"no {name} in {' or '.join(map(str, CONFIGS))}; install the package again")
