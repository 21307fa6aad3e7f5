"""The plumbing of evaluation, with predictors that know the answers, or know nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tasks.base import QA, ObjectLabel, Record, TextLabel
from tasks.boxes import Box
from tasks.readers.clothing import CLOTHING_CLASSES, CLOTHING_QUESTION
from tasks.results import Answer, Attributes, Caption, Detection, Garment, Grounding, Result, Value
from vlm.evaluate import HEADLINES, evaluate_records, quick_validation, tabulate, value_at
from vlm.probes import MEASURES, ask, make_probes, score_pairs
from vlm.request import Request
from vlm.suite import SourceSettings, Suite, choose_records, load_suite

SIZE = (400, 300)


def garment(label: str, *box: float, phrases: Sequence[str] = (), **attributes: str) -> ObjectLabel:
    return ObjectLabel(
        label=label,
        box=Box(*box) if box else None,
        attributes={name: tuple(value.split(", ")) for name, value in attributes.items()},
        phrases=tuple(phrases),
    )


def street_photo(index: int) -> Record:
    colour, other = (("tan", "red"), ("black", "white"), ("navy", "grey"))[index % 3]
    pattern = ("solid", "striped")[index % 2]
    return Record(
        id=f"street {index}",
        image=f"street/{index}.jpg",
        image_size=SIZE,
        captions=(TextLabel(text=f"person {index} wears a {colour} coat with number {index} on the back"),),
        objects=(
            garment("coat", 50, 60, 200, 250 + index, colour=f"{colour}, {other}", pattern=pattern, sleeve="long"),
            garment("boots", 80, 320, 180, 390, colour=other),
            garment("bag", 210, 180, 270, 240, colour=colour),
        ),
        qa=(QA(question="what colour is the coat?", answer=colour), QA(question="is it striped?", answer="no")),
        objects_complete=True,
        boxes_complete=True,
        split="validation",
    )


def shop_photo(index: int) -> Record:
    return Record(
        id=f"shop {index}",
        image=f"shop/{index}.jpg",
        image_size=SIZE,
        objects=(garment("dress" if index % 2 else "shirt", colour=("red", "white")[index % 2]),),
        qa=(QA(question=CLOTHING_QUESTION, answer=CLOTHING_CLASSES[index % 4]),),
        split="validation",
    )


STREET = [street_photo(index) for index in range(12)]
SHOP = [shop_photo(index) for index in range(12)]


class Oracle:
    """Answers every request out of the records: what a perfect model would say."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = {record.image: record for record in records}
        self.num_looks = 0

    def encode(self, images: Sequence[str]) -> list[str]:
        self.num_looks += len(images)
        return list(images)

    def generate(self, requests: Sequence[Request], *, batch_size: int = 8) -> list[Result | None]:
        return [self.answer(self.records[str(request.image)], request) for request in requests]

    def score(self, image: str, task: str, candidates: Sequence[str], *, text: str) -> list[float]:
        [true] = [item.answer for item in self.records[image].qa if item.question == text]
        return [0.9 if candidate == true else 0.1 / (len(candidates) - 1) for candidate in candidates]

    def answer(self, record: Record, request: Request) -> Result | None:
        if request.task == "caption":
            return Caption(record.captions[0].text)
        if request.task == "vqa":
            return Answer(next(item.answer for item in record.qa if item.question == request.text), score=0.9)
        if request.task == "detection":
            return Detection(tuple(Garment(item.label, item.box, score=0.9) for item in record.objects))
        if request.task == "grounding":
            truth = {p.fields["text"]: p.reference for p in make_probes(record, ["grounding"])}
            return Grounding(str(request.text), tuple((box, 0.9) for box in truth[str(request.text)]))
        item = next(item for item in record.objects if item.label == request.garment and item.box == request.box)
        return Attributes({name: Value(item.attributes[name], 0.9) for name in request.attributes or ()})


class Majority(Oracle):
    """Says the same whatever it sees."""

    def score(self, image: str, task: str, candidates: Sequence[str], *, text: str) -> list[float]:
        return [1.0] + [0.0] * (len(candidates) - 1)

    def answer(self, record: Record, request: Request) -> Result | None:
        if request.task == "attributes":
            common = {"colour": ("black",), "pattern": ("solid",), "sleeve": ("long",)}
            return Attributes({name: Value(common[name], 0.5) for name in request.attributes or ()})
        if request.task == "vqa":
            return Answer("no", 0.5)
        return super().answer(record, request)


class Speechless(Oracle):
    """Nothing that it says can be parsed."""

    def answer(self, record: Record, request: Request) -> None:
        return None


@pytest.fixture(autouse=True)
def _installed() -> None:
    pytest.importorskip("faster_coco_eval")


def test_perfect_answers_give_perfect_scores() -> None:
    table = evaluate_records(Oracle(STREET), STREET, num_resamples=20)
    assert table["num_records"] == 12
    assert table["presence"]["micro_F1"] == 1.0
    assert table["detection"]["AP50"] == pytest.approx(1.0)
    assert table["detection"]["AP50_ten_commonest"] == pytest.approx(1.0)
    assert table["detection"]["F1@0.5"] == 1.0
    assert table["grounding"]["Pr@(F1=1)"] == 1.0
    assert table["attributes"]["mean_balanced_accuracy"] == 1.0
    assert table["vqa"]["exact_match"] == 1.0
    assert table["vqa"]["num"] == 24
    assert table["caption"]["CIDEr-D"] == pytest.approx(10.0)
    assert table["caption_facts"]["precision"] == 1.0
    assert table["caption_facts"]["num_facts"] >= 2 * table["caption_facts"]["num"]  # the coat and its colour
    assert "classification" not in table
    for measure in ("presence", "detection", "grounding", "attributes", "vqa", "caption"):
        assert table[measure]["parse_rate"] == 1.0
        assert all(low == pytest.approx(high) for path, (low, high) in intervals(table, measure) if "major" not in path)


def intervals(table: dict[str, Any], measure: str) -> Any:
    return table[measure]["intervals"].items()


def test_classes_are_scored_and_said() -> None:
    table = evaluate_records(Oracle(SHOP), SHOP, num_resamples=0)
    assert table["classification"]["top1_accuracy"] == 1.0
    assert table["classification_greedy"]["top1_accuracy"] == 1.0
    assert table["attributes"]["attributes"]["colour"]["num"] == 12
    assert "vqa" not in table  # the class is counted once, as a class
    assert "presence" not in table  # not all garments are labelled
    table = evaluate_records(Majority(SHOP), SHOP, num_resamples=0)
    assert table["classification"]["top1_accuracy"] == pytest.approx(1 / 4)


def test_the_majority_answer_scores_as_its_column_says() -> None:
    table = evaluate_records(Majority(STREET), STREET, num_resamples=20)
    pattern = table["attributes"]["attributes"]["pattern"]
    assert pattern["balanced_accuracy"] == pattern["majority_balanced_accuracy"] == 0.5
    assert pattern["accuracy"] == pattern["majority_accuracy"] == 0.5
    low, high = table["attributes"]["intervals"]["attributes/pattern/accuracy"]
    assert low < 0.5 < high
    assert table["vqa"]["exact_match_other"] == 0.0
    assert table["vqa"]["exact_match_yes_no"] == 1.0


def test_what_cannot_be_parsed_scores_zero() -> None:
    table = evaluate_records(Speechless([*STREET, *SHOP]), [*STREET, *SHOP], num_resamples=5)
    for path in HEADLINES:
        if path == "caption_facts/precision" or "alternatives" in path:  # who says nothing claims nothing
            assert value_at(table, path) is None
        elif path != "classification/top1_accuracy":  # scored, not said
            assert value_at(table, path) == 0.0
            assert value_at(table, path.split("/")[0] + "/parse_rate") == 0.0
    json.dumps(table, allow_nan=False)


def test_results_are_json_and_the_same_every_time() -> None:
    first = json.dumps(evaluate_records(Majority(STREET), STREET, num_resamples=20), allow_nan=False)
    again = json.dumps(evaluate_records(Majority(STREET), STREET, num_resamples=20, batch_size=5), allow_nan=False)
    assert first == again


def test_an_image_is_looked_at_once() -> None:
    oracle = Oracle([*STREET, *SHOP])
    done: list[int] = []
    ask(oracle, [*STREET, *SHOP], batch_size=7, on_progress=done.append)
    assert oracle.num_looks == 24
    assert done == [7, 7, 7, 3]


def test_limit_and_measures() -> None:
    table = evaluate_records(Oracle(STREET), STREET, measures=["vqa"], limit=3, num_resamples=0)
    assert table["num_records"] == 3
    assert table["vqa"]["num"] == 6
    assert table.keys() == {"num_records", "vqa", "calibration"}


def test_phrases_depend_on_the_record_alone() -> None:
    def phrases(record: Record, seed: int = 0) -> list[str]:
        return [probe.fields["text"] for probe in make_probes(record, ["grounding"], seed)]

    assert phrases(STREET[0]) == phrases(street_photo(0))
    assert len(phrases(STREET[0])) == len(set(phrases(STREET[0]))) > 0


def test_unboxed_garments_are_asked_about_only_where_their_name_is_enough() -> None:
    mixed = Record(
        id="mixed",
        image="mixed.jpg",
        image_size=SIZE,
        objects=(garment("coat", 0, 0, 90, 90, colour="red"), garment("hat", colour="blue")),
    )
    [probe] = make_probes(mixed, ["attributes"])
    assert probe.fields["garment"] == "coat"
    twice = Record(
        id="twice",
        image="twice.jpg",
        image_size=SIZE,
        objects=(garment("bag", colour="red"), garment("bag", colour="blue"), garment("hat", colour="blue")),
    )
    [probe] = make_probes(twice, ["attributes"])
    assert probe.fields["garment"] == "hat"


def test_a_worn_garment_without_a_box_is_neither_right_nor_wrong() -> None:
    record = Record(
        id="one box",
        image="one.jpg",
        image_size=SIZE,
        objects=(garment("coat", 0, 0, 90, 90), garment("hat")),
        objects_complete=True,
    )

    class SeesTheHat(Oracle):
        def answer(self, record: Record, request: Request) -> Result:
            hat = Garment("hat", Box(20, 0, 40, 20), score=0.95)
            return Detection((Garment("coat", Box(0, 0, 90, 90), score=0.9), hat))

    table = evaluate_records(SeesTheHat([record]), [record], measures=["detection"], num_resamples=0)
    assert table["detection"]["precision@0.5"] == 1.0
    assert table["detection"]["AP50"] == pytest.approx(1.0)
    assert table["presence"]["micro_F1"] == 1.0


def test_score_pairs() -> None:
    pairs = score_pairs(ask(Majority(STREET), STREET[:6]))
    assert pairs.keys() == {"vqa", "attributes.colour", "attributes.pattern", "attributes.sleeve", "detection"} | (
        pairs.keys() & {"grounding"}
    )
    assert pairs["attributes.pattern"] == [(0.5, True), (0.5, False)] * 3
    assert pairs["detection"] == [(0.9, True)] * 18


def test_unknown_measure() -> None:
    with pytest.raises(ValueError, match="unknown measure 'beauty'; known: detection, grounding"):
        make_probes(STREET[0], ["beauty"])


def test_quick_validation_is_a_flat_dict_of_floats() -> None:
    values = quick_validation(Oracle([*STREET, *SHOP]), {"street": STREET, "shop": SHOP}, 6)
    assert all(isinstance(value, float) for value in values.values())
    assert values["street/detection/AP50"] == pytest.approx(1.0)
    assert values["street/caption/CIDEr-D"] == pytest.approx(10.0)
    assert values["shop/classification/top1_accuracy"] == 1.0


def test_tabulate_without_average_precision() -> None:
    table = tabulate(ask(Oracle(STREET), STREET), num_resamples=0, average_precision=False)
    assert "AP50" not in table["detection"]
    assert table["detection"]["F1@0.5"] == 1.0


# -- suites --------------------------------------------------------------------------------------------


def test_validation_suite() -> None:
    suite = load_suite("validation")
    assert list(suite.sources) == ["ccp", "clothing", "products"]
    assert all(set(source.measures) <= set(MEASURES) for source in suite.sources.values())
    assert {source.split for source in suite.sources.values()} == {"validation"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sources: {a: {reader: nowhere}}", "unknown reader 'nowhere'; known: "),
        ("sources: {a: {reader: ccp, measures: [beauty]}}", "unknown measure 'beauty'"),
        ("sources: {a: {reader: ccp, metrics: [vqa]}}", "unknown field 'metrics'; known: reader, measures"),
        ("sources: {a: {reader: ccp, limit: 0}}", "limit is 0"),
        ("sources: {}", "sources is empty"),
        ("[]", "expected the fields of"),
    ],
)
def test_wrong_suites(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "suite.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as error:
        load_suite(file)
    assert str(file) in str(error.value)


def test_unknown_suite() -> None:
    with pytest.raises(ValueError, match=r"unknown suite 'nothing'; known: .*validation"):
        load_suite("nothing")


def test_records_are_chosen_by_their_ids() -> None:
    suite = Suite(sources={"shop": SourceSettings(reader="clothing", limit=5)})
    chosen = choose_records(SHOP, suite, "shop")
    assert len(chosen) == 5
    assert {r.id for r in choose_records(SHOP[::-1], suite, "shop")} == {r.id for r in chosen}
    assert {r.id for r in choose_records(SHOP, suite, "shop", 2)} < {r.id for r in chosen}


def test_an_empty_split_is_an_error() -> None:
    suite = Suite(sources={"shop": SourceSettings(reader="clothing", split="test")})
    with pytest.raises(ValueError, match="source shop has no records in split 'test'; there are: validation"):
        choose_records(SHOP, suite, "shop")
