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


def sync_batch_norm(model):
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def timm_sync_batch_norm(model):
    from timm.layers import convert_sync_batchnorm

    return convert_sync_batchnorm(model)


def fresh_layers(model):
    """What a user writes who wants another momentum."""
    for module in list(model.modules()):
        for name, child in list(module._modules.items()):
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                new = nn.BatchNorm2d if isinstance(child, nn.BatchNorm2d) else nn.BatchNorm1d
                module._modules[name] = new(child.num_features, momentum=0.5)
                module._modules[name].load_state_dict(child.state_dict())
    return model


def set_to_train_one_by_one(model):
    for module in norms(model):
        module.train()
    return model


@pytest.mark.parametrize("again", [lambda m: m, copy.deepcopy], ids=["as it is", "deepcopy"])
@pytest.mark.parametrize("tool", [sync_batch_norm, timm_sync_batch_norm, fresh_layers, set_to_train_one_by_one])
@pytest.mark.parametrize("row", ["timm_levit", "timm_efficientvit"])
def test_tools_that_replace_batch_norm_do_not_thaw_it(row, tool, again):
    model = sb.boost(HOSTS[row].make()).train()
    expected = output(model, images())
    model = again(tool(model)).train()
    before = [m.running_mean.clone() for m in norms(model)]
    for _ in range(2):
        assert torch.allclose(output(model, images()), expected, atol=1e-5)
    assert all(torch.equal(m.running_mean, b) for m, b in zip(norms(model), before, strict=True))
    assert len(before) > 2 and all(int(m.num_batches_tracked) == 0 for m in norms(model))
    sb.unboost(model)
    assert not any(m._forward_pre_hooks for m in model.modules())


class Counting(nn.Linear):
    """A layer that writes into a buffer whenever it runs in training mode."""

    def __init__(self, *args):
        super().__init__(*args)
        self.register_buffer("mean", torch.zeros(32))

    def forward(self, x):
        if self.training:
            self.mean.lerp_(x.detach().mean((0, 1)), 0.1)
        return super().forward(x - self.mean)


def spectral_norm_inside(model):
    torch.nn.utils.parametrizations.spectral_norm(model.blocks[0].attn.qkv)


def spectral_norm_outside(model):
    torch.nn.utils.parametrizations.spectral_norm(model.blocks[0].mlp.fc1)


def old_spectral_norm_outside(model):
    torch.nn.utils.spectral_norm(model.blocks[1].mlp.fc2)


@pytest.mark.parametrize("add", [spectral_norm_inside, spectral_norm_outside, old_spectral_norm_outside])
def test_spectral_norm_stands_still(add):
    model = HOSTS["timm"].make()
    add(model)
    buffers = {k: v.clone() for k, v in model.named_buffers()}
    expected = output(model, images())
    sb.boost(model).train()
    for _ in range(2):
        assert torch.equal(output(model, images()), expected)
    assert all(torch.equal(v, buffers[k]) for k, v in model.named_buffers() if k in buffers)
    assert torch.equal(output(sb.unboost(model).eval(), images()), expected)


def test_a_buffer_that_a_layer_writes_is_written_once():
    def make() -> nn.Module:
        torch.manual_seed(0)
        model = HOSTS["timm"].make()
        model.blocks[0].attn.qkv = Counting(32, 96)
        return model.train()

    plain, boosted = make(), sb.boost(make())
    for _ in range(3):
        assert torch.equal(output(plain, images()), output(boosted, images()))
    assert torch.equal(plain.blocks[0].attn.qkv.mean, boosted.blocks[0].attn.qkv.mean)
