"""A failure inside `boost`, `unboost` or `load_pretrained`, at whatever layer, leaves the model as it was."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from torch import nn

import spatialboost as sb
from host_models import HOSTS, output, perturb
from spatialboost.boosting.channel import SpatialChannel, boosted_layers
from spatialboost.weights import pretrained

# the functions hide the modules of their names
attach_module = import_module("spatialboost.boosting.attach")
boost_module = import_module("spatialboost.boosting.boost")
FAILURES = pytest.mark.parametrize("error, at", [(MemoryError, 1), (KeyboardInterrupt, 2)])


def snapshot(model: nn.Module) -> list:
    return [
        (
            name,
            type(m),
            sorted(vars(m)),
            m.training,
            len(m._forward_pre_hooks),
            [p.requires_grad for p in m.parameters()],
        )
        for name, m in model.named_modules()
    ]


def failing(function, error, at: int):
    """The function, which fails when it is called for the `at`-th time."""
    calls = []

    def call(*args, **kwargs):
        calls.append(1)
        if len(calls) == at:
            raise error("here")
        return function(*args, **kwargs)

    return call


@FAILURES
@pytest.mark.parametrize("host", ["timm", "timm_levit", "torch_encoder", "dinov2"])
@pytest.mark.parametrize("where", ["SpatialChannel", "attach", "switch", "freeze_statistics", "boosted_class"])
def test_boost(where, host, at, error, monkeypatch):
    model = HOSTS[host].make().train()
    before, values = snapshot(model), {k: v.clone() for k, v in model.state_dict().items()}
    module = attach_module if where == "switch" else boost_module
    with monkeypatch.context() as patch:
        patch.setattr(module, where, failing(getattr(module, where), error, at))
        with pytest.raises(error):
            sb.boost(model)
    assert snapshot(model) == before and not boosted_layers(model)
    assert all(torch.equal(v, values[k]) for k, v in model.state_dict().items())
    sb.unboost(sb.boost(model))
    assert snapshot(model) == before


@FAILURES
@pytest.mark.parametrize("host", ["timm", "timm_levit"])
def test_unboost(host, at, error, monkeypatch):
    model = perturb(sb.boost(HOSTS[host].make()))
    before, expected = snapshot(model), output(model, HOSTS[host].inputs())
    with monkeypatch.context() as patch:
        patch.setattr(boost_module, "detach", failing(boost_module.detach, error, at))
        with pytest.raises(error):
            sb.unboost(model)
    assert snapshot(model) == before and torch.equal(output(model, HOSTS[host].inputs()), expected)
    assert not boosted_layers(sb.unboost(model))


@pytest.mark.parametrize("error, at", [(RuntimeError, 1), (KeyboardInterrupt, 7), (MemoryError, 9)])
@pytest.mark.parametrize("boosted", [True, False], ids=["boosted", "plain"])
def test_load(boosted, at, error, tmp_path, monkeypatch):
    folder = sb.save_pretrained(perturb(sb.boost(HOSTS["timm"].make()), seed=5), tmp_path)
    model = perturb(sb.boost(HOSTS["timm"].make())) if boosted else HOSTS["timm"].make()
    before, values = snapshot(model), {k: v.clone() for k, v in model.state_dict().items()}
    plus = pretrained.plus_tensors

    def tensors(attention, channel):
        found = plus(attention, channel)
        for name in found:  # fails between two tensors of a layer
            if next(count) == at:
                raise error("here")
            yield name, found[name]

    class Failing(dict):
        def __init__(self, attention, channel):
            self.arguments = attention, channel

        def items(self):
            return tensors(*self.arguments)

    count = iter(range(1, 1000))
    with monkeypatch.context() as patch:
        patch.setattr(pretrained, "plus_tensors", Failing)
        with pytest.raises(error):
            sb.load_pretrained(model, folder)
    assert snapshot(model) == before
    assert all(torch.equal(v, values[k]) for k, v in model.state_dict().items())
    sb.load_pretrained(model, folder)


def test_out_of_memory_at_a_later_layer(monkeypatch):
    """Every channel is made before the first is attached."""
    model = HOSTS["timm"].make()
    original, made = SpatialChannel.__init__, []

    def init(self, *args, **kwargs):
        assert not boosted_layers(model)
        made.append(1)
        if len(made) == 2:
            raise torch.OutOfMemoryError("no memory")
        original(self, *args, **kwargs)

    monkeypatch.setattr(SpatialChannel, "__init__", init)
    with pytest.raises(torch.OutOfMemoryError):
        sb.boost(model)
    assert not boosted_layers(model) and all(p.requires_grad for p in model.parameters())


def shared_attention() -> nn.Module:
    model = HOSTS["timm"].make()
    model.blocks[1].attn = model.blocks[0].attn
    return model


@pytest.mark.parametrize(
    "make, layers",
    [
        (lambda: nn.ModuleDict({"a": (e := HOSTS["timm"].make()), "b": e}), 2),
        (lambda: nn.ModuleList([e := HOSTS["timm_levit"].make(), e, e]), 2),
        (shared_attention, 1),
    ],
    ids=["two names", "three names", "one attention in two blocks"],
)
def test_a_module_under_several_names_is_boosted_once(make, layers, tmp_path):
    model = make()
    before = snapshot(model)
    sb.boost(model)
    assert len(sb.status(model).layers) == layers == len(boosted_layers(model))
    folder = sb.save_pretrained(perturb(model), tmp_path)
    values = {k: v.clone() for k, v in model.state_dict().items()}
    sb.load_pretrained(sb.unboost(model), folder)
    assert all(torch.equal(v, values[k]) for k, v in model.state_dict().items())
    assert snapshot(sb.unboost(model)) == before


@pytest.mark.parametrize("outer", [lambda e: nn.Sequential(e, nn.Linear(32, 4)), lambda e: nn.ModuleDict({"e": e})])
def test_unboost_of_the_encoder_inside_thaws_it(outer):
    model = outer(HOSTS["timm"].make())
    encoder = next(iter(model.children()))
    encoder.pos_embed.requires_grad_(False)
    before = snapshot(model)
    sb.boost(model)
    sb.unboost(encoder)
    assert [p.requires_grad for p in encoder.parameters()] == [p is not encoder.pos_embed for p in encoder.parameters()]
    assert snapshot(sb.unboost(model) if len(list(model.children())) > 1 else model) == before


def test_unboost_of_one_block_and_then_of_the_rest():
    model = HOSTS["timm"].make()
    before = snapshot(model)
    sb.boost(model)
    sb.unboost(model.blocks[0])
    assert [layer.name for layer in sb.status(model).layers] == ["blocks.1.attn"]
    assert all(p.requires_grad for p in model.blocks[0].parameters())
    assert snapshot(sb.unboost(model)) == before


class Selfish(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = HOSTS["timm"].make()
        self.encoder.blocks[0].owner = self


def lazy():
    return nn.Sequential(HOSTS["timm"].make(), nn.LazyLinear(4))


@pytest.mark.parametrize(
    "make, message",
    [
        (Selfish, r"'encoder\.blocks\.0\.owner' contains itself"),
        (lazy, r"1 \(LazyLinear\) has lazy parameters without shapes. Run the model once"),
        (lambda: nn.Sequential(HOSTS["timm"].make(), nn.LazyBatchNorm1d()), "LazyBatchNorm1d. has lazy parameters"),
    ],
    ids=["self-containing", "lazy linear", "lazy norm"],
)
def test_models_that_cannot_be_boosted(make, message):
    model = make()
    flags = [p.requires_grad for p in model.parameters()]
    with pytest.raises(sb.SpatialBoostError, match=message):
        sb.boost(model)
    assert [p.requires_grad for p in model.parameters()] == flags


def test_inference_mode():
    with torch.inference_mode(), pytest.raises(sb.SpatialBoostError, match=r"torch\.inference_mode"):
        sb.boost(HOSTS["timm"].make())
    with torch.inference_mode():
        model = HOSTS["timm"].make()
    with pytest.raises(sb.SpatialBoostError, match=r"was made within torch\.inference_mode"):
        sb.boost(model)
