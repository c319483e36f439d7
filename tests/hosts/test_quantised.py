"""Attn+ on a frozen quantised base, as QLoRA does it: it starts from the dequantised weights and trains in float."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import spatialboost as sb
from host_models import HOSTS, output, perturb
from spatialboost.boosting import set_kernel
from spatialboost.boosting.channel import boosted_layers


def with_bitsandbytes(kind: str):
    def quantise(model: nn.Module) -> nn.Module:
        bnb = pytest.importorskip("bitsandbytes")
        for parent in list(model.modules()):
            for name, child in list(parent._modules.items()):
                if type(child) is nn.Linear:
                    sizes = child.in_features, child.out_features, child.bias is not None
                    if kind == "8bit":
                        new = bnb.nn.Linear8bitLt(*sizes, has_fp16_weights=False)
                    else:
                        new = bnb.nn.Linear4bit(*sizes, compute_dtype=torch.float32, quant_type=kind)
                    new.load_state_dict(child.state_dict())
                    parent._modules[name] = new.to("cpu")
        return model

    return quantise


def with_torchao(config: str):
    def quantise(model: nn.Module) -> nn.Module:
        torchao = pytest.importorskip("torchao.quantization")
        torchao.quantize_(model, getattr(torchao, config)())
        return model

    return quantise


TOOLS = {
    "bitsandbytes 8 bits": with_bitsandbytes("8bit"),
    "bitsandbytes nf4": with_bitsandbytes("nf4"),
    "bitsandbytes fp4": with_bitsandbytes("fp4"),
    "torchao int8": with_torchao("Int8WeightOnlyConfig"),
    "torchao int8 activations": with_torchao("Int8DynamicActivationInt8WeightConfig"),
    "torchao float8": with_torchao("Float8WeightOnlyConfig"),
}


@pytest.mark.parametrize("kernel", ["host", "auto"])
@pytest.mark.parametrize("host", ["timm", "siglip", "dinov2"])
@pytest.mark.parametrize("tool", TOOLS)
def test_attn_plus_starts_from_the_dequantised_weights_and_trains(tool, host, kernel, tmp_path):
    inputs = HOSTS[host].inputs()
    model = TOOLS[tool](HOSTS[host].make())
    quantised, exact = output(model, inputs), output(HOSTS[host].make(), inputs)
    state = {k: copy.deepcopy(v) for k, v in model.state_dict().items() if isinstance(v, torch.Tensor)}
    set_kernel(sb.boost(model), kernel)
    assert not any(layer.stale or layer.problem for layer in sb.status(model).layers)
    start = output(model, inputs)
    noise = (quantised - exact).abs().max()  # what quantisation changes
    assert (start - quantised).abs().max() <= noise
    args, kwargs = ((), inputs) if set(inputs) != {"x"} else (tuple(inputs.values()), {})
    found = sb.verify(model, *args, **kwargs)
    assert found, str(found)
    moved = output(perturb(model), inputs)
    assert (moved - start).abs().max() > 1e-3
    folder = sb.save_pretrained(model, tmp_path)
    with sb.disabled(model):
        assert torch.equal(output(model, inputs), quantised)
    sb.unboost(model)
    assert torch.equal(output(model, inputs), quantised)
    sb.load_pretrained(model, folder)
    assert torch.allclose(output(set_kernel(model, kernel), inputs), moved, atol=1e-6)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in state.items() if type(v) is torch.Tensor)
    assert all(p.dtype == torch.float32 for _, _, channel in boosted_layers(model) for p in channel.parameters())


def test_packed_layers_without_parameters_are_refused():
    model = torch.ao.quantization.quantize_dynamic(HOSTS["timm"].make(), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(sb.SpatialBoostError, match=r"projection without a weight.*Boost the model before it is quant"):
        sb.boost(model)


def test_an_unknown_quantised_weight_is_refused():
    model = HOSTS["timm"].make()
    model.blocks[1].attn.qkv.weight = nn.Parameter(torch.ones(96, 32, dtype=torch.int8), requires_grad=False)
    with pytest.raises(sb.SpatialBoostError, match=r"quantised weights \(qkv\.weight: torch\.int8\)"):
        sb.boost(model)
