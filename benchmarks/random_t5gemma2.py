"""A T5Gemma 2 of random weights in the format of the public checkpoints: configuration, tokenizer, image processor.

The shape is tiny; the kind of tokenizer (BPE over characters with bytes to fall back on, "▁" for a space), the tied
embeddings, the sliding windows and the names of files and special tokens are those of `google/t5gemma-2-270m-270m`.
"""

from __future__ import annotations

import json
from pathlib import Path

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


def make_tokenizer() -> GemmaTokenizer:
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trained.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    words: list[str] = sorted(trained.get_vocab(), key=trained.get_vocab().__getitem__)
    names = [*SPECIAL, BOI, EOI, *(f"<0x{byte:02X}>" for byte in range(256)), "\n", "\n\n"]
    names += [word for word in words if word not in names]
    merges = [("\n", "\n"), *map(tuple, json.loads(trained.to_str())["model"]["merges"])]
    tokenizer = GemmaTokenizer(
        vocab={name: number for number, name in enumerate(names)},
        merges=merges,
        extra_special_tokens={"boi_token": BOI, "eoi_token": EOI, "image_token": IMAGE},
    )
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", 2)]
    )
    assert len(tokenizer) < VOCAB_SIZE, len(tokenizer)
    return tokenizer


def make_processor() -> Gemma3Processor:
    images = Gemma3ImageProcessorPil(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return Gemma3Processor(image_processor=images, tokenizer=make_tokenizer(), image_seq_length=NUM_IMAGE_TOKENS)


def make_model(processor: Gemma3Processor, *, seed: int = 0) -> T5Gemma2ForConditionalGeneration:
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
        "initializer_range": 0.3,  # decided, not near-uniform: no ties between tokens
    }
    tokenizer = processor.tokenizer
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        image_size=IMAGE_SIZE, patch_size=PATCH_SIZE, vision_use_head=False,
    )  # fmt: skip
    encoder = T5Gemma2EncoderConfig(
        text_config=T5Gemma2TextConfig(**text),
        vision_config=vision,
        mm_tokens_per_image=NUM_IMAGE_TOKENS,
        boi_token_index=tokenizer.convert_tokens_to_ids(BOI),
        eoi_token_index=tokenizer.convert_tokens_to_ids(EOI),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
    )
    decoder = T5Gemma2DecoderConfig(**text, final_logit_softcapping=20.0)
    config = T5Gemma2Config(
        encoder=encoder, decoder=decoder, image_token_index=encoder.image_token_index, initializer_range=0.3
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


def write_checkpoint(folder: Path, *, seed: int = 0) -> Path:
    processor = make_processor()
    make_model(processor, seed=seed).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
