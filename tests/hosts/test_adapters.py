"""Attn+ of a model with adapters starts from what the host computes, whatever the adapters are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import spatialboost as sb
from host_models import HOSTS, output

peft = pytest.importorskip("peft")

CONFIGS = {
    "lora": lambda t: peft.LoraConfig(target_modules=t, init_lora_weights=False, lora_dropout=0.5),
    "rslora": lambda t: peft.LoraConfig(target_modules=t, init_lora_weights=False, use_rslora=True),
    "dora": lambda t: peft.LoraConfig(target_modules=t, init_lora_weights=False, use_dora=True),
    "lora with bias": lambda t: peft.LoraConfig(target_modules=t, init_lora_weights=False, bias="lora_only"),
    "ia3": lambda t: peft.IA3Config(target_modules=t, feedforward_modules=[], init_ia3_weights=False),
    "oft": lambda t: peft.OFTConfig(target_modules=t, r=0, oft_block_size=8, init_weights=False),
    "boft": lambda t: peft.BOFTConfig(target_modules=t, boft_block_size=8, init_weights=False),
    "loha": lambda t: peft.LoHaConfig(target_modules=t, init_weights=False),
    "lokr": lambda t: peft.LoKrConfig(target_modules=t, init_weights=False),
    "hra": lambda t: peft.HRAConfig(target_modules=t, init_weights=False, r=4),
}


def adapted(kind: str, host: str) -> nn.Module:
    torch.manual_seed(0)
    model = peft.inject_adapter_in_model(
        CONFIGS[kind](["proj"] if host == "timm" else ["out_proj", "o_proj"]), HOSTS[host].make()
    )
    with torch.no_grad():  # some kinds have no way to start from other values
        for name, parameter in model.named_parameters():
            if "base_layer" not in name and any(
                key in name for key in ("lora_", "ia3_", "oft_", "boft_", "hada_", "vera_")
            ):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("host", ["timm", "siglip"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_starts_as_what_the_host_computes(kind, host, mode):
    if mode == "train" and kind == "lora":
        pytest.skip("each channel would draw its own dropout")
    model, inputs = adapted(kind, host).train(mode == "train"), HOSTS[host].inputs()
    plain = output(HOSTS[host].make(), inputs)
    before = output(model, inputs)
    assert (before - plain).abs().max() > 1e-3
    after = output(sb.boost(model), inputs)
    assert torch.allclose(before, after, atol=2e-5)
    for layer in sb.boosting.channel.boosted_layers(model):
        layer[2].gate.data.fill_(-100.0)  # Attn+ alone
    assert torch.allclose(before, output(model, inputs), atol=2e-5)


def test_adapters_that_are_not_linear_are_refused():
    class Saturating(nn.Module):
        def __init__(self, base_layer: nn.Linear) -> None:
            super().__init__()
            self.base_layer = base_layer

        def forward(self, x):
            return self.base_layer(x) + torch.tanh(x)

    model = HOSTS["timm"].make()
    model.blocks[1].attn.proj = Saturating(model.blocks[1].attn.proj)
    with pytest.raises(sb.SpatialBoostError, match=r"proj\.weight has adapters \(Saturating\).*not linear"):
        sb.boost(model)
    assert not sb.boosting.channel.boosted_layers(model) and all(p.requires_grad for p in model.parameters())


def test_adapters_around_the_attention_are_refused():
    config = peft.LoraConfig(target_modules=["self_attention"], init_lora_weights=False)
    model = peft.inject_adapter_in_model(config, HOSTS["torchvision"].make())
    with pytest.raises(sb.SpatialBoostError, match=r"self_attention\.base_layer .*carries adapters around the whole"):
        sb.boost(model)


@pytest.mark.parametrize("kind", ["lora", "dora", "ia3"])
def test_disabled_and_merged_adapters(kind):
    for state in ("disabled", "merged"):
        model = adapted(kind, "timm")
        for module in model.modules():
            if hasattr(module, "base_layer"):
                module.enable_adapters(False) if state == "disabled" else module.merge()
        before = output(model, HOSTS["timm"].inputs())
        assert torch.allclose(output(sb.boost(model), HOSTS["timm"].inputs()), before, atol=2e-5)
