"""`vlm train --model owner/name`: the real client fetches the checkpoint from a server on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

import vlm
from tests.vlm.hub_server import HubServer
from tests.vlm.test_train import losses, write_config
from vlm.api import VLM
from vlm.train import main

ROOT = Path(__file__).parents[3]
LAST_NORMS = ("final_norm.weight", "final_layer_norm.weight", "decoder.norm.weight")

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.fixture(params=["onelook", "florence2", "t5gemma2"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, tiny: VLM) -> Path:
    if request.param != "onelook":
        found: Path = request.getfixturevalue(f"{request.param}_folder")
        return found
    tiny.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def train(folder: Path, records: Path, model: Any, *arguments: str, **values: Any) -> Path:
    """Two steps; the run's folder."""
    folder.mkdir(exist_ok=True)
    settings = {"num_steps": 2, "batch_size": 2, "save_every": 0, **values}
    file = write_config(folder, records, model=model, **settings)
    AcceleratorState._reset_state(reset_partial_state=True)
    assert main([str(file), *arguments]) == 0
    return folder / "run"


def half(folder: Path) -> dict[str, bytes]:
    """The same checkpoint with one weight halved: another one."""
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in sorted(weights) if name.endswith(LAST_NORMS))
    file = folder.parent / "half.safetensors"
    save_file(weights | {name: weights[name] * 0.5}, file, metadata={"format": "pt"})
    return files | {"model.safetensors": file.read_bytes()}


def add_two_revisions(hub: HubServer, folder: Path) -> str:
    """ann/clothes, with other weights on main than on the branch "old"; the commit of the latter."""
    first = hub.add("ann/clothes", folder)
    hub.add("ann/clothes", half(folder))
    hub.repos["ann/clothes"].branches["old"] = first
    return first


def test_an_id_is_trained_as_the_directory_is(
    hub: HubServer, folder: Path, garments: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named in the YAML or on the command line; fetched once, and offline from the cache."""
    hub.add("ann/clothes", folder)
    expected = train(tmp_path / "directory", garments, folder)
    named = train(tmp_path / "named", garments, "ann/clothes")
    assert losses(named) == losses(expected)
    assert len(hub.downloads("model.safetensors")) == 1
    told = yaml.safe_load((named / "final" / "train.yaml").read_text(encoding="utf-8"))
    assert told["model"] == "ann/clothes", "not where it lies in this machine's cache"
    exported = [load_file(run / "final" / "model.safetensors") for run in (named, expected)]
    assert all(torch.equal(value, exported[1][name]) for name, value in exported[0].items())
    del hub.log[:]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert losses(train(tmp_path / "offline", garments, "nowhere.yaml", "--model", "ann/clothes")) == losses(expected)
    assert hub.log == []
    with pytest.raises(ValueError, match=r"ann/other: .*the cache has no such checkpoint, and the Hub is not asked"):
        train(tmp_path / "other", garments, "ann/other")


def test_a_revision(hub: HubServer, folder: Path, garments: Path, tmp_path: Path) -> None:
    first = add_two_revisions(hub, folder)
    expected = losses(train(tmp_path / "directory", garments, folder))
    assert losses(train(tmp_path / "main", garments, "ann/clothes")) != expected
    for number, revision in enumerate(("old", first)):
        run = train(tmp_path / str(number), garments, f"ann/clothes@{revision}")
        assert losses(run) == expected
    with pytest.raises(ValueError, match=r"ann/clothes: has no revision 'newer' on the Hub"):
        train(tmp_path / "newer", garments, "ann/clothes@newer")


def test_an_adapter_names_its_base_and_revision(hub: HubServer, folder: Path, garments: Path, tmp_path: Path) -> None:
    """As peft does; it is then found, though the repository has other weights now."""
    add_two_revisions(hub, folder)
    final = train(tmp_path / "lora", garments, "ann/clothes@old", "--peft=lora") / "final"
    told = json.loads((final / "adapter_config.json").read_text(encoding="utf-8"))
    assert (told["base_model_name_or_path"], told["revision"]) == ("ann/clothes", "old")
    photo = garments.parent / "11.png"
    merged = vlm.load(final).caption(photo, max_new_tokens=5)
    beside = vlm.load("ann/clothes", revision="old", adapter=final)
    assert beside.caption(photo, max_new_tokens=5).text == merged.text
    beside.save_adapter(tmp_path / "alone")
    again = json.loads((tmp_path / "alone" / "adapter_config.json").read_text(encoding="utf-8"))
    assert (again["base_model_name_or_path"], again["revision"]) == ("ann/clothes", "old")
    with pytest.raises(ValueError, match=r"the adapter was trained beside another checkpoint than ann/clothes; give"):
        vlm.load("ann/clothes", adapter=final)
    with pytest.raises(ValueError, match=r"is an adapter; go on from its run's `export: merged`, or name its base"):
        train(tmp_path / "next", garments, final)


def test_what_is_no_model(hub: HubServer, garments: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "weights.bin").write_bytes(b"\x80\x02\xff")
    (tmp_path / "broken.yaml").write_text("a: [", encoding="utf-8")
    hub.add("ann/data", {"train.csv": b"1"})
    cases = {
        "tiny.yml": r"model 'tiny.yml' is neither a YAML file nor a checkpoint folder; give one .* or a Hub id \(owner",
        "configs/tny.yaml": r"model 'configs/tny.yaml' is neither a YAML file nor a checkpoint folder; give one of",
        "no/such/folder": r"model 'no/such/folder' is neither",
        "weights.bin": r"model 'weights.bin' is neither a YAML file nor a checkpoint folder \(.*decode byte",
        "broken.yaml": r"model 'broken.yaml' is neither a YAML file nor a checkpoint folder \(while parsing",
        "empty": r"empty: has no config.json, so it is not a checkpoint directory",
        "ann/nothing": r"ann/nothing: no such directory and no such repository on the Hub; if it is a private one",
        "ann/data": r"ann/data: has no config.json on the Hub; it is not a checkpoint of transformers",
        "ann/data@": r"ann/data@: names no revision behind the @",
        "microsoft/Florence-2-base-ft": r"the same weights .* are florence-community/Florence-2-base-ft",
    }
    for model, words in cases.items():
        with pytest.raises(ValueError, match=words):
            train(tmp_path / "run", garments, model)


@pytest.mark.slow
@pytest.mark.distributed
def test_one_of_two_processes_fetches(hub: HubServer, florence2_folder: Path, garments: Path, tmp_path: Path) -> None:
    hub.add("ann/clothes", florence2_folder)
    expected = train(tmp_path / "alone", garments, florence2_folder)
    (tmp_path / "both").mkdir()
    settings = {"num_steps": 2, "batch_size": 2, "save_every": 0}
    file = write_config(tmp_path / "both", garments, model=Path("ann/clothes"), **settings)
    done = subprocess.run(
        [sys.executable, "-m", "vlm", "train", str(file), "--launch", "cpu", "--num-processes", "2"],
        cwd=ROOT,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(hub.downloads("model.safetensors")) == 1
    alone, both = losses(expected), losses(tmp_path / "both" / "run")
    assert [row["tokens"] for row in both] == [row["tokens"] for row in alone]
