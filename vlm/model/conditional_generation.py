"""The one-look model as transformers' `generate` and pipelines want it: one prompt a picture, padded tensors.

Our own decoding (`vlm.generate`) packs prompts, keeps to grammars and scores; this has the same weights and is for
code that knows transformers only.
"""

# B batch, I image tokens, S prompt tokens, M = I + S memory tokens, T target tokens, D width, V vocabulary

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.modeling_outputs import Seq2SeqLMOutput
from transformers.utils import ModelOutput

from vlm.model.losses import shift_right
from vlm.model.masks import additive, cross_mask
from vlm.model.modeling import Memory, OneLookModel
from vlm.model.stepping import DecodeState, StepWeights

__all__ = ["OneLookForConditionalGeneration"]

_CACHE = "cache" if "cache" in {field.name for field in fields(Seq2SeqLMOutput)} else "past_key_values"
"""How this version of transformers calls the keys and values so far."""


@dataclass
class OneLookEncoderOutput(ModelOutput):
    """Attributes: last_hidden_state: B x M x D. segments: B x M. weights: for decoding steps."""

    last_hidden_state: Tensor | None = None
    segments: Tensor | None = None
    weights: StepWeights | None = None


class _Encoder(nn.Module):
    """What `generate` calls once."""

    main_input_name = "input_ids"

    def __init__(self, model: OneLookForConditionalGeneration) -> None:
        super().__init__()
        self.__dict__["model"] = model  # not a part of it, as it is the other way round

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_sizes: Tensor | None = None,
        **_: Any,
    ) -> OneLookEncoderOutput:
        found = self.model.encode(input_ids, attention_mask, pixel_values, image_sizes)
        found.weights = self.model.step_weights()
        return found


class _Past:
    """One layer's part of transformers' cache, as a decoder layer's step takes it."""

    def __init__(self, cache: Any, layer: int) -> None:
        self.cache, self.layer = cache, layer

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.cache.update(key, value, self.layer)
        return keys, values


class OneLookForConditionalGeneration(OneLookModel, GenerationMixin):
    main_input_name = "input_ids"
    input_modalities = ("image", "text")

    def get_encoder(self, *_: Any, **__: Any) -> nn.Module:
        return _Encoder(self)

    def encode(
        self, input_ids: Tensor, attention_mask: Tensor | None, pixel_values: Tensor | None, image_sizes: Tensor | None
    ) -> OneLookEncoderOutput:
        """Pictures and their prompts.

        Args:
            input_ids, attention_mask: B x S, padded at the end.
            pixel_values: B x 3 x height x width, padded at the right and below.
            image_sizes: B x 2, height and width of each without its padding; None for all the same.
        """
        if pixel_values is None or len(pixel_values) != len(input_ids):
            pictures = 0 if pixel_values is None else len(pixel_values)
            raise ValueError(f"{len(input_ids)} prompts and {pictures} pictures; give one picture to each prompt")
        if image_sizes is None:
            sizes = [tuple(pixel_values.shape[2:])] * len(pixel_values)
        else:
            sizes = [(int(height), int(width)) for height, width in image_sizes.tolist()]
        groups = [[row for row, size in enumerate(sizes) if size == shape] for shape in dict.fromkeys(sizes)]
        features = self.encode_images(
            [pixel_values[rows, :, : sizes[rows[0]][0], : sizes[rows[0]][1]] for rows in groups],
            [torch.tensor(rows, device=pixel_values.device) for rows in groups],
        )
        mask_BS = torch.ones_like(input_ids) if attention_mask is None else attention_mask.long()
        positions_BS = (mask_BS.cumsum(1) - 1).clamp(min=0)
        memory = self.encode_prompts(features, input_ids, torch.where(mask_BS > 0, 1, -1), positions_BS)
        return OneLookEncoderOutput(last_hidden_state=memory.hidden_BMD, segments=memory.segments_BM)

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_sizes: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: OneLookEncoderOutput | None = None,
        cache: Any = None,
        past_key_values: Any = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        **_: Any,
    ) -> Seq2SeqLMOutput:
        """Teacher forcing, or, with a cache, the next tokens.

        Args:
            labels: B x T, -100 where there is none; the loss is their mean.
        """
        if encoder_outputs is None:
            encoder_outputs = self.encode(input_ids, attention_mask, pixel_values, image_sizes)
        memory = Memory(encoder_outputs.last_hidden_state, encoder_outputs.segments)
        if decoder_input_ids is None:
            if labels is None:
                raise ValueError("give decoder_input_ids, or labels to make them of")
            decoder_input_ids = shift_right(labels, self.config.decoder_start_token_id, self.config.pad_token_id)
        cache = past_key_values if cache is None else cache
        if cache is None:
            positions_BT = torch.arange(decoder_input_ids.shape[1], device=decoder_input_ids.device)
            positions_BT = positions_BT.expand_as(decoder_input_ids)
            hidden = self.decode(decoder_input_ids, torch.ones_like(decoder_input_ids), positions_BT, memory)
            logits = self.logits(hidden)
        else:
            weights = encoder_outputs.weights or self.step_weights()
            logits = self.logits(self._steps(decoder_input_ids, memory, cache, weights), weights.table_VD)
        loss = None
        if labels is not None:
            loss = self.token_losses(logits[labels != -100], labels[labels != -100]).mean()
        return Seq2SeqLMOutput(loss=loss, logits=logits, encoder_last_hidden_state=memory.hidden_BMD, **{_CACHE: cache})

    def _steps(self, token_ids_BT: Tensor, memory: Memory, cache: Any, weights: StepWeights) -> Tensor:
        cross = []
        for index, layer in enumerate(self.decoder_layers):
            if not cache.is_updated.get(index):
                cache.cross_attention_cache.update(*layer.cross_attention.keys_values(memory.hidden_BMD), index)
                cache.is_updated[index] = True
            kept = cache.cross_attention_cache.layers[index]
            cross.append((kept.keys, kept.values))
        sees = cross_mask(torch.ones_like(token_ids_BT[:, :1]), memory.segments_BM)
        past: list[Any] = [_Past(cache.self_attention_cache, index) for index in range(len(self.decoder_layers))]
        state = DecodeState(weights, cross, additive(sees, cross[0][1].dtype), past, int(cache.get_seq_length()))
        return torch.cat([self.decode_step(token_ids, state) for token_ids in token_ids_BT.split(1, dim=1)], dim=1)
