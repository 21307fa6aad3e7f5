"""Tokens of our tasks and locations for a T5Gemma 2, which has none of them: in its table for good, or beside it.

Beside an adapter the table stays as it is, and the new tokens' rows are all that is trained of it. peft has something
for this (`trainable_token_indices`), which would here lose the embedding that this model has for the end of an image,
and copy the whole table, of 262,000 rows, three times a step.
"""

# V rows of the table, N new tokens, A anchors, D width, T tokens, L labelled target tokens

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tasks import TASKS
from tasks.boxes import NUM_BINS

__all__ = [
    "AddedTokens",
    "TableRows",
    "add_location_tokens",
    "lay_tokens_beside",
    "merge_tokens",
    "missing_tokens",
]

NUM_ANCHORS = 21
"""Every fiftieth location is drawn by itself, and those between lie between them."""

SPREAD = 0.5
"""Of the new embeddings around the mean, in standard deviations of the old ones."""


def missing_tokens(tokenizer: Any, tasks: Iterable[str] = tuple(TASKS)) -> list[str]:
    """Of the tokens of these tasks, and of locations in order, those that the tokenizer lacks."""
    names = [*(TASKS[name].token for name in tasks), *(f"<loc_{index}>" for index in range(NUM_BINS))]
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
    added = _new_tokens(model, processor, seed)
    if added is None:
        return []
    model.added_tokens = added
    merge_tokens(model)
    return list(range(added.first, added.first + added.num_embeddings))


@torch.no_grad()
def lay_tokens_beside(model: Any, processor: Any, *, seed: int = 0) -> None:
    """Give the tokenizer those tokens, and the model an `AddedTokens` for them as `added_tokens`, with what
    `add_location_tokens` would write into its table, which stays as it is. Nothing where all are there.

    Raises:
        ValueError: as `add_location_tokens`.
    """
    added = _new_tokens(model, processor, seed)
    if added is not None:
        model.added_tokens = added


@torch.no_grad()
def merge_tokens(model: Any) -> None:
    """Take `added_tokens` into the table."""
    added = model.added_tokens
    TableRows(model).show(added.first, added.weight)
    model.added_tokens = None


def _new_tokens(model: Any, processor: Any, seed: int) -> AddedTokens | None:
    tokenizer = processor.tokenizer
    names = missing_tokens(tokenizer)
    if not names:
        return None
    table = _table(model)
    first = len(tokenizer)  # rows that no token had come first
    added = AddedTokens(first, _drawn(names, table.weight[:first].float(), torch.Generator().manual_seed(seed)))
    tokenizer.add_tokens(names, special_tokens=True)
    assert tokenizer.convert_tokens_to_ids(names) == list(range(first, first + len(names)))
    return added.to(table.weight.device, table.weight.dtype)


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


def _table(model: Any) -> nn.Embedding:
    """The one table of encoder, decoder and output. Raises ValueError where there are two."""
    table: nn.Embedding = model.get_input_embeddings()
    if model.get_output_embeddings().weight is not table.weight:
        raise ValueError("the model's output is not tied to its embeddings; load it with tie_word_embeddings true")
    return table


class AddedTokens(nn.Embedding):
    """Embeddings of new tokens, which are the output's rows too, beside a model's table.

    Args:
        first: id of the first; the others follow. The table may have rows there, which no token has had.
        rows_ND: what they are at first.
    """

    def __init__(self, first: int, rows_ND: Tensor) -> None:
        super().__init__(*rows_ND.shape, _weight=rows_ND.detach().clone())
        self.first = first

    def embed(self, table: Any, ids: Tensor) -> Tensor:
        """What `table` gives for ids of any shape, with the new tokens among them."""
        new = ids - self.first
        is_new = (new >= 0) & (new < self.num_embeddings)
        rows = self(new.clamp(0, self.num_embeddings - 1)) * table.embed_scale.to(self.weight.dtype)
        return torch.where(is_new[..., None], rows, table(ids.masked_fill(is_new, 0)))

    def logits(self, head: nn.Linear, hidden_LD: Tensor) -> Tensor:
        """L x all tokens; 0 where neither has a row."""
        old_LV = head(hidden_LD)
        before, behind = old_LV[:, : self.first], old_LV[:, self.first + self.num_embeddings :]
        before = F.pad(before, (0, self.first - before.shape[1]))
        return torch.cat([before, F.linear(hidden_LD, self.weight).to(old_LV.dtype), behind], dim=1)


class TableRows:
    """Rows of new tokens in the one table of encoder, decoder and output, and out of it again.

    The table is held once, with room for the most tokens that were in it: coming and going writes the new rows alone,
    and the model is told how many rows to see.

    Raises:
        ValueError: as `add_location_tokens`.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.num_own = len(_table(model).weight)
        self.first = self.num_own
        self.covered = self._weight[:0].clone()  # the model's own rows where others are now, from `first` on
        self.room = self._weight.data

    @property
    def _weight(self) -> Tensor:
        weight: Tensor = self.model.get_input_embeddings().weight
        return weight

    def hide(self) -> None:
        """The model is, to the bit, what it was."""
        self.show(self.num_own, self._weight[:0])

    def show(self, first: int, rows_ND: Tensor) -> None:
        """From now on the tokens from id `first` on have these rows, and no others that were shown before."""
        with torch.inference_mode(mode=False), torch.no_grad():
            weight, num = self._weight, max(self.num_own, first + len(rows_ND))
            if weight.data_ptr() != self.room.data_ptr() or len(self.room) < num:  # the first time, or it was moved
                self.room = weight.new_zeros(max(num, len(weight)), weight.shape[1])
                self.room[: len(weight)] = weight.data
            self.room[self.first : self.first + len(self.covered)] = self.covered.to(weight)
            self.first, self.covered = first, self.room[first : self.num_own][: len(rows_ND)].clone()
            self.room[self.num_own :] = 0
            self.room[first : first + len(rows_ND)] = rows_ND.to(weight)
            self.model.get_input_embeddings().weight.data = self.room[:num]
            _set_size(self.model, num)


def _set_size(model: Any, num_rows: int) -> None:
    """transformers' own would replace the classes of the embeddings or not, by version; here they stay, with the
    end-of-image embedding that they hold."""
    for embedding in (model.get_input_embeddings(), model.get_decoder().embed_tokens):
        embedding.num_embeddings = num_rows
    model.get_output_embeddings().out_features = num_rows
    model.vocab_size = num_rows
    config = model.config
    for part in (config, config.encoder.text_config, config.decoder):
        part.vocab_size = num_rows
    for text_model in (model.get_encoder().text_model, model.get_decoder()):
        text_model.config.vocab_size = num_rows
    model.get_encoder().text_model.vocab_size = num_rows
