"""A channel that the model has but does not run: all functions report it, and loading makes it run again."""

from __future__ import annotations

import copy
import functools
import pickle
import types

import pytest
import torch
from torch import nn

import spatialboost as sb
from host_models import HOSTS, images, output, perturb
from spatialboost.boosting.channel import boosted_layers

X = images()


def make() -> nn.Module:
    return perturb(sb.boost(HOSTS["timm"].make()))


def base() -> torch.Tensor:
    return output(HOSTS["timm"].make(), X)


def copied(model):
    with sb.disabled(model):
        return copy.deepcopy(model)


def pickled(model):
    with sb.disabled(model):
        return pickle.loads(pickle.dumps(model))


def of_another_class(model):
    for _, attention, _ in boosted_layers(model):
        attention.__class__ = type("Faster", (attention.host_class,), {})
    return model


def with_its_class_set_back(model):
    for _, attention, _ in boosted_layers(model):
        attention.__class__ = attention.host_class
    return model


def with_foreign_forwards(model):
    """What users write to read attention maps: the host's formula again, as an attribute of the module."""
    for _, attention, _ in boosted_layers(model):

        def forward(self, x, host_class=attention.host_class, **kwargs):
            return host_class.forward(self, x, **kwargs)

        attention.forward = types.MethodType(forward, attention)
    return model


DEAD = [copied, pickled, of_another_class, with_its_class_set_back, with_foreign_forwards]


@pytest.mark.parametrize("kill", DEAD)
def test_status_saving_and_disabling_say_so(kill, tmp_path):
    model = kill(make())
    assert torch.equal(output(model, X), base())
    status = sb.status(model)
    assert all(layer.problem for layer in status.layers)
    assert "Attn+ is not run in blocks.0.attn: its " in str(
        status
    ) and "\n    0  blocks.0.attn  timm    host    no " in str(status)
    with pytest.warns(UserWarning, match=r"is saved, but it is not run in this model: blocks\.0\.attn: its"):
        sb.save_pretrained(model, tmp_path)
    with pytest.warns(UserWarning, match="was not run in this model even before `disabled`"), sb.disabled(model):
        assert torch.equal(output(model, X), base())
    with pytest.raises(sb.SpatialBoostError, match=r"boosted already \(2 layers, of which 2 do not run Attn\+"):
        sb.boost(model)
    sb.unboost(model)
    assert not boosted_layers(model) and all(p.requires_grad for p in model.parameters())
    assert torch.equal(output(model, X), base())


@pytest.mark.parametrize("kill", DEAD)
def test_loading_runs_it_again_or_refuses(kill, tmp_path):
    model = make()
    folder, expected = sb.save_pretrained(model, tmp_path), output(model, X)
    dead = kill(copy.deepcopy(model))
    if kill is with_foreign_forwards:
        before = {k: v.clone() for k, v in dead.state_dict().items()}
        with pytest.raises(
            sb.SpatialBoostError, match=r"would change nothing.*blocks\.0\.attn: its forward is replaced by"
        ):
            sb.load_pretrained(dead, folder)
        assert all(torch.equal(v, before[k]) for k, v in dead.state_dict().items())
        return
    sb.load_pretrained(dead, folder)
    assert torch.equal(output(dead, X), expected) and not any(layer.problem for layer in sb.status(dead).layers)


def test_within_disabled_everything_else_goes_on(tmp_path, recwarn):
    model = make()
    folder, expected = sb.save_pretrained(model, tmp_path), output(model, X)
    with sb.disabled(model):
        assert all("within `disabled`" in layer.problem for layer in sb.status(model).layers)
        sb.save_pretrained(model, tmp_path / "again")
        sb.load_pretrained(model, folder)  # values only: Attn+ stays off until the end
        assert torch.equal(output(model, X), base())
        with sb.disabled(model):
            assert torch.equal(output(model, X), base())
        assert torch.equal(output(model, X), base())
        with pytest.raises(sb.SpatialBoostError, match=r"within `disabled`.*Leave it first"):
            sb.unboost(model)
    assert torch.equal(output(model, X), expected)
    assert not [w for w in recwarn if "Attn+" in str(w.message)]


def logged(function):
    @functools.wraps(function)
    def call(*args, **kwargs):
        return function(*args, **kwargs)

    return call


@pytest.mark.parametrize("wrap", [logged, lambda f: functools.partial(f), lambda f: lambda *a, **k: f(*a, **k)])
def test_a_forward_that_calls_the_boosted_one_runs_it(wrap):
    model = make()
    expected = output(model, X)
    for _, attention, _ in boosted_layers(model):
        attention.forward = wrap(attention.forward)
    assert torch.equal(output(model, X), expected) and not any(layer.problem for layer in sb.status(model).layers)
    with sb.disabled(model):
        assert torch.equal(output(model, X), base())
    assert torch.equal(output(sb.unboost(model), X), base())


@pytest.mark.parametrize("host", ["timm", "dinov2", "timm_levit"])
@pytest.mark.parametrize("kernel", ["host", "auto"])
@pytest.mark.parametrize("offload", ["cpu", "disk"])
def test_offloaded_weights_are_loaded_for_the_channel(offload, kernel, host, tmp_path):
    accelerate = pytest.importorskip("accelerate")
    plain = output(HOSTS[host].make(), X)
    model = sb.boosting.set_kernel(perturb(sb.boost(HOSTS[host].make())), kernel)
    expected = output(model, X)
    if offload == "cpu":
        accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    else:
        accelerate.disk_offload(model, tmp_path, execution_device=torch.device("cpu"))
    assert all(channel.gate.is_meta for _, _, channel in boosted_layers(model))
    assert torch.allclose(output(model, X), expected, atol=1e-6)
    with sb.disabled(model):
        assert torch.allclose(output(model, X), plain, atol=1e-6)
    assert torch.allclose(output(sb.unboost(model), X), plain, atol=1e-6)


def test_hooks_of_accelerate_come_off_again():
    hooks = pytest.importorskip("accelerate.hooks")
    model = make()
    expected = output(model, X)
    for _, attention, _ in boosted_layers(model):
        hooks.add_hook_to_module(attention, hooks.ModelHook())
    assert torch.equal(output(model, X), expected)
    for _, attention, _ in boosted_layers(model):
        hooks.remove_hook_from_module(attention)
    assert torch.equal(output(model, X), expected)
    assert torch.equal(output(sb.unboost(model), X), base())
