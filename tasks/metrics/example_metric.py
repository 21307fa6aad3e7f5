"""What the metrics share: unparseable predictions, example ids, and the form that `evaluate` wants."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any

import evaluate
from datasets import Features, Value

__all__ = ["ExampleMetric", "unique"]


def unique(ids: Sequence[str | None] | None, num: int) -> list[int]:
    """Positions of the first example of every id; all of them without ids, and those whose id is None."""
    if ids is None:
        return list(range(num))
    seen: set[str] = set()
    kept = []
    for position, name in enumerate(ids):
        if name is None or name not in seen:
            kept.append(position)
        if name is not None:
            seen.add(name)
    return kept


class ExampleMetric(evaluate.Metric, abc.ABC):  # type: ignore[misc]  # evaluate is untyped
    """A metric over (prediction, reference) pairs.

    A prediction of None could not be parsed. With `ids` (optional, everywhere that predictions go), examples
    with an id that came before are dropped: distributed samplers pad the last batch with repeats.
    """

    # Abstract, so that `evaluate.load` passes over this class where a metric's file imports it.

    @abc.abstractmethod
    def columns(self) -> Mapping[str, Any]:
        """Name -> `datasets` feature of what an example is made of, predictions and references first."""

    @abc.abstractmethod
    def values(self, columns: Mapping[str, list[Any]]) -> dict[str, Any]:
        """Values of unique examples, given as columns."""

    def _info(self) -> evaluate.MetricInfo:
        columns = dict(self.columns())
        inputs = "".join(f"    {name}: {feature}\n" for name, feature in columns.items())
        return evaluate.MetricInfo(
            description=type(self).__doc__ or "",
            citation="",
            inputs_description=f"\nArgs:\n{inputs}    ids: optional, drops repeated examples\n",
            features=Features({**columns, "ids": Value("string")}),
        )

    # `evaluate` wants every column every time, and no None where a string may stand.

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Add predictions and references."""
        kwargs["ids"] = _texts(kwargs.get("ids"), len(predictions))
        super().add_batch(predictions=predictions, references=references, **kwargs)

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Add one prediction and its reference."""
        kwargs = {name: [value] for name, value in kwargs.items()}
        self.add_batch(predictions=[prediction], references=[reference], **kwargs)

    def compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict[str, Any] | None:
        """Values over everything added, or over the predictions given."""
        if predictions is not None:
            kwargs["ids"] = _texts(kwargs.get("ids"), len(predictions))
        result: dict[str, Any] | None = super().compute(predictions=predictions, references=references, **kwargs)
        return result

    def _enforce_nested_string_type(self, schema: Any, obj: Any) -> Any:
        return None if obj is None else super()._enforce_nested_string_type(schema, obj)

    def _compute(self, **columns: list[Any]) -> dict[str, Any]:
        kept = unique(columns.pop("ids"), len(columns["predictions"]))
        return self.values({name: [column[i] for i in kept] for name, column in columns.items()})


def _texts(ids: Sequence[Any] | None, num: int) -> list[str | None]:
    return [None] * num if ids is None else [None if name is None else str(name) for name in ids]
