"""`verify` runs a model and finds what `status` cannot see."""

from __future__ import annotations

import types

import pytest
import torch
from torch import nn

import spatialboost as sb
from host_models import HOSTS, images, perturb
from spatialboost.boosting.channel import boosted_layers

X = images()["x"]


def make() -> nn.Module:
    return perturb(sb.boost(HOSTS["timm"].make())).train()


def hidden(model):
    attention = model.blocks[1].attn
    attention.forward = types.MethodType(lambda self, x, **kwargs: x, attention)


def passed_by(model):
    model.blocks[1].forward = lambda x, **kwargs: x


def without_gradients(model):
    inner = model.blocks[1].attn.forward
    model.blocks[1].attn.forward = torch.no_grad()(inner)


def detached(model):
    model.blocks[1].attn.register_forward_hook(lambda module, args, output: output.detach())


@pytest.mark.parametrize(
    "spoil, problem",
    [
        (hidden, r"Attn\+ is not run: its forward is replaced by hidden"),
        (passed_by, r"Attn\+ is not run: the model does not call this layer"),
        (without_gradients, "no gradient arrives: look for no_grad or detach"),
        (detached, "no gradient arrives: look for no_grad or detach"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_spoiled_layer_is_named(spoil, problem):
    model = make()
    spoil(model)
    found = sb.verify(model, X)
    assert not found and found.layers[0].problem is None
    assert found.layers[1].name == "blocks.1.attn"
    assert problem.replace("\\", "") in str(found) and problem.replace("\\", "") in found.layers[1].problem


def test_a_frozen_channel_runs_and_is_no_problem():
    model = make()
    for _, parameter in sb.named_parameters(model):
        parameter.requires_grad_(False)
    found = sb.verify(model, X)
    assert found and all(layer.runs and layer.trainable == 0 for layer in found.layers)
    assert "not trainable" in str(found)


def test_weights_that_are_not_finite_are_a_problem():
    model = make()
    with torch.no_grad():
        model.blocks[1].attn.spatial_channel.plus_proj__bias.fill_(float("nan"))
    found = sb.verify(model, X)
    assert not found and "gradient" in found.layers[1].problem


def test_a_head_its_gradients_and_the_random_numbers_stay_as_they_are():
    model = nn.Sequential(make(), nn.BatchNorm1d(32), nn.Dropout(0.5))
    model(X).sum().backward()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    gradients = {k: p.grad for k, p in model.named_parameters()}
    values = {k: g.clone() for k, g in gradients.items() if g is not None}
    state = torch.random.get_rng_state()
    assert sb.verify(model, X)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is gradients[k] for k, p in model.named_parameters())
    assert all(torch.equal(gradients[k], v) for k, v in values.items())
    assert all(type(channel._parameters) is dict for _, _, channel in boosted_layers(model))


def test_compiled_and_functional_models():
    assert sb.verify(torch.compile(make(), backend="eager"), X)


def test_a_model_that_is_not_boosted():
    with pytest.raises(sb.SpatialBoostError, match="is not boosted"):
        sb.verify(HOSTS["timm"].make(), X)
