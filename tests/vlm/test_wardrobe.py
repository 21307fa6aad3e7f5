"""The wardrobe: what is drawn is what is labelled."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tasks.boxes import Box
from tasks.ontology import NOT_VISIBLE, default_ontology
from tasks.readers.jsonl import from_row, read
from vlm.data.check import check
from vlm.data.records import read_records, to_row

pytest.importorskip("skia", reason="drawing needs skia-python: pip install 'vlm[synthetic]'")

from vlm.synthetic import choices
from vlm.synthetic.body import MONK
from vlm.synthetic.drawing import Drawn, draw
from vlm.synthetic.fabric import paint
from vlm.synthetic.recolour import PAINTS
from vlm.synthetic.wardrobe import main, write_wardrobe
from vlm.synthetic.wardrobe_scene import draw_scene

NUM = 90
ONTOLOGY = default_ontology()


@pytest.fixture(scope="module")
def pictures() -> list[Drawn]:
    return [draw(5, index, size=128) for index in range(NUM)]


def shown(picture: Drawn) -> dict[str, list[int]]:
    """label -> numbers of the scene's garments in the id mask."""
    found: dict[str, list[int]] = {}
    for number, worn in enumerate(picture.scene.garments, start=1):
        found.setdefault(worn.label, []).append(number)
    return found


def around(mask: np.ndarray) -> Box:
    rows, columns = np.nonzero(mask)
    return Box(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_a_seed_and_an_index_give_one_picture() -> None:
    first, second = draw(3, 8, size=128), draw(3, 8, size=128)
    assert first.image.tobytes() == second.image.tobytes()
    assert first.record == second.record
    assert draw(3, 9, size=128).record != first.record


def test_size_is_the_longer_side_and_upright(pictures: list[Drawn]) -> None:
    for picture in pictures:
        height, width = picture.record.image_size
        assert (height, width) == (picture.image.height, picture.image.width) == picture.id_mask.shape
        assert height == 128
        assert 9 / 16 - 0.01 <= width / height <= 3 / 4 + 0.01


def test_boxes_are_those_of_the_visible_pixels(pictures: list[Drawn]) -> None:
    for picture in pictures:
        numbers = shown(picture)
        for item in picture.record.objects:
            candidates = [
                around(picture.id_mask == number) for number in numbers[item.label] if (picture.id_mask == number).any()
            ]
            assert item.box in candidates
            for part in item.parts:
                assert item.box is not None
                assert item.box.x1 <= part.x1 <= part.x2 <= item.box.x2
                assert item.box.y1 <= part.y1 <= part.y2 <= item.box.y2


def test_every_garment_with_pixels_is_listed(pictures: list[Drawn]) -> None:
    for picture in pictures:
        least = 0.0002 * picture.id_mask.size
        seen = Counter(
            worn.label
            for number, worn in enumerate(picture.scene.garments, start=1)
            if (picture.id_mask == number).sum() >= max(1, least)
        )
        listed = Counter(item.label for item in picture.record.objects)
        assert not seen - listed
        assert picture.record.objects_complete
        assert picture.record.boxes_complete


def test_records_are_rows_that_the_reader_takes(pictures: list[Drawn]) -> None:
    for picture in pictures:
        record = picture.record
        assert from_row(to_row(record), "row") == record
        assert ("skin_tone" in record.groups) == (picture.scene.kind == "person")
        assert record.captions or not record.objects


def test_garments_have_all_their_attributes(pictures: list[Drawn]) -> None:
    for picture in pictures:
        for item in picture.record.objects:
            assert tuple(item.attributes) == ONTOLOGY.attributes_of(item.label)


def test_a_cut_off_hem_is_not_visible() -> None:
    lengths = Counter()
    for index in range(8):
        picture = draw(
            1, index, size=128, cell={"garment": "trousers", "length": "full", "crop": "upper", "pose": "standing"}
        )
        lengths.update(item.attributes["length"][0] for item in picture.record.objects if item.label == "trousers")
    assert lengths[NOT_VISIBLE] == lengths.total() > 4


def test_a_shown_hem_is_named() -> None:
    lengths = Counter()
    for index in range(8):
        picture = draw(2, index, size=128, cell={"garment": "skirt", "length": "mini", "kind": "flat"})
        lengths.update(item.attributes["length"][0] for item in picture.record.objects)
    assert lengths == {"mini": 8}


def test_sleeves_under_a_coat_are_not_visible() -> None:
    cell = {"garment": "t-shirt", "sleeve": "short", "pose": "standing", "crop": "full"}
    under, bare = Counter(), Counter()
    for index in range(28):
        picture = draw(9, index, size=128, cell=cell)
        slots = {worn.slot: worn for worn in picture.scene.garments}
        over = slots.get("outer")
        sleeve = [item.attributes["sleeve"][0] for item in picture.record.objects if item.label == "t-shirt"]
        if over is None:
            bare.update(sleeve)
        elif over.attributes["sleeve"] == ("long",):
            under.update(sleeve)
    assert under[NOT_VISIBLE] == under.total() > 3
    assert bare["short"] >= 0.8 * bare.total() > 3


def test_not_visible_agrees_with_the_masks(pictures: list[Drawn]) -> None:
    """A garment that nothing lies over, all of it in the picture, hides nothing of itself."""
    checked = 0
    for picture in pictures:
        if picture.scene.kind == "person" or picture.scene.garments[0].label in ("bodysuit", "cape"):
            continue
        for item in picture.record.objects:
            checked += 1
            hidden = [name for name, values in item.attributes.items() if values == (NOT_VISIBLE,)]
            assert not hidden, f"{picture.record.id}: {item.label} hides {hidden}"
    assert checked > 12


@pytest.mark.parametrize("garment", ONTOLOGY.garments)
def test_every_garment_can_be_drawn(garment: str) -> None:
    for kind in ("person", "flat"):
        found = (draw(4, index, size=128, cell={"garment": garment, "kind": kind}).record.objects for index in range(4))
        assert any(item.label == garment for objects in found for item in objects)


@pytest.mark.parametrize("name", ["pattern", "sleeve", "neckline", "length", "fit", "material", "closure", "colour"])
def test_every_value_can_be_drawn(name: str) -> None:
    for value in ONTOLOGY.values[name]:
        if value in (NOT_VISIBLE, "not clear"):
            continue
        if value == "ankle" and name == "length":
            cell = {"garment": "boots", name: value, "kind": "flat"}
        else:
            cell = {name: value, "kind": "flat"}
        found = (draw(6, index, size=128, cell=cell).record.objects for index in range(4))
        assert any(value in item.attributes.get(name, ()) for objects in found for item in objects), f"{name} {value}"


def test_cells_reach_the_scene() -> None:
    cell = {
        "skin_tone": 9,
        "pose": "sitting",
        "crop": "upper",
        "background": "park",
        "light": "dim",
        "garment": "scarf",
        "colour": "teal",
    }
    picture = draw(0, 0, size=128, cell=cell)
    assert {name: picture.record.groups[name] for name in ("pose", "crop", "background", "light")} == {
        name: cell[name] for name in ("pose", "crop", "background", "light")
    }
    assert picture.record.groups["skin_tone"] == "9"
    scarf = next(item for item in picture.record.objects if item.label == "scarf")
    assert "teal" in scarf.attributes["colour"]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ({"garmet": "coat"}, "garmet"),
        ({"garment": "toga"}, "toga"),
        ({"garment": "tie", "sleeve": "long"}, "cannot have the sleeve"),
        ({"garment": "hat", "kind": "hanger"}, "hanger"),
        ({"skin_tone": 11}, "11"),
    ],
)
def test_cells_that_cannot_be_drawn(cell: dict[str, str | int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_scene(random.Random(0), cell)


def test_navy_is_not_black() -> None:
    rng = random.Random(0)
    for _ in range(200):
        for colour in PAINTS:
            red, green, blue = paint(colour, rng)
            if colour == "navy":
                assert blue - red > 12
            elif colour == "black":
                assert max(red, green, blue) - min(red, green, blue) < 12


def test_all_skin_tones_are_drawn(pictures: list[Drawn]) -> None:
    assert len(MONK) == 10
    assert {picture.record.groups["skin_tone"] for picture in pictures if picture.scene.kind == "person"} == {
        str(n) for n in range(1, 11)
    }


def test_a_folder_is_the_same_whatever_draws_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlm.synthetic.wardrobe.NUM_PER_SHARD", 4)
    alone, resumed = tmp_path / "alone", tmp_path / "resumed"
    assert write_wardrobe(alone, seed=2, num=6, size=96) == 6
    assert write_wardrobe(resumed, seed=2, num=3, size=96) == 3
    assert write_wardrobe(resumed, seed=2, num=6, size=96) == 3
    for file in sorted(path.relative_to(alone) for path in alone.rglob("*") if path.is_file()):
        assert (alone / file).read_bytes() == (resumed / file).read_bytes(), file
    assert check(alone) == []
    assert [record.id for record in read_records(alone)] == [f"wardrobe-2-{index:06d}" for index in range(6)]
    with pytest.raises(ValueError, match="seed=2"):
        write_wardrobe(alone, seed=3, num=6, size=96)


def test_no_process_is_started_where_all_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script without a main guard may read a test set that was drawn before."""
    monkeypatch.setattr("vlm.synthetic.wardrobe.NUM_PER_SHARD", 2)
    write_wardrobe(tmp_path, seed=2, num=6, size=96)
    monkeypatch.setattr("vlm.synthetic.wardrobe.multiprocessing", None)
    assert write_wardrobe(tmp_path, seed=2, num=6, size=96, processes=2) == 0
    assert write_wardrobe(tmp_path, seed=2, num=8, size=96, processes=2) == 2, "one shard is drawn here"
    with pytest.raises(AttributeError):
        write_wardrobe(tmp_path, seed=2, num=16, size=96, processes=2)


@pytest.mark.slow
def test_processes_do_not_matter(tmp_path: Path) -> None:
    write_wardrobe(tmp_path / "one", seed=1, num=260, size=64)
    write_wardrobe(tmp_path / "two", seed=1, num=260, size=64, processes=2)
    for file in sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(tmp_path / "w"), "--num", "2", "--size", "96", "--split", "validation"])
    assert "drew 2 pictures" in capsys.readouterr().out
    assert {record.split for record in read_records(tmp_path / "w")} == {"validation"}
    with pytest.raises(SystemExit):
        main([str(tmp_path / "w"), "--num", "0"])


def test_weights_name_only_what_the_ontology_knows() -> None:
    for garment in ONTOLOGY.garments:
        for name in ONTOLOGY.attributes_of(garment):
            values = choices.drawable(garment, name)
            assert values, f"{garment} has no {name}"
            assert set(values) <= set(ONTOLOGY.values[name])


def test_a_coverage_plan_is_drawn(tmp_path: Path) -> None:
    """From the command that finds what is missing to the pictures that fill it."""
    plan = tmp_path / "plan.jsonl"
    cells = [{"garment": "coat", "pattern": "camouflage"}, {"garment": "boots", "colour": "red"}]
    rows = [{"cell": cell, "have": 0, "wanted": 1, "missing": 1} for cell in cells]
    plan.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    main([str(tmp_path / "drawn"), "--num", "2", "--size", "96", "--plan", str(plan)])
    records = list(read(tmp_path / "drawn"))
    for record, cell in zip(records, cells, strict=True):
        worn = [item for item in record.objects if item.label == cell["garment"]]
        assert worn
        name, value = next((name, value) for name, value in cell.items() if name != "garment")
        assert any(value in item.attributes[name] for item in worn)


def test_a_missing_plan_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path / "drawn"), "--num", "2", "--plan", str(tmp_path / "none.jsonl")])
    assert "none.jsonl" in capsys.readouterr().err
