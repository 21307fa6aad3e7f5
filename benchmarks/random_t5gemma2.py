"""A T5Gemma 2 of random weights in the format of the public checkpoints: configuration, tokenizer, image processor.

The shape is tiny, or a third of the smallest public one's; the kind of tokenizer (BPE over characters with bytes to
fall back on, "▁" for a space), the tied embeddings, the sliding windows and the names of files and special tokens are
those of `google/t5gemma-2-270m-270m`.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    Gemma3ImageProcessorPil,
    Gemma3Processor,
    GemmaTokenizer,
    GenerationConfig,
    SiglipVisionConfig,
    T5Gemma2Config,
    T5Gemma2DecoderConfig,
    T5Gemma2EncoderConfig,
    T5Gemma2ForConditionalGeneration,
    T5Gemma2TextConfig,
)

TEXTS = (
    "in this image, there is a woman in a tan coat, black trousers and brown ankle boots",
    "the red bag; a crêpe t-shirt, high heels, clothing, footwear. what colour is the coat?",
    "colour: tan, brown; pattern: solid; sleeve: not visible; neckline: v-neck",
)
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
BOI, EOI, IMAGE = "<start_of_image>", "<end_of_image>", "<image_soft_token>"
VOCAB_SIZE = 640
"""Of the model; some rows have no token, as in the public one."""
IMAGE_SIZE, PATCH_SIZE, NUM_IMAGE_TOKENS = 56, 14, 4


def make_words(num: int) -> list[str]:
    """Made of syllables, as words share their beginnings; the same in every process."""
    rng = random.Random(0)
    syllables = [
        a + b + c for a in "bcdfghklmnprstvwz" for b in ("a", "e", "i", "o", "u", "ou", "é") for c in ("", "n", "s")
    ]
    return ["".join(rng.choices(syllables, k=rng.randint(1, 5))) for _ in range(num)]


def make_tokenizer(num_words: int = 300) -> GemmaTokenizer:
    """With about as many tokens as that."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    texts = TEXTS if num_words <= 300 else (*TEXTS, " ".join(make_words(4 * num_words)))
    trained.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=num_words, show_progress=False))
    words: list[str] = sorted(trained.get_vocab(), key=trained.get_vocab().__getitem__)
    names = [*SPECIAL, BOI, EOI, *(f"<0x{byte:02X}>" for byte in range(256)), "\n", "\n\n"]
    known = set(names)
    names += [word for word in words if word not in known]
    merges = [("\n", "\n"), *map(tuple, json.loads(trained.to_str())["model"]["merges"])]
    tokenizer = GemmaTokenizer(
        vocab={name: number for number, name in enumerate(names)},
        merges=merges,
        extra_special_tokens={"boi_token": BOI, "eoi_token": EOI, "image_token": IMAGE},
    )
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", 2)]
    )
    return tokenizer


def make_processor(tokenizer: GemmaTokenizer, vision: dict[str, Any], num_image_tokens: int) -> Gemma3Processor:
    size = {"height": vision["image_size"], "width": vision["image_size"]}
    images = Gemma3ImageProcessorPil(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return Gemma3Processor(image_processor=images, tokenizer=tokenizer, image_seq_length=num_image_tokens)


def make_model(
    tokenizer: GemmaTokenizer,
    text: dict[str, Any],
    vision: dict[str, Any],
    num_image_tokens: int,
    *,
    initializer_range: float,
    seed: int = 0,
) -> T5Gemma2ForConditionalGeneration:
    encoder = T5Gemma2EncoderConfig(
        text_config=T5Gemma2TextConfig(**text, initializer_range=initializer_range),
        vision_config=SiglipVisionConfig(**vision, vision_use_head=False),
        mm_tokens_per_image=num_image_tokens,
        boi_token_index=tokenizer.convert_tokens_to_ids(BOI),
        eoi_token_index=tokenizer.convert_tokens_to_ids(EOI),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
    )
    decoder = T5Gemma2DecoderConfig(**text, initializer_range=initializer_range, final_logit_softcapping=20.0)
    config = T5Gemma2Config(
        encoder=encoder,
        decoder=decoder,
        image_token_index=encoder.image_token_index,
        initializer_range=initializer_range,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = T5Gemma2ForConditionalGeneration(config).eval()
        with torch.no_grad():  # both start as zeros, and pictures would then all be the same
            model.model.encoder.multi_modal_projector.mm_input_projection_weight.normal_()
            model.model.encoder.text_model.embed_tokens.eoi_embedding.normal_()
            # Embeddings are tied: without this, each token would be followed by itself.
            model.model.decoder.norm.weight.normal_(std=2.0)
            model.get_output_embeddings().weight[1] *= 1.8  # so likely an end that some answers come to one
    model.generation_config = GenerationConfig(pad_token_id=0, eos_token_id=1, bos_token_id=2)
    return model


def write_checkpoint(folder: Path, *, base: bool = False, seed: int = 0, num_words: int = 64_000) -> Path:
    """Save a model and its processor as the public ones are saved.

    Args:
        base: a third of the smallest public one: a third of its layers in each part, pictures of its size, narrower
            layers in the vision tower; and `num_words` tokens in place of its 262,000.
    """
    text: dict[str, Any]
    if base:
        tokenizer, num_image_tokens = make_tokenizer(num_words), 256
        vision = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 6, "num_attention_heads": 12}
        vision |= {"image_size": 896, "patch_size": 14}
        text = {
            "vocab_size": -(-len(tokenizer) // 64) * 64,
            "hidden_size": 640,
            "intermediate_size": 2048,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 256,
            "query_pre_attn_scalar": 256,
            "max_position_embeddings": 32768,
            "sliding_window": 512,
            "layer_types": [*["sliding_attention"] * 5, "full_attention"],
        }
    else:
        tokenizer, num_image_tokens = make_tokenizer(), NUM_IMAGE_TOKENS
        assert len(tokenizer) < VOCAB_SIZE, len(tokenizer)
        vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        vision |= {"image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE}
        text = {
            "vocab_size": VOCAB_SIZE,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
            "max_position_embeddings": 512,
            "sliding_window": 12,  # less than a prompt and an answer have, so that windows do something
            "layer_types": ["sliding_attention", "full_attention"],
        }
    # In the tiny one decided, not near-uniform: no ties between tokens.
    initializer_range = 0.02 if base else 0.3
    model = make_model(tokenizer, text, vision, num_image_tokens, initializer_range=initializer_range, seed=seed)
    model.save_pretrained(folder)
    make_processor(tokenizer, vision, num_image_tokens).save_pretrained(folder)
    return folder
