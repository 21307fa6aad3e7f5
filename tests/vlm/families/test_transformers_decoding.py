"""Our decoding of a Florence-2 against transformers' `generate`, called plainly prompt by prompt."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks.boxes import Box, encode_box
from tests.vlm.families.plainly import generate_plainly
from vlm.api import VLM
from vlm.generate import Generated
from vlm.request import Request

WORDS = ["the", "red", "bag", "coat", "tan", "brown", "t-shirt", "crêpe", "a", "<", "b", "heels", "image", "<loc"]
NATIVE = {"brief": "<CAPTION>", "detailed": "<DETAILED_CAPTION>"}
REGION = {"brief": "<REGION_TO_CATEGORY>", "detailed": "<REGION_TO_DESCRIPTION>"}


def draw_requests(num: int, seed: int) -> list[tuple[Request, str]]:
    """Random requests about random pictures of different sizes, and the prompt that the processor takes for each."""
    rng, pixels = random.Random(seed), np.random.default_rng(seed)
    images = []
    for _ in range(max(2, num // 8)):
        coarse = pixels.integers(0, 256, (rng.randint(2, 9), rng.randint(2, 9), 3), dtype=np.uint8)
        images.append(Image.fromarray(coarse).resize((rng.randint(20, 90), rng.randint(20, 90)), 0))
    drawn = []
    for _ in range(num):
        image, limit, detail = rng.choice(images), rng.choice([6, 12, 24]), rng.choice(list(NATIVE))
        kind = rng.choice(["caption", "region", "detection", "grounding"])
        if kind == "caption":
            pair = Request(image, "caption", detail=detail, max_new_tokens=limit), NATIVE[detail]
        elif kind == "region":
            (x1, x2), (y1, y2) = sorted(rng.sample(range(20), 2)), sorted(rng.sample(range(20), 2))
            text = REGION[detail] + encode_box(Box(x1, y1, x2, y2), (image.height, image.width))
            pair = Request(image, "caption", detail=detail, box=(x1, y1, x2, y2), max_new_tokens=limit), text
        elif kind == "detection":
            pair = Request(image, "detection", max_new_tokens=limit), "<OD>"
        else:
            phrase = " ".join(rng.choices(WORDS, k=rng.randint(1, 9)))
            text = f"<CAPTION_TO_PHRASE_GROUNDING>{phrase}"
            pair = Request(image, "grounding", text=phrase, max_new_tokens=limit), text
        drawn.append(pair)
    return drawn


def compare(florence2: VLM, reference: tuple[Any, Any], num: int, num_beams: int) -> list[Generated]:
    """Ours, all of them in batches, when they are what transformers says one by one."""
    drawn = draw_requests(num, seed=num)
    replies = florence2.reply([replace(request, num_beams=num_beams) for request, _ in drawn])
    for reply, (request, text) in zip(replies, drawn, strict=True):
        ids, logprobs = generate_plainly(
            reference, request.image, text, max_new_tokens=request.max_new_tokens, num_beams=num_beams
        )
        ours = reply.generated
        assert list(ours.token_ids) == ids, text
        assert len(ours.logprobs) == len(ours.confidences) == len(ours.spans) == len(ids)
        # At the limit transformers takes the end for certain, whether it would have come or not.
        compared = len(ids) - (len(ids) == request.max_new_tokens)
        assert ours.logprobs[:compared] == pytest.approx(logprobs[:compared], abs=1e-4)
    return [reply.generated for reply in replies]


def check_variety(said: Sequence[Generated], florence2: VLM) -> None:
    """The comparison is worth something: different sequences, with locations, some ended and some cut."""
    assert len({one.token_ids for one in said}) > len(said) / 6
    assert {one.truncated for one in said} == {True, False}
    assert any(florence2.family.masks.is_location(token) for one in said for token in one.token_ids)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_tokens_are_those_of_generate(florence2: VLM, reference: tuple[Any, Any], num_beams: int) -> None:
    compare(florence2, reference, 20, num_beams)


@pytest.mark.slow
@pytest.mark.parametrize("num_beams", [1, 3])
def test_tokens_of_two_hundred_prompts(florence2: VLM, reference: tuple[Any, Any], num_beams: int) -> None:
    check_variety(compare(florence2, reference, 200, num_beams), florence2)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_without_a_forced_beginning_and_end(
    florence2: VLM, reference: tuple[Any, Any], num_beams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint whose generation_config.json forces nothing: cut sequences have no end token."""
    for model in (florence2.family.model, reference[0]):
        for name, value in (("forced_bos_token_id", None), ("forced_eos_token_id", None), ("early_stopping", False)):
            monkeypatch.setattr(model.generation_config, name, value)
            monkeypatch.setattr(model.config.text_config, name, value, raising=False)
    said = compare(florence2, reference, 16, num_beams)
    assert any(one.truncated and one.token_ids[-1] != florence2.family.masks.eos_id for one in said)


def test_cut_or_ended(florence2: VLM, photos: list[Image.Image]) -> None:
    """A forced end token does not make a cut sequence a whole one, and is not taken for one that was meant."""
    eos = florence2.family.masks.eos_id

    def ask(limit: int, num_beams: int) -> list[Generated]:
        requests = [Request(photo, "caption", max_new_tokens=limit, num_beams=num_beams) for photo in photos]
        return [reply.generated for reply in florence2.reply(requests)]

    whole = ask(60, 1)
    lengths = [len(one.token_ids) for one in whole]
    limit = min(lengths)
    assert max(lengths) > limit
    cut = ask(limit, 1)
    for length, one in zip(lengths, cut, strict=True):
        assert len(one.token_ids) == limit
        assert one.token_ids[-1] == eos
        assert one.truncated == (length > limit)
    for one in [*cut, *ask(limit, 3)]:
        assert not one.truncated or one.logprobs[-1] == 0.0


def test_neighbours_change_nothing(florence2: VLM) -> None:
    """Greedy, beams, samples and different limits in one call give what each gives alone."""
    requests = [request for request, _ in draw_requests(6, seed=1)]
    requests[1] = replace(requests[1], num_beams=3)
    requests[2] = replace(requests[2], temperature=1.0, top_p=0.9, seed=5)
    requests[3] = replace(requests[3], num_beams=2, length_penalty=0.0)
    together = florence2.reply(requests)
    for request, reply in zip(requests, together, strict=True):
        [alone] = florence2.reply([request])
        assert alone.generated.token_ids == reply.generated.token_ids
        assert alone.generated.logprobs == pytest.approx(reply.generated.logprobs, abs=1e-4)


def test_samples(florence2: VLM, photos: list[Image.Image]) -> None:
    def sample(seed: int) -> list[tuple[int, ...]]:
        request = Request(photos[0], "caption", temperature=1.0, seed=seed, max_new_tokens=12)
        return [reply.generated.token_ids for reply in florence2.reply([request] * 4)]

    assert sample(1) == sample(1)
    assert len(set(sample(1))) == 4
    assert sample(1) != sample(2)


def test_an_equal_prompt_is_encoded_once(
    florence2: VLM, photos: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vision tower sees every image once, the encoder every prompt once, however often it is asked."""
    model = florence2.family.model.model
    seen: dict[str, list[int]] = {"tower": [], "encoder": []}
    for name, module in (("tower", model.vision_tower), ("encoder", model.language_model.encoder)):
        real = module.forward

        def counting(*args: Any, real: Any = real, name: str = name, **kwargs: Any) -> Any:
            seen[name].append(len(kwargs["inputs_embeds"] if name == "encoder" else args[0]))
            return real(*args, **kwargs)

        monkeypatch.setattr(module, "forward", counting)
    asked = [Request(photos[0], "caption", seed=seed, temperature=1.0, max_new_tokens=6) for seed in range(5)]
    florence2.generate([*asked, Request(photos[1], "caption", max_new_tokens=6)])
    assert sum(seen["tower"]) == 2
    assert sum(seen["encoder"]) == 2
