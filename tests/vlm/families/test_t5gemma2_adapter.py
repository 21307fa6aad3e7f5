"""LoRA and DoRA beside a T5Gemma 2 whose tokenizer lacks our tokens: their embeddings are trained, saved, loaded,
switched and merged with the adapter, and all others stay."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, T5Gemma2ForConditionalGeneration

import vlm
from benchmarks.random_t5gemma2 import VOCAB_SIZE
from tasks import TASKS
from tasks.boxes import NUM_BINS, iou
from tests.vlm.families import test_florence2_training
from tests.vlm.families.test_florence2_training import share_right, write_config
from tests.vlm.hub_server import HubServer
from tests.vlm.test_adapters import answers, assert_close
from tests.vlm.test_train import rows
from vlm.api import VLM
from vlm.cli import main as cli
from vlm.data.records import read_records
from vlm.families.t5gemma2_tokens import TableRows, add_location_tokens, missing_tokens
from vlm.push import push
from vlm.request import Request
from vlm.train import Trainer, parse_config

pytestmark = pytest.mark.usefixtures("fresh_accelerator")

TABLE = "model.encoder.text_model.embed_tokens.weight"
NUM_NEW = len(TASKS) + NUM_BINS


def train(folder: Path, records: Path, base: Path, *arguments: str, **values: Any) -> Path:
    """Trains an adapter through the command line, validating it once; its folder."""
    optim = {"learning_rate": 2e-2, "warmup_steps": 0, "weight_decay": 0.1, "ema_decay": 0.5}
    settings = {"num_steps": 6, "eval_every": 6, "eval_records": 1, "optim": optim, **values}
    return test_florence2_training.train(folder, records, base, *arguments, **settings) / "final"


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory, garments: Path, t5gemma2_folder: Path) -> dict[str, Path]:
    """Two that differ in kind, layers and what else they train."""
    tree = tmp_path_factory.mktemp("tree")
    shoes = train(tree / "shoes", garments, t5gemma2_folder, "--peft=lora")
    dresses = train(
        tree / "dresses",
        garments,
        t5gemma2_folder,
        "--peft=dora",
        "--adapter.rank=4",
        '--adapter.targets=["model.decoder"]',
        '--adapter.also_trained=["model.decoder.norm", "model.encoder.multi_modal_projector"]',
        seed=1,
    )
    return {"shoes": shoes, "dresses": dresses}


def asked(photo: Any, adapter: str | None = None) -> list[Request]:
    options: dict[str, Any] = {"adapter": adapter, "max_new_tokens": 10}
    return [
        Request(photo, "caption", **options),
        Request(photo, "vqa", text="what is worn?", **options),
        Request(photo, "detection", **options),
    ]


def captions(photo: Any, adapter: str | None = None, num_beams: int = 1) -> list[Request]:
    return [Request(photo, "caption", adapter=adapter, max_new_tokens=10, num_beams=num_beams)]


def own_weights(model: VLM) -> dict[str, torch.Tensor]:
    """By the names that they have without an adapter."""
    state = model.family.model.state_dict()
    return {name.replace(".base_layer", ""): value for name, value in state.items() if "lora_" not in name}


def test_only_new_rows_are_trained(garments: Path, t5gemma2_folder: Path, tmp_path: Path) -> None:
    """Of all that the checkpoint has nothing changes, to the bit, in spite of weight decay."""
    file = write_config(tmp_path, garments, model=t5gemma2_folder, num_steps=3)
    run = Trainer(parse_config([str(file), "--peft=lora", "--optim.weight_decay=0.5"])[0])
    before = own_weights(vlm.load(t5gemma2_folder))
    at_first = run.raw_model.added_tokens.weight.detach().clone()
    trained = {name for name, value in run.raw_model.named_parameters() if value.requires_grad}
    assert {name for name in trained if "lora_" not in name} == {"added_tokens.weight"}
    run.run()
    after = {name.replace(".base_layer", ""): value for name, value in run.raw_model.state_dict().items()}
    assert before.keys() < after.keys() and after[TABLE].shape == (VOCAB_SIZE, 32)
    for name, value in before.items():
        assert torch.equal(after[name], value), name
    assert (run.raw_model.added_tokens.weight - at_first).abs().max() > 1e-3


@pytest.mark.slow
def test_an_adapter_learns_by_heart(garments: Path, t5gemma2_folder: Path, tmp_path: Path) -> None:
    """In 150 steps, beside a model of random weights."""
    optim = {"learning_rate": 1e-2, "warmup_steps": 5, "weight_decay": 0.0, "ema_decay": 0.0}
    final = train(tmp_path, garments, t5gemma2_folder, "--peft=lora", num_steps=150, eval_every=0, optim=optim)
    found = rows(final.parent)
    assert found[-1]["loss"] < 0.1 * found[0]["loss"]
    model = vlm.load(t5gemma2_folder, adapter=final)
    records = [record for record in read_records(garments) if record.split == "train"]
    assert share_right(model, records) > 0.5
    boxes = [{item.label: item.box for item in model.detect(record.image).objects} for record in records]
    pairs = [
        (found.get(item.label), item.box)
        for found, record in zip(boxes, records, strict=True)
        for item in record.objects
    ]
    assert sum(found is not None and iou(found, box) > 0.5 for found, box in pairs) > 0.5 * len(pairs)


def test_what_is_saved(adapters: dict[str, Path], t5gemma2_folder: Path) -> None:
    also = load_file(adapters["shoes"] / "also_trained.safetensors")
    assert {name: value.shape for name, value in also.items()} == {"added_tokens.weight": (NUM_NEW, 32)}
    names = load_file(adapters["dresses"] / "also_trained.safetensors").keys()
    assert {name.rpartition(".")[0] for name in names} > {"added_tokens", "model.decoder.norm"}
    lora = load_file(adapters["shoes"] / "adapter_model.safetensors")
    assert not any("embed_tokens" in name or "lm_head" in name for name in lora)
    for part in ("encoder.text_model", "encoder.vision_tower.encoder", "decoder"):
        assert any(f"model.{part}.layers.1.self_attn.q_proj.lora_A" in name for name in lora)
    assert missing_tokens(AutoProcessor.from_pretrained(adapters["shoes"]).tokenizer) == []
    assert len(missing_tokens(AutoProcessor.from_pretrained(t5gemma2_folder).tokenizer)) == NUM_NEW
    measured = [row for row in rows(adapters["shoes"].parent) if "loss" not in row]
    assert measured and any("detection" in name for name in measured[0]), "it was validated with its tokens"


def test_in_use_it_is_what_it_is_merged(
    adapters: dict[str, Path], t5gemma2_folder: Path, garments: Path, tmp_path: Path
) -> None:
    """In all tasks, which the checkpoint alone has no tokens for; saved, the merged one is a checkpoint by itself."""
    photo = garments.parent / "11.png"
    for name, folder in adapters.items():
        beside, merged = vlm.load(t5gemma2_folder, adapter=folder), vlm.load(folder)
        assert list(beside.family.tasks) == list(merged.family.tasks) == list(TASKS)
        now = answers(beside, asked(photo))
        assert_close(now, answers(merged, asked(photo)))
        scores = [model.score(photo, "vqa", ["a red coat", "boots"], text="what?") for model in (beside, merged)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-4)
        rows_ND = load_file(folder / "also_trained.safetensors")["added_tokens.weight"]
        first = len(AutoProcessor.from_pretrained(t5gemma2_folder).tokenizer)
        before = own_weights(vlm.load(t5gemma2_folder))[TABLE]
        for model in (beside, merged):
            table = own_weights(model)[TABLE]
            assert torch.equal(table[first : first + NUM_NEW], rows_ND)
            assert torch.equal(table[:first], before[:first]), "other tokens' rows stay"
        beside.merge_adapter()
        assert beside.adapters is None and not any("lora" in key for key in beside.family.model.state_dict())
        assert_close(answers(beside, asked(photo)), now)
        beside.save_pretrained(tmp_path / name)
        again = vlm.load(tmp_path / name)
        assert_close(answers(again, asked(photo)), now)
        assert missing_tokens(again.family.processor.tokenizer) == []
        theirs = T5Gemma2ForConditionalGeneration.from_pretrained(tmp_path / name)
        assert theirs.get_output_embeddings().weight is theirs.get_input_embeddings().weight
        assert theirs.config.vlm_tasks == list(TASKS)


@pytest.mark.parametrize("num_beams", [1, 2])
def test_switching_is_exact(adapters: dict[str, Path], t5gemma2_folder: Path, garments: Path, num_beams: int) -> None:
    """In one list, with any neighbours; and with none in use the checkpoint is, to the bit, what it was: in its own
    words and tokens, of which it has as many as before."""
    photos = [garments.parent / "11.png", garments.parent / "12.png"]
    model, untouched = vlm.load(t5gemma2_folder, adapter=adapters), vlm.load(t5gemma2_folder)
    plain = [answers(untouched, captions(photo, num_beams=num_beams)) for photo in photos]

    def assert_untouched() -> None:
        assert [answers(model, captions(photo, num_beams=num_beams)) for photo in photos] == plain
        assert list(model.family.tasks) == ["caption"] and len(missing_tokens(model.family.processor.tokenizer))
        config, own = model.family.model.config, untouched.family.model.config
        assert config.decoder.to_dict() == own.decoder.to_dict() and config.vocab_size == own.vocab_size
        ours = own_weights(model)
        for name, value in own_weights(untouched).items():
            assert torch.equal(ours[name], value), name

    assert_untouched()
    names = ("shoes", "base", "dresses", "shoes")
    mixed = [request for name in names for photo in photos for request in captions(photo, name, num_beams)]
    together = answers(model, mixed)
    loaded = {"base": untouched} | {name: vlm.load(t5gemma2_folder, adapter=place) for name, place in adapters.items()}
    for index, request in enumerate(mixed):
        alone = answers(loaded[str(request.adapter)], captions(request.image, num_beams=num_beams))
        assert_close([together[index]], alone)
    assert len({repr(one) for one in together}) == 6, "two photos, each with either adapter and without"
    assert_untouched()
    with pytest.raises(ValueError, match="was not trained for task 'vqa', only for caption"):
        model.ask(photos[0], "what is worn?")
    assert model.ask(photos[0], "what is worn?", adapter="dresses", max_new_tokens=4)
    with model.use_adapter("dresses"):
        inside = answers(model, asked(photos[0]))
        with model.use_adapter("shoes"):
            assert_close(answers(model, asked(photos[0])), answers(loaded["shoes"], asked(photos[0])))
        assert answers(model, asked(photos[0])) == inside
    assert_untouched()


def test_in_half_precision(adapters: dict[str, Path], t5gemma2_folder: Path, garments: Path) -> None:
    """The table goes with the model, with room for the tokens; the checkpoint is what it is in that precision."""
    photo = garments.parent / "11.png"
    model = vlm.load(t5gemma2_folder, adapter=adapters, dtype="bfloat16")
    expected = answers(vlm.load(t5gemma2_folder, dtype="bfloat16"), captions(photo))
    rows_ND = load_file(adapters["shoes"] / "also_trained.safetensors")["added_tokens.weight"]
    for _ in range(2):
        assert answers(model, captions(photo)) == expected
        with model.use_adapter("shoes"):
            table = model.family.model.get_input_embeddings().weight
            assert torch.equal(table[-NUM_NEW:], rows_ND.bfloat16())
            assert model.detect(photo, max_new_tokens=8)
    assert {value.dtype for value in model.family.model.parameters()} == {torch.bfloat16}


def test_saved_alone_and_pushed(
    adapters: dict[str, Path],
    t5gemma2_folder: Path,
    garments: Path,
    hub: HubServer,
    tmp_path: Path,
) -> None:
    """To the Hub and back, its tokens with it; of the revision that is named behind its id."""
    (tmp_path / "token").write_text("hf_ann")
    hub.add("ann/base", t5gemma2_folder)
    photo = garments.parent / "11.png"
    first = {}
    for name in ("shoes", "dresses"):  # one over the other
        model = vlm.load("ann/base", adapter=adapters[name])
        model.save_adapter(tmp_path / name)
        first[name] = push(tmp_path / name, "ann/worn", revision="old" if name == "shoes" else None).oid
    expected = {
        name: answers(vlm.load(t5gemma2_folder, adapter=place), asked(photo)) for name, place in adapters.items()
    }
    for place, name in (
        ("ann/worn", "dresses"),
        ("ann/worn@main", "dresses"),
        ("ann/worn@old", "shoes"),
        (f"ann/worn@{first['shoes']}", "shoes"),
    ):
        assert answers(vlm.load("ann/base", adapter=place), asked(photo)) == expected[name], place
    several = vlm.load("ann/base", adapter={"old": "ann/worn@old", "new": "ann/worn"})
    assert answers(several, asked(photo, "old") + asked(photo, "new")) == [*expected["shoes"], *expected["dresses"]]
    with pytest.raises(ValueError, match=r"ann/worn: has no revision 'newer'"):
        vlm.load("ann/base", adapter="ann/worn@newer")
    with pytest.raises(ValueError, match=r"ann/worn@: names no revision behind the @"):
        vlm.load("ann/base", adapter={"new": "ann/worn@"})
    with pytest.raises(ValueError, match=r"no/such/place@old: no such directory"):
        vlm.load("ann/base", adapter="no/such/place@old")


def test_a_directory_with_an_at_sign_is_a_directory(
    adapters: dict[str, Path], t5gemma2_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(adapters["shoes"], tmp_path / "ann" / "worn@old")
    monkeypatch.chdir(tmp_path)
    assert list(vlm.load(t5gemma2_folder, adapter="ann/worn@old").family.tasks) == list(TASKS)


def test_info_of_an_adapter(adapters: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """It says nothing of memory, most of which would be its checkpoint's."""
    assert cli(["info", str(adapters["shoes"]), "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["tasks"] == list(TASKS) and "memory_bytes" not in info


# -- what does not fit -------------------------------------------------------------------------------------


def test_what_is_refused(
    adapters: dict[str, Path], t5gemma2_folder: Path, florence2_folder: Path, tmp_path: Path
) -> None:
    shoes = Path(shutil.copytree(adapters["shoes"], tmp_path / "shoes"))
    shutil.copy(t5gemma2_folder / "tokenizer.json", shoes)
    shutil.copy(t5gemma2_folder / "tokenizer_config.json", shoes)
    with pytest.raises(ValueError, match=rf"has embeddings of {NUM_NEW} new tokens, but its tokenizer is not the"):
        vlm.load(t5gemma2_folder, adapter=shoes)
    with pytest.raises(ValueError, match=r"trained beside another checkpoint than .*florence2"):
        vlm.load(florence2_folder, adapter=adapters["shoes"])
    told = json.loads((shoes / "base.json").read_text(encoding="utf-8"))
    (shoes / "base.json").write_text(json.dumps(told | {"checksum": None}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"shoes: the adapter has new tokens, which a checkpoint of this family does"):
        vlm.load(florence2_folder, adapter=shoes)
    # The checkpoint that has the tokens already is another one.
    theirs, processor = T5Gemma2ForConditionalGeneration.from_pretrained(t5gemma2_folder), None
    processor = AutoProcessor.from_pretrained(t5gemma2_folder)
    add_location_tokens(theirs, processor)
    theirs.save_pretrained(tmp_path / "tuned")
    processor.save_pretrained(tmp_path / "tuned")
    with pytest.raises(ValueError, match=r"trained beside another checkpoint than .*tuned"):
        vlm.load(tmp_path / "tuned", adapter=adapters["shoes"])
    without = Path(shutil.copytree(adapters["shoes"], tmp_path / "without"))
    save_file({"model.decoder.norm.weight": torch.zeros(32)}, without / "also_trained.safetensors")
    (without / "base.json").write_text(json.dumps(told | {"checksum": None}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"vlm_tasks in config.json lists .*, but the tokenizer has no <caption>"):
        vlm.load(t5gemma2_folder, adapter=without)
    (without / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"without/config\.json: is damaged"):
        vlm.load(t5gemma2_folder, adapter=without)


def test_an_adapter_beside_a_checkpoint_that_has_the_tokens(
    t5gemma2_folder: Path, garments: Path, tmp_path: Path, photos: list[Image.Image]
) -> None:
    """Then there are none to add, and it is like any other."""
    theirs, processor = T5Gemma2ForConditionalGeneration.from_pretrained(t5gemma2_folder), None
    processor = AutoProcessor.from_pretrained(t5gemma2_folder)
    add_location_tokens(theirs, processor)
    theirs.config.vlm_tasks = ["caption"]
    theirs.save_pretrained(tmp_path / "tuned")
    processor.save_pretrained(tmp_path / "tuned")
    final = train(tmp_path / "run", garments, tmp_path / "tuned", "--peft=lora")
    assert not (final / "also_trained.safetensors").exists()
    model = vlm.load(tmp_path / "tuned", adapter={"all": final})
    assert list(model.family.tasks) == ["caption"]
    assert model.ask(photos[0], "what is worn?", adapter="all", max_new_tokens=4)
    assert list(vlm.load(final).family.tasks) == list(TASKS)


def test_a_florence2_is_asked_what_its_adapter_learnt(
    florence2_folder: Path, garments: Path, tmp_path: Path, photos: list[Image.Image]
) -> None:
    """In our words, while it is in use; the checkpoint alone knows its own tasks."""
    final = train(tmp_path / "run", garments, florence2_folder, "--peft=lora", num_steps=2, eval_every=0)
    model = vlm.load(florence2_folder, adapter={"shop": final})
    with pytest.raises(ValueError, match="was not trained for task 'vqa'"):
        model.ask(photos[0], "what is worn?")
    said = model.ask(photos[0], "what is worn?", adapter="shop", max_new_tokens=4)
    assert said.text == vlm.load(final).ask(photos[0], "what is worn?", max_new_tokens=4).text
    assert list(model.family.tasks) == ["caption", "grounding", "detection"]


@torch.no_grad()
def test_rows_come_and_go(t5gemma2_folder: Path) -> None:
    """Of different lengths and places, over rows that no token had and behind the last; also where the model was
    moved meanwhile."""
    model = T5Gemma2ForConditionalGeneration.from_pretrained(t5gemma2_folder)
    before = model.get_input_embeddings().weight.clone()
    table = TableRows(model)
    torch.manual_seed(0)
    long, short = torch.randn(300, 32), torch.randn(5, 32)
    ids = torch.tensor([[3, 450, 700]])
    for first, rows_ND, size in ((440, long, 740), (500, short, VOCAB_SIZE), (650, short, 655), (440, long, 740)):
        table.show(first, rows_ND)
        weight = model.get_decoder().embed_tokens.weight
        assert weight is model.get_output_embeddings().weight and weight is model.get_input_embeddings().weight
        assert len(weight) == size == model.vocab_size == model.config.decoder.vocab_size
        assert torch.equal(weight[first : first + len(rows_ND)], rows_ND)
        own = [row for row in range(VOCAB_SIZE) if not first <= row < first + len(rows_ND)]
        assert torch.equal(weight[own], before[own])
        assert not weight[VOCAB_SIZE : max(first, VOCAB_SIZE)].any()
    assert model.get_input_embeddings()(ids).shape == (1, 3, 32)
    model.double()
    table.show(500, short)
    assert model.get_input_embeddings().weight.dtype == torch.float64
    table.hide()
    assert torch.equal(model.get_input_embeddings().weight, before.double()) and model.vocab_size == VOCAB_SIZE
