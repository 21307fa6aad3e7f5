"""Florence-2: our tasks in its words, its output read into our results, and its checkpoints."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Florence2ForConditionalGeneration

import vlm
from tasks import TASKS
from tasks.base import ParseError
from tasks.boxes import Box
from tasks.ontology import attributes_of
from tasks.results import Answer, Attributes, Caption, Detection, Grounding
from vlm.api import VLM
from vlm.families.florence2_tasks import NATIVE
from vlm.generate import Generated
from vlm.outfit import NOTHING_FOUND, is_worn
from vlm.request import Request

SIZE = (800, 600)


def spans(text: str, logprobs: dict[str, float]) -> Any:
    """A scorer of a text whose pieces have these log-probabilities; the end token has one of its own."""

    def score(start: int, end: int) -> tuple[float, int]:
        found = [value for piece, value in logprobs.items() for at in [text.find(piece)] if start <= at < end]
        return sum(found) + (-0.5 if end > len(text) else 0.0), len(found)

    return score


# -- prompts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "inputs", "text"),
    [
        ("caption", {"detail": "brief"}, "What does the image describe?"),
        ("caption", {"detail": "detailed"}, "Describe in detail what is shown in the image."),
        (
            "caption",
            {"detail": "brief", "box": Box(0, 0, 300, 800)},
            "What is the region <loc_0><loc_0><loc_500><loc_999>?",
        ),
        (
            "caption",
            {"detail": "detailed", "box": Box(0, 0, 300, 800)},
            "What does the region <loc_0><loc_0><loc_500><loc_999> describe?",
        ),
        ("detection", {}, "Locate the objects with category name in the image."),
        ("grounding", {"phrase": " the  red bag "}, "Locate the phrases in the caption: the red bag"),
    ],
)  # fmt: skip
def test_prompts(florence2: VLM, reference: tuple[Any, Any], task: str, inputs: dict[str, Any], text: str) -> None:
    """What we ask is what the processor makes of the same task token, token for token."""
    prompt = florence2.family.tasks[task].prompt(inputs, SIZE)
    ids = florence2.family.prompt_ids(prompt)
    processor = reference[1]
    assert processor.tokenizer.decode(ids) == f"<s>{text}</s>"
    theirs = processor(text=prompt, images=Image.new("RGB", (8, 8)))["input_ids"][0]
    assert list(theirs) == [processor.image_token_id] * processor.num_image_tokens + ids


@pytest.mark.parametrize("phrase", ["the <loc_5> bag", "a <image> of </s> it", "<OD>", "an {input}", "100 % cotton"])
def test_words_of_people_are_no_tokens(florence2: VLM, phrase: str) -> None:
    prompt = NATIVE["grounding"].prompt({"phrase": phrase}, SIZE)
    ids = florence2.family.prompt_ids(prompt)
    tokenizer = florence2.family.processor.tokenizer
    special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    assert not special & set(ids[1:-1])


@pytest.mark.parametrize(
    ("task", "inputs", "error"),
    [
        ("grounding", {"phrase": " "}, "the phrase is empty"),
        ("caption", {"detail": "long"}, "detail is 'long'; expected one of brief, detailed"),
        ("detection", {"boxes": False}, "only with their boxes"),
    ],
)
def test_wrong_inputs(task: str, inputs: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        NATIVE[task].prompt(inputs, SIZE)


def test_a_prompt_that_is_too_long(florence2: VLM, photos: list[Image.Image]) -> None:
    with pytest.raises(ValueError, match=r"the prompt has \d+ tokens, at most 191"):
        florence2.ground(photos[0], "the red bag " * 200)


# -- reading -----------------------------------------------------------------------------------------


def detect(text: str, *, truncated: bool = False, scorer: Any = None) -> list[tuple[str, tuple[float, ...], float]]:
    found = NATIVE["detection"].parse(text, {}, SIZE, scorer=scorer, truncated=truncated)
    assert isinstance(found, Detection)
    assert found.truncated == truncated
    return [(item.label, item.box.xyxy, item.score) for item in found.objects if item.box is not None]


def test_boxes_are_centres_of_bins_as_floats() -> None:
    [(label, box, score)] = detect("coat<loc_0><loc_1><loc_998><loc_999>")
    assert (label, score) == ("coat", 1.0)
    assert box == pytest.approx((0.5 / 1000 * 600, 1.5 / 1000 * 800, 998.5 / 1000 * 600, 999.5 / 1000 * 800))
    for value in box:
        assert value != int(value)


@pytest.mark.parametrize(
    "label",
    ["t-shirt", "lace-up shoes", "crêpe skirt", "裙子", "i <3 you t-shirt", "size < 40", "a<b", "<od> cap", "50%"],
)
def test_labels(label: str) -> None:
    text = f"{label}<loc_1><loc_1><loc_500><loc_500>hat<loc_2><loc_2><loc_3><loc_3>"
    assert [found for found, _, _ in detect(text)] == [label, "hat"]


def test_several_boxes_of_one_label_largest_first() -> None:
    text = "shoe<loc_10><loc_10><loc_20><loc_20><loc_30><loc_10><loc_60><loc_20>dress<loc_0><loc_0><loc_900><loc_900>"
    scorer = spans(text, {"shoe": -0.1, "<loc_10><loc_10>": -0.2, "<loc_30>": -1.0, "dress": -0.05})
    found = detect(text, scorer=scorer)
    assert [label for label, _, _ in found] == ["dress", "shoe", "shoe"]
    assert [score for _, _, score in found] == pytest.approx([math.exp(-0.05), math.exp(-1.1), math.exp(-0.3)])


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("", []),
        ("coat", []),
        ("coat<loc_1><loc_2>", []),
        ("coat<loc_1><loc_2><loc_3><loc_4>ha", ["coat"]),
        ("coat<loc_1><loc_2><loc_3><loc_4><loc_5>", ["coat"]),
        ("coat<loc_1><loc_2><loc_3><loc_4>hat<loc_1><loc_2><loc_3>", ["coat"]),
        ("<loc_1><loc_2><loc_3><loc_4>", []),
        ("coat<loc_5><loc_2><loc_3><loc_4>hat<loc_1><loc_2><loc_3><loc_4>", ["hat"]),
        ("coat<loc_1><loc_2><loc_3><loc_1000>", []),
        (" \n<loc_1><loc_2><loc_3><loc_4>", []),
    ],
)
@pytest.mark.parametrize("truncated", [False, True])
def test_what_is_no_label_with_a_whole_box_is_left_out(text: str, labels: list[str], truncated: bool) -> None:
    assert [label for label, _, _ in detect(text, truncated=truncated)] == labels


def test_grounding_takes_the_part_that_stands_first_in_the_phrase() -> None:
    text = "a chair<loc_0><loc_0><loc_9><loc_9>The Bag<loc_1><loc_1><loc_2><loc_2><loc_3><loc_3><loc_4><loc_4>"
    scorer = spans(text, {"a chair": -1.0, "The Bag": -0.5, "<loc_1><loc_1>": -0.25, "<loc_3>": -0.125})
    found = NATIVE["grounding"].parse(text, {"phrase": "the  bag on a chair"}, SIZE, scorer=scorer)
    assert isinstance(found, Grounding)
    assert found.phrase == "the  bag on a chair"
    assert [score for _, score in found.boxes] == pytest.approx([math.exp(-0.25), math.exp(-0.125)])
    assert found.boxes[0][0].x1 == pytest.approx(1.5 / 1000 * 600)
    assert found.score == pytest.approx(math.exp(-1.0 - 0.5 - 0.25 - 0.125 - 0.5))
    nothing = NATIVE["grounding"].parse("", {"phrase": "the bag"}, SIZE, scorer=spans("", {}))
    assert nothing.boxes == ()
    assert nothing.score == pytest.approx(math.exp(-0.5))


def test_captions() -> None:
    text = " a woman in a coat. "
    found = NATIVE["caption"].parse(text, {}, SIZE, scorer=lambda start, end: (-2.0, 4), truncated=True)
    assert found == Caption("a woman in a coat.", math.exp(-0.5), True)
    region = NATIVE["caption"].parse("tan coat<loc_1><loc_2><loc_3><loc_4>", {}, SIZE, scorer=lambda a, b: (-b / 4, b))
    assert region == Caption("tan coat", math.exp(-0.25))
    assert NATIVE["caption"].parse("", {}, SIZE).text == ""


# -- the API -----------------------------------------------------------------------------------------


def test_every_answer_is_typed_and_scored(florence2: VLM, photos: list[Image.Image]) -> None:
    for num_beams in (1, 3):
        results = florence2.generate(
            [
                Request(photo, task, text="the red bag", max_new_tokens=24, num_beams=num_beams)
                for photo in photos
                for task in ("caption", "detection", "grounding")
            ]
        )
        assert [type(result) for result in results] == [Caption, Detection, Grounding] * len(photos)
        scores = [result.score for result in results if not isinstance(result, Detection)]
        assert all(0 < score <= 1 for score in scores)


def test_what_it_says_becomes_boxes(florence2: VLM, photos: list[Image.Image], monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the whole API: text and token log-probabilities in, boxes in pixels of the photo and scores out."""
    said = "dress<loc_100><loc_200><loc_300><loc_400>person<loc_0><loc_0><loc_999><loc_999>"
    pieces = [
        "dress",
        "<loc_100>",
        "<loc_200>",
        "<loc_300>",
        "<loc_400>",
        "person",
        *["<loc_0>"] * 2,
        *["<loc_999>"] * 2,
    ]
    ends = np.cumsum([len(piece) for piece in pieces]).tolist()
    generated = Generated(
        said, (0,) * 10, (-0.1,) * 10, (-0.1,) * 10, tuple(zip([0, *ends], ends, strict=False)), False
    )
    monkeypatch.setattr(florence2.family, "generate", lambda features, prompts: [generated for _ in prompts])
    person, dress = florence2.detect(photos[0]).objects
    assert (person.label, dress.label) == ("person", "dress")
    assert dress.box is not None
    assert dress.box.xyxy == pytest.approx((4.02, 12.03, 12.02, 24.03))
    assert dress.score == pytest.approx(math.exp(-0.5))
    outfit = florence2.describe_outfit(photos[0])
    [worn] = outfit.garments
    assert (worn.label, worn.attributes) == ("dress", None)
    assert outfit.summary == "dressperson"


def test_an_outfit_without_attributes(florence2: VLM, photos: list[Image.Image]) -> None:
    outfit = florence2.describe_outfit(photos[0])
    assert 0 <= outfit.score <= 1
    assert all(garment.attributes is None and is_worn(garment.label) for garment in outfit.garments)
    assert outfit.garments or outfit.summary == NOTHING_FOUND


@pytest.mark.parametrize(
    ("label", "worn"),
    [("dress", True), ("High heels", True), ("T-shirt", True), ("sun hat", True), ("clothing", True), ("jackets", True),
     ("person", False), ("car", False), ("dress shop", False), ("human face", False), ("", False)],
)  # fmt: skip
def test_what_is_worn(label: str, worn: bool) -> None:
    assert is_worn(label) == worn


def test_tasks_that_it_was_not_trained_for(florence2: VLM, photos: list[Image.Image]) -> None:
    for call in (
        lambda: florence2.ask(photos[0], "what colour is the coat?"),
        lambda: florence2.score(photos[0], "vqa", ["red", "blue"], text="what colour is the coat?"),
    ):
        with pytest.raises(ValueError, match="was not trained for task 'vqa', only for caption, grounding, detection"):
            call()
    with pytest.raises(ValueError, match="not trained for task 'attributes'"):
        florence2.attributes(photos[0], garment="coat")
    assert florence2.info()["tasks"] == ["caption", "grounding", "detection"]


def test_regions_are_captions_of_a_box(florence2: VLM, tiny: VLM, photos: list[Image.Image]) -> None:
    assert isinstance(florence2.caption(photos[0], box=(5, 5, 30, 40), max_new_tokens=8), Caption)
    with pytest.raises(ValueError, match="lies outside the image"):
        florence2.caption(photos[0], box=(500, 500, 600, 600))
    with pytest.raises(ValueError, match="a caption is of the whole picture"):
        tiny.caption(photos[0], box=(5, 5, 30, 40))


@pytest.fixture(scope="module")
def fine_tuned(florence2_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> VLM:
    """The same weights, which say that they were fine-tuned on our prompts."""
    folder = shutil.copytree(florence2_folder, tmp_path_factory.mktemp("tuned") / "checkpoint")
    config = json.loads((folder / "config.json").read_text())
    config["vlm_tasks"] = ["attributes", "vqa", "detection"]
    (folder / "config.json").write_text(json.dumps(config))
    return vlm.load(folder)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_fine_tuned_checkpoint_is_asked_in_our_words(
    fine_tuned: VLM, photos: list[Image.Image], num_beams: int
) -> None:
    """And bound to our grammars: random weights, well-formed answers."""
    assert set(fine_tuned.info()["tasks"]) == {"caption", "vqa", "grounding", "detection", "attributes"}
    assert fine_tuned.family.tasks["vqa"] is TASKS["vqa"]
    found = fine_tuned.generate(
        [
            Request(photos[0], "attributes", garment="coat", num_beams=num_beams, max_new_tokens=250),
            Request(photos[0], "vqa", text="what colour is the coat?", num_beams=num_beams),
            Request(photos[1], "detection", num_beams=num_beams, max_new_tokens=40),
            Request(photos[1], "caption", num_beams=num_beams, max_new_tokens=12),
        ]
    )
    attributes, answer, detection, caption = found
    assert isinstance(attributes, Attributes)
    assert isinstance(answer, Answer)
    assert isinstance(caption, Caption)
    assert all(0 < value.score <= 1 for value in attributes.values.values())
    assert tuple(attributes.values) == attributes_of("coat")
    assert all(item.box is not None for item in detection.objects)


def test_outfits_of_a_fine_tuned_checkpoint_have_attributes(fine_tuned: VLM, photos: list[Image.Image]) -> None:
    outfit = fine_tuned.describe_outfit(photos[0])
    assert all(garment.attributes is not None for garment in outfit.garments)


def test_a_fine_tuned_checkpoint_keeps_its_tasks(fine_tuned: VLM, tmp_path: Path) -> None:
    fine_tuned.save_pretrained(tmp_path / "saved")
    assert vlm.load(tmp_path / "saved").info()["tasks"] == fine_tuned.info()["tasks"]


def test_scores_of_candidates(fine_tuned: VLM, photos: list[Image.Image]) -> None:
    """Teacher forcing gives what the model's own loss gives, and batches change nothing."""
    question, candidates = "what colour is the coat?", ["red", "light blue", "crêpe"]
    scores = fine_tuned.score(photos[0], "vqa", candidates, text=question, normalise=False)
    family = fine_tuned.family
    model, processor = family.model, family.processor
    inputs = processor(text=TASKS["vqa"].prompt({"question": question}, SIZE), images=photos[0], return_tensors="pt")
    for candidate, score in zip(candidates, scores, strict=True):
        ids = processor.tokenizer(f"<s>{candidate}</s>", add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logprobs = model(**inputs, labels=ids).logits.log_softmax(-1)[0]
        expected = float(logprobs.gather(1, ids[0, :, None])[1:].sum())  # the first is forced in generation
        assert math.log(score) == pytest.approx(expected, abs=1e-4)
    alone = [fine_tuned.score(photos[0], "vqa", [one], text=question, normalise=False)[0] for one in candidates]
    assert alone == pytest.approx(scores, rel=1e-4)


def test_photos_of_different_sizes_in_one_batch(florence2: VLM) -> None:
    """Each is resized to the size that the checkpoint's processor says, and gives what it gives alone."""
    rng = np.random.default_rng(3)
    photos = [
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for height, width in ((64, 64), (30, 200), (301, 17))
    ]
    together = florence2.family.encode_images(photos).hidden_BID
    assert together.shape[1] == florence2.family.processor.num_image_tokens
    for photo, found in zip(photos, together, strict=True):
        pixels = florence2.family.processor.image_processor(photo, return_tensors="pt")["pixel_values"]
        assert pixels.shape[-2:] == (64, 64)
        assert torch.allclose(florence2.family.encode_images([photo]).hidden_BID[0], found, atol=1e-5)


# -- right where the field was wrong -----------------------------------------------------------------


def test_labels_are_shifted_once(reference: tuple[Any, Any], photos: list[Image.Image]) -> None:
    """The loss is a hand-computed cross-entropy. transformers 4.57 to 5.12 shifted labels twice; pyproject.toml pins
    what does not (`transformers>=5.13`), and this fails where the pin is loosened."""
    model, processor = reference
    inputs = processor(text=["<CAPTION>", "<OD>"], images=photos[:2], return_tensors="pt", padding=True)
    labels = torch.tensor([[0, 300, 301, 302, 2], [0, 400, 2, -100, -100]])
    with torch.no_grad():
        loss = float(model(**inputs, labels=labels).loss)
        decoder_input_ids = torch.tensor([[2, 0, 300, 301, 302], [2, 0, 400, 2, 1]])  # the start token comes before
        logits = model(**inputs, decoder_input_ids=decoder_input_ids).logits
    by_hand = -np.mean(
        [
            float(logits[row, place].log_softmax(-1)[labels[row, place]])
            for row in range(2)
            for place in range(5)
            if labels[row, place] != -100
        ]
    )
    assert loss == pytest.approx(by_hand, abs=1e-5)


@pytest.mark.parametrize("at_once", [{"cpu": 1}, {}], ids=["one by one", "together"])
def test_padding_is_masked(
    florence2: VLM, photos: list[Image.Image], monkeypatch: pytest.MonkeyPatch, at_once: dict[str, int]
) -> None:
    """A short prompt gives the same memory beside a long one, and padded positions are told."""
    monkeypatch.setattr("vlm.families.florence2.NUM_PROMPTS", at_once)
    family = florence2.family
    features = family.encode_images(photos[:1])
    short, long = (0, "<CAPTION>"), (0, f"<CAPTION_TO_PHRASE_GROUNDING>{'the red bag ' * 9}")
    alone, together = family._memory(features, [short]), family._memory(features, [short, long])
    length = alone.hidden_RMD.shape[1]
    assert together.mask_RM.sum(1).tolist() == [length, together.hidden_RMD.shape[1]]
    assert length < together.hidden_RMD.shape[1]
    assert torch.allclose(together.hidden_RMD[0, :length], alone.hidden_RMD[0], atol=1e-5)


# -- checkpoints -------------------------------------------------------------------------------------


def test_save_and_load(florence2: VLM, florence2_folder: Path, tmp_path: Path, photos: list[Image.Image]) -> None:
    florence2.save_pretrained(tmp_path / "saved")
    again = vlm.load(tmp_path / "saved")
    asked = [Request(photo, "caption", max_new_tokens=12) for photo in photos]
    assert again.generate(asked) == florence2.generate(asked)
    half = vlm.load(florence2_folder, dtype="bfloat16")
    assert half.info()["dtype"] == "bfloat16"
    assert isinstance(half.caption(photos[0], max_new_tokens=8), Caption)


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda folder, config: config.update(auto_map={"AutoModel": "x.Y"}), "florence-community/Florence-2-base"),
        (lambda folder, config: config.update(vlm_tasks=["ocr"]), "vlm_tasks in config.json has 'ocr'; known: caption"),
        (lambda folder, config: config["text_config"].update(d_model=64), "the weights cannot be read|do not fit"),
        (lambda folder, config: config["text_config"].update(encoder_layers=3), "do not fit config.json"),
        (lambda folder, config: (folder / "model.safetensors").unlink(), "no .safetensors weights"),
        (lambda folder, config: (folder / "model.safetensors").write_bytes(b"\xff" * 20), "cannot be read"),
        (lambda folder, config: (folder / "processor_config.json").unlink(), "the processor cannot be read"),
        (lambda folder, config: (folder / "tokenizer.json").unlink(), "the processor cannot be read"),
    ],
)
def test_broken_checkpoints(florence2_folder: Path, tmp_path: Path, damage: Any, error: str) -> None:
    folder = shutil.copytree(florence2_folder, tmp_path / "broken")
    config = json.loads((folder / "config.json").read_text())
    damage(folder, config)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=error):
        vlm.load(folder)


def test_a_model_in_training_stays_in_training(florence2_folder: Path, photos: list[Image.Image]) -> None:
    model = vlm.load(florence2_folder)
    network: Florence2ForConditionalGeneration = model.family.model
    said = model.caption(photos[0], max_new_tokens=12)
    in_training = VLM(network.train(), model.family.processor)
    assert in_training.caption(photos[0], max_new_tokens=12) == said
    assert network.training
    assert not hasattr(network, "_reorder_cache")


def test_parse_errors_are_for_our_own_tasks(fine_tuned: VLM) -> None:
    with pytest.raises(ParseError):
        fine_tuned.family.tasks["detection"].parse("no such garment", {}, SIZE)
