"""A one-look model as transformers' own decoding loop wants it, so that `describe.py` can time the two loops."""

# B rows, M memory tokens

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import EncoderDecoderCache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

from vlm.model import DecodeState, OneLookConfig, OneLookModel
from vlm.model.masks import additive


class LayerCache:
    """One layer of transformers' cache, where `OneLookModel.decode_step` expects its own `SelfCache`."""

    def __init__(self, cache: EncoderDecoderCache, layer: int) -> None:
        self.cache, self.layer = cache.self_attention_cache, layer

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        return self.cache.update(key, value, self.layer)


class Generator(PreTrainedModel, GenerationMixin):
    """A `OneLookModel` as transformers' `generate` wants it: one prompt a row, the memory as encoder outputs, keys and
    values in the `EncoderDecoderCache` that `generate` makes."""

    config_class = OneLookConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    _supports_sdpa = True

    def __init__(self, model: OneLookModel) -> None:
        super().__init__(model.config)
        self.model = model
        self.generation_config.eos_token_id = None
        self.weights = model.step_weights()  # once, as ours is: weights do not change in a benchmark
        self.cross_mask: Tensor | None = None

    def forward(
        self,
        decoder_input_ids: Tensor,
        encoder_outputs: BaseModelOutput,
        attention_mask: Tensor,
        cache: EncoderDecoderCache,
        **_: Any,
    ) -> Seq2SeqLMOutput:
        """One more token a row. The first call computes the memory's keys and values."""
        layers = range(len(self.model.decoder_layers))
        memory = cache.cross_attention_cache
        if memory.get_seq_length() == 0:
            for index, layer in enumerate(self.model.decoder_layers):
                memory.update(*layer.cross_attention.keys_values(encoder_outputs.last_hidden_state), index)
            self.cross_mask = additive(attention_mask[:, None, None, :], encoder_outputs.last_hidden_state.dtype)
        state = DecodeState(
            weights=self.weights,
            cross=[(memory.layers[index].keys, memory.layers[index].values) for index in layers],
            cross_mask=self.cross_mask,
            past=[LayerCache(cache, index) for index in layers],
            position=cache.get_seq_length(),
        )
        hidden_BPD = self.model.decode_step(decoder_input_ids, state)
        return Seq2SeqLMOutput(logits=self.model.logits(hidden_BPD, self.weights.table_VD), cache=cache)
