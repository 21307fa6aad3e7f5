"""A model to compare with, of transformers' own classes: Florence-2 in our size (arXiv 2311.06242).

Image features and the tokens of one prompt go through a joint encoder together, so that an image is encoded anew for
every prompt, as in all models of this kind. It is Florence-2 in its parts (DaViT, projector, BART) and in how they
are put together; it is not Florence-2 in size, weights, vocabulary or picture size, and how well it learns is not
measured. Widths, depths of encoder and decoder, and the number of image tokens are ours; the last stage of the image
tower is made as deep as brings it to our number of parameters. Attention is "sdpa", the fastest it has everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import BartConfig, Florence2Config, Florence2ForConditionalGeneration, Florence2VisionConfig

from vlm.model import OneLookConfig, OneLookModel
from vlm.processor import OneLookProcessor, PackedTarget

Row = tuple[Tensor, Sequence[Sequence[int]], Sequence[PackedTarget]]
"""uint8 pixels, prompts and targets."""


def num_parameters(model: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def build_peer(ours: OneLookModel, max_length: int, *, seed: int = 0) -> Florence2ForConditionalGeneration:
    """Random weights; as many as `ours` has, as nearly as whole layers allow.

    Args:
        max_length: most positions of a row, of the encoder or of the decoder.
    """
    wanted = num_parameters(ours)

    def distance(depth: int) -> int:
        with torch.device("meta"):
            model = Florence2ForConditionalGeneration(_shape(ours.config, depth, max_length))
        return abs(num_parameters(model) - wanted)

    depth = 1
    while distance(depth + 1) < distance(depth):
        depth += 1
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Florence2ForConditionalGeneration(_shape(ours.config, depth, max_length))


def _shape(ours: OneLookConfig, depth: int, max_length: int) -> Florence2Config:
    stages, width = len(ours.stage_widths), ours.hidden_size
    heads = [max(1, channels // 32) for channels in ours.stage_widths]
    vision = Florence2VisionConfig(
        embed_dim=list(ours.stage_widths),
        depths=[1] * (stages - 1) + [depth],
        patch_size=[7] + [3] * (stages - 1),
        patch_stride=[4] + [2] * (stages - 1),  # together our stride
        patch_padding=[3] + [1] * (stages - 1),
        patch_prenorm=[False] + [True] * (stages - 1),
        num_heads=heads,
        num_groups=heads,
        window_size=6,  # in small pictures the published 12 would be padding for a third of its places
        drop_path_rate=0.0,
        projection_dim=width,
    )
    text = BartConfig(
        vocab_size=ours.vocab_size + 1,
        d_model=width,
        encoder_layers=ours.num_image_layers + ours.num_joint_layers,
        decoder_layers=ours.num_decoder_layers,
        encoder_attention_heads=width // ours.head_dim,
        decoder_attention_heads=width // ours.head_dim,
        encoder_ffn_dim=4 * width,  # our gated MLPs have two thirds of that three times, which is the same
        decoder_ffn_dim=4 * width,
        max_position_embeddings=max_length,
        dropout=0.0,  # as ours
        pad_token_id=ours.pad_token_id,
        bos_token_id=ours.bos_token_id,
        eos_token_id=ours.eos_token_id,
        decoder_start_token_id=ours.bos_token_id,
        forced_eos_token_id=None,
    )
    return Florence2Config(
        vision_config=vision,
        text_config=text,
        image_token_id=ours.vocab_size,
        pad_token_id=ours.pad_token_id,
        attn_implementation="sdpa",
    )


class PeerCollator:
    """Rows of one prompt each, all pictures of one shape -> what the peer's `forward` takes, padded to the longest."""

    def __init__(self, processor: OneLookProcessor) -> None:
        self.processor = processor

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        config = self.processor.config
        pixels = torch.stack([pixels for pixels, _, _ in rows])
        tokens = pixels.shape[-2] * pixels.shape[-1] // config.stride**2
        image = [config.vocab_size] * (tokens + 1)  # one more: the projector puts the mean before them
        ids = [torch.tensor([*image, *prompt]) for _, [prompt], _ in rows]
        return {
            "pixel_values": self.processor.normalize(pixels),
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=config.pad_token_id),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
            "labels": pad_sequence(
                [torch.tensor(target.ids) for _, _, [target] in rows], batch_first=True, padding_value=-100
            ),
        }
