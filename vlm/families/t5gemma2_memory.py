"""How much memory a T5Gemma 2 takes to describe one photo, from its configuration alone (see `vlm.families.memory`).

Its vocabulary counts: a quarter of a million tokens are a table of weights, and objects of Python beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import T5Gemma2Config

from vlm.families.memory import FLOAT, NUM_PROMPTS, converting

__all__ = ["predict_memory"]

LIBRARIES = 385 * 2**20
"""Python, torch and transformers, measured on Linux."""
TOKEN = 1400
"""Of a token in the tokenizer and in the masks of grammars: measured with 8,000, 64,000 and 200,000 made-up ones."""
LOGIT_COPIES = 6
"""Of the last step's logits, with what is made of them."""


def predict_memory(folder: Path, config: Mapping[str, Any], num_parameters: int) -> int:
    """Bytes. What config.json leaves out is as transformers has it.

    Raises:
        ValueError: values of other kinds than a T5Gemma 2 has.
    """
    try:
        full = T5Gemma2Config.from_dict(deepcopy(dict(config)))
        vision, text, decoder = full.encoder.vision_config, full.encoder.text_config, full.decoder
        patches = (vision.image_size // vision.patch_size) ** 2
        # In a layer's MLP: what goes in, what is made of it at first, and the middle before and after it is bent.
        tower = FLOAT * patches * 2 * (vision.hidden_size + vision.intermediate_size)
        keys = 2 * decoder.num_hidden_layers * decoder.num_key_value_heads * decoder.head_dim
        image_tokens = full.encoder.mm_tokens_per_image
        decoding = FLOAT * NUM_PROMPTS * (image_tokens * keys + LOGIT_COPIES * text.vocab_size)
        vocabulary = TOKEN * text.vocab_size
    except (StrictDataclassError, TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError) as error:
        raise ValueError(f"{folder}: its configuration is not a T5Gemma 2's: {error}") from error
    weights = FLOAT * num_parameters
    # Files have been read by the time there are a tokenizer and photos.
    return LIBRARIES + weights + max(converting(folder, weights), vocabulary + max(tower, decoding))
