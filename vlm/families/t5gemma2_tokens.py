"""Tokens of our tasks and locations for a T5Gemma 2, which has none of them."""

# V vocabulary, N new tokens, A anchors, D width

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tasks import TASKS
from tasks.boxes import NUM_BINS

__all__ = ["add_location_tokens", "missing_tokens"]

NUM_ANCHORS = 21
"""Every fiftieth location is drawn by itself, and those between lie between them."""

SPREAD = 0.5
"""Of the new embeddings around the mean, in standard deviations of the old ones."""


def missing_tokens(tokenizer: Any) -> list[str]:
    """Our tokens (tasks, then locations in order) that the tokenizer lacks."""
    names = [*(task.token for task in TASKS.values()), *(f"<loc_{index}>" for index in range(NUM_BINS))]
    vocabulary = tokenizer.get_vocab()
    return [name for name in names if name not in vocabulary]


@torch.no_grad()
def add_location_tokens(model: Any, processor: Any, *, seed: int = 0) -> list[int]:
    """Give model and tokenizer the tokens that our tasks are asked and answered with, ready to be trained.

    New embeddings (which are the output's rows, too) lie around the mean of the old ones, so that at first they are
    neither likely nor unlikely. Locations are in order: each lies between anchors, and is more like its neighbours
    than like far ones, as their places are. Logits of old tokens stay what they are.

    Args:
        seed: of what is drawn; the same in every process.

    Returns:
        The new tokens' ids; none where all are there.

    Raises:
        ValueError: input and output embeddings are not one, so that the new rows could not serve as both.
    """
    tokenizer = processor.tokenizer
    names = missing_tokens(tokenizer)
    if not names:
        return []
    table = model.get_input_embeddings()
    if model.get_output_embeddings().weight is not table.weight:
        raise ValueError("the model's output is not tied to its embeddings; load it with tie_word_embeddings true")
    num_known, (num_rows, _) = len(tokenizer), table.weight.shape
    old_VD = table.weight[:num_known].float()
    rng = torch.Generator().manual_seed(seed)
    tokenizer.add_tokens(names, special_tokens=True)
    ids = tokenizer.convert_tokens_to_ids(names)
    _resize(model, max(num_rows, len(tokenizer)))  # rows that no token had come first
    new_ND = _drawn(names, old_VD, rng)
    table = model.get_input_embeddings()
    table.weight[torch.tensor(ids, device=table.weight.device)] = new_ND.to(table.weight)
    return list(ids)


def _drawn(names: list[str], old_VD: Tensor, rng: torch.Generator) -> Tensor:
    mean_D, std_D = old_VD.mean(0), old_VD.std(0) * SPREAD
    device = old_VD.device

    def around(num: int) -> Tensor:
        return mean_D + std_D * torch.randn(num, old_VD.shape[1], generator=rng).to(device)

    others_ND, anchors_AD = around(len(names)), around(NUM_ANCHORS)
    for row, name in enumerate(names):
        if name.startswith("<loc_"):
            place = int(name[len("<loc_") : -1]) / (NUM_BINS - 1) * (NUM_ANCHORS - 1)
            left = min(int(place), NUM_ANCHORS - 2)
            others_ND[row] = torch.lerp(anchors_AD[left], anchors_AD[left + 1], place - left)
    return others_ND


def _resize(model: Any, num_rows: int) -> None:
    """The one table of encoder, decoder and output. transformers' own would replace the classes of the embeddings or
    not, by version; here they stay, with the end-of-image embedding that they hold."""
    table = model.get_input_embeddings()
    old_VD = table.weight
    if num_rows > len(old_VD):
        added_ND = old_VD.new_zeros(num_rows - len(old_VD), old_VD.shape[1])
        weight = nn.Parameter(torch.cat([old_VD.data, added_ND]), requires_grad=old_VD.requires_grad)
        for embedding in (table, model.get_decoder().embed_tokens):
            embedding.weight, embedding.num_embeddings = weight, num_rows
        head = model.get_output_embeddings()
        head.weight, head.out_features = weight, num_rows
    model.vocab_size = num_rows
    config = model.config
    for part in (config, config.encoder.text_config, config.decoder):
        part.vocab_size = num_rows
    for text_model in (model.get_encoder().text_model, model.get_decoder()):
        text_model.config.vocab_size = num_rows
    model.get_encoder().text_model.vocab_size = num_rows
