"""Whole scenes of the wardrobe: labels against the id mask, words against both, and the same in every process."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.base import QA, Record, TextLabel
from tests.vlm.scene_check import Checked, check_picture, check_scenes, digest

pytest.importorskip("skia", reason="drawing needs skia-python: pip install 'vlm[synthetic]'")

from vlm.synthetic.drawing import Drawn, draw

SIZE = 96
NUM_QUICK, NUM = 60, 10_000
UNREAD = 0.05
"""Most texts, as a share, that may be of a form which the tests cannot read."""
_CHUNK = 50


@pytest.fixture(scope="module")
def pictures() -> list[Drawn]:
    return [draw(7, index, size=SIZE) for index in range(NUM_QUICK)]


def agrees(found: Checked, num: int) -> None:
    assert found.scenes == num
    assert found.texts > 10 * num and found.objects > 2 * num and found.hidden > num / 2
    assert not found.faults, "\n".join([found.summary(), *found.faults[:20]])
    assert len(found.unread) <= UNREAD * found.texts, "\n".join([found.summary(), *found.unread[:20]])


def test_labels_and_words_agree_with_the_masks(pictures: list[Drawn]) -> None:
    found = Checked()
    for picture in pictures:
        found.add(check_picture(picture))
    agrees(found, NUM_QUICK)


@pytest.mark.slow
def test_labels_and_words_agree_with_the_masks_of_many(capsys: pytest.CaptureFixture[str]) -> None:
    """As many as it takes to meet what is rare; drawn in other processes, some of them in this one too."""
    found, digests = Checked(), {}
    starts = range(0, NUM, _CHUNK)
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        runs = [pool.submit(check_scenes, 11, start, start + _CHUNK, SIZE) for start in starts]
        for number, run in enumerate(runs, start=1):
            part, drawn = run.result()
            found.add(part)
            digests.update(drawn)
            if number % 10 == 0:
                with capsys.disabled():
                    print(found.summary(), *found.faults[-3:], sep="\n", flush=True)
    agrees(found, NUM)
    assert len(set(digests.values())) == NUM
    for index in range(0, NUM, NUM // 40):
        assert digest(draw(11, index, size=SIZE)) == digests[index], index


def test_another_process_draws_the_same(pictures: list[Drawn]) -> None:
    """Another seed of Python's hash, the other way round."""
    program = (
        "from tests.vlm.scene_check import digest; from vlm.synthetic.drawing import draw; "
        f"print(*[digest(draw(7, index, size={SIZE})) for index in reversed(range(8))])"
    )
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONHASHSEED": "123", "PYTHONPATH": str(root)}
    run = subprocess.run([sys.executable, "-c", program], cwd=root, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split()[::-1] == [digest(picture) for picture in pictures[:8]]


def test_bare_arms_are_seen_to_be_bare() -> None:
    """An arm that hangs before the cloth does not hide that there is no sleeve."""
    said: Counter[str] = Counter()
    for index in range(24):
        cell = {"garment": "dress", "sleeve": "sleeveless", "pose": "standing", "crop": "full"}
        picture = draw(5, index, size=SIZE, cell=cell)
        if {worn.slot for worn in picture.scene.garments} & {"mid", "outer", "back", "neck"}:
            continue
        said.update(item.attributes["sleeve"][0] for item in picture.record.objects if item.label == "dress")
    assert said["sleeveless"] >= 0.8 * said.total() > 4, said


# -- the check itself ----------------------------------------------------------------------------------------


def falsified(record: Record) -> Iterator[tuple[str, Record]]:
    """(what is wrong, the record with this one thing wrong)."""
    first = record.objects[0]
    rest = record.objects[1:]

    def with_first(**changes: Any) -> Record:
        return replace(record, objects=(replace(first, **changes), *rest))

    assert first.box is not None
    x1, y1, x2, y2 = first.box.xyxy
    yield "box", with_first(box=type(first.box)(x1, y1, x2 - 1, y2))
    colour = "red" if "red" not in first.attributes["colour"] else "green"
    yield "to be", with_first(attributes={**first.attributes, "pattern": ("camouflage",), "colour": (colour,)})
    if rest:
        yield "not listed", replace(record, objects=rest, captions=(), qa=())
    missing = next(name for name in ("ring", "tie", "cape") if name not in {item.label for item in record.objects})
    yield "is not in", replace(record, captions=(TextLabel(text=f"Someone wearing a {missing}."),))
    yield "labels say", replace(record, qa=(QA(question=f"is there a {missing}?", answer="yes"),))
    yield "is carried by", with_first(phrases=(f"the {missing}",))


def test_what_is_wrong_is_found(pictures: list[Drawn]) -> None:
    worn = [p for p in pictures if p.scene.kind == "person" and p.record.objects[0].attributes["pattern"] == ("solid",)]
    tried: Counter[str] = Counter()
    for picture in worn[:12]:
        for said, record in falsified(picture.record):
            faults = check_picture(replace(picture, record=record)).faults
            assert any(said in fault for fault in faults), (said, record.id, faults)
            tried[said] += 1
    assert len(tried) == 6 and min(tried.values()) > 5


def test_turned_answers_are_found(pictures: list[Drawn]) -> None:
    turned = {"yes": "no", "no": "yes", "left": "right", "right": "left", "one": "two", "two": "three"}
    number = 0
    for picture in pictures:
        for qa in picture.record.qa:
            if qa.answer in turned:
                wrong = replace(picture.record, captions=(), qa=(replace(qa, answer=turned[qa.answer]),))
                assert check_picture(replace(picture, record=wrong)).faults, qa
                number += 1
    assert number > 100


def test_what_nobody_can_read_is_counted(pictures: list[Drawn]) -> None:
    texts = (TextLabel(text="Someone wearing a chlamys."), TextLabel(text="Elle porte un manteau."))
    qa = (QA(question="would she like it?", answer="yes"),)
    picture = next(picture for picture in pictures if picture.scene.kind == "person")
    found = check_picture(replace(picture, record=replace(picture.record, captions=texts, qa=qa)))
    assert len(found.unread) == 3 and not found.faults
