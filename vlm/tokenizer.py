"""A byte-level BPE tokenizer with task, location and image-code tokens.

Ids: special and task tokens first, then bytes and merges, then `<loc_0>`..`<loc_999>`, then image codes
that are reserved for a later text-to-image task. Bytes make any Unicode text survive the round trip.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tasks import TASKS
from tasks.boxes import NUM_BINS

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
NUM_IMAGE_CODES = 1024
SPECIAL_TOKENS = (PAD, BOS, EOS, *(task.token for task in TASKS.values()))
LOCATION_TOKENS = tuple(f"<loc_{index}>" for index in range(NUM_BINS))
IMAGE_CODE_TOKENS = tuple(f"<img_{index}>" for index in range(NUM_IMAGE_CODES))


def train_tokenizer(texts: Iterable[str], *, vocab_size: int = 6144) -> PreTrainedTokenizerFast:
    """Learn merges from `texts`; `vocab_size` counts every token, also locations and image codes.

    Raises:
        ValueError: `vocab_size` leaves no room for the 256 bytes.
    """
    num_text = vocab_size - len(LOCATION_TOKENS) - len(IMAGE_CODE_TOKENS)
    smallest = len(SPECIAL_TOKENS) + 256
    if num_text < smallest:
        raise ValueError(
            f"vocab_size {vocab_size} is too small: {len(LOCATION_TOKENS)} locations, {len(IMAGE_CODE_TOKENS)} image "
            f"codes and {smallest} special and byte tokens need at least {vocab_size - num_text + smallest}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=num_text,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    # A small corpus may run out of merges: unused ids keep the locations where the model's configuration has them.
    missing = num_text - tokenizer.get_vocab_size()
    tokenizer.add_special_tokens([f"<unused_{index}>" for index in range(missing)])
    tokenizer.add_special_tokens(list(LOCATION_TOKENS))
    tokenizer.add_special_tokens(list(IMAGE_CODE_TOKENS))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
    )


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerFast:
    """Raises ValueError where `path` holds no tokenizer."""
    if not (Path(path) / "tokenizer.json").is_file():
        raise ValueError(f"{path} has no tokenizer.json; make one with `vlm train`, or point to a checkpoint directory")
    return PreTrainedTokenizerFast.from_pretrained(str(path))
