"""T5Gemma 2: its decoding against transformers' `generate`, its tasks, its checkpoints, and tokens added to it."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, T5Gemma2ForConditionalGeneration

import vlm
from benchmarks.random_t5gemma2 import BOI, VOCAB_SIZE, write_checkpoint
from tasks import TASKS
from tasks.boxes import NUM_BINS
from tasks.ontology import attributes_of
from tasks.results import Answer, Attributes, Caption, Detection, Grounding
from tests.vlm.families.plainly import generate_plainly
from vlm.api import VLM
from vlm.families import Prompt
from vlm.families.t5gemma2_tokens import add_location_tokens, missing_tokens
from vlm.generate import Decoding, Generated
from vlm.request import Request

WORDS = [
    "the",
    "red",
    "bag",
    "coat",
    "tan",
    "brown",
    "t-shirt",
    "crêpe",
    "a",
    "<",
    "裙子",
    "heels",
    "image",
    "\n",
    "  ",
]


@pytest.fixture(scope="module")
def folder(t5gemma2_folder: Path) -> Path:
    return t5gemma2_folder


@pytest.fixture(scope="module")
def model(folder: Path) -> VLM:
    return vlm.load(folder)


def read(folder: Path) -> tuple[Any, Any]:
    """transformers' own model and processor of a checkpoint."""
    return T5Gemma2ForConditionalGeneration.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def reference(folder: Path) -> tuple[Any, Any]:
    return read(folder)


@pytest.fixture(scope="module")
def tuned_folder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights with our tokens, which say that they were fine-tuned on all our prompts."""
    theirs, processor = read(folder)
    add_location_tokens(theirs, processor)
    theirs.config.vlm_tasks = list(TASKS)
    path = tmp_path_factory.mktemp("tuned") / "checkpoint"
    theirs.save_pretrained(path)
    processor.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def tuned(tuned_folder: Path) -> VLM:
    return vlm.load(tuned_folder)


def draw_photos(num: int, seed: int) -> list[Image.Image]:
    rng, pixels = random.Random(seed), np.random.default_rng(seed)
    coarse = (pixels.integers(0, 256, (rng.randint(2, 9), rng.randint(2, 9), 3), dtype=np.uint8) for _ in range(num))
    return [Image.fromarray(one).resize((rng.randint(20, 90), rng.randint(20, 90)), 0) for one in coarse]


# -- against transformers ----------------------------------------------------------------------------


def compare(model: VLM, reference: tuple[Any, Any], num: int, num_beams: int) -> list[Generated]:
    """Ours, all of them in batches, when they are what transformers says one by one."""
    rng, photos = random.Random(num), draw_photos(max(2, num // 8), num)
    prompts = [
        Prompt(
            image=rng.randrange(len(photos)),
            text=" ".join(["", *rng.choices(WORDS, k=rng.randint(1, 30))]),
            automaton=None,
            decoding=Decoding(max_new_tokens=rng.choice([6, 12, 24]), num_beams=num_beams),
        )
        for _ in range(num)
    ]
    said: list[Generated] = model.family.generate(model.family.encode_images(photos), prompts)
    for ours, prompt in zip(said, prompts, strict=True):
        limit = prompt.decoding.max_new_tokens
        ids, logprobs = generate_plainly(
            reference, photos[prompt.image], BOI + prompt.text, max_new_tokens=limit, num_beams=num_beams
        )
        assert list(ours.token_ids) == ids, prompt.text
        assert ours.logprobs == pytest.approx(logprobs[: len(ids)], abs=2e-4)
        assert ours.truncated == (ids[-1] != 1)
    return said


def check_variety(said: Sequence[Generated]) -> None:
    """The comparison is worth something: different sequences, some ended and some cut."""
    assert len({one.token_ids for one in said}) > len(said) / 4
    assert {one.truncated for one in said} == {True, False}


@pytest.mark.parametrize("num_beams", [1, 3])
def test_tokens_are_those_of_generate(model: VLM, reference: tuple[Any, Any], num_beams: int) -> None:
    compare(model, reference, 20, num_beams)


@pytest.mark.slow
@pytest.mark.parametrize("num_beams", [1, 3])
def test_tokens_of_two_hundred_prompts(model: VLM, reference: tuple[Any, Any], num_beams: int) -> None:
    check_variety(compare(model, reference, 200, num_beams))


@torch.no_grad()
def test_the_image_is_looked_at_once_and_the_encoder_mixes_it_with_the_prompt(
    model: VLM, reference: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The encoder's outputs are those of the processor's tensors; of an image's tokens they differ by prompt."""
    [photo] = draw_photos(1, seed=4)
    family = model.family
    features = family.encode_images([photo])
    assert features.hidden_BID.shape == (1, family.processor.image_seq_length, 32)

    def tower(*_: Any, **__: Any) -> None:
        raise AssertionError("the picture is looked at again")

    monkeypatch.setattr(family.model.get_encoder().vision_tower, "forward", tower)
    texts = [" a coat", " the red bag and a good deal more than that, so that it does not fit the windows"]
    memory = family._memory(features, [(0, text) for text in texts])
    for text, ours_MD, mask_M in zip(texts, memory.hidden_RMD, memory.mask_RM, strict=True):
        inputs = reference[1](text=BOI + text, images=photo, return_tensors="pt")
        theirs = (
            reference[0]
            .get_encoder()(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                pixel_values=inputs["pixel_values"],
            )
            .last_hidden_state[0]
        )
        torch.testing.assert_close(ours_MD[mask_M.bool()], theirs, atol=1e-5, rtol=1e-4)
    places = slice(3, 3 + family.processor.image_seq_length)
    assert (memory.hidden_RMD[0, places] - memory.hidden_RMD[1, places]).abs().max() > 1e-2


def test_photos_and_neighbours_change_nothing(tuned: VLM) -> None:
    """Photos of different sizes, greedy, beams and samples in one call give what each gives alone."""
    photos = draw_photos(3, seed=3)
    requests = [
        Request(photos[0], "caption", max_new_tokens=12),
        Request(photos[1], "vqa", text="what colour is the coat?", num_beams=3, max_new_tokens=10),
        Request(photos[2], "grounding", text="the red bag", max_new_tokens=24),
        Request(photos[0], "caption", max_new_tokens=8, temperature=1.0, seed=5),
        Request(photos[1], "caption", max_new_tokens=8, num_beams=2, length_penalty=0.0),
    ]
    for request, reply in zip(requests, tuned.reply(requests), strict=True):
        [alone] = tuned.reply([request])
        assert alone.generated.token_ids == reply.generated.token_ids
        assert alone.generated.logprobs == pytest.approx(reply.generated.logprobs, abs=1e-4)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_what_is_said_is_what_the_tokenizer_decodes(model: VLM, num_beams: int) -> None:
    """Spaces, bytes to fall back on and all; special tokens left out."""
    photos = draw_photos(6, seed=8)
    replies = model.reply([Request(photo, "caption", max_new_tokens=16, num_beams=num_beams) for photo in photos])
    tokenizer = model.family.processor.tokenizer
    texts = [*(reply.generated for reply in replies)]
    assert any(one.text.strip() for one in texts)
    for one in texts:
        known = [token for token in one.token_ids if token < len(tokenizer)]  # the model has rows without a token
        data = b"".join(model.family.masks.token_bytes(token) for token in known)
        assert data.decode(errors="replace").rstrip("\ufffd") == one.text.rstrip("\ufffd")
    for text in ("in this image, there is a crêpe 裙子\n\n  <b>", "a  b", " tan"):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert b"".join(model.family.masks.token_bytes(token) for token in ids).decode() == text


# -- tasks -------------------------------------------------------------------------------------------


def test_a_pretrained_checkpoint_captions_and_says_what_it_cannot(model: VLM, photos: list[Image.Image]) -> None:
    assert model.info()["tasks"] == ["caption"]
    caption = model.caption(photos[0], max_new_tokens=8)
    assert isinstance(caption, Caption)
    assert 0 < caption.score <= 1
    for task, call in {
        "vqa": lambda: model.ask(photos[0], "what colour is the coat?"),
        "detection": lambda: model.detect(photos[0]),
        "grounding": lambda: model.ground(photos[0], "the red bag"),
        "attributes": lambda: model.attributes(photos[0], garment="coat"),
    }.items():
        with pytest.raises(ValueError, match=f"was not trained for task '{task}', only for caption; .* vlm_tasks"):
            call()
    with pytest.raises(ValueError, match="captions the whole picture"):
        model.caption(photos[0], box=(5, 5, 30, 40))


@pytest.mark.parametrize("text", [" coat" * 600, " a <image_soft_token>"])
def test_prompts_that_do_not_fit(model: VLM, text: str) -> None:
    with pytest.raises(ValueError, match=r"at most 512|the image's own token"):
        model.family.prompt_ids(text)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_fine_tuned_checkpoint_is_asked_in_our_words(tuned: VLM, photos: list[Image.Image], num_beams: int) -> None:
    """And bound to our grammars: random weights, well-formed and scored answers."""
    assert tuned.info()["tasks"] == list(TASKS)
    assert all(tuned.family.tasks[name] is TASKS[name] for name in TASKS)
    asked: dict[str, Any] = {"num_beams": num_beams}
    attributes, answer, detection, grounding, caption = tuned.generate(
        [
            Request(photos[0], "attributes", garment="coat", max_new_tokens=250, **asked),
            Request(photos[0], "vqa", text="what colour is the coat?", max_new_tokens=16, **asked),
            Request(photos[1], "detection", max_new_tokens=40, **asked),
            Request(photos[1], "grounding", text="the red bag", max_new_tokens=40, **asked),
            Request(photos[1], "caption", max_new_tokens=12, **asked),
        ]
    )
    assert isinstance(attributes, Attributes)
    assert tuple(attributes.values) == attributes_of("coat")
    assert all(0 < value.score <= 1 for value in attributes.values.values())
    for result, kind in ((answer, Answer), (detection, Detection), (grounding, Grounding), (caption, Caption)):
        assert isinstance(result, kind)
    assert all(item.box is not None for item in detection.objects)


@torch.no_grad()
def test_scores_of_candidates(tuned: VLM, tuned_folder: Path, photos: list[Image.Image]) -> None:
    """Teacher forcing gives what the model's own logits give, its soft cap too, and batches change nothing."""
    question, candidates = "what colour is the coat?", ["red", "light blue", "crêpe"]
    scores = tuned.score(photos[0], "vqa", candidates, text=question, normalise=False)
    theirs, processor = read(tuned_folder)
    prompt = TASKS["vqa"].prompt({"question": question}, (48, 40))
    inputs = processor(text=BOI + prompt, images=photos[0], return_tensors="pt")
    inputs.pop("token_type_ids")
    for candidate, score in zip(candidates, scores, strict=True):
        ids = torch.tensor([[*processor.tokenizer.encode(candidate, add_special_tokens=False), 1]])
        logprobs = theirs(**inputs, labels=ids).logits.log_softmax(-1)[0]
        assert math.log(score) == pytest.approx(float(logprobs.gather(1, ids[0, :, None]).sum()), abs=1e-4)
    alone = [tuned.score(photos[0], "vqa", [one], text=question, normalise=False)[0] for one in candidates]
    assert alone == pytest.approx(scores, rel=1e-4)


# -- tokens ------------------------------------------------------------------------------------------


@torch.no_grad()
def test_added_tokens_leave_the_old_ones_alone(folder: Path, reference: tuple[Any, Any], tmp_path: Path) -> None:
    before, processor = reference
    [photo] = draw_photos(1, seed=7)
    inputs = processor(text=f"{BOI} in this image, there is", images=photo, return_tensors="pt")
    inputs.pop("token_type_ids")
    inputs["decoder_input_ids"] = torch.tensor([[2, 300, 310, 7]])
    num_old = len(processor.tokenizer)
    old = before(**inputs).logits[..., :num_old]

    model, own = read(folder)
    ids = add_location_tokens(model, own)
    assert ids == list(range(num_old, num_old + len(TASKS) + NUM_BINS))  # rows without a token come first
    assert num_old < VOCAB_SIZE < len(own.tokenizer) == model.config.decoder.vocab_size == model.vocab_size
    assert add_location_tokens(model, own) == []
    after = model(**inputs).logits
    torch.testing.assert_close(after[..., :num_old], old, rtol=0, atol=1e-5)
    assert after.shape[-1] == len(own.tokenizer)
    assert bool(after.isfinite().all())
    said = {**inputs, "decoder_input_ids": torch.tensor([[2, ids[0], ids[-1], ids[9]]])}
    assert bool(model(**said).logits.isfinite().all())

    model.save_pretrained(tmp_path)
    own.save_pretrained(tmp_path)
    loaded = vlm.load(tmp_path)
    assert missing_tokens(loaded.family.processor.tokenizer) == []
    assert len(loaded.family.masks.location_ids) == NUM_BINS
    torch.testing.assert_close(loaded.family.model(**inputs).logits, after, rtol=0, atol=1e-6)
    weights = {part.data_ptr() for part in (
        loaded.family.model.get_input_embeddings().weight,
        loaded.family.model.get_decoder().embed_tokens.weight,
        loaded.family.model.get_output_embeddings().weight,
    )}  # fmt: skip
    assert len(weights) == 1


def test_locations_are_in_order(folder: Path) -> None:
    """Neighbours are alike, far ones are not, and all lie where the old embeddings do; equal in every process."""
    model, processor = read(folder)
    old_VD = model.get_input_embeddings().weight[: len(processor.tokenizer)].detach().clone()
    ids = add_location_tokens(model, processor)
    new_ND = model.get_input_embeddings().weight[ids].detach()
    places = new_ND[len(TASKS) :]
    near = (places[1:] - places[:-1]).norm(dim=1)
    far = (places[500:] - places[:-500]).norm(dim=1)
    assert near.min() > 0
    assert near.max() < far.median() / 10
    assert (new_ND.mean(0) - old_VD.mean(0)).abs().max() < old_VD.std(0).max()
    again, processor = read(folder)
    assert add_location_tokens(again, processor) == ids
    assert torch.equal(again.get_input_embeddings().weight[ids], new_ND)


def test_new_tokens_are_trained(folder: Path) -> None:
    model, processor = read(folder)
    ids = add_location_tokens(model, processor)
    weight = model.get_input_embeddings().weight
    [photo] = draw_photos(1, seed=7)
    inputs = processor(text=f"{BOI}<grounding> the bag", images=photo, return_tensors="pt")
    inputs.pop("token_type_ids")
    labels = torch.tensor([[ids[100], ids[200], ids[300], ids[400], 1]])
    optimizer = torch.optim.Adam([weight], lr=0.02)
    losses = []
    for _ in range(30):
        loss = model(**inputs, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2


def test_tasks_without_their_tokens(folder: Path, tmp_path: Path) -> None:
    theirs, processor = read(folder)
    for tasks, error in ((["grounding"], "call add_location_tokens"), (["ground"], "vlm_tasks in config.json has")):
        theirs.config.vlm_tasks = tasks
        theirs.save_pretrained(tmp_path)
        processor.save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=error):
            vlm.load(tmp_path)


# -- checkpoints -------------------------------------------------------------------------------------


def test_saved_and_loaded(tuned: VLM, photos: list[Image.Image], tmp_path: Path) -> None:
    tuned.save_pretrained(tmp_path / "saved")
    again = vlm.load(tmp_path / "saved")
    assert again.info()["tasks"] == tuned.info()["tasks"]
    requests = [Request(photo, "detection", max_new_tokens=20) for photo in photos]
    said = [[reply.generated.token_ids for reply in one.reply(requests)] for one in (tuned, again)]
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("model.safetensors", "no .safetensors weights"),
        ("tokenizer.json", "has no tokenizer.json"),
        ("processor_config.json", "the processor cannot be read"),
    ],
)
def test_missing_files(tmp_path: Path, name: str, error: str) -> None:
    (write_checkpoint(tmp_path) / name).unlink()
    with pytest.raises(ValueError, match=error):
        vlm.load(tmp_path)


def test_weights_of_another_shape(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path) / "config.json"
    config = json.loads(path.read_text())
    config["decoder"]["intermediate_size"] = 48
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="weights"):
        vlm.load(tmp_path)


def test_a_model_in_training_is_left_in_training(model: VLM, photos: list[Image.Image]) -> None:
    request = Request(photos[0], "caption", max_new_tokens=6)
    [before] = model.reply([request])
    model.family.model.train()
    try:
        [during] = model.reply([replace(request)])
        assert model.family.model.training
    finally:
        model.family.model.eval()
    assert during.generated.token_ids == before.generated.token_ids
