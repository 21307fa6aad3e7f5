"""What the benchmarks look at and ask: drawn outfits with exact labels, and models of any shape to ask it of.

Nothing here needs data from outside the repository. The pictures are coloured blocks on noise: a model costs the same
whatever it sees, and prompts and answers are made by the same tasks, in the same words, as those of real photos.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image, ImageDraw

from tasks import TASKS
from tasks.base import ObjectLabel, Record, TextLabel
from tasks.boxes import Box, ImageSize
from tasks.ontology import default_ontology
from tasks.readers.wording import article, describe, is_plural
from vlm.api import VLM
from vlm.data.corpus import corpus
from vlm.data.mixture import draw_examples, generator
from vlm.hub import EMBEDDED
from vlm.model import OneLookConfig, OneLookModel
from vlm.processor import OneLookProcessor, PackedTarget
from vlm.tokenizer import load_tokenizer, train_tokenizer

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "configs" / "model" / "tiny.yaml"
SIZE: ImageSize = (800, 600)
"""A portrait of 4:3, which fills a budget of 108 image tokens with 12 x 9."""

TASK_WEIGHTS = {"caption": 1.0, "vqa": 1.5, "attributes": 1.2, "detection": 1.0, "grounding": 1.3}
"""As in configs/train/embedded.yaml, where all tasks are trained."""

PLACES = {
    "coat": (0.20, 0.16, 0.80, 0.66),
    "trousers": (0.30, 0.52, 0.70, 0.90),
    "shirt": (0.36, 0.18, 0.64, 0.52),
    "boots": (0.30, 0.86, 0.70, 0.99),
    "bag": (0.72, 0.48, 0.94, 0.70),
    "scarf": (0.36, 0.15, 0.62, 0.34),
    "hat": (0.36, 0.01, 0.64, 0.09),
    "belt": (0.34, 0.50, 0.66, 0.54),
}
"""Garment -> where it usually is, as x1, y1, x2, y2 of the picture's sides; largest first."""

_SWAPS = {
    "coat": ("jacket", "blazer", "cardigan", "cape"),
    "trousers": ("jeans", "skirt", "shorts", "leggings"),
    "shirt": ("t-shirt", "blouse", "sweater", "top"),
    "boots": ("sneakers", "heels", "loafers", "sandals"),
    "bag": ("backpack", "clutch"),
    "hat": ("cap",),
}
_WHO = ("a woman", "a man", "a person")


@dataclass(frozen=True)
class Drawn:
    """A picture and all that is known of it."""

    image: Image.Image
    record: Record


def garments_at(image_size: ImageSize, num: int) -> list[tuple[str, Box]]:
    """`num` garments with boxes in a photo of this (height, width); the list of `PLACES` starts over at its end."""
    height, width = image_size
    places = list(PLACES.items())
    chosen = [places[index % len(places)] for index in range(num)]
    return [(name, Box(x1 * width, y1 * height, x2 * width, y2 * height)) for name, (x1, y1, x2, y2) in chosen]


def draw_outfits(num: int, *, seed: int = 0) -> list[Drawn]:
    """Different outfits of five to eight garments, fully labelled."""
    return [_draw_outfit(f"drawn-{index}", random.Random(f"{seed}:{index}")) for index in range(num)]


def _draw_outfit(name: str, rng: random.Random) -> Drawn:
    height, width = SIZE
    noise = np.random.default_rng(rng.getrandbits(32)).integers(96, 160, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    canvas = ImageDraw.Draw(image)
    objects = []
    for place, box in garments_at(SIZE, len(PLACES)):
        if len(objects) >= 4 and rng.random() < 0.4:
            continue
        canvas.rectangle(box.xyxy, fill=tuple(rng.randrange(256) for _ in range(3)))
        objects.append(_label(rng.choice((place, *_SWAPS.get(place, ()))), box, rng))
    nouns = [item.label if is_plural(item.label) else f"{article(item.label)} {item.label}" for item in objects]
    phrases = [describe(item.label, item.attributes, rng) for item in objects]
    who = rng.choice(_WHO)
    brief = f"{who} in {', '.join(phrases[:2])} and {nouns[2]}".capitalize()
    detailed = [f"{who.capitalize()} wears {phrase}." for phrase in phrases[:4]]
    record = Record(
        id=name,
        image=f"{name}.png",
        image_size=SIZE,
        captions=(TextLabel(text=f"{brief}."), TextLabel(text=" ".join(detailed), detail="detailed")),
        objects=tuple(objects),
        objects_complete=True,
        boxes_complete=True,
    )
    return Drawn(image, record)


def _label(garment: str, box: Box, rng: random.Random) -> ObjectLabel:
    ontology = default_ontology()
    attributes = {
        name: tuple(rng.sample(ontology.values[name], rng.randint(1, ontology.num_values.get(name, 1))))
        for name in ontology.attributes_of(garment)
    }
    return ObjectLabel(label=garment, box=box, attributes=attributes)


def draw_texts(
    processor: OneLookProcessor, drawn: Sequence[Drawn], num_prompts: int
) -> tuple[list[list[list[int]]], list[list[PackedTarget]]]:
    """Prompts and targets of every outfit, as training draws them.

    Raises:
        ValueError: more prompts than the outfits' labels give.
    """
    prompts, targets = [], []
    for index, item in enumerate(drawn):
        size = item.record.image_size
        examples = draw_examples(item.record, TASK_WEIGHTS, num_prompts, generator("packing", index))
        if len(examples) < num_prompts:
            raise ValueError(f"an outfit's labels give {len(examples)} prompts; --num-prompts is {num_prompts}")
        tasks = [TASKS[example.task] for example in examples]
        texts = [(t.prompt(e.inputs, size), t.target(e.label, size)) for t, e in zip(tasks, examples, strict=True)]
        prompts.append([processor.encode_prompt(prompt) for prompt, _ in texts])
        targets.append([PackedTarget(ids=tuple(processor.encode_target(target))) for _, target in texts])
    return prompts, targets


def build_model(shape: Path, *, seed: int = 0) -> OneLookModel:
    """Random weights in the shape that a YAML of configs/model/ gives.

    Raises:
        ValueError: no such file.
    """
    if not shape.is_file():
        raise ValueError(f"{shape}: no such file; give a model's YAML, for example configs/model/small.yaml")
    config = OneLookConfig(**yaml.safe_load(shape.read_text(encoding="utf-8")))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return OneLookModel(config)


def build_processor(config: OneLookConfig, drawn: Sequence[Drawn]) -> OneLookProcessor:
    """With the shipped tokenizer where there is one that fits the model, or else one trained on the outfits' texts."""
    if (EMBEDDED / "tokenizer.json").is_file():
        tokenizer = load_tokenizer(EMBEDDED)
        fits = tokenizer.convert_tokens_to_ids("<loc_0>") == config.first_location_id
        if fits and len(tokenizer) <= config.vocab_size:
            return OneLookProcessor(tokenizer, config)
    texts = corpus([item.record for item in drawn])
    return OneLookProcessor(train_tokenizer(texts, vocab_size=config.vocab_size), config)


def tiny_model() -> VLM:
    """Random weights for smoke tests: drawn out, so that what is said is decided and changes with picture and place.
    As they come they repeat the start token, and equal answers would show nothing."""
    network = build_model(TINY).eval()
    with torch.no_grad():
        network.tokens.embedding.weight.mul_(8.0)
        for name, weight in network.named_parameters():
            if name.endswith(("out.weight", "down.weight")):
                weight.mul_(6.0)
    return VLM(network, build_processor(network.config, draw_outfits(4)))
