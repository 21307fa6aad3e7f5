"""The repository itself: what the README says works, every YAML parses, nothing is tracked that should not be."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
import zipfile
from copy import deepcopy
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
MAX_BYTES = 48_000_000
BINARY = {".safetensors", ".png", ".jpg", ".parquet", ".npz"}
# A folder on somebody's machine, at the start of a path.
MACHINE_PATH = re.compile(r"(?<![\w.:/~$}-])/(?:home|root|Users|work|opt|mnt)/[\w.-]")


def tracked() -> list[Path]:
    """Files that are in git or would be with `git add .`."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(program: str) -> list[list[str]]:
    """Every call of `program` in the documents' shell blocks, without comments."""
    found = []
    for name in ("README.md", "CONTRIBUTING.md"):
        for block in blocks((ROOT / name).read_text(encoding="utf-8"), "bash"):
            lines = [shlex.split(line, comments=True) for line in block.splitlines()]
            found += [line[1:] for line in lines if line and line[0] == program]
    return found


# -- documents -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", commands("vlm"), ids=" ".join)
def test_documented_commands_parse(arguments: list[str]) -> None:
    from vlm.cli import parse_args

    if arguments[0] == "train":
        assert arguments[1].endswith(".yaml")
    else:
        assert parse_args(arguments).run


@pytest.mark.parametrize("arguments", commands("make"), ids=" ".join)
def test_documented_targets_exist(arguments: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{re.escape(arguments[0])}:", makefile, re.MULTILINE)


def test_readme_python_uses_what_there_is() -> None:
    import vlm

    for block in blocks((ROOT / "README.md").read_text(encoding="utf-8"), "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                owner = {"model": vlm.VLM, "vlm": vlm}.get(node.value.id)
                assert owner is None or hasattr(owner, node.attr), f"{node.value.id}.{node.attr}"


def test_readme_record_is_valid(tmp_path: Path) -> None:
    from PIL import Image

    from vlm.data.check import check

    [record] = blocks((ROOT / "README.md").read_text(encoding="utf-8"), "json")
    row = json.loads(record)
    height, width = row["image_size"]
    (tmp_path / row["image"]).parent.mkdir()
    Image.new("RGB", (width, height)).save(tmp_path / row["image"])
    file = tmp_path / "records.jsonl"
    file.write_text(record, encoding="utf-8")
    assert not check(file)


def test_readme_config_is_valid(tmp_path: Path) -> None:
    from vlm.train import parse_config

    [text] = blocks((ROOT / "README.md").read_text(encoding="utf-8"), "yaml")
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    config, _ = parse_config([str(file), "--optim.learning_rate=3e-4"])
    assert config.data.sources["mine"].path == "my_photos.jsonl"
    assert config.optim.learning_rate == 3e-4


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_relative_links_lead_somewhere(name: str) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)\s]+)\)", (ROOT / name).read_text(encoding="utf-8"))
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_contributing_names_rooms_that_exist() -> None:
    """`tasks/x.py`, then bare `y.py` of the same folder."""
    missing = []
    for line in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines():
        if not line.startswith("| `"):
            continue
        folder = ROOT
        for name in re.findall(r"`([\w./]+)`", line.split("|")[1]):
            path = ROOT / name if "/" in name else folder / name
            folder = path.parent
            if not path.exists():
                missing.append(str(path.relative_to(ROOT)))
    assert missing == []


def test_changelog_has_the_version() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert version is not None
    assert headings[:2] == ["Unreleased", version[1]]


# -- configuration -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_config_parses_and_opens_with_its_command(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert isinstance(yaml.safe_load(text), dict)
    first = text.splitlines()[0]
    assert re.match(r"# (vlm|make|python|accelerate) ", first), f"line 1 is {first!r}; expected `# vlm ...`"
    if first.startswith("# vlm "):
        words = shlex.split(first[2:], comments=True)[1:]
        if words[0] == "train":
            assert (ROOT / words[1]).is_file(), f"{words[1]} does not exist"
        else:
            from vlm.cli import parse_args

            assert parse_args(words).run


TRAINING = sorted((ROOT / "configs" / "train").rglob("*.yaml"))


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: path.name)
def test_every_train_config_is_valid(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vlm.train import parse_config

    monkeypatch.chdir(ROOT)
    config, _ = parse_config([str(path)])
    # A run may go on from what another one of these exports.
    exported = {
        f"{yaml.safe_load(other.read_text(encoding='utf-8'))['output_dir']}/final"
        for other in TRAINING
        if other != path
    }
    first = path.read_text(encoding="utf-8").splitlines()[0]
    # On the command line, by the user, or from the Hub.
    given = "--model DIRECTORY" in first or f"--model {config.model}" in first
    assert given or Path(config.model).exists() or config.model in exported


def test_every_ablation_is_valid(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from ablations import changed

    from vlm.train import parse_config

    monkeypatch.chdir(ROOT)
    found = yaml.safe_load((ROOT / "configs" / "ablations.yaml").read_text(encoding="utf-8"))
    configs = []
    for name, change in found["variants"].items():
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump(changed(deepcopy(found["base"]), change)), encoding="utf-8")
        configs.append(parse_config([str(file)])[0])
        assert configs[-1] != configs[0] or name == "base", f"{name} changes nothing"


def test_pre_commit_hooks_need_no_network() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert {repo["repo"] for repo in config["repos"]} == {"local"}
    assert {"ruff", "ruff-format", "mypy"} <= {hook["id"] for repo in config["repos"] for hook in repo["hooks"]}


# -- what is tracked -----------------------------------------------------------------------------------


def test_no_machine_paths() -> None:
    found = []
    for path in tracked():
        if path.suffix in BINARY:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if MACHINE_PATH.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert found == []


def test_no_large_files() -> None:
    assert [path.name for path in tracked() if path.stat().st_size > MAX_BYTES] == []


def test_no_packages() -> None:
    """What pip downloads belongs nowhere in here."""
    assert [path.name for path in tracked() if path.suffix in (".whl", ".gz", ".zip")] == []


def test_no_photos_of_the_data_sets() -> None:
    """Their annotations may be here; photos and masks never."""
    images = {".jpg", ".jpeg", ".png", ".webp"}
    names = [path.relative_to(ROOT) for path in tracked() if path.suffix.lower() in images]
    elsewhere = [name.as_posix() for name in names if name.parts[0] not in ("docs", "tests", "model_cards")]
    assert elsewhere == ["vlm/demo_person.jpg"]  # drawn by the wardrobe


def test_a_wheel_carries_what_the_packages_read(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    configs = {str(path.relative_to(ROOT / "configs")) for path in CONFIGS}
    assert {"vlm/py.typed", "tasks/py.typed"} <= names
    assert {f"vlm/_configs/{name}" for name in configs} <= names
    assert {f"tasks/_configs/{name}" for name in configs if name.startswith("ontology/")} <= names
    assert {"vlm/_model_cards/embedded.md", "vlm/_model_cards/results/embedded.json"} <= names
    embedded = [path for path in tracked() if path.is_relative_to(ROOT / "vlm" / "embedded")]
    assert {str(path.relative_to(ROOT)) for path in embedded} <= names
    assert not [name for name in names if name.startswith(("tests/", "data/", "configs/"))]
