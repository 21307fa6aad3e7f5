"""What training a Florence-2 and a T5Gemma 2 have in common: one row a prompt, each picture looked at once, the loss
computed here from the logits.

A family's own file says how a row's memory is made, in which tokens a text is read and said, and which tasks stay in
the family's words; the others are trained in ours, and config.json then lists them as `vlm_tasks`.
"""

# R prompts, T target tokens, N labelled target tokens, D width, V vocabulary

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tasks import TASKS
from vlm.config import TrainConfig
from vlm.families.transformers_decoding import Memory
from vlm.families.transformers_family import TransformersFamily, checkpoint_tasks
from vlm.model import OneLookOutput
from vlm.model.losses import shift_right, sum_losses

if TYPE_CHECKING:
    from vlm.data.mixture import Sample

__all__ = ["RowCollator", "RowPrompts", "TransformersRecipe", "row_losses"]


def row_losses(
    decode: Callable[..., Any],
    logits_of: Callable[[Tensor], Tensor],
    memory: Memory,
    labels_RT: Tensor,
    token_weights_RT: Tensor,
    *,
    start_id: int,
    pad_id: int,
) -> OneLookOutput:
    """Loss of every target token.

    Args:
        decode: takes `memory`'s arguments and `decoder_input_ids`, and gives R x T x D as `last_hidden_state`.
        logits_of: N x D -> N x V.
        memory: of the R prompts.
        labels_RT: the targets themselves, not shifted; -100 for padding.
        token_weights_RT: their weights in the sum.
        start_id: what the decoder reads first.
        pad_id: what it reads in place of padding.
    """
    # Shifted here, and the labels kept from transformers: some versions shift them again (or do it differently).
    hidden_RTD = decode(
        **memory.arguments(), decoder_input_ids=shift_right(labels_RT, start_id, pad_id), use_cache=False
    ).last_hidden_state
    valid_RT = labels_RT != -100
    losses_N = F.cross_entropy(logits_of(hidden_RTD[valid_RT]).float(), labels_RT[valid_RT], reduction="none")
    loss_sum, num_tokens, token_loss = sum_losses(losses_N, valid_RT, token_weights_RT)
    return OneLookOutput(
        loss=loss_sum / num_tokens.clamp(min=1e-6),
        loss_sum=loss_sum,
        num_tokens=num_tokens,
        token_loss=token_loss,
    )


class RowPrompts(abc.ABC):
    """What a training sample takes from the checkpoint's processor.

    Args:
        processor: of the checkpoint.
        config: of the model.
    """

    family: ClassVar[type[TransformersFamily]]
    prompt_ids: ClassVar[Callable[[Any, str, int], list[int]]]
    """(processor, text, most positions) -> tokens; ValueError where the prompt cannot be asked."""
    target_ids: ClassVar[Callable[[Any, str], list[int]]]
    """(tokenizer, text) -> tokens, the end among them."""

    def __init__(self, processor: Any, config: Any) -> None:
        self.processor = processor
        self.tasks = checkpoint_tasks(self.family.native, config.vlm_tasks)
        self.max_prompt, self.max_target = self.positions(config)

    @staticmethod
    @abc.abstractmethod
    def positions(config: Any) -> tuple[int, int]:
        """Most tokens of a prompt, with what stands before it, and of a target."""

    def encode_prompt(self, text: str) -> list[int]:
        """Raises ValueError as `prompt_ids`."""
        return type(self).prompt_ids(self.processor, text, self.max_prompt)

    def encode_target(self, text: str) -> list[int]:
        """Raises ValueError for more tokens than the decoder has positions."""
        ids = type(self).target_ids(self.processor.tokenizer, text)
        if len(ids) > self.max_target:
            raise ValueError(f"the target has {len(ids)} tokens, at most {self.max_target}: {text[:60]!r}...")
        return ids

    def pixels(self, image: Image.Image, patch_budget: int) -> Tensor:
        """In the size of the checkpoint; a budget of patches is for models that have a choice."""
        found: Tensor = self.family.pixels(self.processor, [image])["pixel_values"][0]
        return found

    def save_pretrained(self, path: str | Path) -> None:
        self.processor.save_pretrained(str(path))


class RowCollator:
    """Samples -> one row a prompt, and what the log wants to know of each."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id
        self.task_index = {name: index for index, name in enumerate(TASKS)}

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        rows = [
            (image, sample, prompt, target, self.task_index[task])
            for image, sample in enumerate(samples)
            for prompt, target, task in zip(sample.prompts, sample.targets, sample.tasks, strict=True)
        ]

        def padded(lists: Sequence[Sequence[float]], value: float, dtype: torch.dtype = torch.long) -> Tensor:
            tensors = [torch.tensor(list(items), dtype=dtype) for items in lists]
            return pad_sequence(tensors, batch_first=True, padding_value=value)

        lengths = [len(target.ids) for _, _, _, target, _ in rows]
        return {
            "pixel_values": torch.stack([sample.pixels for sample in samples]),
            "image_rows": torch.tensor([row[0] for row in rows]),
            "input_ids": padded([prompt for _, _, prompt, _, _ in rows], self.pad_token_id),
            "attention_mask": padded([[1] * len(prompt) for _, _, prompt, _, _ in rows], 0),
            "labels": padded([target.ids for _, _, _, target, _ in rows], -100),
            "token_weights": padded([target.weights for _, _, _, target, _ in rows], 0.0, torch.float32),
            "task_ids": padded([[row[4]] * length for row, length in zip(rows, lengths, strict=True)], -1),
            "positions": [sample.position for sample in samples],
            "record_ids": [sample.record_id for _, sample, _, _, _ in rows],
        }


class TransformersRecipe(abc.ABC):
    """How `vlm.train` makes, feeds and exports a model of such a family (see `vlm.recipe`).

    Args:
        config: of the run.

    Raises:
        ValueError: it asks for what only a model of our own has.
    """

    label: ClassVar[str]
    """What a model of the family is called, with its article."""
    family: ClassVar[type[TransformersFamily]]
    """Whose `model_class` is what is exported."""
    trained_family: ClassVar[type[TransformersFamily]]
    """The same with a `model_class` that has a forward pass for training, under the same names of weights."""
    prompts: ClassVar[type[RowPrompts]]
    kept: ClassVar[frozenset[str]] = frozenset()
    """Tasks that are trained in the family's own words, so that nothing it knows is unlearnt."""

    def __init__(self, config: TrainConfig) -> None:
        for name in ("shape", "tokenizer", "compile", "activation_checkpointing"):
            if getattr(config, name):
                raise ValueError(
                    f"{name} is set, but {config.model} is {self.label}, which brings its own; drop {name}"
                )
        self.config = config

    def build_model(self, *, resume: bool = False) -> Any:
        """Raises ValueError where the folder is not a whole checkpoint."""
        source = self.trained_family.from_pretrained(
            Path(self.config.model), device=torch.device("cpu"), dtype=torch.float32
        )
        self.processor, model = source.processor, source.model
        asked = {
            name
            for stage in self.config.data.stages
            for name, weight in stage.task_weights.items()
            if weight > 0 and name not in self.kept
        }
        own = asked | set(getattr(model.config, "vlm_tasks", None) or ())
        model.config.vlm_tasks = [name for name in TASKS if name in own]
        return model

    def build_processor(self, model: Any, records: Any) -> RowPrompts:
        return self.prompts(self.processor, model.config)

    def require_engine(self, name: str) -> None:
        if name != "replicated":
            raise ValueError(f"model {self.config.model}: {self.label} is trained in one process or DDP; do not shard")

    def note(self, model: Any) -> None:
        return None  # all of it is in the checkpoint

    def collator(self, prompts: RowPrompts) -> RowCollator:
        return RowCollator(int(prompts.processor.tokenizer.pad_token_id))

    def empty_copy(self, model: Any) -> Any:
        copy = self.family.model_class(deepcopy(model.config))
        copy.generation_config = model.generation_config
        return copy

    def merged(self, model: Any) -> Any:
        return model

    def processor_for(self, prompts: RowPrompts, model: Any) -> Any:
        return prompts.processor

    @property
    @abc.abstractmethod
    def num_image_tokens(self) -> int:
        """Of one image."""

    def count(self, model: Any, batch: Mapping[str, Any]) -> dict[str, int]:
        """As `vlm.batches.count`."""
        images = len(batch["pixel_values"])
        tokens = images * self.num_image_tokens
        return {
            "images": images,
            "prompts": len(batch["labels"]),
            "target_tokens": int((batch["labels"] != -100).sum()),
            "target_positions": batch["labels"].numel(),
            "image_tokens": tokens,
            "image_positions": tokens,
        }

    def flops(self, model: Any, batch: Mapping[str, Any]) -> int:
        return 0  # not known
