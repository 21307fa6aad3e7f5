"""Checkpoints on the Hub, by its real client against a server on this machine that speaks its API."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file

import vlm
from tests.vlm.hub_server import HubServer
from vlm.api import VLM
from vlm.calibrate import Calibration
from vlm.cli import main
from vlm.hub import EMBEDDED, find_checkpoint, pull
from vlm.push import files_to_push, push

QUESTION = "what colour are the boots?"


@pytest.fixture
def folder(tiny: VLM, tmp_path: Path) -> Path:
    """A checkpoint."""
    calibration = Calibration(maps={"vqa": (1.0, -0.5)}, report={"keys": {}})
    VLM(tiny.family, calibration=calibration).save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def answer(model: VLM, photos: list[Image.Image]) -> dict[str, Any]:
    said = model.ask(photos[0], QUESTION)
    return {"text": said.text, "score": pytest.approx(said.score, rel=1e-4)}  # sums depend on where weights lie


# -- loading ---------------------------------------------------------------------------------------------


def test_load_by_id_and_revision(hub: HubServer, folder: Path, tiny: VLM, photos: list[Image.Image]) -> None:
    first = hub.add("ann/tiny", folder)
    weights = load_file(folder / "model.safetensors")
    other = {name: value * 0.5 if name == "final_norm.weight" else value for name, value in weights.items()}
    save_file(other, folder / "model.safetensors", metadata={"format": "pt"})
    hub.add("ann/tiny", folder)
    hub.add("ann/tiny", folder, branch="older")
    hub.repos["ann/tiny"].branches["older"] = first
    expected = answer(vlm.load(folder, device="cpu"), photos)
    assert answer(vlm.load("ann/tiny", device="cpu"), photos) == expected
    for revision in (first, "older"):
        loaded = vlm.load("ann/tiny", revision=revision, device="cpu")
        assert torch.equal(loaded.family.model.final_norm.weight, weights["final_norm.weight"])
        assert loaded.calibration is not None
    with pytest.raises(ValueError, match=r"ann/tiny: has no revision 'newer'"):
        vlm.load("ann/tiny", revision="newer")


def test_a_second_load_fetches_nothing(hub: HubServer, folder: Path) -> None:
    hub.add("ann/tiny", folder)
    found = find_checkpoint("ann/tiny")
    assert len(hub.downloads("model.safetensors")) == 1
    del hub.log[:]
    assert find_checkpoint("ann/tiny") == found
    assert [served.path for served in hub.log if "/api/" not in served.path] == []


def test_what_huggingface_hub_itself_fetched_is_taken(hub: HubServer, folder: Path) -> None:
    from huggingface_hub import snapshot_download

    hub.add("ann/tiny", folder)
    assert snapshot_download("ann/tiny") == str(find_checkpoint("ann/tiny"))
    assert len(hub.downloads("model.safetensors")) == 1


def test_sharded_weights_in_a_subfolder(hub: HubServer, tiny: VLM, folder: Path, photos: list[Image.Image]) -> None:
    expected = answer(vlm.load(folder, device="cpu"), photos)
    (folder / "model.safetensors").unlink()
    tiny.family.model.save_pretrained(folder, max_shard_size="500KB")
    shards = sorted(folder.glob("model-*-of-*.safetensors"))
    assert len(shards) > 2
    (folder / "model.fp16.safetensors").write_bytes(b"a variant that is not asked for")
    shutil.move(folder, folder.parent / "repo" / "best")
    (folder.parent / "repo" / "best" / "modeling.py").write_text("raise SystemExit")
    hub.add("ann/tiny", folder.parent / "repo")
    assert answer(vlm.load("ann/tiny", subfolder="best", device="cpu"), photos) == expected
    assert answer(vlm.load(folder.parent / "repo", subfolder="best", device="cpu"), photos) == expected
    assert not hub.downloads("model.fp16.safetensors")
    assert not hub.downloads("modeling.py")
    with pytest.raises(ValueError, match=r"ann/tiny: has no config.json on the Hub; try subfolder='best'"):
        vlm.load("ann/tiny")
    with pytest.raises(ValueError, match=r"subfolder '\.\./\.\.' leads out"):
        vlm.load("ann/tiny", subfolder="../..")
    files = {path: content for path, content in hub.files("ann/tiny").items() if path != f"best/{shards[1].name}"}
    hub.add("ann/tiny", files)
    with pytest.raises(ValueError, match=rf"lacks 1 of the \d+ files that its weights are in \({shards[1].name}\)"):
        vlm.load("ann/tiny", subfolder="best")


def test_offline_takes_what_the_cache_has(
    hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sha = hub.add("ann/tiny", folder)
    found = find_checkpoint("ann/tiny")
    del hub.log[:]
    assert find_checkpoint("ann/tiny", local_files_only=True) == found
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find_checkpoint("ann/tiny") == found == find_checkpoint("ann/tiny", revision=sha)
    with pytest.raises(ValueError, match=r"someone/other: .*cache has no such checkpoint, and the Hub is not asked"):
        find_checkpoint("someone/other")
    with pytest.raises(ValueError, match=r"no such checkpoint at revision 'v2'"):
        find_checkpoint("ann/tiny", revision="v2")
    assert hub.log == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody answers there
    with pytest.warns(UserWarning, match="cannot be reached"):
        assert find_checkpoint("ann/tiny") == found
    with pytest.raises(ValueError, match=r"someone/other: .*the Hub cannot be reached"):
        find_checkpoint("someone/other")


def test_an_update_that_broke_off_leaves_what_was_there(hub: HubServer, folder: Path, impatient: None) -> None:
    hub.add("ann/tiny", folder)
    found = find_checkpoint("ann/tiny")
    hub.add("ann/tiny", {**hub.files("ann/tiny"), "model.safetensors": b"x" * 5_000_000})
    hub.cut["model.safetensors"] = [1000, *[0] * 6]
    with pytest.raises(ValueError, match="broke off"):
        find_checkpoint("ann/tiny")
    assert find_checkpoint("ann/tiny", local_files_only=True) == found


# -- downloads that go wrong -----------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub's client waits a second before it tries again; and it writes down whole chunks only, of 10 MB."""
    from huggingface_hub import file_download

    monkeypatch.setattr(file_download.time, "sleep", lambda _: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100_000)


def test_a_broken_download_goes_on(hub: HubServer, folder: Path, impatient: None) -> None:
    """At once, and, where the line stays dead, when it is asked for again: only the rest is fetched."""
    hub.add("ann/tiny", folder)
    size = (folder / "model.safetensors").stat().st_size
    hub.cut["model.safetensors"] = [300_000, 500_000, *[0] * 6]
    with pytest.raises(ValueError, match=r"ann/tiny: the connection to the Hub broke off .*goes on from there"):
        find_checkpoint("ann/tiny")
    tried = hub.downloads("model.safetensors")
    assert [served.range for served in tried[:3]] == [None, "bytes=300000-", "bytes=800000-"]
    assert not list((Path(constants.HF_HUB_CACHE)).rglob("model.safetensors"))
    del hub.log[:]
    hub.cut.clear()
    found = find_checkpoint("ann/tiny")
    [rest] = hub.downloads("model.safetensors")
    assert (rest.range, rest.status, rest.sent) == ("bytes=800000-", 206, size - 800_000)
    assert (found / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert not list(Path(constants.HF_HUB_CACHE).rglob("*.incomplete"))


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_another_checksum_is_refused(hub: HubServer, folder: Path, file: str) -> None:
    """Large files have a sha256 on the Hub, small ones their git id."""
    hub.add("ann/tiny", folder)
    hub.corrupt.add(file)
    with pytest.raises(ValueError, match=rf"ann/tiny/{file}: what came has the (sha256|git id) .*try again"):
        find_checkpoint("ann/tiny")
    assert not list(Path(constants.HF_HUB_CACHE).rglob(file))
    hub.corrupt.clear()
    found = find_checkpoint("ann/tiny")
    assert (found / file).read_bytes() == (folder / file).read_bytes()


def test_a_full_disk(hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real one: /dev/full takes nothing. And one that is seen beforehand."""
    import vlm.download

    sha256 = next(blob.sha256 for blob in hub.repos[_added(hub, folder)].commits.popitem()[1].values() if blob.lfs)
    hub.add("ann/tiny", folder)
    part = Path(constants.HF_HUB_CACHE) / "models--ann--tiny" / "blobs" / f"{sha256}.incomplete"
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")
    with pytest.raises(ValueError, match=r"model.safetensors: no room is left on the disk of .*cache_dir="):
        find_checkpoint("ann/tiny")
    assert not list(Path(constants.HF_HUB_CACHE).rglob("model.safetensors"))
    part.unlink(missing_ok=True)
    usage = shutil.disk_usage(part.parent)
    monkeypatch.setattr(vlm.download.shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(ValueError, match=r"ann/tiny: 1\.9 MB are to be fetched, but .* has room for 1\.0 MB"):
        find_checkpoint("ann/tiny")
    monkeypatch.undo()


def _added(hub: HubServer, folder: Path) -> str:
    hub.add("ann/tiny", folder)
    return "ann/tiny"


# -- what cannot be loaded -------------------------------------------------------------------------------


def test_gated_and_private(hub: HubServer, folder: Path) -> None:
    hub.add("ann/gated", folder, gated=True, readers={"bob"})
    hub.add("ann/secret", folder, private=True)
    gated = rf"ann/gated: is gated; ask for access on its page \({hub.endpoint}/ann/gated\), then log in with `hf auth"
    with pytest.raises(ValueError, match=gated):
        find_checkpoint("ann/gated")
    assert find_checkpoint("ann/gated", token="hf_bob").is_dir()
    for token in (None, "hf_bob"):
        with pytest.raises(ValueError, match=r"ann/secret: .*if it is a private one, log in with `hf auth login`"):
            find_checkpoint("ann/secret", token=token)
    with pytest.raises(ValueError, match=r"ann/secret: the Hub refuses \(Invalid credentials .*log in"):
        find_checkpoint("ann/secret", token="hf_mistyped")
    assert find_checkpoint("ann/secret", token="hf_ann").is_dir()
    assert not any(served.authorized for served in hub.log if served.path.startswith("/cdn"))


def test_what_is_no_checkpoint(hub: HubServer, folder: Path) -> None:
    """Told before the weights are fetched."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    config = json.loads(files["config.json"])
    no_weights = {name: content for name, content in files.items() if name != "model.safetensors"}

    def with_config(**changes: Any) -> dict[str, bytes]:
        return {**files, "config.json": json.dumps({**config, **changes}).encode()}

    cases = {
        "ann/data": ({"train.csv": b"1"}, r"has no config.json on the Hub; it is not a checkpoint of transformers"),
        "ann/pickled": ({**no_weights, "pytorch_model.bin": b"x"}, r"pickled weights only \(pytorch_model.bin\)"),
        "ann/empty": (no_weights, r"has no .safetensors weights"),
        "ann/llama": (with_config(model_type="llama"), r"model_type 'llama', which is not a known family; known: one"),
        "ann/code": (with_config(model_type="own", auto_map={"AutoModel": "m.M"}), r"code of its own \(auto_map\)"),
        "ann/tuned": (with_config(model_type="florence2", auto_map={"AutoModel": "m.M"}), r"florence-community/Flo"),
    }
    for name, (content, words) in cases.items():
        hub.add(name, content)
        with pytest.raises(ValueError, match=rf"{name}: .*{words}"):
            vlm.load(name)
    assert not hub.downloads("model.safetensors")
    assert not hub.downloads("pytorch_model.bin")
    hub.add("ann/untokenized", {name: content for name, content in files.items() if name != "tokenizer.json"})
    with pytest.raises(ValueError, match=r"has no tokenizer.json"):
        vlm.load("ann/untokenized")


def test_florence_with_remote_code_names_the_native_one(hub: HubServer) -> None:
    with pytest.raises(ValueError, match=r"microsoft/Florence-2-large-ft: .*florence-community/Florence-2-large-ft$"):
        vlm.load("microsoft/Florence-2-large-ft")
    with pytest.raises(ValueError, match=r"florence-community/Florence-2-base or .*Florence-2-large-ft"):
        pull("microsoft/Florence-2-mine")
    assert hub.log == []


def test_code_in_a_repository_is_never_run(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    """A known family is loaded by our own code, whatever auto_map says; another is refused."""
    trace = tmp_path / "was here"
    code = f"from pathlib import Path\nPath({str(trace)!r}).touch()\nclass M: ...\n".encode()
    auto_map = dict.fromkeys(("AutoConfig", "AutoModel", "AutoTokenizer", "AutoProcessor"), "module.M")
    files = {path.name: path.read_bytes() for path in folder.iterdir()} | {"module.py": code}
    for name in ("config.json", "tokenizer_config.json"):
        files[name] = json.dumps({**json.loads(files[name]), "auto_map": auto_map}).encode()
    hub.add("ann/tiny", files)
    model = vlm.load("ann/tiny", device="cpu")
    assert type(model.family.model).__module__ == "vlm.model.modeling"
    hub.add("ann/other", {**files, "config.json": json.dumps({"model_type": "x", "auto_map": auto_map}).encode()})
    with pytest.raises(ValueError, match="never run"):
        vlm.load("ann/other")
    pull("ann/tiny", tmp_path / "pulled")
    vlm.load(tmp_path / "pulled", device="cpu")
    assert not (tmp_path / "pulled" / "module.py").exists()
    assert not hub.downloads("module.py")
    assert not trace.exists()


# -- onto devices, in which precision --------------------------------------------------------------------


def test_dtype_auto_is_the_checkpoints_own(tiny: VLM, folder: Path) -> None:
    weights = {name: value.half() for name, value in load_file(folder / "model.safetensors").items()}
    weights["final_norm.weight"] = weights["final_norm.weight"].float()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert vlm.load(folder, dtype="auto", device="cpu").info()["dtype"] == "float16"
    assert vlm.load(folder, device="cpu").info()["dtype"] == "float32"


@pytest.mark.parametrize("device_map", ["auto", "cpu", {"": "cpu"}, {"tower": "cpu", "": "cpu"}], ids=str)
def test_device_map(folder: Path, photos: list[Image.Image], device_map: Any) -> None:
    if device_map == "auto" and torch.cuda.is_available():
        pytest.skip("goes onto the GPU")
    loaded = vlm.load(folder, device_map=device_map)
    assert loaded.info()["device"] == "cpu"
    assert answer(loaded, photos) == answer(vlm.load(folder, device="cpu"), photos)


def test_wrong_placing(folder: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"device": "cpu", "device_map": "auto"}, "give one of them"),
        ({"load_in_8bit": True, "load_in_4bit": True}, "choose one"),
        ({"device_map": {"tower": "cpu", "tokens": "cuda:0"}}, "stays on one device"),
        ({"device_map": {"": "disk"}}, "stays on one device"),
        ({"device_map": {"": "abacus"}}, "names no device that is known"),
    ]
    for options, words in cases:
        with pytest.raises(ValueError, match=words):
            vlm.load(folder, **options)


@pytest.mark.parametrize("bits", [8, 4])
def test_fewer_bits(folder: Path, photos: list[Image.Image], bits: int) -> None:
    options: dict[str, Any] = {f"load_in_{bits}bit": True}
    if importlib.util.find_spec("bitsandbytes") is None:
        with pytest.raises(ValueError, match=rf"load_in_{bits}bit needs bitsandbytes, which is not installed"):
            vlm.load(folder, **options)
        return
    loaded = vlm.load(folder, **options)
    kinds = {type(module).__name__ for module in loaded.family.model.modules()}
    assert {8: "Linear8bitLt", 4: "Linear4bit"}[bits] in kinds
    assert 0 <= loaded.ask(photos[0], QUESTION).score <= 1


# -- push and pull ---------------------------------------------------------------------------------------


def test_push_and_pull(
    hub: HubServer, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "train.yaml").write_text("output_dir: /somewhere/private")
    (folder / "results").mkdir()
    (folder / "results" / "mine.json").write_text("{}")
    assert main(["push", str(folder), "ann/new"]) == 1
    assert "ann/new: the Hub refuses (Invalid username or password.)" in capsys.readouterr().err
    monkeypatch.setenv("HF_TOKEN", "hf_bob")
    assert main(["push", str(folder), "ann/new"]) == 1
    assert "don't have the rights to create a model" in capsys.readouterr().err
    monkeypatch.setenv("HF_TOKEN", "hf_ann")
    assert main(["push", str(folder), "ann/new", "--private", "--license", "cc-by-4.0"]) == 0
    repo = hub.repos["ann/new"]
    assert capsys.readouterr().out.strip() == f"{hub.endpoint}/ann/new/commit/{repo.branches['main']}"
    assert repo.private
    assert len(repo.commits) == 2  # one, and the one that the Hub makes
    files = hub.files("ann/new")
    assert set(files) == {
        path.name for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".jinja")
    } | {
        "README.md",
        "results/mine.json",
        ".gitattributes",
    }
    head = yaml.safe_load(files["README.md"].decode().split("---")[1])
    expected = {"license": "cc-by-4.0", "library_name": "vlm", "pipeline_tag": "image-text-to-text"}
    assert expected.items() <= head.items()
    assert "vision-language-model" in head["tags"]
    assert b'vlm.load("ann/new")' in files["README.md"]

    assert main(["pull", "ann/new", str(tmp_path / "pulled")]) == 0
    pulled = {path.relative_to(tmp_path / "pulled").as_posix(): path for path in (tmp_path / "pulled").rglob("*.*")}
    assert {name: path.read_bytes() for name, path in pulled.items()} == {
        name: content for name, content in files.items() if name != ".gitattributes"
    }
    assert vlm.load(tmp_path / "pulled", device="cpu").calibration is not None
    assert main(["pull", "ann/new", str(tmp_path / "pulled")]) == 1
    assert "is there already" in capsys.readouterr().err


def test_push_to_a_branch_replaces_what_it_had(hub: HubServer, tiny: VLM, folder: Path, tmp_path: Path) -> None:
    """Sharded ones beside a single file would be two models; and what is the same is not uploaded again."""
    model = vlm.load(folder, device="cpu")
    model.push_to_hub("ann/tiny", token="hf_ann", revision="next")
    assert set(hub.files("ann/tiny")) == {".gitattributes"}
    before = hub.files("ann/tiny", "next")
    assert {"model.safetensors", "calibration.json", "tokenizer.json", "README.md"} <= set(before)
    tiny.family.model.save_pretrained(tmp_path / "sharded", max_shard_size="500KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, tmp_path / "sharded")
    del hub.log[:]
    push(tmp_path / "sharded", "ann/tiny", token="hf_ann", revision="next", commit_message="Shards")
    after = hub.files("ann/tiny", "next")
    assert "model.safetensors" not in after
    assert "model.safetensors.index.json" in after
    assert "calibration.json" not in after  # it was of other weights
    push(tmp_path / "sharded", "ann/tiny", token="hf_ann", revision="next")
    assert len([served for served in hub.log if served.method == "PUT"]) == len([n for n in after if "-of-" in n])


def test_the_shipped_checkpoint_goes_with_its_card(tmp_path: Path) -> None:
    files = files_to_push(EMBEDDED, "ann/outfits")
    assert {"README.md", "results/embedded.json", "results/embedded.png", "calibration.json"} <= set(files)
    card = files["README.md"]
    assert isinstance(card, bytes)
    assert yaml.safe_load(card.decode().split("---")[1])["license"] == "apache-2.0"
    assert b'model = vlm.load("ann/outfits")' in card
    measured = files_to_push(EMBEDDED, "ann/outfits", results=files["results/embedded.json"])["README.md"]
    assert isinstance(measured, bytes)
    assert "license" not in yaml.safe_load(measured.decode().split("---")[1])  # it may be anybody's
    assert b"# ann/outfits" in measured


def test_wrong_pushes(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("[1]")
    cases: list[tuple[Path, str, dict[str, Any], str]] = [
        (folder, "tiny", {}, "tiny: is no Hub id"),
        (tmp_path / "absent", "ann/tiny", {}, "no such directory"),
        (tmp_path, "ann/tiny", {}, "has no config.json"),
        (folder, "ann/tiny", {"card": tmp_path / "none.md"}, "no such model card"),
        (folder, "ann/tiny", {"results": tmp_path / "results.json"}, "is not what `vlm eval` writes"),
    ]
    for path, name, options, words in cases:
        with pytest.raises(ValueError, match=words):
            push(path, name, token="hf_ann", **options)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path)}))
    with pytest.raises(ValueError, match=r"is an adapter of .*which others do not have; write the Hub id"):
        push(folder, "ann/tiny", token="hf_ann")
    assert hub.log == []


def test_a_broken_pull_goes_on(hub: HubServer, folder: Path, tmp_path: Path, impatient: None) -> None:
    hub.add("ann/tiny", folder)
    hub.cut["model.safetensors"] = [700_000, *[0] * 6]
    with pytest.raises(ValueError, match="broke off"):
        pull("ann/tiny", tmp_path / "pulled")
    assert not (tmp_path / "pulled").exists()
    del hub.log[:]
    hub.cut.clear()
    pull("ann/tiny", tmp_path / "pulled")
    [rest] = hub.downloads("model.safetensors")
    assert rest.range == "bytes=700000-"
    assert not hub.downloads("tokenizer.json")
    assert sorted(path.name for path in (tmp_path / "pulled").iterdir()) == sorted(p.name for p in folder.iterdir())
    assert not list(tmp_path.glob(".pulled*"))


# -- all of it, in processes of their own ----------------------------------------------------------------

_DESCRIBE = """\
import json, sys
import torch
import vlm
torch.set_num_threads(1)
model = vlm.load(sys.argv[1], revision=sys.argv[2], device="cpu")
print(json.dumps(model.describe_outfit(sys.argv[3]).to_dict()))
"""


def test_pushed_loaded_elsewhere_and_offline(hub: HubServer, tmp_path: Path) -> None:
    """The shipped weights: pushed, loaded by id and revision with an empty cache while the line breaks, and offline."""
    root = Path(vlm.__file__).parent
    photo = str(root / "demo_person.jpg")
    sha = vlm.load(EMBEDDED, device="cpu", dtype="auto").push_to_hub("ann/outfits", private=True, token="hf_ann").oid
    pushed = hub.files("ann/outfits", sha)
    assert {"README.md", "calibration.json", "processor_config.json", "results/embedded.json"} <= set(pushed)
    size = len(pushed["model.safetensors"])
    assert size == pytest.approx((EMBEDDED / "model.safetensors").stat().st_size, rel=0.01)

    def describe(**environment: str) -> Any:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        ours = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run(
            [sys.executable, "-c", _DESCRIBE, "ann/outfits", sha, photo],
            env={**kept, **ours, "OMP_NUM_THREADS": "1", **environment},
            cwd=root.parent,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    hub.cut["model.safetensors"] = [13_000_000]
    loaded = describe(HF_TOKEN="hf_ann")
    first, rest = hub.downloads("model.safetensors")
    assert (first.range, first.sent) == (None, 13_000_000)
    # The client writes down what came in steps of 10 MiB.
    assert (rest.range, rest.sent) == ("bytes=10485760-", size - 10_485_760)
    del hub.log[:]
    assert describe(HF_HUB_OFFLINE="1") == loaded
    assert hub.log == []
    with torch.inference_mode():
        here = vlm.load(EMBEDDED, device="cpu").describe_outfit(photo).to_dict()
    assert loaded["summary"] == here["summary"]
    assert [g["label"] for g in loaded["garments"]] == [g["label"] for g in here["garments"]]
    assert [g["box"] for g in loaded["garments"]] == [g["box"] for g in here["garments"]]
    assert [g["score"] for g in loaded["garments"]] == pytest.approx([g["score"] for g in here["garments"]], rel=1e-3)
