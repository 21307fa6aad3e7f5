"""The command line, with a stand-in for the model: what is looked at, what is printed, how it exits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from tasks.boxes import Box
from tasks.results import Answer, Attributes, Caption, Detection, Garment, Grounding, Outfit, Value
from vlm import cli, show

COAT = Garment(
    "coat",
    Box(4, 6, 30, 50),
    Attributes({"colour": Value(("tan", "brown"), 0.9), "pattern": Value(("solid",), 0.4), "sleeve": Value(("long",))}),
    0.87,
)
BOOTS = Garment(
    "boots", Box(8, 50, 20, 60), Attributes({"colour": Value(("black",)), "sleeve": Value(("not visible",))})
)


class StandIn:
    """Answers like a model, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []

    def describe_outfit(self, image: Image.Image, **options: object) -> Outfit:
        self.asked.append(("describe", image.size, options))
        return Outfit("A tan coat over black boots.", (COAT, BOOTS), 0.5)

    def ask(self, image: Image.Image, question: str) -> Answer:
        self.asked.append(("ask", image.size, question))
        if question == "nonsense":
            raise ValueError("cannot be asked; expected a question")
        return Answer("black", 0.75)

    def ground(self, image: Image.Image, phrase: str) -> Grounding:
        return Grounding(phrase, () if phrase == "the cat" else ((COAT.box, 0.6),), 0.9)

    def caption(self, image: Image.Image, detail: str) -> Caption:
        return Caption(f"{detail} [bold]words[/bold]", 0.5, truncated=True)

    def detect(self, image: Image.Image, alternatives: int) -> Detection:
        others = (("jacket", 0.3), ("blazer", 0.05))[:alternatives]
        return Detection(() if image.width == 1 else (Garment("coat", COAT.box, None, 0.8, others),))

    def attributes(self, image: Image.Image, **asked: object) -> Attributes:
        self.asked.append(("attributes", asked))
        return COAT.attributes


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    model = StandIn()
    monkeypatch.setattr(cli, "_load", lambda *_: model)
    return model


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two photos, a broken one between them, and a text file; it is the working directory."""
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (40, 60), "tan").save(photos / "a.jpg")
    (photos / "b.jpg").write_bytes(b"no photo")
    Image.new("RGB", (60, 40), "navy").save(photos / "c.PNG")
    (photos / "notes.txt").write_text("no photo either")
    monkeypatch.chdir(tmp_path)
    return photos


def run(*arguments: str) -> int:
    try:
        return cli.main(arguments)
    except SystemExit as stop:
        assert isinstance(stop.code, int)
        return stop.code


# -- which photos --------------------------------------------------------------------------------------


def test_a_broken_photo_is_named_and_the_rest_go_on(
    model: StandIn, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("describe", "photos", "missing.jpg", "--json") == 1
    out, err = capsys.readouterr()
    assert [json.loads(line)["photo"] for line in out.splitlines()] == ["photos/a.jpg", "photos/c.PNG"]
    assert [line.split(":")[:2] for line in err.splitlines()] == [["vlm", " photos/b.jpg"], ["vlm", " missing.jpg"]]


@pytest.mark.parametrize("pattern", ["photos/[ac].*", "**/[ac].*"])
def test_patterns(model: StandIn, folder: Path, capsys: pytest.CaptureFixture[str], pattern: str) -> None:
    assert run("ask", pattern, "what colour are the boots?", "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["photo"] for row in rows] == ["photos/a.jpg", "photos/c.PNG"]
    assert rows[0] == {
        "photo": "photos/a.jpg",
        "question": "what colour are the boots?",
        "text": "black",
        "score": 0.75,
        "truncated": False,
    }


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(model: StandIn, folder: Path) -> None:
    Image.new("RGB", (9, 9)).save(folder / "look[1].png")
    assert run("caption", "photos/look[1].png") == 0


@pytest.mark.parametrize(("source", "message"), [("empty", "no photos in this folder"), ("*.webp", "no file matches")])
def test_nothing_to_look_at(folder: Path, capsys: pytest.CaptureFixture[str], source: str, message: str) -> None:
    Path("empty").mkdir()
    assert run("describe", source) == 1
    assert f"vlm: {source}: {message}" in capsys.readouterr().err


def test_photos_may_follow_options(model: StandIn, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = cli.parse_args(["ask", "a.jpg", "b.jpg", "--json", "c.jpg", "how long?"])
    assert (args.photos, args.question) == (["a.jpg", "b.jpg", "c.jpg"], "how long?")
    assert cli.parse_args(["detect", "a.jpg", "--json", "b.jpg"]).photos == ["a.jpg", "b.jpg"]


@pytest.mark.skipif(sys.platform != "linux", reason="file names are Unicode there")
def test_a_name_that_is_no_text(model: StandIn, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = os.fsdecode(b"photos/caf\xe9.jpg")
    Image.new("RGB", (9, 9)).save(name)
    assert run("caption", name, "--json") == 0
    assert json.loads(capsys.readouterr().out)["photo"] == name


# -- what is printed -----------------------------------------------------------------------------------


def test_describe_for_people(model: StandIn, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("describe", "photos/a.jpg", "--detail", "detailed", "--min-score", "0.2") == 0
    assert model.asked == [("describe", (40, 60), {"detail": "detailed", "min_score": 0.2, "closer": False})]
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[:2] == ["photos/a.jpg", "A tan coat over black boots."]
    assert lines[2] == "garment colour pattern sleeve score box"
    assert lines[3] == "coat tan and brown solid? long 87% 4 6 30 50"
    assert lines[4] == "boots black not visible 100% 8 50 20 60"


def test_a_narrow_terminal_folds_attributes_into_details() -> None:
    values = {name: Value(("unmistakable",)) for name in ("colour", "pattern", "sleeve", "neckline", "length", "fit")}
    garment = Garment("coat", COAT.box, Attributes({**values, "closure": Value(("not visible",))}))
    console = Console(width=80, file=open(os.devnull, "w"), record=True)  # noqa: SIM115
    show.show_result(console, "a.jpg", Outfit("A coat.", (garment,)))
    text = " ".join(console.export_text().split())
    assert "garment colour pattern details score box" in text
    assert "sleeve unmistakable" in text
    assert "…" not in text
    assert "not visible" not in text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("caption", "photos/a.jpg"), ["brief [bold]words[/bold] 50%", "cut off at the token limit"]),
        (("ground", "photos/a.jpg", "the coat"), ["phrase score box", "the coat 60% 4 6 30 50"]),
        (("ground", "photos/a.jpg", "the cat"), ["the cat: none in this photo 90%"]),
        (("detect", "photos/a.jpg"), ["garment score box", "coat 80% 4 6 30 50"]),
        (("detect", "photos/a.jpg", "--alternatives", "1"), ["garment score box or", "coat 80% 4 6 30 50 jacket 30%"]),
        (("detect", "dot.png"), ["no garments found"]),
        (("ask", "photos/a.jpg", "what colour?"), ["black 75%"]),
    ],
)
def test_the_other_commands_for_people(
    model: StandIn, folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], expected: list[str]
) -> None:
    Image.new("RGB", (1, 1)).save("dot.png")
    assert run(*arguments) == 0
    assert [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()][1:] == expected


def test_attributes(model: StandIn, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    box = ("--box", "1", "2", "3", "4.5")
    assert run("attributes", "photos/a.jpg", "--garment", "coat", *box, "--attributes", "colour, sleeve") == 0
    assert model.asked == [
        (
            "attributes",
            {"garment": "coat", "box": Box(1, 2, 3, 4.5), "attributes": ["colour", "sleeve"], "closer": False},
        )
    ]
    assert "tan and brown" in capsys.readouterr().out


# -- drawings ------------------------------------------------------------------------------------------


def test_draw_one(model: StandIn, folder: Path) -> None:
    assert run("describe", "photos/a.jpg", "--draw", "new/out.png") == 0
    with Image.open("new/out.png") as drawing:
        assert drawing.convert("RGB").getcolors(maxcolors=2) is None  # the photo has one colour
    assert os.listdir("new") == ["out.png"]


def test_draw_several_into_a_folder(model: StandIn, folder: Path) -> None:
    other = Path("other")
    other.mkdir()
    Image.new("RGB", (40, 60)).save(other / "a.png")
    assert run("ground", "photos/a.jpg", "other", "photos/c.PNG", "the coat", "--draw", "drawn") == 0
    assert sorted(os.listdir("drawn")) == ["a-2.png", "a.png", "c.png"]
    assert run("detect", "photos/a.jpg", "--draw", "drawn/one/") == 0
    assert os.listdir("drawn/one") == ["a.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("photos/a.jpg", "photos/c.PNG", "--draw", "out.png"), "one file for 2 photos; name a folder"),
        (("photos/a.jpg", "--draw", "out.pdf"), "cannot write .pdf; expected one of .png"),
        (("photos/a.jpg", "--draw", "photos/../photos/a.jpg"), "would be overwritten"),
    ],
)
def test_draw_refuses(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert run("describe", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not Path("out.png").exists()


# -- failures ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "required: COMMAND"),
        (("paint", "a.jpg"), "invalid choice: 'paint'"),
        (("describe",), "required: PHOTO"),
        (("ask", "a.jpg"), "required: QUESTION"),
        (("describe", "a.jpg", "--jsn"), "unrecognized arguments: --jsn"),
        (("describe", "a.jpg", "--min-score", "2"), "expected a probability in [0, 1]"),
        (("attributes", "a.jpg"), "give --garment, --box, or both"),
        (("attributes", "a.jpg", "--garment", "coat", "--closer"), "--closer looks closer at a box; give --box"),
        (("attributes", "a.jpg", "--box", "9", "9", "1", "1"), "corners are swapped"),
        (("caption", "a.jpg", "--detail", "long"), "choose from"),
        (("data",), "required: COMMAND"),
    ],
)
def test_wrong_usage_exits_with_2(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str) -> None:
    assert run(*arguments) == 2
    assert message in capsys.readouterr().err


def test_what_the_model_refuses_is_one_line(model: StandIn, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("ask", "photos/a.jpg", "nonsense") == 1
    assert capsys.readouterr().err == "vlm: photos/a.jpg: cannot be asked; expected a question\n"


def test_a_missing_checkpoint_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("describe", "photos/a.jpg", "--checkpoint", "./nowhere") == 1
    err = capsys.readouterr().err
    assert err.startswith("vlm: ./nowhere: no such directory")
    assert err.count("\n") == 1


def test_traceback_on_demand(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLM_TRACEBACK", "1")
    with pytest.raises(ValueError, match="no such directory"):
        cli.main(["info", "./nowhere"])


def test_help_does_not_load_a_model() -> None:
    """What `vlm` itself imports is the API's affair; the command line adds nothing heavy to it."""
    code = (
        "import sys, types\n"
        "package = sys.modules['vlm'] = types.ModuleType('vlm')\n"
        "package.__path__ = ['vlm']\n"
        "from vlm.cli import build_parser; build_parser().format_help()\n"
        "print(sorted({'torch', 'transformers', 'numpy', 'PIL', 'rich', 'datasets'} & set(sys.modules)))"
    )
    root = Path(cli.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "[]"


# -- train ---------------------------------------------------------------------------------


def test_train_gets_everything_after_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []
    stand_in = types.ModuleType("vlm.train")
    stand_in.main = lambda argv: given.extend(argv)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vlm.train", stand_in)
    assert run("train", "c.yaml", "--optim.learning_rate=3e-4", "--help") == 0
    assert given == ["c.yaml", "--optim.learning_rate=3e-4", "--help"]


# -- records, cards, calibration -------------------------------------------------------------------------


def write_records(folder: Path, rows: list[dict[str, object]]) -> Path:
    file = folder / "mine.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def test_data_check_names_file_line_and_fix(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = {"id": "1", "image": "photos/a.jpg", "image_size": [60, 40], "objects": [{"label": "coat"}]}
    file = write_records(folder.parent, [good])
    assert run("data", "check", str(file)) == 0
    assert "no problems" in capsys.readouterr().out
    write_records(folder.parent, [good, {**good, "id": "2", "objects": [{"label": "cote"}]}, {**good, "id": "1"}])
    assert run("data", "check", str(file)) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{file}:2: record 2: objects[0] has an unknown garment 'cote'; use one of: ")
    assert second.startswith(f"{file}:3: record 1: the id '1' was used before")
    assert run("data", "check", "nowhere.jsonl") == 1
    assert "no such file or folder" in capsys.readouterr().err


def test_data_preview_draws(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {
        "id": "1",
        "image": "photos/a.jpg",
        "image_size": [60, 40],
        "objects": [{"label": "coat", "box": [1, 2, 30, 50]}],
    }
    file = write_records(folder.parent, [row])
    assert run("data", "preview", str(file), "-o", "sheet.png") == 0
    assert capsys.readouterr().out == "sheet.png\n"
    with Image.open("sheet.png") as sheet:
        assert len(sheet.convert("RGB").getcolors(maxcolors=1 << 20) or ()) > 10


def test_data_shards_packs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"id": name, "image": f"photos/{name}", "image_size": [60, 40]} for name in ("a.jpg", "b.jpg")]
    file = write_records(folder.parent, [*rows, {**rows[0], "id": "3", "split": "validation"}])
    assert run("data", "shards", str(file), "packed", "--format", "webdataset", "--shard-size", "0.001") == 0
    names = ["train-00000-of-00002.tar", "train-00001-of-00002.tar", "validation-00000-of-00001.tar"]
    assert [Path(line).name for line in capsys.readouterr().out.splitlines()] == names
    assert sorted(path.name for path in Path("packed").iterdir()) == names
    assert run("data", "shards", str(file), "packed") == 1
    assert "is there already and not an empty folder" in capsys.readouterr().err
    write_records(folder.parent, [{**rows[0], "image": "photos/gone.jpg"}])
    assert run("data", "shards", str(file), "again") == 1
    assert "record a.jpg: its picture" in capsys.readouterr().err


def test_card_also_fills_the_readme(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = {
        "checkpoint": "embedded",
        "suite": "validation",
        "date": "2026-01-31",
        "config": {"sources": {"clothing": {"reader": "clothing"}}},
        "sources": {"clothing": {"classification": {"top1_accuracy": 0.5, "num": 9, "parse_rate": 1.0}}},
    }
    file, readme = tmp_path / "r.json", tmp_path / "README.md"
    file.write_text(json.dumps(results), encoding="utf-8")
    readme.write_text("a\n<!-- table:validation -->\nold\n<!-- /table:validation -->\nz\n", encoding="utf-8")
    assert run("card", str(file), "-o", str(tmp_path / "card.md"), "--readme", str(readme)) == 0
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("a\n<!-- table:validation -->\n| source |")
    assert "| clothing | clothing top-1 (scored classes) | 0.500 | 9 |" in text
    assert "old" not in text
    assert text.endswith("<!-- /table:validation -->\nz\n")
    readme.write_text("no marks", encoding="utf-8")
    assert run("card", str(file), "-o", str(tmp_path / "card.md"), "--readme", str(readme)) == 1
    assert "has no place for the table" in capsys.readouterr().err


def test_calibrate_needs_a_directory(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("calibrate", "someone/model") == 1
    assert "is not a directory; calibration.json is written into" in capsys.readouterr().err
