"""Batch statistics and caches of the base while Attn+ trains."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import spatialboost as sb
from host_models import HOSTS, images, output, perturb
from spatialboost.boosting.freeze import FrozenStatistics

LEVIT = HOSTS["timm_levit"]


def norms(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def test_frozen_until_unboost_and_then_in_the_mode_that_was_set_last():
    model = sb.boost(LEVIT.make())
    assert all(not m.training for m in norms(model.train()))
    assert model.training and all(isinstance(m, FrozenStatistics) for m in norms(model))
    sb.unboost(model)
    assert all((m.training and type(m) is nn.BatchNorm1d) or type(m) is nn.BatchNorm2d for m in norms(model))
    assert not any(m.training for m in norms(sb.unboost(sb.boost(model).eval())))


def test_statistics_do_not_move_in_training_and_do_without_the_channel():
    model = LEVIT.make().train()
    before = [m.running_mean.clone() for m in norms(model)]
    output(sb.boost(model), images())
    assert all(torch.equal(m.running_mean, b) for m, b in zip(norms(model), before, strict=True))
    output(sb.unboost(model), images())
    assert not any(torch.equal(m.running_mean, b) for m, b in zip(norms(model), before, strict=True))


def test_without_freeze_only_the_attention_has_frozen_statistics():
    model = sb.boost(LEVIT.make(), freeze=False, layers=[1]).train()
    inside = set(norms(model.stages[0].blocks[1].attn))
    assert inside and all(isinstance(m, FrozenStatistics) == (m in inside) for m in norms(model))


def test_attention_plus_has_its_own_scale_and_shares_the_statistics():
    model = sb.boost(LEVIT.make())
    names = [name for name, _ in sb.named_parameters(model)]
    assert any("bn__weight" in name for name in names) and not any("running" in name for name in names)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies_keep_frozen_statistics(again):
    model = again(perturb(sb.boost(LEVIT.make()))).train()
    assert not any(m.training for m in norms(model))
    assert not any(isinstance(m, FrozenStatistics) for m in norms(sb.unboost(model)))


def test_position_biases_of_attention_plus_are_never_stale():
    model, inputs = sb.boost(LEVIT.make()), images()
    with torch.no_grad():
        before = output(model, inputs)
        for name, parameter in sb.named_parameters(model):
            if "attention_biases" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
        assert (
            output(model, inputs) - before
        ).abs().max() > 1e-4  # in eval mode, where the host would keep the old ones
        with sb.disabled(model):
            assert torch.equal(output(model, inputs), before)


def test_caches_filled_before_boost_carry_no_gradient_to_the_base():
    model = LEVIT.make()
    output(model, images())  # eval mode with gradients on: the cache holds the graph of the base's own biases
    perturb(sb.boost(model))
    for _ in range(2):  # a second backward through a kept graph would raise
        output(model, images()).square().mean().backward()
    assert all(p.grad is None for name, p in model.named_parameters() if "spatial_channel" not in name)
