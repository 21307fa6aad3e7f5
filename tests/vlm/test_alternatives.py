"""What else a garment might be called."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import vlm
from tasks.base import ObjectLabel, Record
from tasks.boxes import Box, encode_box
from tasks.ontology import default_ontology
from tasks.results import Detection, Garment
from vlm import VLM
from vlm.alternatives import with_alternatives
from vlm.demo import PERSON
from vlm.evaluate import tabulate
from vlm.probes import Answered, Probe, ask

WORDS = list(default_ontology().garments)
COAT, BOOTS = Garment("coat", Box(4, 6, 30, 40), score=0.6), Garment("boots", Box(5, 41, 20, 60), score=0.5)


def test_scores_are_odds_against_the_word_that_was_said(tiny: VLM, photos: list[Image.Image]) -> None:
    [look] = tiny.encode([photos[0]])
    found = with_alternatives(tiny, look, Detection((COAT, BOOTS)), 4)
    before = ""
    for item, other in zip((COAT, BOOTS), found.objects, strict=True):
        assert replace(other, alternatives=()) == item
        place = encode_box(item.box, look.image_size)
        texts = [f"{before}{word}{place}" for word in WORDS]
        chances = dict(zip(WORDS, tiny.score(look, "detection", texts), strict=True))
        own = chances.pop(item.label)
        expected = sorted(chances.items(), key=lambda pair: -pair[1])[:4]
        assert [word for word, _ in other.alternatives] == [word for word, _ in expected]
        scores = [min(1.0, item.score * chance / own) for _, chance in expected]
        assert [score for _, score in other.alternatives] == pytest.approx(scores, rel=1e-3)
        before += f"{item.label}{place};"


def test_garments_without_boxes(tiny: VLM, photos: list[Image.Image]) -> None:
    [look] = tiny.encode([photos[0]])
    plain = Detection((Garment("coat", score=0.6), Garment("boots", score=0.5)))
    found = with_alternatives(tiny, look, plain, 100)
    [logprobs] = tiny.family.score(look.features, [(look.index, "<detect>labels", [f"coat;{word}" for word in WORDS])])
    chances = dict(zip(WORDS, logprobs, strict=True))
    for word, score in found.objects[1].alternatives:
        assert score == pytest.approx(min(1.0, 0.5 * math.exp(chances[word] - chances["boots"])), rel=1e-3)
    assert len(found.objects[1].alternatives) == len(WORDS) - 1, "all other words, at most"


def test_detect(tiny: VLM, photos: list[Image.Image]) -> None:
    plain = tiny.detect(photos[0])
    [look] = tiny.encode([photos[0]])
    assert tiny.detect(photos[0], alternatives=2) == with_alternatives(tiny, look, plain, 2)
    assert tiny.detect(look, alternatives=0) == plain
    with pytest.raises(ValueError, match="alternatives is -1; expected at least 1 word a garment"):
        tiny.detect(photos[0], alternatives=-1)
    with pytest.raises(ValueError, match="alternatives is -1"):
        tiny.detect(Path("no-such-photo.jpg"), alternatives=-1)  # before the photo is looked at


def test_own_words_of_a_checkpoint_have_none(
    tiny: VLM, photos: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    [look] = tiny.encode([photos[0]])
    monkeypatch.setattr(type(tiny.family), "tasks", {"detection": object()})
    with pytest.raises(ValueError, match="checkpoint finds garments by words of its own"):
        with_alternatives(tiny, look, Detection((COAT,)), 1)
    with pytest.raises(ValueError, match="checkpoint finds garments by words of its own"):
        tiny.detect(Path("no-such-photo.jpg"), alternatives=1)


def test_the_embedded_checkpoint_ranks_its_own_words_first() -> None:
    found = vlm.load().detect(PERSON, alternatives=3).objects
    assert found
    for item in found:
        words = [word for word, _ in item.alternatives]
        scores = [score for _, score in item.alternatives]
        assert len({item.label, *words}) == 4
        assert scores == sorted(scores, reverse=True)
        assert len(item.to_dict()["alternatives"]) == 3
    # A box may make up its mind against the word that was chosen before it, but not as a rule.
    assert sum(item.score >= item.alternatives[0][1] for item in found) > len(found) / 2


def test_a_score_is_a_probability() -> None:
    with pytest.raises(ValueError, match=r"Garment.alternatives.score is 1.5; expected a probability"):
        Garment("coat", alternatives=(("jacket", 1.5),))


def _answered(said: Garment, true: str) -> Answered:
    record = Record(
        id="a", image="a.jpg", image_size=(64, 48), objects=(ObjectLabel(label=true, box=COAT.box),),
        objects_complete=True,
    )  # fmt: skip
    probe = Probe(measure="detection", task="detection", reference=record.objects)
    return Answered(record=record, pairs=[(probe, Detection((said,)))])


def test_average_precision_ranks_them_too() -> None:
    pytest.importorskip("faster_coco_eval")
    wrong = replace(COAT, alternatives=(("jacket", 0.3), ("blazer", 0.2)))
    table = tabulate([_answered(wrong, "jacket"), _answered(wrong, "coat")], num_resamples=5)["detection"]
    assert table["F1@0.5"] == pytest.approx(0.5), "of the words that are said"
    # The coat is found before a coat that is none, or after it: the order of equal scores is open.
    assert table["AP50"] <= 0.5
    assert table["alternatives"]["labels"]["jacket"]["AP50"] >= 0.5 > table["labels"]["jacket"]["AP50"]
    assert "alternatives/AP50" in table["intervals"]
    plain = tabulate([_answered(COAT, "jacket")], num_resamples=5)["detection"]
    assert "alternatives" not in plain


def test_asking_for_them(tiny: VLM, photos: list[Image.Image], tmp_path: Any) -> None:
    photos[0].save(tmp_path / "a.png")
    size = (photos[0].height, photos[0].width)
    record = Record(
        id="a", image=str(tmp_path / "a.png"), image_size=size, objects=(ObjectLabel(label="coat", box=COAT.box),),
        objects_complete=True, boxes_complete=True,
    )  # fmt: skip
    [answer] = ask(tiny, [record], measures=("detection",), alternatives=2)
    [(_, found)] = answer.pairs
    assert found == tiny.detect(photos[0], alternatives=2)
