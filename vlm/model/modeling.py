"""The one-look encoder-decoder: an image is encoded once, prompts and targets are packed beside it.

A row is one image and its P prompts. Image tokens never look at a prompt, so `encode_images` depends on
pixels alone and its result serves any number of prompts, in training (packing) and in inference (reuse).
"""

# B batch (rows), I image tokens, S prompt tokens of a row, T target tokens of a row, M = I + S memory
# tokens, P slots (running sequences of a row), D width, V vocabulary, H heads, E head width, G images of a group

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from vlm.model.configuration import OneLookConfig
from vlm.model.layers import (
    NUM_FREQUENCIES,
    DecoderLayer,
    JointLayer,
    Norm,
    TokenEmbedding,
    fourier,
    rotary,
)
from vlm.model.losses import sum_losses
from vlm.model.masks import IMAGE, PADDING, additive, causal_mask, cross_mask, prompt_mask
from vlm.model.stepping import DecodeState, LayerStep, Runs, SelfCache, StepWeights
from vlm.model.tower import ConvTower
from vlm.model.vision import VisionTower

IMAGE_SPAN = 16.0
"""Rotary units across an image's longer side: about one a token at the usual budget, whatever the resolution."""

MAP_PRIOR = -3.0
"""Log-odds that an image token shows a garment, before anything is learnt: most show none."""
SOMEWHERE_TOKENS = 3
"""A garment whose place is unknown should be in this many tokens."""


@dataclass
class ImageFeatures:
    """What a look at the images gives; everything prompts need, computed once.

    Attributes:
        hidden_BID: final image tokens.
        mask_BI: True where a token is real (images of several shapes are padded to the longest).
        joint: keys and values of every joint layer, B x H x I x E each.
    """

    hidden_BID: Tensor
    mask_BI: Tensor
    joint: list[tuple[Tensor, Tensor]]

    def select(self, rows: Tensor) -> ImageFeatures:
        """The features of these rows, in this order; a row may come several times."""
        return ImageFeatures(
            self.hidden_BID[rows], self.mask_BI[rows], [(key[rows], value[rows]) for key, value in self.joint]
        )


@dataclass
class Memory:
    """Image and prompt tokens as the decoder sees them.

    Attributes:
        hidden_BMD: image tokens, then all prompt tokens of the row.
        segments_BM: 0 image, 1..P prompts, -1 padding.
    """

    hidden_BMD: Tensor
    segments_BM: Tensor

    def select(self, rows: Tensor) -> Memory:
        return Memory(self.hidden_BMD[rows], self.segments_BM[rows])


@dataclass
class OneLookOutput(ModelOutput):
    """Output of `OneLookModel.forward`.

    Attributes:
        loss: sum of the weighted token losses over the sum of their weights (None without labels).
        loss_sum: the numerator.
        num_tokens: the denominator.
        token_loss: B x T, unweighted; 0 where there is no label.
        logits: B x T x V, only without labels or on request.
    """

    loss: Tensor | None = None
    loss_sum: Tensor | None = None
    num_tokens: Tensor | None = None
    token_loss: Tensor | None = None
    logits: Tensor | None = None


class OneLookModel(PreTrainedModel):
    config_class = OneLookConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = False
    _supports_sdpa = True
    _no_split_modules: ClassVar[list[str]] = ["ResidualBlock", "JointLayer", "DecoderLayer"]

    def __init__(self, config: OneLookConfig) -> None:
        super().__init__(config)
        width, head_dim = config.hidden_size, config.head_dim
        self.tower: ConvTower | VisionTower
        if config.vision_config is None:
            self.tower = ConvTower(config.stem_width, config.stage_widths, config.stage_depths)
        else:
            self.tower = VisionTower(config.vision_config, config.vision_input)
        self.image_projection = nn.Linear(self.tower.out_channels, width, bias=False)
        self.image_position = nn.Linear(4 * NUM_FREQUENCIES, width, bias=False)

        encoder_depth = config.num_image_layers + config.num_joint_layers

        def layers(kind: type[nn.Module], count: int, depth: int) -> nn.ModuleList:
            return nn.ModuleList(kind(width, head_dim, config.mlp_ratio, config.dropout, depth) for _ in range(count))

        self.image_layers = layers(JointLayer, config.num_image_layers, encoder_depth)
        self.joint_layers = layers(JointLayer, config.num_joint_layers, encoder_depth)
        self.decoder_layers = layers(DecoderLayer, config.num_decoder_layers, config.num_decoder_layers)
        self.tokens = TokenEmbedding(
            config.vocab_size, width, config.first_location_id, config.num_locations, config.initializer_range
        )
        self.prompt_norm = Norm(width)
        self.target_norm = Norm(width)
        self.memory_norm = Norm(width)
        self.final_norm = Norm(width)
        if config.region_classes:
            self.region_norm = Norm(width)
            self.region_head = nn.Linear(width, sum(config.region_classes), bias=False)
        if config.map_weight:
            self.map_norm = Norm(width)
            self.map_head = nn.Linear(width, config.region_classes[0], bias=False)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            # 1/sqrt(fan in) keeps the pre-norm residual stream at unit scale for any width; layers with a
            # scale of their own say so when they are made.
            nn.init.normal_(module.weight, std=getattr(module, "init_std", module.in_features**-0.5))
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, (Norm, nn.GroupNorm)):
            nn.init.ones_(module.weight)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)

    # -- one look ------------------------------------------------------------------------------------

    def encode_images(
        self, pixel_values: Sequence[Tensor], image_index: Sequence[Tensor] | None = None
    ) -> ImageFeatures:
        """Encode images of one or several shapes.

        Args:
            pixel_values: groups of equal shape, G x 3 x height x width each, sides multiples of the stride, or as
                `config.image_size` wants them.
                A group has no padding, so an image's features do not depend on what it is batched with.
            image_index: for every group, the images' positions in the batch; None for one group in order.
        """
        if image_index is None:
            counts = [len(group) for group in pixel_values]
            image_index = list(torch.arange(sum(counts), device=pixel_values[0].device).split(counts))
        groups = [self._encode_group(pixels) for pixels in pixel_values]
        if len(groups) == 1 and torch.equal(
            image_index[0], torch.arange(len(image_index[0]), device=image_index[0].device)
        ):
            hidden, joint = groups[0]
            return ImageFeatures(hidden, torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device), joint)

        order = torch.cat(list(image_index)).argsort()
        longest = max(hidden.shape[1] for hidden, _ in groups)

        def merge(parts: list[Tensor], dim: int) -> Tensor:
            def pad(part: Tensor) -> Tensor:
                missing = longest - part.shape[dim]
                return F.pad(part, (0, 0, 0, missing)) if missing else part

            return torch.cat([pad(part) for part in parts])[order]

        mask = torch.cat(
            [
                (torch.arange(longest, device=hidden.device) < hidden.shape[1]).expand(len(hidden), -1)
                for hidden, _ in groups
            ]
        )[order]
        joint = [
            (merge([g[1][layer][0] for g in groups], 2), merge([g[1][layer][1] for g in groups], 2))
            for layer in range(len(self.joint_layers))
        ]
        return ImageFeatures(merge([hidden for hidden, _ in groups], 1), mask, joint)

    def _encode_group(self, pixels_G3HW: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        features = self.tower(pixels_G3HW)
        rows, columns = features.shape[-2:]
        device = features.device
        y = (torch.arange(rows, device=device) + 0.5) / rows
        x = (torch.arange(columns, device=device) + 0.5) / columns
        grid_I2 = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).flatten(0, 1)
        hidden = self.image_projection(features.flatten(2).transpose(1, 2))
        hidden = hidden + self.image_position(fourier(grid_I2).flatten(1).to(hidden.dtype))
        sides = torch.tensor([rows, columns], device=device) / max(rows, columns)
        cos_sin = rotary((grid_I2 * sides * IMAGE_SPAN)[None], self.config.head_dim)
        for layer in self.image_layers:
            hidden, _ = layer(hidden, cos_sin)
        joint = []
        for layer in self.joint_layers:
            hidden, keys_values = layer(hidden, cos_sin)
            joint.append(keys_values)
        return hidden, joint

    # -- prompts -------------------------------------------------------------------------------------

    def encode_prompts(
        self,
        features: ImageFeatures,
        input_ids_BS: Tensor,
        segment_ids_BS: Tensor,
        position_ids_BS: Tensor,
        table_VD: Tensor | None = None,
    ) -> Memory:
        """Prompts look at the image and at themselves.

        Args:
            input_ids_BS: all prompts of each row, one after the other.
            segment_ids_BS: 1..P, -1 where padded.
            position_ids_BS: index of each token within its own prompt.
            table_VD: the embedding, where it is at hand (`step_weights`).
        """
        table_VD = self.tokens.table() if table_VD is None else table_VD
        hidden = self.prompt_norm(F.embedding(input_ids_BS, table_VD).to(features.hidden_BID.dtype))
        cos_sin = rotary(position_ids_BS[..., None].expand(-1, -1, 2), self.config.head_dim)
        mask = prompt_mask(features.mask_BI, segment_ids_BS)
        for layer, image_keys_values in zip(self.joint_layers, features.joint, strict=True):
            hidden, _ = layer(hidden, cos_sin, mask, image_keys_values)
        image_segments = torch.where(features.mask_BI, IMAGE, PADDING)
        memory = torch.cat([features.hidden_BID, hidden.to(features.hidden_BID.dtype)], dim=1)
        return Memory(self.memory_norm(memory), torch.cat([image_segments, segment_ids_BS], dim=1))

    # -- decoder -------------------------------------------------------------------------------------

    def decode(
        self, decoder_input_ids_BT: Tensor, segment_ids_BT: Tensor, position_ids_BT: Tensor, memory: Memory
    ) -> Tensor:
        """Teacher-forced decoder states, B x T x D, ready for `logits`."""
        hidden = self.target_norm(F.embedding(decoder_input_ids_BT, self.tokens.table()).to(memory.hidden_BMD.dtype))
        cos_sin = rotary(position_ids_BT[..., None].expand(-1, -1, 2), self.config.head_dim)
        self_mask = causal_mask(segment_ids_BT)
        to_memory = cross_mask(segment_ids_BT, memory.segments_BM)
        for layer in self.decoder_layers:
            cross = layer.cross_attention.keys_values(memory.hidden_BMD)
            hidden = layer(hidden, cos_sin, self_mask, cross, to_memory)
        return self.final_norm(hidden)

    def logits(self, hidden: Tensor, table_VD: Tensor | None = None) -> Tensor:
        """Vocabulary scores in float32 for decoder states of any leading shape; `table_VD` as in `encode_prompts`."""
        table_VD = self.tokens.table() if table_VD is None else table_VD
        return F.linear(hidden, table_VD.to(hidden.dtype)).float()

    def step_weights(self) -> StepWeights:
        """For `start_decode`; to be made anew when the weights have changed."""
        return StepWeights(self.tokens.table().detach(), [LayerStep(layer) for layer in self.decoder_layers])

    def start_decode(self, memory: Memory, slot_segments_BP: Tensor, weights: StepWeights | None = None) -> DecodeState:
        """Begin P sequences a row; slot p answers the prompt of segment slot_segments[b, p]."""
        # Heads apart in memory, once, as every step reads all of one head after the other.
        cross = [
            (key.contiguous(), value.contiguous())
            for key, value in (layer.cross_attention.keys_values(memory.hidden_BMD) for layer in self.decoder_layers)
        ]
        sees = cross_mask(slot_segments_BP, memory.segments_BM)
        return DecodeState(
            weights=weights or self.step_weights(),
            cross=cross,
            cross_mask=additive(sees, cross[0][1].dtype),
            past=[SelfCache() for _ in self.decoder_layers],
        )

    def decode_step(self, token_ids_BP: Tensor, state: DecodeState) -> Tensor:
        """Feed one token to every slot and advance; returns decoder states, B x P x D, ready for `logits`."""
        hidden = self.target_norm(F.embedding(token_ids_BP, state.weights.table_VD))
        for step, cross, past in zip(state.weights.layers, state.cross, state.past, strict=True):
            hidden = step(hidden, state.position, cross, state.cross_mask, past)
        state.position += 1
        return self.final_norm(hidden)

    def decode_runs(self, runs: Sequence[tuple[int, Sequence[int]]], state: DecodeState) -> Tensor:
        """Feed a run of tokens to every slot, of any length and from its own position on (see `Runs`); returns the
        decoder states of all tokens, R x D, slot by slot. A token fed at a position is forgotten when another is."""
        laid = Runs(runs, state.cross_mask.device, state.cross_mask.dtype)
        cross_mask = state.cross_mask.repeat_interleave(laid.longest, dim=2)
        hidden = self.target_norm(F.embedding(laid.token_ids_R, state.weights.table_VD))
        for step, cross, past in zip(state.weights.layers, state.cross, state.past, strict=True):
            hidden = step.several(hidden, laid, cross, cross_mask, past)
        state.position = max(state.position, laid.end)
        return self.final_norm(hidden)

    # -- training ------------------------------------------------------------------------------------

    def forward(
        self,
        pixel_values: Sequence[Tensor],
        input_ids: Tensor,
        segment_ids: Tensor,
        position_ids: Tensor,
        decoder_input_ids: Tensor,
        decoder_segment_ids: Tensor,
        decoder_position_ids: Tensor,
        labels: Tensor | None = None,
        token_weights: Tensor | None = None,
        image_index: Sequence[Tensor] | None = None,
        region_rows: Tensor | None = None,
        region_weights: Tensor | None = None,
        region_labels: Tensor | None = None,
        map_inside: Tensor | None = None,
        map_outside: Tensor | None = None,
        map_somewhere: Tensor | None = None,
        return_logits: bool = False,
        **_: Any,
    ) -> OneLookOutput:
        """Teacher forcing over packed rows.

        Args:
            labels: B x T next tokens, -100 where there is none.
            token_weights: B x T factors on the tokens' losses; None for 1.
            region_rows, region_weights, region_labels: R rows of the batch, R x I shares of their image tokens and
                R x A classes (-100 unknown); their losses are added to the numerator, `region_weight` each.
            map_inside, map_outside, map_somewhere: B x I x G, B x I x G and B x G weights of garment maps (see
                `vlm.data.maps`); their losses are added to the numerator, `map_weight` each.
        """
        features = self.encode_images(pixel_values, image_index)
        memory = self.encode_prompts(features, input_ids, segment_ids, position_ids)
        hidden_BTD = self.decode(decoder_input_ids, decoder_segment_ids, decoder_position_ids, memory)
        if labels is None:
            return OneLookOutput(logits=self.logits(hidden_BTD))
        # Only labelled positions go through the vocabulary: padding costs nothing there.
        valid_BT = labels != -100
        losses_N = self.token_losses(self.logits(hidden_BTD[valid_BT]), labels[valid_BT])
        loss_sum, num_tokens, token_loss = sum_losses(losses_N, valid_BT, token_weights)
        if self.config.region_classes and region_rows is not None and region_weights is not None:
            region_loss = self.region_loss(features, region_rows, region_weights, region_labels)
            loss_sum = loss_sum + self.config.region_weight * region_loss
        if self.config.map_weight and map_inside is not None and map_outside is not None and map_somewhere is not None:
            map_loss = self.map_loss(features, map_inside, map_outside, map_somewhere)
            loss_sum = loss_sum + self.config.map_weight * map_loss
        return OneLookOutput(
            loss=loss_sum / num_tokens.clamp(min=1e-6),
            loss_sum=loss_sum,
            num_tokens=num_tokens,
            token_loss=token_loss,
            logits=self.logits(hidden_BTD) if return_logits else None,
        )

    def region_loss(
        self, features: ImageFeatures, rows_R: Tensor, weights_RI: Tensor, labels_RA: Tensor | None
    ) -> Tensor:
        """Sum of the cross-entropies of all known labels of all regions."""
        assert labels_RA is not None, "regions come with their labels"
        pooled_RD = (weights_RI[:, None].to(features.hidden_BID.dtype) @ features.hidden_BID[rows_R])[:, 0]
        scores = self.region_head(self.region_norm(pooled_RD)).float().split(self.config.region_classes, dim=-1)
        losses = [
            F.cross_entropy(kind, labels, ignore_index=-100, reduction="sum")
            for kind, labels in zip(scores, labels_RA.unbind(1), strict=True)
        ]
        return torch.stack(losses).sum()

    def map_loss(
        self, features: ImageFeatures, inside_BIG: Tensor, outside_BIG: Tensor, somewhere_BG: Tensor
    ) -> Tensor:
        """Sum of the binary cross-entropies of all garment maps."""
        scores_BIG = self.map_head(self.map_norm(features.hidden_BID)).float() + MAP_PRIOR
        loss = (inside_BIG * F.softplus(-scores_BIG) + outside_BIG * F.softplus(scores_BIG)).sum()
        seen_BIG = scores_BIG.masked_fill(~features.mask_BI[..., None], float("-inf"))
        best_BG = seen_BIG.topk(min(SOMEWHERE_TOKENS, int(features.mask_BI.sum(1).min())), dim=1).values.mean(1)
        return loss + (somewhere_BG * F.softplus(-best_BG)).sum()

    def token_losses(self, logits_NV: Tensor, labels_N: Tensor) -> Tensor:
        """Cross-entropy of every token; a location's target is a Gaussian over the bins around it."""
        log_probs_NV = logits_NV.log_softmax(-1)
        losses_N = -log_probs_NV.gather(1, labels_N[:, None])[:, 0]
        sigma, first, count = self.config.location_sigma, self.config.first_location_id, self.config.num_locations
        is_location_N = (labels_N >= first) & (labels_N < first + count)
        if sigma <= 0 or not bool(is_location_N.any()):
            return losses_N
        bins = torch.arange(count, device=logits_NV.device)
        offset = (bins - (labels_N[is_location_N] - first)[:, None]).float() / sigma
        target = (-0.5 * offset.square()).softmax(-1)
        soft = -(target * log_probs_NV[is_location_N, first : first + count]).sum(-1)
        return losses_N.masked_scatter(is_location_N, soft)
