"""The state of a model after `boost`, `unboost` and `disabled`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import spatialboost as sb
from host_models import HOSTS, WIDTH, boosted_names, images, output, perturb, untouched
from spatialboost.boosting import set_kernel
from spatialboost.boosting.channel import boosted_layers


def test_twice_raises_and_leaves_it_boosted():
    model = perturb(sb.boost(HOSTS["timm"].make()))
    with torch.no_grad():
        before = output(model, images())
        with pytest.raises(sb.SpatialBoostError, match=r"boosted already \(2 layers\).*unboost"):
            sb.boost(model)
        assert torch.equal(output(model, images()), before)


@pytest.mark.parametrize(
    ("options", "message"), [({"gate": "head"}, "unknown gate 'head'"), ({"dtype": torch.int8}, "dtype=torch.int8")]
)
def test_options_that_are_unknown(options, message):
    model = HOSTS["timm"].make()
    with pytest.raises(sb.SpatialBoostError, match=message):
        sb.boost(model, **options)
    assert untouched(model)


@pytest.mark.parametrize(
    "call", [sb.unboost, sb.fuse, lambda m: list(sb.named_parameters(m)), lambda m: sb.param_groups(m, 1.0)]
)
def test_not_boosted(call):
    with pytest.raises(sb.SpatialBoostError, match="is not boosted"):
        call(HOSTS["timm"].make())
    with pytest.raises(sb.SpatialBoostError, match="is not boosted"), sb.disabled(HOSTS["timm"].make()):
        pass


def test_encoder_inside_another_model():
    class Probe(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = HOSTS["timm"].make()
            self.head = nn.Linear(WIDTH, 3)

    model = Probe()
    sb.boost(model.encoder)
    assert model.head.weight.requires_grad  # freezing stops at the encoder
    sb.unboost(model)  # through the outer model as well
    assert untouched(model)


def test_compiled_model_is_boosted_underneath():
    model = HOSTS["timm"].make()
    compiled = torch.compile(model, backend="eager")
    assert sb.boost(compiled) is compiled
    assert boosted_names(model) == ["blocks.0.attn", "blocks.1.attn"]
    assert [name for name, _ in sb.named_parameters(compiled)] == [name for name, _ in sb.named_parameters(model)]
    sb.unboost(compiled)
    assert untouched(model)


def test_freeze_false_leaves_the_base_as_it_is():
    model = HOSTS["timm"].make()
    model.patch_embed.requires_grad_(False)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    sb.boost(model, freeze=False)
    after = {name: p.requires_grad for name, p in model.named_parameters()}
    assert {name: after[name] for name in before} == before
    assert all(p.requires_grad for _, p in sb.named_parameters(model))


def test_scalar_gate():
    model, inputs = HOSTS["timm"].make(), images()
    with torch.no_grad():
        before = output(model, inputs)
        assert torch.equal(output(sb.boost(model, gate="scalar"), inputs), before)
    assert {p.shape for name, p in sb.named_parameters(model) if name.endswith("gate")} == {(1,)}
    perturb(model)
    with torch.no_grad():
        expected = output(model, inputs)
        torch.testing.assert_close(output(set_kernel(model, "auto"), inputs), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(output(sb.fuse(model), inputs), expected, rtol=1e-5, atol=1e-5)


def test_disabled_gives_the_channel_back_after_an_error():
    model = sb.boost(HOSTS["timm"].make())
    with pytest.raises(RuntimeError, match="inside"), sb.disabled(model):
        raise RuntimeError("inside")
    assert [type(a).__name__ for _, a, _ in boosted_layers(model)] == ["BoostedAttention"] * 2
