"""Fine-tuning of a Florence-2: one row a prompt, each picture looked at once, the loss computed here from the logits.

Tasks that the checkpoint was not made for (questions, attributes) are trained in our own words, and its config.json
then lists them as `vlm_tasks`; the others stay in Florence-2's words, so that nothing it knows is unlearnt.
"""

# B images, I image tokens, R prompts, S prompt tokens, T target tokens, N labelled target tokens, D width, V vocabulary

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import Florence2ForConditionalGeneration, Florence2Processor

from tasks import TASKS
from vlm.config import TrainConfig
from vlm.families.florence2 import Florence2, encode_prompts, prompt_ids, target_ids
from vlm.families.florence2_tasks import NATIVE
from vlm.families.transformers_family import checkpoint_tasks
from vlm.model import OneLookOutput
from vlm.model.losses import shift_right, sum_losses

if TYPE_CHECKING:
    from vlm.data.mixture import Sample

__all__ = ["Florence2Collator", "Florence2Prompts", "Florence2Recipe", "TrainableFlorence2"]


class TrainableFlorence2(Florence2ForConditionalGeneration):
    """With a forward pass for training; its weights have the names of the model that it is exported as."""

    def forward(  # type: ignore[override]
        self,
        pixel_values: Tensor,
        image_rows: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        token_weights: Tensor,
        **_: Any,
    ) -> OneLookOutput:
        """Loss of every target token.

        Args:
            pixel_values: B pictures.
            image_rows: R, which picture each prompt is about.
            input_ids, attention_mask: R x S, padded on the right.
            labels: R x T, the targets themselves, not shifted; -100 for padding.
            token_weights: R x T.
        """
        features_BID = self.get_image_features(pixel_values).pooler_output
        memory = encode_prompts(self, features_BID[image_rows], input_ids, attention_mask)
        # Shifted here, and the labels kept from transformers: some versions shift them again (or do it differently).
        text = self.config.text_config
        hidden_RTD = self.model(
            **memory.arguments(),
            decoder_input_ids=shift_right(labels, text.decoder_start_token_id, text.pad_token_id),
            use_cache=False,
        ).last_hidden_state
        valid_RT = labels != -100
        logits_NV = self.get_output_embeddings()(hidden_RTD[valid_RT]).float()
        losses_N = F.cross_entropy(logits_NV, labels[valid_RT], reduction="none")
        loss_sum, num_tokens, token_loss = sum_losses(losses_N, valid_RT, token_weights)
        return OneLookOutput(
            loss=loss_sum / num_tokens.clamp(min=1e-6),
            loss_sum=loss_sum,
            num_tokens=num_tokens,
            token_loss=token_loss,
        )


class Florence2Prompts:
    """What a training sample takes from the checkpoint's processor.

    Args:
        processor: of the checkpoint.
        config: of the model.
    """

    def __init__(self, processor: Florence2Processor, config: Any) -> None:
        self.processor = processor
        self.tasks = checkpoint_tasks(NATIVE, config.vlm_tasks)
        self.max_positions = int(config.text_config.max_position_embeddings)

    def encode_prompt(self, text: str) -> list[int]:
        return prompt_ids(self.processor, text, self.max_positions)

    def encode_target(self, text: str) -> list[int]:
        """With the beginning, which its generation forces, and the end.

        Raises:
            ValueError: more tokens than the decoder has positions.
        """
        ids = target_ids(self.processor.tokenizer, text)
        if len(ids) > self.max_positions:
            raise ValueError(f"the target has {len(ids)} tokens, at most {self.max_positions}: {text[:60]!r}...")
        return ids

    def pixels(self, image: Image.Image, patch_budget: int) -> Tensor:
        """In the size of the checkpoint; a budget of patches is for models that have a choice."""
        found: Tensor = self.processor.image_processor([image], return_tensors="pt")["pixel_values"][0]
        return found

    def save_pretrained(self, path: str | Path) -> None:
        self.processor.save_pretrained(str(path))


class Florence2Collator:
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
            "token_weights": padded(
                [[row[3].weight] * length for row, length in zip(rows, lengths, strict=True)], 0.0, torch.float32
            ),
            "task_ids": padded([[row[4]] * length for row, length in zip(rows, lengths, strict=True)], -1),
            "positions": [sample.position for sample in samples],
            "record_ids": [sample.record_id for _, sample, _, _, _ in rows],
        }


class Florence2Recipe:
    """How `vlm.train` makes, feeds and exports a Florence-2 (see `vlm.recipe`)."""

    def __init__(self, config: TrainConfig) -> None:
        for name in ("shape", "tokenizer", "compile", "activation_checkpointing"):
            if getattr(config, name):
                raise ValueError(
                    f"{name} is set, but {config.model} is a Florence-2, which brings its own; drop {name}"
                )
        self.config = config

    def build_model(self, *, resume: bool = False) -> TrainableFlorence2:
        """Raises ValueError where the folder is not a whole checkpoint."""
        path = Path(self.config.model)
        self.source = Florence2.from_pretrained(path, device=torch.device("cpu"), dtype=torch.float32)
        model = TrainableFlorence2(self.source.model.config)
        model.load_state_dict(self.source.model.state_dict())
        model.generation_config = self.source.model.generation_config
        asked = {
            name
            for stage in self.config.data.stages
            for name, weight in stage.task_weights.items()
            if weight > 0 and name not in NATIVE
        }
        own = asked | set(getattr(model.config, "vlm_tasks", None) or ())
        model.config.vlm_tasks = [name for name in TASKS if name in own]
        return model

    def build_processor(self, model: Any, records: Any) -> Florence2Prompts:
        return Florence2Prompts(self.source.processor, model.config)

    def require_engine(self, name: str) -> None:
        if name != "replicated":
            raise ValueError(f"model {self.config.model}: a Florence-2 is trained in one process or DDP; do not shard")

    def note(self, model: Any) -> None:
        """Nothing: all of it is in the checkpoint."""

    def collator(self, prompts: Florence2Prompts) -> Florence2Collator:
        return Florence2Collator(int(prompts.processor.tokenizer.pad_token_id))

    def empty_copy(self, model: Any) -> Florence2ForConditionalGeneration:
        copy = Florence2ForConditionalGeneration(model.config)
        copy.generation_config = model.generation_config
        return copy

    def processor_for(self, prompts: Florence2Prompts, model: Any) -> Florence2Processor:
        return prompts.processor

    def count(self, model: Any, batch: Mapping[str, Any]) -> dict[str, int]:
        """As `vlm.batches.count`."""
        images = len(batch["pixel_values"])
        tokens = images * int(self.source.processor.num_image_tokens)
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
