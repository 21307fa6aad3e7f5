"""Optimizer, schedules and the average of the weights, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from vlm.config import ModuleConfig, OptimConfig
from vlm.model import OneLookModel
from vlm.optim import WeightAverage, decay_start, freeze, learning_rate, load_optimizer_state, make_optimizer

# -- groups --------------------------------------------------------------------------------------------


def test_norms_and_embeddings_do_not_decay(tiny_model: OneLookModel) -> None:
    decayed, others = make_optimizer(tiny_model, OptimConfig(weight_decay=0.07)).param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.07, 0.0)
    names = {id(parameter): name for name, parameter in tiny_model.named_parameters()}
    without = {names[id(parameter)] for parameter in others["params"]}
    assert "tokens.embedding.weight" in without
    assert {name for name in names.values() if "norm" in name} <= without
    assert {"tower.stem.conv.weight", "decoder_layers.0.mlp.down.weight"}.isdisjoint(without)
    assert len(decayed["params"]) + len(others["params"]) == len(names)


def test_only_what_is_trained_is_in_a_group() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    groups = make_optimizer(model, OptimConfig()).param_groups
    assert [len(group["params"]) for group in groups] == [1, 1]


def test_learning_rates_by_name() -> None:
    """The beginning of a name, * for anything, and the last that fits."""
    model = nn.ModuleDict({"eyes": nn.Linear(2, 2), "ears": nn.Linear(2, 2, bias=False), "mouth": nn.Linear(2, 2)})
    scales = {"e": 0.5, "ears": 0.1, "*bias": 2.0}
    modules = {pattern: ModuleConfig(learning_rate_scale=scale) for pattern, scale in scales.items()}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {
        names[id(parameter)]: (group["learning_rate_scale"], group["weight_decay"])
        for group in make_optimizer(model, OptimConfig(weight_decay=0.07, modules=modules)).param_groups
        for parameter in group["params"]
    }
    assert found == {
        "eyes.weight": (0.5, 0.07),
        "eyes.bias": (2.0, 0.0),
        "ears.weight": (0.1, 0.07),
        "mouth.weight": (1.0, 0.07),
        "mouth.bias": (2.0, 0.0),
    }


def test_what_is_frozen_must_be_there_and_not_be_all() -> None:
    model = nn.ModuleDict({"eyes": nn.Linear(2, 2), "mouth": nn.Linear(2, 2)})
    frozen = ModuleConfig(frozen=True)
    with pytest.raises(ValueError, match="names 'nose', but no weight's name begins so; there are: eyes, mouth"):
        freeze(model, {"eyes": frozen, "nose": ModuleConfig()})
    freeze(model, {"": frozen, "mouth": ModuleConfig(learning_rate_scale=0.5)})
    assert {name for name, value in model.named_parameters() if value.requires_grad} == {"mouth.weight", "mouth.bias"}
    with pytest.raises(ValueError, match=r"optim\.modules freezes every weight; leave some to be trained"):
        freeze(model, {"": frozen})


def test_decay_moves_only_the_decayed() -> None:
    """Without a gradient a step of AdamW is weight decay alone: w - rate * decay * w."""
    model = nn.Sequential(nn.Embedding(2, 2), nn.Linear(2, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    make_optimizer(model, OptimConfig(learning_rate=0.5, weight_decay=0.1)).step()
    after = model.state_dict()
    torch.testing.assert_close(after["1.weight"], before["1.weight"] * 0.95)
    assert torch.equal(after["1.bias"], before["1.bias"])
    assert torch.equal(after["0.weight"], before["0.weight"])


def test_a_loaded_state_keeps_todays_settings() -> None:
    model = nn.Linear(2, 1)
    old = make_optimizer(model, OptimConfig(weight_decay=0.5, beta1=0.5))
    model(torch.ones(1, 2)).sum().backward()
    old.step()
    new = make_optimizer(model, OptimConfig(weight_decay=0.1, beta1=0.8, beta2=0.9))
    load_optimizer_state(new, old.state_dict())
    assert (new.param_groups[0]["weight_decay"], new.param_groups[0]["betas"]) == (0.1, (0.8, 0.9))
    torch.testing.assert_close(new.state[model.weight]["exp_avg"], torch.full((1, 2), 0.5))


# -- schedules -----------------------------------------------------------------------------------------


def rates(num_steps: int, **settings: object) -> list[float]:
    config = OptimConfig(learning_rate=1.0, **settings)  # type: ignore[arg-type]
    return [learning_rate(step, num_steps, config) for step in range(num_steps)]


def test_warm_up_is_linear_and_starts_above_zero() -> None:
    assert rates(10, warmup_steps=4, schedule="wsd", decay_fraction=0.0)[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates(10, warmup_steps=0, schedule="wsd", decay_fraction=0.0)[0] == 1.0


def test_wsd_by_hand() -> None:
    config = OptimConfig(decay_fraction=0.4)
    assert decay_start(10, config) == 6
    found = rates(10, warmup_steps=0, schedule="wsd", decay_fraction=0.4)
    assert found[:7] == [1.0] * 7
    assert found[7:] == pytest.approx([1 - math.sqrt(0.25), 1 - math.sqrt(0.5), 1 - math.sqrt(0.75)])


def test_wsd_ends_at_the_smallest_ratio() -> None:
    config = OptimConfig(learning_rate=2.0, warmup_steps=0, decay_fraction=0.4, min_ratio=0.1)
    assert learning_rate(10, 10, config) == pytest.approx(0.2)
    assert learning_rate(7, 10, config) == pytest.approx(2 * (0.1 + 0.9 * 0.5))


def test_cosine_by_hand() -> None:
    found = rates(10, warmup_steps=2, schedule="cosine")
    assert found[:3] == [0.5, 1.0, 1.0]
    assert found[6] == pytest.approx(0.5)
    assert found[8] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.75)))
    assert rates(10, warmup_steps=2, schedule="cosine", min_ratio=0.2)[6] == pytest.approx(0.6)


def test_a_longer_run_has_the_same_constant_part() -> None:
    short = rates(20, warmup_steps=4, schedule="wsd", decay_fraction=0.5)
    longer = rates(40, warmup_steps=4, schedule="wsd", decay_fraction=0.5)
    assert short[:11] == longer[:11]


# -- average -------------------------------------------------------------------------------------------


def one_weight(value: float) -> nn.Linear:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, value)
    return model


def test_average_by_hand() -> None:
    model = one_weight(0.0)
    average = WeightAverage(model, decay=0.25)
    expected = 0.0
    for number, value in enumerate((1.0, 2.0, 4.0), start=1):
        nn.init.constant_(model.weight, value)
        average.update(model)
        decay = min(0.25, (1 + number) / (10 + number))  # 2/11, then 3/12 and 4/13 are above the limit
        expected = decay * expected + (1 - decay) * value
    assert average.shadow["weight"].item() == pytest.approx(expected)
    assert model.weight.item() == 4.0
    average.copy_to(model)
    assert model.weight.item() == pytest.approx(expected)


def test_average_is_kept_in_float32() -> None:
    model = one_weight(1.0).to(torch.bfloat16)
    average = WeightAverage(model, decay=0.999)
    average.num_updates = 10**6
    nn.init.constant_(model.weight, 1.5)
    average.update(model)
    assert average.shadow["weight"].item() == pytest.approx(1.0005, abs=1e-6)  # in bfloat16 it would stay 1.0


def test_what_is_frozen_is_not_averaged() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    model[0].requires_grad_(False)
    average = WeightAverage(model, decay=0.9)
    average.update(model)
    assert list(average.shadow) == ["1.weight"]
    other = nn.Sequential(one_weight(3.0), one_weight(4.0))
    average.copy_to(other)
    assert other[0].weight.item() == 3.0 and torch.equal(other[1].weight, model[1].weight)


def test_average_comes_back() -> None:
    model = one_weight(0.0)
    average = WeightAverage(model, decay=0.9)
    nn.init.constant_(model.weight, 1.0)
    average.update(model)
    other = WeightAverage(one_weight(7.0), decay=0.9)
    other.load_state_dict(average.state_dict())
    for each in (average, other):
        each.update(model)
    assert other.num_updates == average.num_updates == 2
    assert torch.equal(other.shadow["weight"], average.shadow["weight"])
