"""The coverage grid: what is counted into which cell, what is lacking, and how it is told."""

from __future__ import annotations

import json
import math
import os
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from tasks.base import ObjectLabel, Record
from tasks.boxes import Box
from tasks.ontology import default_ontology
from tasks.readers import READERS, data_root
from vlm import cli
from vlm.data.coverage import Coverage, cells_from_plan, count, load_grid, read_named, write_plan
from vlm.data.coverage_report import as_table, notes, plot
from vlm.data.records import write_jsonl

GRID: dict[str, Any] = {
    "wanted": 2,
    "axes": {
        "skin_tone": {
            "group": "skin_tone",
            "values": ["1", "2", "3"],
            "sums": {"name": "Fitzpatrick", "of": {"I": ["1", "2"], "II": ["3"]}},
        },
        "crop": {"group": "crop", "values": ["full", "flat"], "planned": False},
        "occlusion": {"group": "occlusion", "values": ["nothing hidden", "details hidden", "object in front"]},
    },
    "crosses": {
        "garment x colour": {"cells": [{"garment": ["coat"], "colour": ["red", "navy"]}]},
        "garment x sleeve": {"wanted": 3, "cells": [{"kinds": ["whole"], "garment": ["coat"], "sleeve": ["long"]}]},
        "skin_tone x crop": {"wanted": 1, "cells": [{"skin_tone": ["1"], "crop": ["full"]}]},
    },
}


def grid_file(folder: Path, **changed: Any) -> Path:
    file = folder / "grid.yaml"
    file.write_text(yaml.safe_dump({**GRID, **changed}), encoding="utf-8")
    return file


def record(name: str, *items: ObjectLabel, **groups: str) -> Record:
    return Record(id=name, image=f"{name}.jpg", image_size=(60, 40), objects=items, groups=groups)


def coat(*colour: str, **attributes: str) -> ObjectLabel:
    labels = {name: (value,) for name, value in attributes.items()}
    return ObjectLabel(
        label="coat", box=Box(1, 1, 20, 30), attributes={"colour": colour, **labels} if colour else labels
    )


RECORDS = [
    record("a", coat("red", "navy", sleeve="long"), skin_tone="1", crop="full"),
    record("b", coat("red", sleeve="not visible"), coat("green"), skin_tone="3", crop="full"),
    record("c", coat(sleeve="short"), kind="hanger", crop="full", counterfactual="recolour+occlusion"),
    record("d", ObjectLabel(label="skirt", attributes={"colour": ("red",)}), crop="upper"),
]


@pytest.fixture
def coverage(tmp_path: Path) -> Coverage:
    return count(iter(RECORDS), load_grid(grid_file(tmp_path)))


def counts(coverage: Coverage, name: str) -> dict[str, int]:
    return coverage.to_dict()["crosses"][name]["counts"]


def test_objects_count_by_their_dominant_colour_and_only_in_their_cells(coverage: Coverage) -> None:
    found = coverage.to_dict()["crosses"]["garment x colour"]
    assert found["counts"] == {"coat, red": 2, "coat, navy": 0}
    # A green coat is in no cell, one is of no known colour; the skirt is not the cross's affair.
    assert (found["elsewhere"], found["unknown"]) == (1, 1)
    assert (found["filled"], found["thin"], found["empty"]) == (1, 0, 1)


def test_kinds_are_their_garments_and_not_visible_is_unknown(coverage: Coverage) -> None:
    found = coverage.to_dict()["crosses"]["garment x sleeve"]
    assert found["counts"] == {"dress, long": 0, "jumpsuit, long": 0, "bodysuit, long": 0, "coat, long": 1}
    assert (found["thin"], found["unknown"], found["elsewhere"]) == (1, 2, 1)


def test_records_count_by_their_groups(coverage: Coverage) -> None:
    assert counts(coverage, "skin_tone") == {"1": 1, "2": 0, "3": 1}
    assert counts(coverage, "skin_tone x crop") == {"1, full": 1}
    assert coverage.to_dict()["crosses"]["skin_tone"]["Fitzpatrick"] == {"I": 1, "II": 1}
    assert coverage.to_dict()["crosses"]["skin_tone"]["unknown"] == 2
    # What hangs on a hanger is no full person.
    assert counts(coverage, "crop") == {"full": 2, "flat": 1}
    assert coverage.to_dict()["crosses"]["crop"]["elsewhere"] == 1
    assert counts(coverage, "occlusion") == {"nothing hidden": 2, "details hidden": 1, "object in front": 1}
    assert (coverage.num_records, coverage.num_objects, coverage.unknown_groups) == (4, 5, ())


def test_plan_lists_what_is_missing_emptiest_first(coverage: Coverage, tmp_path: Path) -> None:
    plan = coverage.plan()
    assert {"cell": {"garment": "coat", "colour": "navy"}, "have": 0, "wanted": 2, "missing": 2} in plan
    assert {"cell": {"garment": "coat", "sleeve": "long"}, "have": 1, "wanted": 3, "missing": 2} in plan
    assert not [row for row in plan if "crop" in row["cell"]]  # filled, or not to be planned
    shares = [row["have"] / row["wanted"] for row in plan]
    assert shares == sorted(shares)
    assert write_plan(coverage, tmp_path / "new" / "plan.jsonl") == len(plan)
    lines = (tmp_path / "new" / "plan.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == plan


def test_cells_from_plan_go_round(tmp_path: Path) -> None:
    file = tmp_path / "plan.jsonl"
    rows = [({"garment": "coat"}, 3), ({"light": "dim"}, 1), ({"skin_tone": "9"}, 2)]
    file.write_text(
        "".join(json.dumps({"cell": cell, "missing": num}) + "\n\n" for cell, num in rows), encoding="utf-8"
    )
    one, two, three = (cell for cell, _ in rows)
    assert cells_from_plan(file) == [one, two, three, one, three, one]


@pytest.mark.parametrize(
    "line", ["no JSON", "[1]", '{"cell": {"garment": "coat"}}', '{"cell": {"a": 1}, "missing": 1}']
)
def test_what_is_no_plan_is_refused(tmp_path: Path, line: str) -> None:
    file = tmp_path / "plan.jsonl"
    file.write_text('{"cell": {"garment": "coat"}, "missing": 1}\n' + line, encoding="utf-8")
    with pytest.raises(ValueError, match=r"plan.jsonl:2: is not a row of a plan .*; write it with `vlm data coverage"):
        cells_from_plan(file)


def test_a_filled_plan_leaves_nothing_to_plan(coverage: Coverage, tmp_path: Path) -> None:
    """Records made from a plan's cells fill them."""
    write_plan(coverage, tmp_path / "plan.jsonl")
    made = list(RECORDS)
    for number, cell in enumerate(cells_from_plan(tmp_path / "plan.jsonl")):
        attributes = {name: (value,) for name, value in cell.items() if name in default_ontology().values}
        item = [ObjectLabel(label=cell["garment"], attributes=attributes)] if "garment" in cell else []
        groups = {name: value for name, value in cell.items() if name not in ("garment", *attributes)}
        made.append(record(f"made {number}", *item, **groups))
    assert count(made, load_grid(grid_file(tmp_path))).plan() == []


# -- the project's own grid --------------------------------------------------------------------------------


def test_own_grid_has_the_declared_axes_and_crosses() -> None:
    grid = load_grid()
    names = [cross.name for cross in grid.crosses]
    assert {"skin_tone", "pose", "crop", "occlusion", "background", "light", "kind"} <= set(names)
    for axis in ("colour", "pattern", "sleeve", "length", "material"):
        cross = next(cross for cross in grid.crosses if cross.name == f"garment x {axis}")
        for garment, value in cross.cells:
            assert axis in default_ontology().attributes_of(garment)
            assert value in default_ontology().values[axis]
        assert len(set(cross.cells)) == len(cross.cells)
    assert ("coat", "camouflage") in next(cross for cross in grid.crosses if cross.name == "garment x pattern").cells


def test_fitzpatrick_types_are_those_of_the_monk_swatches() -> None:
    """The file says how: bounds on the individual typology angle of the published colours."""
    color = pytest.importorskip("skimage.color")
    body = pytest.importorskip("vlm.synthetic.body")
    bounds = {"I": 55, "II": 41, "III": 28, "IV": 10, "V": -30, "VI": -math.inf}
    found: dict[str, list[str]] = {name: [] for name in bounds}
    for tone, swatch in enumerate(body.MONK, start=1):
        pixel = [[[int(swatch[place : place + 2], 16) / 255 for place in (0, 2, 4)]]]
        lightness, _, yellow = color.rgb2lab(pixel)[0, 0]
        angle = math.degrees(math.atan2(lightness - 50, yellow))
        found[next(name for name, bound in bounds.items() if angle > bound)].append(str(tone))
    cross = next(cross for cross in load_grid().crosses if cross.name == "skin_tone")
    assert cross.sums is not None
    assert {name: list(parts) for name, parts in cross.sums[1].items()} == found


def test_every_planned_cell_can_be_drawn() -> None:
    wardrobe = pytest.importorskip("vlm.synthetic.wardrobe_scene")
    for row in count([], load_grid()).plan():
        scene = wardrobe.draw_scene(random.Random(0), row["cell"])
        garment = row["cell"].get("garment")
        assert garment is None or any(worn.label == garment for worn in scene.garments), row
        for name in ("skin_tone", "pose", "light", "background"):
            assert str(getattr(scene, name)) == row["cell"].get(name, str(getattr(scene, name)))


def test_real_photos_have_no_skin_tone() -> None:
    try:
        data_root()
    except FileNotFoundError:
        pytest.skip("the photos are not on this machine")
    coverage = count(READERS["ccp"](None), load_grid())
    assert not any(counts(coverage, "skin_tone").values())
    assert "skin_tone" in coverage.unknown_groups
    assert "skin tone is never read from photos of people" in " ".join(notes(coverage))
    assert counts(coverage, "garment x colour")["coat, black"] > 20


# -- grids that are wrong -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("crosses", "message"),
    [
        ({"garment x hue": {"cells": []}}, "there is no axis 'hue'; known: garment, colour"),
        ({"garment x crop": {"cells": []}}, "crosses garments with whole records"),
        ({"garment x colour": {"cells": [{"garment": ["cote"], "colour": ["red"]}]}}, "there is no garment 'cote'"),
        ({"garment x colour": {"cells": [{"garment": ["coat"], "colour": ["mauve"]}]}}, "there is no colour 'mauve'"),
        ({"garment x colour": {"cells": [{"garment": ["coat"]}]}}, "a block names no colour"),
        ({"garment x colour": {"cells": [{"garment": ["coat"], "hue": ["red"]}]}}, "a block names 'hue'"),
        ({"garment x colour": {"cells": [{"kinds": ["tops"], "colour": ["red"]}]}}, "there is no kind 'tops'"),
        (
            {"garment x sleeve": {"cells": [{"garment": ["skirt"], "sleeve": ["long"]}]}},
            "skirt has no sleeve; it has: ",
        ),
        ({"garment x colour": {"cells": [{"garment": "coat", "colour": ["red"]}]}}, "'coat' is not a list of words"),
        ({"skin_tone x crop": {"cells": [{"skin_tone": [1], "crop": ["full"]}]}}, "1 is not a word; put it in quotes"),
        ({"garment x colour": {"wanted": 0, "cells": []}}, "wanted of garment x colour is 0; expected a whole number"),
        ({"garment x colour": {}}, "is not a coverage grid: KeyError"),
    ],
)
def test_wrong_grids_say_what_is_wrong(tmp_path: Path, crosses: dict[str, Any], message: str) -> None:
    file = grid_file(tmp_path, crosses=crosses)
    with pytest.raises(ValueError, match=f"grid.yaml: .*{message}"):
        load_grid(file)


def test_sums_name_values_of_the_axis(tmp_path: Path) -> None:
    axes = {"tone": {"group": "tone", "values": ["1"], "sums": {"name": "F", "of": {"I": ["2"]}}}}
    with pytest.raises(ValueError, match="sums of tone name '2'; expected values of tone: 1"):
        load_grid(grid_file(tmp_path, axes=axes))
    (tmp_path / "grid.yaml").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"grid.yaml: is not YAML"):
        load_grid(tmp_path / "grid.yaml")


# -- the report ---------------------------------------------------------------------------------------------


def test_plot_is_whole_or_not_there(coverage: Coverage, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    target = tmp_path / "new" / "cells.png"
    plot(coverage, target)
    assert os.listdir(target.parent) == ["cells.png"]
    with Image.open(target) as image:
        colours = {colour for num, colour in image.convert("RGB").getcolors(maxcolors=1 << 24) or () if num > 500}
    assert {(215, 48, 31), (26, 152, 80)} <= colours  # an empty and a filled cell
    with pytest.raises(ValueError, match="name it"):
        plot(coverage, tmp_path / "cells.pdf")


def test_command_prints_counts_and_writes_what_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    first, second = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    write_jsonl(RECORDS[:2], first)
    write_jsonl(RECORDS[2:], second)
    plan, image, grid = tmp_path / "plan.jsonl", tmp_path / "cells.png", grid_file(tmp_path)
    given = ["data", "coverage", str(first), str(second), "--grid", str(grid)]
    assert cli.main([*given, "--plan", str(plan), "--plot", str(image)]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "cross cells filled thin empty wanted unknown elsewhere worst cells"
    assert "garment x colour 2 1 0 1 2 1 1 navy coat 0" in lines
    assert lines[-4:] == ["4 records, 5 garments", "Fitzpatrick (approximately): I 1, II 1", str(plan), str(image)]
    assert image.is_file()
    assert cells_from_plan(plan)
    assert cli.main([*given, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == count(RECORDS, load_grid(grid)).to_dict()


def test_command_names_what_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "coverage", "nowhere.jsonl"]) == 1
    assert "nowhere.jsonl: no such file or folder" in capsys.readouterr().err


def test_a_folder_named_as_a_reader_is_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(RECORDS[:1], tmp_path / "ccp" / "mine.jsonl")
    assert [found.id for found in read_named("ccp")] == ["a"]


def test_nothing_counted(tmp_path: Path) -> None:
    coverage = count([], load_grid(grid_file(tmp_path)))
    assert as_table(coverage).row_count == 6
    assert all(row["have"] == 0 for row in coverage.plan())
