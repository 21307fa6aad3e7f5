"""What `vlm train` must know of the family that it trains; the loop, the steps and the checkpoints are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Protocol

from tasks.base import Record
from vlm.adapters import is_adapter
from vlm.batches import count
from vlm.build import build_model, build_processor, note_tower
from vlm.config import TrainConfig
from vlm.data.mixture import PackingCollator
from vlm.families import imported, read_config
from vlm.flops import training_flops
from vlm.model import OneLookModel
from vlm.processor import OneLookProcessor

__all__ = ["RECIPES", "OneLookRecipe", "Recipe", "recipe_of"]


RECIPES: Mapping[str, str] = {
    "onelook": "vlm.recipe:OneLookRecipe",
    "florence2": "vlm.families.florence2_training:Florence2Recipe",
    "t5gemma2": "vlm.families.t5gemma2_training:T5Gemma2Recipe",
}
"""`model_type` in a checkpoint's config.json -> module:class, imported when needed."""


class Recipe(Protocol):
    """A model whose `forward` takes a collated batch and gives `loss_sum` and `token_loss`, and all around it."""

    def build_model(self, *, resume: bool = False) -> Any: ...

    def build_processor(self, model: Any, records: Mapping[str, Sequence[Record]]) -> Any:
        """What `vlm.data.mixture.MixtureDataset` makes samples with."""

    def require_engine(self, name: str) -> None:
        """Raises ValueError where the model cannot be trained by an engine of this name (see `vlm.engines`)."""

    def note(self, model: Any) -> None:
        """Into the run's folder, what it needs to go on."""

    def collator(self, processor: Any) -> Any: ...

    def empty_copy(self, model: Any) -> Any:
        """Of the class and shape that is exported; its weights come after."""

    def merged(self, model: Any) -> Any:
        """A copy into which an adapter was merged, with all else that was trained beside it merged too."""

    def processor_for(self, processor: Any, model: Any) -> Any:
        """What `vlm.api.VLM` takes beside an `empty_copy`, and an exported checkpoint has beside its weights."""

    def count(self, model: Any, batch: dict[str, Any]) -> dict[str, int]: ...

    def flops(self, model: Any, batch: dict[str, Any]) -> int:
        """0 where it is not known."""


class OneLookRecipe:
    """Ours: prompts packed beside their picture."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config

    def build_model(self, *, resume: bool = False) -> OneLookModel:
        return build_model(self.config, resume=resume)

    def build_processor(self, model: Any, records: Mapping[str, Sequence[Record]]) -> OneLookProcessor:
        return build_processor(self.config, model.config, records)

    def require_engine(self, name: str) -> None:
        """Any."""

    def note(self, model: Any) -> None:
        note_tower(self.config, model)

    def collator(self, processor: OneLookProcessor) -> PackingCollator:
        return PackingCollator(processor)

    def empty_copy(self, model: Any) -> OneLookModel:
        """With the patch budget of the last stage."""
        shape = deepcopy(model.config)
        shape.patch_budget = self.config.data.stages[-1].patch_budget
        return OneLookModel(shape)

    def merged(self, model: Any) -> Any:
        return model

    def processor_for(self, processor: OneLookProcessor, model: Any) -> OneLookProcessor:
        return OneLookProcessor(processor.tokenizer, model.config)

    def count(self, model: Any, batch: dict[str, Any]) -> dict[str, int]:
        return count(batch, model.config.stride)

    def flops(self, model: Any, batch: dict[str, Any]) -> int:
        return training_flops(model, batch)


def recipe_of(config: TrainConfig) -> Recipe:
    """By the `model_type` of the checkpoint that the run starts from; ours for a YAML shape.

    Raises:
        ValueError: an adapter, or a checkpoint of a family that is not trained here.
    """
    folder = Path(config.model)
    if is_adapter(folder):
        raise ValueError(
            f"model {config.model!r} is an adapter; go on from its run's `export: merged`, or name its base checkpoint"
        )
    if not (folder / "config.json").is_file():
        return OneLookRecipe(config)
    model_type = read_config(folder).get("model_type")
    if model_type not in RECIPES:
        raise ValueError(
            f"model {config.model}: model_type {model_type!r} is not trained here, only: {', '.join(RECIPES)}"
        )
    recipe: Recipe = imported(RECIPES[model_type])(config)
    return recipe
