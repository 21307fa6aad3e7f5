"""Fine-tuning of a T5Gemma 2: all tasks in our own words, with the tokens that they need and it lacks.

Without an adapter the new tokens are in the model's table, which is trained with all else. With one they lie beside it
(`AddedTokens`): they are trained and saved with the adapter, and the table stays as it is.
"""

# B images, I image tokens, R prompts, S prompt tokens, T target tokens, D width, V vocabulary

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import T5Gemma2ForConditionalGeneration

from vlm.families.t5gemma2 import T5Gemma2, encode_prompts, prompt_ids, target_ids
from vlm.families.t5gemma2_tokens import AddedTokens, add_location_tokens, lay_tokens_beside, merge_tokens
from vlm.families.transformers_decoding import capped
from vlm.families.transformers_training import RowPrompts, TransformersRecipe, row_losses
from vlm.model import OneLookOutput

__all__ = ["T5Gemma2Prompts", "T5Gemma2Recipe", "TrainableT5Gemma2"]


class TrainableT5Gemma2(T5Gemma2ForConditionalGeneration):
    """With a forward pass for training; its weights have the names of the model that it is exported as.

    Attributes:
        added_tokens: of the tokens that lie beside the table; None where there are none.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.added_tokens: AddedTokens | None = None

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
            input_ids, attention_mask: R x S, with the places of the picture's tokens, padded on the right.
            labels: R x T, the targets themselves, not shifted; -100 for padding.
            token_weights: R x T.
        """
        features_BID = self.get_image_features(pixel_values).pooler_output
        decoder = self.config.decoder
        return row_losses(
            self._decode,
            self._logits,
            encode_prompts(self, self._embed, features_BID[image_rows], input_ids, attention_mask),
            labels,
            token_weights,
            start_id=decoder.bos_token_id,
            pad_id=decoder.pad_token_id,
        )

    def _embed(self, ids: Tensor) -> Tensor:
        table = self.get_input_embeddings()
        found: Tensor = table(ids) if self.added_tokens is None else self.added_tokens.embed(table, ids)
        return found

    def _decode(self, decoder_input_ids: Tensor, **arguments: Any) -> Any:
        return self.model(decoder_inputs_embeds=self._embed(decoder_input_ids), **arguments)

    def _logits(self, hidden_ND: Tensor) -> Tensor:
        head = self.get_output_embeddings()
        logits = head(hidden_ND) if self.added_tokens is None else self.added_tokens.logits(head, hidden_ND)
        return capped(logits.float(), self.config.decoder.final_logit_softcapping)


class _Trained(T5Gemma2):
    model_class = TrainableT5Gemma2


class T5Gemma2Prompts(RowPrompts):
    family = T5Gemma2
    prompt_ids = staticmethod(prompt_ids)
    target_ids = staticmethod(target_ids)

    @staticmethod
    def positions(config: Any) -> tuple[int, int]:
        return int(config.encoder.text_config.max_position_embeddings), int(config.decoder.max_position_embeddings)


class T5Gemma2Recipe(TransformersRecipe):
    label = "a T5Gemma 2"
    family = T5Gemma2
    trained_family = _Trained
    prompts = T5Gemma2Prompts

    def build_model(self, *, resume: bool = False) -> TrainableT5Gemma2:
        """With the tokens that it lacks.

        Raises:
            ValueError: the folder is not a whole checkpoint, or its output is not tied to its embeddings.
        """
        model: TrainableT5Gemma2 = super().build_model(resume=resume)
        add = add_location_tokens if self.config.adapter is None else lay_tokens_beside
        add(model, self.processor, seed=self.config.seed)
        return model

    def empty_copy(self, model: Any) -> Any:
        copy = super().empty_copy(model)
        if model.added_tokens is not None:
            copy.added_tokens = AddedTokens(model.added_tokens.first, model.added_tokens.weight)
        return copy

    def merged(self, model: Any) -> Any:
        if getattr(model, "added_tokens", None) is not None:
            merge_tokens(model)
        return model

    @property
    def num_image_tokens(self) -> int:
        return int(self.processor.image_seq_length)
