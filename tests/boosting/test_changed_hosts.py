"""Other tools change a boosted model: Attn+ still runs with its own weights, or the next forward raises an error."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils.weight_norm import weight_norm

import spatialboost as sb
from host_models import HOSTS, images, output, perturb
from spatialboost.boosting.channel import boosted_layers


def attention_of(model: nn.Module) -> nn.Module:
    return boosted_layers(model)[0][1]


class Wrapper(nn.Module):
    """What a user writes to look at or to change a layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


class Scaled(nn.Linear):
    """A subclass that computes with a weight which Attn+ does not have."""

    def __init__(self, old: nn.Linear) -> None:
        super().__init__(old.in_features, old.out_features)
        self.load_state_dict(old.state_dict())
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return super().forward(x) * self.scale


def quantise(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def replace_qkv(make):
    def change(model):
        attention = attention_of(model)
        attention.qkv = make(attention.qkv)
        return model

    return change


def bits_and_bytes(old: nn.Linear) -> nn.Module:
    bnb = pytest.importorskip("bitsandbytes")
    new = bnb.nn.Linear8bitLt(old.in_features, old.out_features, has_fp16_weights=False)
    new.load_state_dict(old.state_dict())
    return new


def quantised_with_torchao(model):
    torchao = pytest.importorskip("torchao.quantization")
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig(), lambda m, name: name.endswith("attn.qkv"))
    return model


def gone(model):
    del attention_of(model)._modules["proj"]
    return model


def with_new_parameter(model):
    norm = attention_of(model).q_norm = nn.LayerNorm(16)
    norm.weight.data.fill_(2.0)
    return model


REFUSED = {
    "quantised": (
        quantise,
        r"layer 0: qkv was torch\.nn\.modules\.linear\.Linear .* torch\.ao\.nn\.quantized.*unboost",
    ),
    "wrapped": (replace_qkv(Wrapper), r"layer 0: qkv was .*Linear .*is .*Wrapper now"),
    "subclass": (replace_qkv(Scaled), r"layer 0: qkv was .*is .*Scaled now"),
    "8 bits": (replace_qkv(bits_and_bytes), r"layer 0: qkv was .*Linear8bitLt"),
    "low rank": (replace_qkv(lambda old: nn.Sequential(nn.Linear(32, 4), nn.Linear(4, 96))), "Sequential now"),
    "gone": (gone, r"layer 0: proj was .*is gone now"),
    "new parameter": (with_new_parameter, r"layer 0: the parameter q_norm\.weight is new since boost"),
}


@pytest.mark.parametrize("kernel", ["host", "auto"])
@pytest.mark.parametrize("change", REFUSED)
def test_a_change_that_attn_plus_cannot_follow_is_refused(change, kernel):
    model = sb.boosting.set_kernel(perturb(sb.boost(HOSTS["timm"].make())), kernel)
    tool, message = REFUSED[change]
    with pytest.raises(sb.SpatialBoostError, match=message):
        output(tool(model), images())


def test_a_weight_of_another_shape_is_refused():
    attention = attention_of(sb.boost(HOSTS["timm"].make()))
    attention.proj = nn.Linear(32, 64)
    with pytest.raises(sb.SpatialBoostError, match=r"proj\.weight has shape \(64, 32\) now.*\(32, 32\)"):
        attention(torch.rand(1, 5, 32))


def pruned(model):
    prune.l1_unstructured(attention_of(model).qkv, "weight", 0.5)
    return model


def pruned_for_good(model):
    prune.remove(attention_of(pruned(model)).qkv, "weight")
    return model


def parametrized(model):
    class Twice(nn.Module):
        def forward(self, weight):
            return 2 * weight

    parametrize.register_parametrization(attention_of(model).qkv, "weight", Twice())
    return model


def with_weight_norm(model):
    parametrizations.weight_norm(attention_of(model).proj)
    return model


def with_old_weight_norm(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weight_norm(attention_of(model).proj)
    return model


def spectral(model):
    return nn.utils.spectral_norm(attention_of(model).qkv) and model


def compiled_layer(model):
    attention = attention_of(model)
    attention.qkv = torch.compile(attention.qkv, backend="eager")
    return model


def checkpointed_layer(model):
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    attention = attention_of(model)
    attention.qkv = checkpoint_wrapper(attention.qkv)
    return model


def frozen_as_buffers(model):
    layer = attention_of(model).qkv
    weight = layer._parameters.pop("weight")
    layer.register_buffer("weight", weight.detach())
    return model


def other_base_weights(model):
    with torch.no_grad():
        attention_of(model).qkv.weight.add_(1.0)
    return model


def another_linear(model):
    attention_of(model).qkv = nn.Linear(32, 96)
    return model


FOLLOWED = [
    pruned,
    pruned_for_good,
    parametrized,
    with_weight_norm,
    with_old_weight_norm,
    spectral,
    compiled_layer,
    checkpointed_layer,
    frozen_as_buffers,
    other_base_weights,
    another_linear,
    quantised_with_torchao,
]


@pytest.mark.parametrize("kernel", ["host", "auto"])
@pytest.mark.parametrize("tool", FOLLOWED)
def test_attn_plus_keeps_its_own_weights_whatever_becomes_of_the_bases(tool, kernel):
    """The gate gives the base no weight, so a change of the base must not change the output."""
    model = sb.boosting.set_kernel(perturb(sb.boost(HOSTS["timm"].make())), kernel)
    with torch.no_grad():
        for _, _, channel in boosted_layers(model):
            channel.gate.fill_(-100.0)
    before = output(model, images())
    after = output(tool(model), images())
    assert torch.allclose(before, after, atol=1e-5)
    after.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in sb.named_parameters(model) if "gate" not in n)


@pytest.mark.parametrize("host", ["torchvision", "timm", "vit"])
def test_adapters_of_zeros_change_nothing(host):
    peft = pytest.importorskip("peft")
    model = perturb(sb.boost(HOSTS[host].make()))
    before = output(model, HOSTS[host].inputs())
    targets = {"torchvision": ["self_attention"], "timm": ["qkv", "proj"]}.get(host, ["q_proj", "query"])
    adapted = peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=targets), model)
    after = output(adapted, HOSTS[host].inputs())
    assert torch.allclose(before, after, atol=1e-5)
    for _, parameter in sb.named_parameters(adapted):
        parameter.requires_grad_(True)
    after = output(adapted, HOSTS[host].inputs())
    after.square().mean().backward()
    assert all(p.grad is not None for _, p in sb.named_parameters(adapted))
    copy.deepcopy(adapted)
