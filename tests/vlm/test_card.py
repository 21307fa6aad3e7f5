"""The card says what the results say, and nothing else."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from vlm.card import SOURCES, TABLE_END, TABLE_START, fill_table, headline_table, main_card, render_card


def attribute(balanced: float, num: int, hidden: float | None = None) -> dict[str, Any]:
    return {
        "accuracy": 0.75,
        "balanced_accuracy": balanced,
        "majority_accuracy": 0.6,
        "majority_balanced_accuracy": 0.25,
        "shared_accuracy": 0.8,
        "not_visible_precision": hidden,
        "not_visible_recall": hidden,
        "parse_rate": 1.0,
        "num": num,
        "num_classes": 4,
        "num_not_visible": 0 if hidden is None else 12,
    }


RESULTS: dict[str, Any] = {
    "checkpoint": "embedded",
    "suite": "validation",
    "date": "2025-01-31",
    "config": {"seed": 0, "sources": {"ccp": {"reader": "ccp"}, "mine": {"reader": "jsonl"}}},
    "limit": None,
    "model": {"parameters": 21_345_678, "family": "onelook"},
    "data": {"ccp": {"train": 1650, "validation": 150}},
    "training": {
        "num_steps": 20000,
        "batch_size": 32,
        "seed": 0,
        "model": "configs/model/small.yaml",
        "mixed_precision": "bf16",
        "optim": {"ema_decay": 0.999},
        "data": {"sources": {"ccp": {"reader": "ccp", "weight": 3.0}, "mine": {"reader": "jsonl", "weight": 1.0}}},
    },
    "calibration": {
        "fitted_on": "one half of the validation records",
        "reported_on": "the other half",
        "keys": {"vqa": {"ece_before": 0.21, "ece_after": 0.04, "num": 225}},
    },
    "sources": {
        "ccp": {
            "num_records": 150,
            "presence": {"micro_F1": 0.712, "parse_rate": 1.0, "num": 150, "intervals": {"micro_F1": [0.69, 0.734]}},
            "detection": {
                "AP50": 0.301,
                "AP50_ten_commonest": 0.45,
                "F1@0.5": 0.4,
                "labels": {
                    "hat": {"AP50": 0.2, "mAP@[.5:.95]": 0.1, "num": 29},
                    "coat": {"AP50": 0.6, "mAP@[.5:.95]": 0.3, "num": 80},
                },
                "parse_rate": 1.0,
                "num": 150,
                "num_boxes": 900,
                "intervals": {"AP50": [0.27, 0.33]},
            },
            "grounding": {
                "Acc@0.5": 0.5,
                "Acc@0.5_incl_none": 0.6,
                "none_precision": 0.7,
                "none_recall": None,
                "parse_rate": 1.0,
                "num": 500,
                "num_one": 300,
                "num_none": 150,
                "num_several": 50,
                "intervals": {"Acc@0.5": [0.45, 0.55]},
            },
            "attributes": {
                "attributes": {"colour": attribute(0.55, 900), "sleeve": attribute(0.65, 29, hidden=0.5)},
                "mean_balanced_accuracy": 0.6,
                "parse_rate": 0.987,
                "num": 929,
                "intervals": {"attributes/colour/balanced_accuracy": [0.51, 0.59]},
            },
            "calibration": {"vqa": {"ECE": 0.04, "num": 225}},
        }
    },
}


def row(text: str, *starts: str) -> list[str]:
    [found] = [line for line in text.splitlines() if line.startswith("| " + " | ".join(starts) + " |")]
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_headlines_with_intervals_and_counts() -> None:
    text = headline_table(RESULTS)
    assert row(text, "ccp", "garment presence, micro F1")[2:] == ["0.712 [0.690, 0.734]", "150"]
    assert row(text, "ccp", "detection, AP50")[2:] == ["0.301 [0.270, 0.330]", "150 photos, 900 boxes"]
    assert row(text, "ccp", "grounding, Acc@0.5 (phrases with one box)")[2:] == ["0.500 [0.450, 0.550]", "300"]
    assert row(text, "ccp", "grounding, Acc@0.5 (and phrases that are not there)")[2:] == ["0.600", "450"]
    assert "CIDEr-D" not in text  # not measured, so not there


def test_card() -> None:
    text = render_card(RESULTS)
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head)["license"] == "apache-2.0"
    assert "{{" not in body
    assert "{%" not in body
    assert "None" not in body
    assert headline_table(RESULTS) in body
    assert row(body, "ccp", "colour")[2:] == ["0.550 [0.510, 0.590]", "0.250", "0.750", "0.600", "4", "900"]
    assert row(body, "ccp", "sleeve")[-1] == "29 (thin)"
    assert row(body, "ccp", 'grounding: "none"')[2:] == ["0.700", "-", "150"]
    assert row(body, "ccp", 'sleeve: "not visible"')[2:] == ["0.500", "0.500", "12"]
    assert row(body, "ccp", "hat")[2:] == ["0.200", "0.100", "29 (thin)"]
    assert body.index("| coat |") < body.index("| hat |")  # most boxes first
    assert row(body, "vqa")[1:] == ["0.210", "0.040", "225"]
    assert "21,345,678 parameters" in body
    assert "640,000 images seen" in body
    assert "moving average" in body
    assert "ccp attributes 0.987" in body
    assert "vlm.load()" in body


def test_licences_and_warnings_are_said() -> None:
    text = render_card(RESULTS)
    ccp = row(text, "ccp", SOURCES["ccp"][0])
    assert "says nothing about rights in the street photos" in ccp[2]
    assert ccp[3:] == ["1,650", "75%", "150"]
    mine = next(line for line in text.splitlines() if line.startswith("| mine |"))
    assert "not stated" in mine
    assert "not counted" in mine
    for words in ("no human verified", "CC BY 4.0", "Monk scale", "identifying people", "Not for"):
        assert words in " ".join(text.split())
    assert "not verified" in SOURCES["products"][1]


def test_pictures_drawn_in_training_are_counted() -> None:
    """Each once: a second run with the same settings draws the same ones, and a long run draws them again."""
    results = copy.deepcopy(RESULTS)
    drawn = {"reader": "wardrobe", "num": 1000, "seed": 0, "size": 96, "plan": None}
    results["training"] |= {
        "num_steps": 100,
        "batch_size": 8,
        "data": {"sources": {"a": drawn, "b": {**drawn, "seed": 1, "num": 50}, "mine": {"reader": "shards"}}},
    }
    text = render_card(results)
    # 800 images, of which each source gives a third.
    assert row(text, "wardrobe")[1:] == [*SOURCES["wardrobe"], "317 drawn in training", "67%", "not counted"]
    assert row(text, "mine")[3:] == ["not counted", "33%", "not counted"]
    results["training"]["earlier"] = [
        {**results["training"], "data": {"sources": {"a": drawn, "wardrobe": {"reader": "jsonl"}}}}
    ]
    assert row(render_card(results), "wardrobe")[3] == "not counted, and 450 drawn in training"


def test_reliability_plot_is_linked() -> None:
    assert "](results/embedded.png)" in render_card(RESULTS, reliability="results/embedded.png")
    assert "![" not in render_card(RESULTS)


def test_an_uncalibrated_checkpoint_of_unknown_training_says_so() -> None:
    results = {**copy.deepcopy(RESULTS), "calibration": None, "training": None, "checkpoint": "someone/model"}
    text = render_card(results)
    assert "not calibrated" in text
    assert "not recorded" in text
    assert 'vlm.load("someone/model")' in text
    assert "# someone/model" in text


def test_files(tmp_path: Path) -> None:
    results, card = tmp_path / "embedded.json", tmp_path / "cards" / "embedded.md"
    results.write_text(json.dumps(RESULTS), encoding="utf-8")
    main_card(results, card)
    assert card.read_text(encoding="utf-8") == render_card(RESULTS)
    assert [path.name for path in card.parent.iterdir()] == ["embedded.md"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"checkpoint": "x"}'])
def test_other_files_are_refused(text: str, tmp_path: Path) -> None:
    results = tmp_path / "other.json"
    results.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"other\.json: is not what `vlm eval` writes"):
        main_card(results, tmp_path / "card.md")


def test_missing_template(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.md: no such template"):
        render_card(RESULTS, template=tmp_path / "none.md")


def test_drawn_sources_are_named_and_stay_out_of_a_readme(tmp_path: Path) -> None:
    results = copy.deepcopy(RESULTS)
    results["sources"]["people"] = results["sources"]["ccp"]
    results["config"]["sources"]["people"] = {"reader": "jsonl", "make": "wardrobe_test"}
    text = render_card(results)
    assert "The pictures of `people` are drawn" in text
    assert row(text, "people", "garment presence, micro F1")
    assert "are drawn, the others" not in render_card(RESULTS)
    file, readme = tmp_path / "results.json", tmp_path / "README.md"
    file.write_text(json.dumps(results), encoding="utf-8")
    readme.write_text(f"before\n{TABLE_START}\nold\n{TABLE_END}\nafter\n", encoding="utf-8")
    fill_table(file, readme)
    assert readme.read_text(encoding="utf-8") == (
        f"before\n{TABLE_START}\n{headline_table(RESULTS)}\n{TABLE_END}\nafter\n"
    )


def test_groups_and_how_far_apart_they_are() -> None:
    results = copy.deepcopy(RESULTS)
    table = results["sources"]["ccp"]
    row = {"value": 0.7, "interval": [0.6, 0.8]}
    table["groups"] = {
        "skin_tone": {
            "1-3": {"num_records": 80, "vqa/exact_match": row},
            "6-10": {"num_records": 6, "vqa/exact_match": {"value": 0.5, "interval": None}},
        }
    }
    card = render_card(results)
    assert "| ccp | VQA, exact match | skin_tone 1-3 | 0.700 [0.600, 0.800] | 80 |" in card
    assert "| ccp | VQA, exact match | skin_tone 6-10 | 0.500 | 6 (too thin for a verdict) |" in card
    assert "Best minus worst" not in card
    table["spreads"] = {"skin_tone": {"vqa/exact_match": {"spread": 0.041, "p_value": 0.37}}}
    assert "| ccp | VQA, exact match | skin_tone | 0.041 | 0.370 |" in render_card(results)
