"""Fine-tuning of a Florence-2.

Tasks that the checkpoint was not made for (questions, attributes) are trained in our own words; the others stay in
Florence-2's words, so that nothing it knows is unlearnt.
"""

# B images, I image tokens, R prompts, S prompt tokens, T target tokens, D width

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import Florence2ForConditionalGeneration

from vlm.families.florence2 import Florence2, encode_prompts, prompt_ids, target_ids
from vlm.families.florence2_tasks import NATIVE
from vlm.families.transformers_training import RowPrompts, TransformersRecipe, row_losses
from vlm.model import OneLookOutput

__all__ = ["Florence2Prompts", "Florence2Recipe", "TrainableFlorence2"]


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
        text = self.config.text_config
        return row_losses(
            self.model,
            self.get_output_embeddings(),
            encode_prompts(self, features_BID[image_rows], input_ids, attention_mask),
            labels,
            token_weights,
            start_id=text.decoder_start_token_id,
            pad_id=text.pad_token_id,
        )


class _Trained(Florence2):
    model_class = TrainableFlorence2


class Florence2Prompts(RowPrompts):
    family = Florence2
    prompt_ids = staticmethod(prompt_ids)
    target_ids = staticmethod(target_ids)

    @staticmethod
    def positions(config: Any) -> tuple[int, int]:
        most = int(config.text_config.max_position_embeddings)
        return most, most


class Florence2Recipe(TransformersRecipe):
    label = "a Florence-2"
    family = Florence2
    trained_family = _Trained
    prompts = Florence2Prompts
    kept = frozenset(NATIVE)

    @property
    def num_image_tokens(self) -> int:
        return int(self.processor.num_image_tokens)
