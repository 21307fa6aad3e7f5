"""Every metric opens with `evaluate.load`, without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.metrics import METRICS, metric_path
from tasks.metrics.example_metric import unique
from tasks.metrics.presence_f1 import PresenceF1

PROGRAM = """
import json, socket

def refuse(*_):
    raise OSError("no network in this test")

socket.socket.connect = refuse

import evaluate
from tasks.metrics import METRICS, metric_path

inputs = {
    "attribute_accuracy": dict(predictions=[["tan"]], references=[["tan"]], attributes=["colour"]),
    "caption_facts": dict(
        predictions=["a tan hat"], references=[[{"label": "hat", "colour": ["tan"], "pattern": ["solid"]}]]
    ),
    "cider_d": dict(predictions=["a b c d", "e f g h"], references=[["a b c d"], ["e f g h"]]),
    "detection_map": dict(
        predictions=[[{"label": "hat", "box": [0, 0, 9, 9], "score": 0.5}]],
        references=[[{"label": "hat", "box": [0, 0, 9, 9]}]],
    ),
    "grounding_accuracy": dict(predictions=[[[0, 0, 9, 9]]], references=[[[0, 0, 9, 9]]]),
    "presence_f1": dict(predictions=[["hat"]], references=[["hat"]]),
    "top1_accuracy": dict(predictions=["hat"], references=["hat"]),
    "vqa_accuracy": dict(predictions=["Red."], references=[["red"]]),
}
print(json.dumps({name: evaluate.load(metric_path(name)).compute(**inputs[name]) for name in METRICS}))
"""


def test_all_load_and_compute_offline(tmp_path: Path) -> None:
    pytest.importorskip("faster_coco_eval")
    root = Path(__file__).parents[3]
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_EVALUATE_OFFLINE": "1",
        "HF_HOME": str(tmp_path),
        "PYTHONPATH": str(root),
    }
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout.splitlines()[-1])
    assert values.keys() == set(METRICS)
    assert values["attribute_accuracy"]["attributes"]["colour"]["balanced_accuracy"] == 1.0
    assert values["caption_facts"]["precision"] == 1.0
    assert values["cider_d"]["CIDEr-D"] == pytest.approx(10.0)
    assert values["detection_map"]["AP50"] == pytest.approx(1.0)
    assert values["grounding_accuracy"]["Acc@0.5"] == 1.0
    assert values["presence_f1"]["micro_F1"] == 1.0
    assert values["top1_accuracy"]["top1_accuracy"] == 1.0
    assert values["vqa_accuracy"]["exact_match"] == 1.0


def test_unknown_metric_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"unknown metric 'bleu'; known: attribute_accuracy, caption_facts, cider_d"):
        metric_path("bleu")


def test_every_metric_has_a_file() -> None:
    assert all(Path(metric_path(name)).is_file() for name in METRICS)


def test_repeats_are_dropped_by_id(tmp_path: Path) -> None:
    metric = PresenceF1(cache_dir=str(tmp_path))
    metric.add_batch(predictions=[["coat"], ["hat"]], references=[["coat"], ["bag"]], ids=["1", "2"])
    metric.add_batch(predictions=[["hat"]], references=[["bag"]], ids=["2"])  # padding of the last batch
    assert metric.compute()["num"] == 2


def test_without_ids_nothing_is_dropped(tmp_path: Path) -> None:
    metric = PresenceF1(cache_dir=str(tmp_path))
    metric.add(prediction=["coat"], reference=["coat"])
    metric.add(prediction=["coat"], reference=["coat"])
    assert metric.compute()["num"] == 2


def test_the_first_prediction_may_be_unparseable(tmp_path: Path) -> None:
    metric = PresenceF1(cache_dir=str(tmp_path))
    values = metric.compute(predictions=[None, ["coat"]], references=[["coat"], ["coat"]])
    assert values["parse_rate"] == 0.5
    assert values["micro_recall"] == 0.5


def test_unique() -> None:
    assert unique(None, 3) == [0, 1, 2]
    assert unique(["a", "a", None, None, "b"], 5) == [0, 2, 3, 4]
