"""A Florence-2 of random weights in the format of the public checkpoints: configuration, tokenizer, image processor.

What is public is its shape (transformers' `Florence2Config`, the special tokens of its conversion script); the words of
the tokenizer are ours, and those that lack to its size are filled up, so that every id has its token.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    BartConfig,
    CLIPImageProcessor,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    Florence2VisionConfig,
    GenerationConfig,
    PreTrainedTokenizerFast,
)

TEXTS = (
    "What does the image describe? Describe in detail what is shown in the image. What is the region?",
    "Locate the objects with category name in the image. Locate the phrases in the caption: the red bag",
    "a woman in a tan coat, black trousers and brown ankle boots; a crêpe t-shirt, high heels, clothing, footwear",
    "colour: tan, brown; pattern: solid; sleeve: not visible; neckline: v-neck",
)
TASK_TOKENS = ("cap", "ncap", "dcap", "grounding", "seg")
POST_PROCESSOR = {
    "ocr": {"PATTERN": r"(.+?)" + r"<loc_(\d+)>" * 8, "AREA_THRESHOLD": 0.0},
    "phrase_grounding": {"banned_grounding_tokens": ["it", "the image", "a", "the"]},
    **{
        name: {}
        for name in (
            "pure_text",
            "description_with_bboxes",
            "description_with_polygons",
            "polygons",
            "bboxes",
            "description_with_bboxes_or_polygons",
        )
    },
}
NUM_ADDED = 1026
"""Tokens behind the words: <mask>, those of tasks and locations, <image>."""


def special_tokens() -> list[str]:
    """In the order of the public vocabulary, <image> last."""
    pairs = [token for name in TASK_TOKENS for token in (f"<{name}>", f"</{name}>")]
    regions = [token for name in ("region_cap", "region_to_desciption", "proposal", "poly") for token in _pair(name)]
    locations = [f"<loc_{number}>" for number in range(1000)]
    return [*_pair("od"), *_pair("ocr"), *locations, *pairs, "<sep>", *regions, "<and>", "<image>"]


def _pair(name: str) -> tuple[str, str]:
    return f"<{name}>", f"</{name}>"


def make_tokenizer(texts: Iterable[str] = TEXTS, *, vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE with BART's special tokens and Florence-2's, `vocab_size` together."""
    num_words = vocab_size - NUM_ADDED
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=min(num_words, 1500),
            special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    vocabulary: dict[str, int] = trained.get_vocab()
    merges = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    for number in range(num_words - len(vocabulary)):
        vocabulary[f"Ġ~{number}"] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *special_tokens()])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        mask_token="<mask>",
        extra_special_tokens={"image_token": "<image>"},
    )
    assert len(wrapped) == vocab_size, (len(wrapped), vocab_size)
    return wrapped


def make_processor(
    texts: Iterable[str] = TEXTS, *, vocab_size: int, image_size: int, num_image_tokens: int
) -> Florence2Processor:
    images = CLIPImageProcessor(
        size={"height": image_size, "width": image_size},
        crop_size={"height": image_size, "width": image_size},
        do_center_crop=False,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
        resample=3,
    )
    images.image_seq_length = num_image_tokens
    return Florence2Processor(
        image_processor=images,
        tokenizer=make_tokenizer(texts, vocab_size=vocab_size),
        post_processor_config=POST_PROCESSOR,
    )


def make_model(*, base: bool, vocab_size: int, image_token_id: int, seed: int = 0) -> Florence2ForConditionalGeneration:
    """Random weights; `base` in the shape of Florence-2-base, else a tiny one for pictures of 64 pixels."""
    special: dict[str, Any] = {
        "vocab_size": vocab_size,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
    }
    if base:
        vision = Florence2VisionConfig(projection_dim=768)
        text = BartConfig(
            d_model=768,
            encoder_layers=6,
            decoder_layers=6,
            encoder_attention_heads=12,
            decoder_attention_heads=12,
            encoder_ffn_dim=3072,
            decoder_ffn_dim=3072,
            max_position_embeddings=1024,
            **special,
        )
    else:
        vision = Florence2VisionConfig(
            embed_dim=[16, 32],
            depths=[1, 1],
            patch_size=[7, 3],
            patch_stride=[4, 2],
            patch_padding=[3, 1],
            patch_prenorm=[False, True],
            num_heads=[2, 4],
            num_groups=[2, 4],
            window_size=4,
            projection_dim=32,
        )
        text = BartConfig(
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            max_position_embeddings=256,
            init_std=0.2,  # decided, not near-uniform: no ties between tokens
            **special,
        )
    config = Florence2Config(vision_config=vision, text_config=text, image_token_id=image_token_id)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Florence2ForConditionalGeneration(config).eval()
    if not base:
        with torch.no_grad():  # so likely an end that short sequences come to one
            end = model.get_output_embeddings().weight[2]
            model.model.language_model.decoder.layers[-1].final_layer_norm.bias.copy_(2.6 * end)
    # As the public checkpoints have it.
    model.generation_config = GenerationConfig(
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
        decoder_start_token_id=2,
        forced_bos_token_id=0,
        forced_eos_token_id=2,
        no_repeat_ngram_size=3,
        num_beams=3,
        early_stopping=True,
    )
    return model


def write_checkpoint(folder: Path, *, base: bool = False, seed: int = 0) -> Path:
    """Save a model and its processor as `florence-community/Florence-2-base` is saved."""
    # 51,290 tokens, and the embeddings filled up to a multiple of 64, as published.
    num_tokens, vocab_size = (51290, 51328) if base else (1600, 1600)
    image_size, num_image_tokens = (768, 577) if base else (64, 65)
    processor = make_processor(vocab_size=num_tokens, image_size=image_size, num_image_tokens=num_image_tokens)
    image_token_id = int(processor.tokenizer.image_token_id)
    make_model(base=base, vocab_size=vocab_size, image_token_id=image_token_id, seed=seed).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
