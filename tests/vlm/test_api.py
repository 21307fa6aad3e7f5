"""The public names: typed results from every kind of request, one look an image, errors that help."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModel

import vlm
from tasks import TASKS
from tasks.boxes import Box
from tasks.results import Answer, Attributes, Caption, Detection, Grounding
from vlm.api import VLM
from vlm.model import OneLookConfig, OneLookModel
from vlm.request import Request

QUESTION = "what colour are the boots?"


@pytest.fixture
def looks(tiny: VLM, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many images each call of the real model's `encode_images` was given."""
    seen: list[int] = []
    real = tiny.family.model.encode_images

    def counting(pixel_values: Any, image_index: Any = None) -> Any:
        seen.append(sum(len(group) for group in pixel_values))
        return real(pixel_values, image_index)

    monkeypatch.setattr(tiny.family.model, "encode_images", counting)
    yield seen


def test_public_names() -> None:
    assert set(vlm.__all__) == {"VLM", "Request", "describe_outfit", "load"}


def test_import_registers_the_model() -> None:
    assert isinstance(AutoConfig.for_model("onelook"), OneLookConfig)
    assert AutoModel._model_mapping[OneLookConfig] is OneLookModel


def test_every_method_gives_its_type(tiny: VLM, photos: list[Image.Image]) -> None:
    photo = photos[0]
    results = [
        (tiny.caption(photo), Caption),
        (tiny.caption(photo, detail="detailed"), Caption),
        (tiny.ask(photo, QUESTION), Answer),
        (tiny.detect(photo), Detection),
        (tiny.ground(photo, "the red bag"), Grounding),
        (tiny.attributes(photo, garment="coat"), Attributes),
        (tiny.attributes(photo, garment="coat", box=(0, 0, 20, 30)), Attributes),
        (tiny.attributes(photo, box=Box(0, 0, 20, 30), attributes=["colour"]), Attributes),
    ]
    for result, kind in results:
        assert isinstance(result, kind)
        json.dumps(result.to_dict())
    assert tiny.ground(photo, "the red bag").phrase == "the red bag"


def test_output_always_parses(tiny: VLM, photos: list[Image.Image]) -> None:
    """Random weights, every task, every way of decoding, cut early and late: parse_rate 1.0."""
    requests = [
        Request(photo, task, text="the red bag", garment="coat", max_new_tokens=limit, **options)
        for photo in photos
        for task in TASKS
        for limit in (3, 9, 30)
        for options in ({}, {"num_beams": 2}, {"temperature": 1.5, "seed": 1})
    ]
    results = tiny.generate(requests)
    assert len(results) == len(requests)
    kinds = {"caption": Caption, "vqa": Answer, "grounding": Grounding, "detection": Detection}
    for request, result in zip(requests, results, strict=True):
        assert isinstance(result, kinds.get(request.task, Attributes))


def test_same_result_in_any_batch(tiny: VLM, photos: list[Image.Image]) -> None:
    requests = [
        Request(photo, task, text="the red bag", garment="coat", max_new_tokens=20)
        for task in TASKS
        for photo in photos
    ]
    whole = tiny.generate(requests)
    for other in (tiny.generate(requests, batch_size=1), tiny.generate(requests[::-1], batch_size=3)[::-1]):
        for first, second in zip(whole, other, strict=True):
            assert_close(first.to_dict(), second.to_dict())


def assert_close(first: Any, second: Any) -> None:
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_close(first[key], second[key])
    elif isinstance(first, list):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_close(one, other)
    elif isinstance(first, float):
        assert first == pytest.approx(second, abs=1e-3)
    else:
        assert first == second


def test_an_image_is_looked_at_once(tiny: VLM, photos: list[Image.Image], tmp_path: Path, looks: list[int]) -> None:
    path = tmp_path / "photo.png"
    photos[1].save(path)
    requests = [Request(image, "vqa", text=QUESTION) for image in (photos[0], path, photos[0], str(path))]
    tiny.generate([*requests, Request(photos[0], "detection", max_new_tokens=5)])
    assert looks == [2]


def test_encoded_images_are_not_looked_at_again(tiny: VLM, photos: list[Image.Image], looks: list[int]) -> None:
    """And they give what the images themselves give."""
    requests = [Request(photo, task, text=QUESTION, garment="coat") for photo in photos for task in TASKS]
    expected = tiny.generate(requests)
    encoded = tiny.encode(photos)
    del looks[:]
    reused = tiny.generate(
        [Request(image, task, text=QUESTION, garment="coat") for image in encoded for task in TASKS], batch_size=2
    )
    assert looks == []
    for first, second in zip(expected, reused, strict=True):
        assert_close(first.to_dict(), second.to_dict())
    assert tiny.caption(encoded[2]) == tiny.caption(encoded[2])


def test_encoded_and_plain_images_mix(tiny: VLM, photos: list[Image.Image]) -> None:
    first, second = tiny.encode(photos[:1]), tiny.encode(photos[1:3])
    images = [photos[3], *second, *first]
    results = tiny.generate([Request(image, "vqa", text=QUESTION) for image in images])
    for image, result in zip((photos[3], photos[1], photos[2], photos[0]), results, strict=True):
        assert_close(result.to_dict(), tiny.ask(image, QUESTION).to_dict())


def test_every_kind_of_image(tiny: VLM, photos: list[Image.Image], tmp_path: Path) -> None:
    photo = photos[0]
    path = tmp_path / "photo.png"
    photo.save(path)
    buffer = io.BytesIO()
    photo.save(buffer, "PNG")
    expected = tiny.caption(photo)
    for source in (path, str(path), buffer.getvalue(), np.asarray(photo)):
        assert_close(tiny.caption(source).to_dict(), expected.to_dict())


def test_a_bad_image_is_named(tiny: VLM, photos: list[Image.Image], tmp_path: Path) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes(b"\xff\xd8\xff nothing")
    with pytest.raises(ValueError, match=r"broken\.jpg"):
        tiny.generate([Request(photos[0], "caption"), Request(path, "caption")])


def test_scores_are_probabilities_among_the_candidates(tiny: VLM, photos: list[Image.Image]) -> None:
    candidates = ["short", "long", "not visible"]
    scores = tiny.score(photos[0], "vqa", candidates, text=QUESTION)
    raw = tiny.score(photos[0], "vqa", candidates, text=QUESTION, normalise=False)
    assert sum(scores) == pytest.approx(1.0)
    assert all(0 <= p <= 1 for p in raw)
    assert scores == pytest.approx([p / sum(raw) for p in raw], rel=1e-3)


def test_equal_requests_sample_apart_and_alone_the_same(tiny: VLM, photos: list[Image.Image]) -> None:
    request = Request(photos[0], "caption", temperature=1.0, seed=7, max_new_tokens=12)
    texts = [result.text for result in tiny.generate([request] * 4)]
    assert len(set(texts)) > 1
    assert tiny.generate([Request(photos[1], "caption", temperature=1.0, seed=7), request])[1].text == texts[0]
    fresh = Request(photos[0], "caption", temperature=1.0, max_new_tokens=12)
    assert len({result.text for _ in range(4) for result in tiny.generate([fresh])}) > 1


def test_the_token_limit_shows(tiny: VLM, photos: list[Image.Image]) -> None:
    assert tiny.detect(photos[0], max_new_tokens=2).truncated
    assert tiny.detect(photos[0], max_new_tokens=2).objects == ()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"task": "captoin"}, "known: caption"),
        ({"task": "caption", "detail": "long"}, "brief, detailed"),
        ({"task": "vqa"}, "needs a question"),
        ({"task": "grounding", "text": " "}, "needs a phrase"),
        ({"task": "attributes"}, "garment, a box, or both"),
        ({"task": "attributes", "box": (1, 2, 3)}, "four numbers"),
        ({"task": "attributes", "box": (5, 5, 1, 1)}, "swapped"),
        ({"task": "attributes", "garment": "coat", "attributes": ["color"]}, "known: .*colour"),
        ({"task": "attributes", "garment": "coat", "attributes": []}, "empty"),
        ({"task": "caption", "max_new_tokens": 0}, "max_new_tokens"),
    ],
)
def test_wrong_requests(photos: list[Image.Image], fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Request(photos[0], **fields)


def test_wrong_calls(tiny: VLM, photos: list[Image.Image]) -> None:
    with pytest.raises(ValueError, match="outside"):
        tiny.attributes(photos[0], garment="coat", box=(100, 100, 200, 200))
    with pytest.raises(ValueError, match="list of at least one"):
        tiny.score(photos[0], "vqa", "short", text=QUESTION)
    with pytest.raises(ValueError, match="list of at least one"):
        tiny.score(photos[0], "vqa", [], text=QUESTION)
    with pytest.raises(ValueError, match="batch_size"):
        tiny.generate([Request(photos[0], "caption")], batch_size=0)
    with pytest.raises(ValueError, match="tokens"):
        tiny.ask(photos[0], "why? " * 2000)


def test_attributes_asked_by_default_are_those_that_apply(tiny: VLM, photos: list[Image.Image]) -> None:
    coat = tiny.attributes(photos[0], garment="coat")
    assert "sleeve" in coat.values
    assert "colour" in coat.values
    assert "sleeve" not in tiny.attributes(photos[0], garment="boots").values
    assert list(tiny.attributes(photos[0], garment="coat", attributes=["sleeve", "colour"]).values) == [
        "colour",
        "sleeve",
    ]


class Halving:
    """Stands for a calibration: halves what is known to it."""

    def apply(self, key: str, score: float) -> float:
        return score / 2 if key in ("vqa", "detection", "grounding", "attributes.colour") else score


def test_scores_are_calibrated(tiny: VLM, photos: list[Image.Image]) -> None:
    halved = VLM(tiny.family, calibration=Halving())  # type: ignore[arg-type]
    photo = photos[0]
    assert halved.ask(photo, QUESTION).score == pytest.approx(tiny.ask(photo, QUESTION).score / 2)
    assert halved.caption(photo).score == pytest.approx(tiny.caption(photo).score)
    for first, second in zip(halved.detect(photo).objects, tiny.detect(photo).objects, strict=True):
        assert first.score == pytest.approx(second.score / 2)
    for (_, p), (_, q) in zip(halved.ground(photo, "the bag").boxes, tiny.ground(photo, "the bag").boxes, strict=True):
        assert p == pytest.approx(q / 2)
    first, second = halved.attributes(photo, garment="coat"), tiny.attributes(photo, garment="coat")
    for name, value in first.values.items():
        assert value.score == pytest.approx(second.values[name].score / (2 if name == "colour" else 1))


def test_a_model_in_training_goes_on_training(tiny: VLM, photos: list[Image.Image]) -> None:
    model = tiny.family.model
    model.train()
    try:
        tiny.caption(photos[0])
        assert model.training
    finally:
        model.eval()


def test_save_and_load(tiny: VLM, photos: list[Image.Image], tmp_path: Path) -> None:
    tiny.save_pretrained(tmp_path / "saved")
    loaded = vlm.load(tmp_path / "saved", device="cpu")
    assert_close(loaded.caption(photos[0]).to_dict(), tiny.caption(photos[0]).to_dict())
    info = loaded.info()
    assert info["family"] == "onelook"
    assert info["parameters"] == sum(p.numel() for p in tiny.family.model.parameters())
    assert info["bytes"] == 4 * info["parameters"]
    assert info["calibrated"] is False
    json.dumps(info)
    assert vlm.load(str(tmp_path / "saved"), dtype="bfloat16").info()["dtype"] == "bfloat16"
    assert isinstance(AutoModel.from_pretrained(tmp_path / "saved"), OneLookModel)


def test_damaged_checkpoints(tiny: VLM, tmp_path: Path) -> None:
    good = tmp_path / "good"
    tiny.save_pretrained(good)
    config = json.loads((good / "config.json").read_text())

    def damaged(name: str, **files: str | None) -> Path:
        folder = tmp_path / name
        tiny.save_pretrained(folder)
        for file, text in files.items():
            path = folder / file.replace("_json", ".json").replace("_safetensors", ".safetensors")
            path.unlink() if text is None else path.write_text(text)
        return folder

    cases = [
        (tmp_path / "absent", "no such directory"),
        (good / "config.json", "is a file"),
        (damaged("a", config_json=None), "no config.json"),
        (damaged("b", config_json="{"), "damaged"),
        (damaged("c", config_json=json.dumps({**config, "model_type": "llama"})), "known: onelook"),
        (damaged("d", model_safetensors=None), "no .safetensors"),
        (damaged("e", model_safetensors="short"), "weights"),
        (damaged("f", config_json=json.dumps({**config, "num_decoder_layers": 9})), "do not fit"),
        (damaged("g", tokenizer_json=None), "tokenizer"),
    ]
    for path, words in cases:
        with pytest.raises(ValueError, match=words):
            vlm.load(path)
    with pytest.raises(ValueError, match="expected one of float32"):
        vlm.load(good, dtype="int8")
    with pytest.raises(ValueError, match="device"):
        vlm.load(good, device="abacus")


def test_what_can_only_be_a_directory_is_not_looked_for_on_the_hub() -> None:
    for name in ("mistyped", "./someone/model", "a/b/c"):
        with pytest.raises(ValueError, match="no such directory; give a checkpoint directory or a Hub id"):
            vlm.load(name)


def test_features_stay_on_the_dtype_of_the_model(tiny: VLM, photos: list[Image.Image], tmp_path: Path) -> None:
    tiny.save_pretrained(tmp_path)
    half = vlm.load(tmp_path, dtype=torch.bfloat16, device="cpu")
    assert half.encode(photos[:1])[0].features.hidden_BID.dtype == torch.bfloat16
    assert isinstance(half.ask(photos[0], QUESTION), Answer)
