"""Factors on the losses of single tokens of a target: of an attribute's values by how rare they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.attributes import value_spans
from tasks.results import Attributes
from vlm.data.rare import Label

__all__ = ["token_factors"]


def token_factors(
    label: Attributes, text: str, ids: Sequence[int], tokenizer: Any, weights: Mapping[Label, float]
) -> list[float]:
    """A factor for each of a target's tokens: those of a value have the value's weight, all others 1.

    Args:
        label: what the target says.
        text: the target, as `AttributesTask.target` wrote it.
        ids: the target's tokens: those of the text, and special ones around it.
        weights: (attribute, value) -> factor; see `vlm.data.rare.value_weights`. 1 for what is not in it.

    Raises:
        ValueError: the tokens are not those of the text.
    """
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    inner = list(encoded["input_ids"])
    starts = [start for start in range(len(ids) - len(inner) + 1) if list(ids[start : start + len(inner)]) == inner]
    if not starts:
        raise ValueError(f"the tokens {list(ids)} do not hold those of {text!r}")
    by_character = [1.0] * len(text)
    for name, word, start, end in value_spans(label):
        by_character[start:end] = [weights.get((name, word), 1.0)] * (end - start)
    factors = [1.0] * len(ids)
    for number, (start, end) in enumerate(encoded["offset_mapping"], starts[0]):
        # A token may begin with the space before its word.
        factors[number] = max(by_character[start:end], key=lambda factor: abs(factor - 1), default=1.0)
    return factors
