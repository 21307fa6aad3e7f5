"""Checkpoints: whole or not at all, the newest kept, the damaged passed over."""

from __future__ import annotations

import shutil
import signal
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from vlm.checkpoint import (
    Best,
    DamagedCheckpointError,
    list_checkpoints,
    load_checkpoint,
    load_newest,
    save_checkpoint,
    step_of,
)


def layer(value: float, width: int = 2) -> nn.Linear:
    model = nn.Linear(width, 1, bias=False)
    nn.init.constant_(model.weight, value)
    return model


def save(folder: Path, step: int, *, keep: int = 10, protected: frozenset[int] = frozenset()) -> Path:
    return save_checkpoint(
        folder,
        step,
        layer(float(step)).state_dict(),
        {"average": torch.tensor(step + 0.5)},
        keep=keep,
        protected=protected,
    )


def steps(folder: Path) -> list[int]:
    return [step_of(path) for path in list_checkpoints(folder)]


def test_round_trip(tmp_path: Path) -> None:
    path = save(tmp_path / "new" / "folder", 500)
    assert path.name == "step_00000500"
    model = layer(0.0)
    state = load_checkpoint(path, model)
    assert model.weight.tolist() == [[500.0, 500.0]]
    assert state == {"average": torch.tensor(500.5), "step": 500}


def test_newest_and_protected_stay(tmp_path: Path) -> None:
    for step in range(1, 8):
        save(tmp_path, step, keep=2, protected=frozenset({3, 99}))
    assert steps(tmp_path) == [3, 6, 7]


def test_the_same_step_again_takes_its_place(tmp_path: Path) -> None:
    path = save(tmp_path, 5)
    (path / "stray").write_text("old", encoding="utf-8")
    assert save(tmp_path, 5) == path
    assert sorted(file.name for file in path.iterdir()) == ["checksums.json", "model.safetensors", "state.pt"]


def test_a_later_one_does_not_push_out_what_is_saved_now(tmp_path: Path) -> None:
    """It is left where the newest was damaged and the run went on from the one before."""
    save(tmp_path, 9)
    save(tmp_path, 5, keep=1)
    assert steps(tmp_path) == [5, 9]


def test_a_kill_in_mid_save_leaves_the_old_one_whole(tmp_path: Path) -> None:
    save(tmp_path, 5)
    unfinished = tmp_path / ".step_00000010.tmp"
    unfinished.mkdir()
    (unfinished / "model.safetensors").write_bytes(b"half")
    model = layer(0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state = load_newest(tmp_path, model)
    assert state is not None and state["step"] == 5
    assert model.weight[0, 0].item() == 5
    save(tmp_path, 15)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000005", "step_00000015"]


def test_a_failed_save_leaves_no_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, 5)
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(tmp_path, 10, layer(1.0).state_dict(), {"average": lambda: None}, keep=1)
    assert steps(tmp_path) == [5]


def remove(file: Path) -> None:
    file.unlink()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def garble(file: Path) -> None:
    file.write_bytes(b"no checkpoint at all" * 10)


@pytest.mark.parametrize("damage", [remove, cut, empty, garble])
@pytest.mark.parametrize("name", ["model.safetensors", "state.pt"])
def test_a_damaged_newest_gives_way_to_the_one_before(name: str, damage: object, tmp_path: Path) -> None:
    save(tmp_path, 5)
    newest = save(tmp_path, 10)
    damage(newest / name)  # type: ignore[operator]
    model = layer(0.0)
    with pytest.raises(DamagedCheckpointError, match="step_00000010 is not a whole checkpoint"):
        load_checkpoint(newest, model)
    assert model.weight[0, 0].item() == 0, "a checkpoint that cannot be read changes nothing"
    with pytest.warns(UserWarning, match="step_00000010 is not a whole checkpoint: .*; trying the one before"):
        state = load_newest(tmp_path, model)
    assert state is not None and state["step"] == 5
    assert model.weight[0, 0].item() == 5


def test_nothing_left_to_read_is_no_fresh_start(tmp_path: Path) -> None:
    for step in (5, 10):
        shutil.rmtree(save(tmp_path, step))
        (tmp_path / f"step_{step:08d}").mkdir()
    with (
        pytest.warns(UserWarning, match="not a whole checkpoint"),
        pytest.raises(DamagedCheckpointError, match=r"none of the 2 checkpoints in .* can be read; .* --restart"),
    ):
        load_newest(tmp_path, layer(0.0))


def test_none_there(tmp_path: Path) -> None:
    assert load_newest(tmp_path, layer(0.0)) is None
    assert load_newest(tmp_path / "nowhere", layer(0.0)) is None
    (tmp_path / "step_12").mkdir()
    assert list_checkpoints(tmp_path) == []
    with pytest.raises(ValueError, match="step_12 is not a checkpoint folder; expected a name like step_00000500"):
        step_of(tmp_path / "step_12")


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        (layer(0.0, width=3), r"weight is \[1, 2\], not \[1, 3\]"),
        (nn.Linear(2, 1), "bias is missing"),
        (nn.Sequential(layer(0.0)), "0.weight is missing; weight is unknown"),
    ],
)
def test_of_another_model(other: nn.Module, problem: str, tmp_path: Path) -> None:
    """That is an error of the configuration, so the one before is not tried."""
    save(tmp_path, 5)
    path = save(tmp_path, 10)
    with pytest.raises(ValueError, match=rf"step_00000010 is of another model \({problem}\); use the model config"):
        load_newest(tmp_path, other)
    with pytest.raises(ValueError, match="of another model"):
        load_checkpoint(path, other)


def test_states_run_no_code(tmp_path: Path) -> None:
    path = save(tmp_path, 5)
    torch.save({"step": 5, "path": tmp_path}, path / "state.pt")  # a pickled object that is no tensor
    with pytest.raises(DamagedCheckpointError, match="not a whole checkpoint"):
        load_checkpoint(path, layer(0.0))


# -- checksums and the best ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "state.pt"])
def test_a_flipped_bit_is_found(name: str, tmp_path: Path) -> None:
    """Which the loaders themselves would take for a weight."""
    save(tmp_path, 5)
    file = save(tmp_path, 10) / name
    content = bytearray(file.read_bytes())
    place = len(content) - 3 if name.endswith("safetensors") else content.find(bytes(torch.tensor(10.5).numpy()))
    content[place] ^= 1
    file.write_bytes(content)
    model = layer(0.0)
    with pytest.warns(UserWarning, match=rf"step_00000010 .*: {name} has another checksum.*; trying the one before"):
        state = load_newest(tmp_path, model)
    assert state is not None and state["step"] == 5 and model.weight[0, 0].item() == 5


def test_a_checkpoint_without_checksums_is_read(tmp_path: Path) -> None:
    path = save(tmp_path, 5)
    (path / "checksums.json").unlink()
    assert load_checkpoint(path, layer(0.0))["step"] == 5


def test_a_full_disk_in_mid_save_loses_nothing(tmp_path: Path) -> None:
    save(tmp_path, 5)
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))  # no file may grow beyond it, as on a full disk
    try:
        with pytest.raises(Exception, match=r"File too large|write|os error"):
            save(tmp_path, 10, keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000005"], "nothing half-written takes room"
    model = layer(0.0)
    state = load_newest(tmp_path, model)
    assert state is not None and state["step"] == 5


def test_the_best_is_the_highest_and_is_found_again(tmp_path: Path) -> None:
    best = Best(tmp_path)
    assert best.step is None
    assert [best.take(step, "accuracy", value) for step, value in ((1, 0.5), (2, 0.4), (3, 0.6), (4, 0.6))] == [
        True,
        False,
        True,
        False,
    ]
    again = Best(tmp_path)
    assert (again.step, again.metric, again.value) == (3, "accuracy", 0.6)
    assert again.take(5, "recall", 0.1), "another metric starts anew"
