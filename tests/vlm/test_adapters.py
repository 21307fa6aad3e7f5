"""Adapters beside a loaded model: what one in use does is what its merged weights do, and switching is exact."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from peft import IA3Config, LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSeq2SeqLM,
    Florence2Config,
    Florence2ForConditionalGeneration,
)

import vlm
from tests.vlm.test_train import TINY, trainer, write_config
from tests.vlm.towers import SHAPES, save_tower
from vlm.adapter import default_targets, name_base
from vlm.adapters import _find_base
from vlm.api import VLM
from vlm.calibrate import Calibration
from vlm.info import EMBEDDED
from vlm.train import main, parse_config

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


def train(folder: Path, records: Path, *arguments: str, **values: Any) -> Path:
    """Trains an adapter through the command line; its folder."""
    folder.mkdir(parents=True)
    optim = {"learning_rate": 2e-2, "warmup_steps": 0, "ema_decay": 0.0}
    file = write_config(folder, records, **{"num_steps": 3, "batch_size": 4, "save_every": 0, "optim": optim} | values)
    AcceleratorState._reset_state(reset_partial_state=True)
    assert main([str(file), *arguments]) == 0
    return folder / "run" / "final"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny: VLM) -> Path:
    folder = tmp_path_factory.mktemp("tree") / "base"
    tiny.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapters(base: Path, garments: Path) -> dict[str, Path]:
    """Two that differ in kind, in their layers, in what else they train, and in the size of their pictures."""
    shoes = train(base.parent / "shoes", garments, "--peft", "lora", "--adapter.rank=4", model=base)
    stages = [{"patch_budget": 20, "prompts_per_image": 3, "max_target_tokens": 40}]
    dresses = train(
        base.parent / "dresses",
        garments,
        "--peft=dora",
        '--adapter.targets=["decoder_layers", "image_layers"]',
        '--adapter.also_trained=["memory_norm", "tokens.embedding"]',
        f"--data.stages={json.dumps(stages)}",
        model=base,
        seed=1,
    )
    Calibration(maps={"vqa": (0.5, 0.3)}).to_json(dresses / "calibration.json")
    return {"shoes": shoes, "dresses": dresses}


def asked(photo: Any, adapter: str | None = None, **options: Any) -> list[vlm.Request]:
    options = {"max_new_tokens": 10, **options}
    return [
        vlm.Request(photo, "caption", adapter=adapter, **options),
        vlm.Request(photo, "vqa", text="what is worn?", adapter=adapter, **options),
        vlm.Request(photo, "detection", adapter=adapter, **options),
    ]


def answers(model: VLM, requests: list[vlm.Request]) -> list[tuple[str, list[float]]]:
    found = model.reply(requests, batch_size=3)
    return [(reply.generated.text, list(reply.generated.logprobs)) for reply in found]


def assert_close(first: list[tuple[str, list[float]]], second: list[tuple[str, list[float]]]) -> None:
    assert [text for text, _ in first] == [text for text, _ in second]
    for (_, ours), (_, theirs) in zip(first, second, strict=True):
        assert ours == pytest.approx(theirs, abs=2e-4)


def test_in_use_it_is_what_it_is_merged(adapters: dict[str, Path], base: Path, garments: Path) -> None:
    """And both are another than the checkpoint alone."""
    photo = garments.parent / "11.png"
    alone = answers(vlm.load(base), asked(photo))
    for folder in adapters.values():
        beside, merged = vlm.load(base, adapter=folder), vlm.load(folder)
        now = answers(beside, asked(photo))
        assert_close(now, answers(merged, asked(photo)))
        assert now != alone
        scores = [model.score(photo, "vqa", ["a red coat", "boots"], text="what?") for model in (beside, merged)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-4)
        beside.merge_adapter()
        assert_close(now, answers(beside, asked(photo)))
        assert beside.adapters is None and not any("lora" in name for name in beside.family.model.state_dict())
        for name, value in merged.family.model.state_dict().items():
            torch.testing.assert_close(beside.family.model.state_dict()[name], value, rtol=0, atol=1e-6, msg=name)
        assert (beside.calibration is None) == (merged.calibration is None)
        assert type(beside.family.model.decoder_layers[0].mlp.down) is nn.Linear


def test_switching_is_exact(adapters: dict[str, Path], base: Path, garments: Path) -> None:
    """In one list, in any order, with any neighbours; and without one the checkpoint is, to the bit, as it was."""
    photos = [garments.parent / "11.png", garments.parent / "12.png"]
    model, untouched = vlm.load(base, adapter=adapters), vlm.load(base)
    plain = [answers(untouched, asked(photo)) for photo in photos]
    assert [answers(model, asked(photo)) for photo in photos] == plain, "none is in use"
    mixed = [
        request
        for triple in zip(
            *(asked(photo, name) for photo in photos for name in ("shoes", "base", "dresses")), strict=True
        )
        for request in triple
    ]
    together = answers(model, mixed)
    loaded = {"base": untouched} | {name: vlm.load(base, adapter=folder) for name, folder in adapters.items()}
    for index, request in enumerate(mixed):
        alone = vlm.Request(request.image, request.task, text=request.text, max_new_tokens=request.max_new_tokens)
        assert_close([together[index]], answers(loaded[str(request.adapter)], [alone]))
    assert len({text + repr(scores) for text, scores in together}) > len(mixed) / 2, "adapters differ"
    assert [answers(model, asked(photo)) for photo in photos] == plain
    for name, value in untouched.family.model.state_dict().items():
        own = {key.replace(".base_layer", ""): found for key, found in model.family.model.state_dict().items()}
        assert torch.equal(own[name], value), name


def test_within_a_context(adapters: dict[str, Path], base: Path, garments: Path) -> None:
    photo = garments.parent / "11.png"
    model = vlm.load(base, adapter=adapters)
    expected = answers(model, asked(photo, "dresses"))
    budget = model.family.processor.patch_budget
    with model.use_adapter("dresses"):
        assert answers(model, asked(photo)) == expected
        assert model.family.processor.patch_budget == 20 != budget, "it looks at pictures as it was trained to"
        [look] = model.encode([photo])
        assert answers(model, asked(look)) == expected
        with model.use_adapter("base"):
            inner = answers(model, asked(photo))
        assert answers(model, asked(photo)) == expected
        raw = model.reply([vlm.Request(photo, "vqa", text="what is worn?")])[0]
    assert inner == answers(model, asked(photo)) != expected and model.family.processor.patch_budget == budget
    assert model.result(raw).score == pytest.approx(
        Calibration(maps={"vqa": (0.5, 0.3)}).apply("vqa", raw.parse().score)
    )
    with pytest.raises(ValueError, match=r"encoded with adapter 'dresses' and is asked about with 'base'; encode it"):
        model.caption(look)
    assert model.caption(look, adapter="dresses")
    with pytest.raises(ZeroDivisionError), model.use_adapter("shoes"):
        raise ZeroDivisionError
    assert answers(model, asked(photo)) == inner


def test_samples_do_not_depend_on_other_adapters(adapters: dict[str, Path], base: Path, garments: Path) -> None:
    photo = garments.parent / "11.png"
    model = vlm.load(base, adapter=adapters)
    sampled = {"temperature": 1.0, "seed": 5}
    together = answers(model, [*asked(photo, "shoes", **sampled), *asked(photo, "dresses", **sampled)])
    assert_close(together[3:], answers(model, asked(photo, "dresses", **sampled)))


def test_saved(adapters: dict[str, Path], base: Path, garments: Path, tmp_path: Path) -> None:
    photo = garments.parent / "11.png"
    model = vlm.load(base, adapter=adapters)
    with pytest.raises(ValueError, match=r"adapters beside the model \(shoes, dresses\); call merge_adapter"):
        model.save_pretrained(tmp_path / "whole")
    with pytest.raises(ValueError, match=r"name one of the adapters: shoes, dresses"):
        model.save_adapter(tmp_path / "alone")
    model.save_adapter(tmp_path / "alone", "dresses")
    with pytest.raises(ValueError, match=r"alone: is there already and is not empty"):
        model.save_adapter(tmp_path / "alone", "dresses")
    assert {path.name for path in (tmp_path / "alone").iterdir()} >= {"adapter_config.json", "also_trained.safetensors"}
    expected = answers(model, asked(photo, "dresses"))
    assert answers(vlm.load(base, adapter=tmp_path / "alone"), asked(photo)) == expected
    assert_close(answers(vlm.load(tmp_path / "alone"), asked(photo)), expected)
    model.merge_adapter("dresses")
    model.save_pretrained(tmp_path / "whole")
    assert_close(answers(vlm.load(tmp_path / "whole"), asked(photo)), expected)


def test_its_base_moves_with_it(adapters: dict[str, Path], base: Path, garments: Path, tmp_path: Path) -> None:
    shutil.copytree(base.parent, tmp_path / "elsewhere")
    moved = tmp_path / "elsewhere" / adapters["shoes"].relative_to(base.parent)
    told = json.loads((moved / "base.json").read_text(encoding="utf-8"))
    assert _find_base(moved, told) == tmp_path / "elsewhere" / "base"
    photo = garments.parent / "11.png"
    assert answers(vlm.load(moved), asked(photo)) == answers(vlm.load(adapters["shoes"]), asked(photo))


def test_how_its_base_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "runs" / "final"
    folder.mkdir(parents=True)
    (tmp_path / "checkpoint").mkdir()

    def named(base: str) -> tuple[str, dict[str, Any]]:
        (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
        name_base(folder, base, "sum")
        told = json.loads((folder / "base.json").read_text(encoding="utf-8"))
        return json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"], told

    assert named("owner/name") == ("owner/name", {"checksum": "sum"})
    assert named(str(tmp_path / "checkpoint"))[0] == "../../checkpoint"
    monkeypatch.chdir(tmp_path)
    name, told = named("checkpoint")
    assert (name, told["path"], told["embedded"]) == ("checkpoint", "../../checkpoint", False)
    _, told = named(str(EMBEDDED))
    assert _find_base(tmp_path / "another" / "machine", told) == EMBEDDED


def test_in_half_precision(adapters: dict[str, Path], base: Path, garments: Path) -> None:
    """The checkpoint is compared before it is rounded. Names of adapters may be parts of weights' names."""
    named = {"layer": adapters["shoes"], "d": adapters["dresses"]}
    model = vlm.load(base, adapter=named, dtype="bfloat16")
    assert {value.dtype for value in model.family.model.state_dict().values()} == {torch.bfloat16}
    for name in ("base", *named):
        assert model.caption(garments.parent / "11.png", adapter=name)
    model.merge_adapter("d")
    assert {value.dtype for value in model.family.model.state_dict().values()} == {torch.bfloat16}


def test_beside_a_vision_tower(tmp_path: Path, garments: Path, tiny: VLM) -> None:
    """Its layers get the adapter too, and its embeddings do not."""
    save_tower("dinov3_vit", tmp_path / "tower")
    whole = train(tmp_path / "whole", garments, f"--shape.vision_tower={tmp_path / 'tower'}", num_steps=1)
    shutil.rmtree(tmp_path / "tower")
    final = train(tmp_path / "adapter", garments, "--peft=lora", model=whole)
    names = load_file(final / "adapter_model.safetensors").keys()
    assert any("tower.model.model.layer.1.attention.q_proj.lora_A" in name for name in names)
    assert not any("embed" in name or "image_projection" in name for name in names)
    photo = garments.parent / "11.png"
    beside, merged = vlm.load(whole, adapter=final), vlm.load(final)
    assert_close(answers(beside, asked(photo)), answers(merged, asked(photo)))
    assert answers(beside, asked(photo)) != answers(vlm.load(whole), asked(photo))


# -- targets -----------------------------------------------------------------------------------------------


def own_layers(model: nn.Module, **parts: int) -> None:
    """How many linear layers of each part have an adapter; there are no others."""
    targets = default_targets(model)
    assert len(set(targets)) == len(targets)
    assert {part: sum(name.startswith(part) for name in targets) for part in parts} == parts
    assert sum(parts.values()) == len(targets)


def test_targets_of_any_family(tiny: VLM) -> None:
    own_layers(tiny.family.model, image_layers=5, joint_layers=5, decoder_layers=2 * 8)
    text = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2}
    text |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "vocab_size": 64}
    vision = {"embed_dim": [8, 8], "depths": [1, 1], "num_heads": [2, 2], "num_groups": [2, 2], "patch_size": [7, 3]}
    vision |= {"patch_stride": [4, 2], "patch_padding": [3, 1], "patch_prenorm": [False, True], "projection_dim": 16}
    config = Florence2Config(text_config=text, vision_config=vision)
    florence = Florence2ForConditionalGeneration(config)
    targets = default_targets(florence)
    assert sum("encoder.layers" in name for name in targets) == 2 * 6
    assert sum("decoder.layers" in name for name in targets) == 10
    assert sum("vision_tower" in name and "attn" in name for name in targets) == 2 * 2 * 2  # qkv, proj; space, channels
    assert not any("lm_head" in name or "projector" in name or "embed" in name for name in targets)
    t5 = AutoModelForSeq2SeqLM.from_config(
        AutoConfig.for_model("t5", d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=32)
    )
    own_layers(t5, **{"encoder.block": 6, "decoder.block": 10})
    clip = AutoModel.from_config(AutoConfig.for_model("clip", **SHAPES["clip"]))
    own_layers(clip, **{"text_model.encoder": 2 * 6, "vision_model.encoder": 2 * 6})
    with pytest.raises(
        ValueError, match=r"adapter\.targets: a Linear has no layers of attention or MLPs; name its own"
    ):
        default_targets(nn.Linear(2, 2))


# -- the command line --------------------------------------------------------------------------------------


def test_peft_on_the_command_line(tmp_path: Path, garments: Path) -> None:
    file = str(write_config(tmp_path, garments))
    for arguments in (
        [file, "--peft", "dora"],
        ["--config", file, "--peft=dora"],
        ["--peft", "dora", "--config", file],
    ):
        adapter = parse_config(arguments)[0].adapter
        assert (adapter.kind, adapter.export, adapter.rank, adapter.targets) == ("dora", "adapter", 8, None)
    changed = parse_config([file, "--adapter.export=merged", "--adapter.rank=2", "--peft", "lora"])[0].adapter
    assert (changed.kind, changed.export, changed.rank) == ("lora", "merged", 2)
    assert parse_config([file])[0].adapter is None
    own = str(write_config(tmp_path, garments, adapter={"rank": 3, "export": "merged"}))
    adapter = parse_config([own, "--peft=lora"])[0].adapter
    assert (adapter.rank, adapter.export) == (3, "adapter")
    for arguments in (["--peft", "ia3"], ["--peft"], ["--peft="]):
        with pytest.raises(ValueError, match=r"--peft is '(ia3)?'; expected one of lora, dora, qlora"):
            parse_config([file, *arguments])
    with pytest.raises(
        ValueError, match=r"adapter\.export is 'adapter', but model .*tiny\.yaml is no checkpoint folder"
    ):
        trainer(Path(file), "--peft=lora", f"--model={TINY}")


# -- errors ------------------------------------------------------------------------------------------------


def test_what_is_refused(adapters: dict[str, Path], base: Path, garments: Path, tmp_path: Path, tiny: VLM) -> None:
    photo = garments.parent / "11.png"
    model = vlm.load(base, adapter=adapters)
    with pytest.raises(ValueError, match=r"no adapter 'hats' was loaded; there are: shoes, dresses, base"):
        model.caption(photo, adapter="hats")
    with pytest.raises(ValueError, match=r"no adapter 'hats'"), model.use_adapter("hats"):
        pass
    for ask in (lambda: tiny.caption(photo, adapter="shoes"), lambda: tiny.save_adapter(tmp_path), tiny.merge_adapter):
        with pytest.raises(ValueError, match=r"loaded without adapters; load it with `adapter=`"):
            ask()
    assert tiny.caption(photo, adapter="base")
    for name in ("base", "a.b", ""):
        with pytest.raises(ValueError, match=r"an adapter cannot be called '"):
            vlm.load(base, adapter={name: adapters["shoes"]})
    with pytest.raises(ValueError, match=r"adapter is an empty mapping"):
        vlm.load(base, adapter={})
    with pytest.raises(ValueError, match=r"base: has no adapter_config\.json, so it is no adapter"):
        vlm.load(base, adapter=base)
    with pytest.raises(
        ValueError, match=r"was trained beside another checkpoint than .*embedded.*; give that one, .*base"
    ):
        vlm.load(adapter=adapters["shoes"])
    with pytest.raises(ValueError, match=r"adapter was trained beside another checkpoint"):
        vlm.load(adapters["dresses"], adapter=adapters["shoes"])
    cut = Path(shutil.copytree(adapters["shoes"], tmp_path / "cut"))
    weights = (cut / "adapter_model.safetensors").read_bytes()
    (cut / "adapter_model.safetensors").write_bytes(weights[: len(weights) // 2])
    for load in (lambda: vlm.load(cut), lambda: vlm.load(base, adapter=cut)):
        with pytest.raises(ValueError, match=r"cut: the adapter cannot be read"):
            load()


def test_what_peft_itself_has_written(base: Path, garments: Path, tmp_path: Path) -> None:
    """LoRA is loaded; what is not known here is said."""

    def write(name: str, config: Any) -> Path:
        torch.manual_seed(0)
        added = get_peft_model(vlm.load(base).family.model, config)
        for key, value in added.named_parameters():
            if "lora_B" in key:
                nn.init.normal_(value, std=0.3)
        added.save_pretrained(str(tmp_path / name))
        return tmp_path / name

    lora = write("lora", LoraConfig(r=2, target_modules=["query", "key_value"]))
    model, photo = vlm.load(base, adapter=lora), garments.parent / "11.png"
    now = answers(model, asked(photo))
    assert now != answers(vlm.load(base), asked(photo))
    model.merge_adapter()
    assert_close(answers(model, asked(photo)), now)
    with pytest.raises(ValueError, match=r"ia3: has a IA3; only LoRA and DoRA are loaded, merge it with peft first"):
        vlm.load(base, adapter=write("ia3", IA3Config(target_modules=["query", "down"], feedforward_modules=["down"])))
    with pytest.raises(ValueError, match=r"more: has whole modules \(memory_norm\); only LoRA and DoRA"):
        vlm.load(base, adapter=write("more", LoraConfig(target_modules=["query"], modules_to_save=["memory_norm"])))


# -- 4 bits ------------------------------------------------------------------------------------------------

HAS_BITSANDBYTES = importlib.util.find_spec("bitsandbytes") is not None


@pytest.mark.skipif(HAS_BITSANDBYTES, reason="bitsandbytes is installed")
def test_four_bits_want_bitsandbytes(base: Path, garments: Path, tmp_path: Path) -> None:
    file = write_config(tmp_path, garments, model=base)
    with pytest.raises(ValueError, match=r"adapter\.kind is 'qlora', which needs bitsandbytes: pip install"):
        trainer(file, "--peft=qlora")


@pytest.mark.skipif(not HAS_BITSANDBYTES, reason="bitsandbytes is not installed")
def test_beside_four_bits(base: Path, garments: Path, tmp_path: Path) -> None:
    """It goes on, validates, and its adapter belongs to the checkpoint in full precision."""
    from bitsandbytes.nn import Linear4bit

    file = write_config(tmp_path, garments, model=base, num_steps=2, save_every=1, batch_size=4)
    run = trainer(file, "--peft=qlora", "--eval_every=2", "--eval_records=1", "--adapter.rank=4")
    layer = run.raw_model.decoder_layers[0].mlp.down.base_layer
    assert isinstance(layer, Linear4bit) and layer.weight.dtype == torch.uint8
    before = layer.weight.data.clone()
    final = run.run()
    assert final is not None and torch.equal(layer.weight.data, before)
    model, photo = vlm.load(base, adapter=final), garments.parent / "11.png"
    assert answers(model, asked(photo)) != answers(vlm.load(base), asked(photo))
    merged, whole = run.averaged()[0], vlm.load(final).family.model
    name = "decoder_layers.0.mlp.down.weight"
    off = (merged.state_dict()[name] - whole.state_dict()[name]).norm() / whole.state_dict()[name].norm()
    assert 0 < off < 0.2, "what was trained beside is rounded"
