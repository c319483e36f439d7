"""The channel's weights and gate: names, copies, the merge."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import spatialboost as sb
from host_models import HOSTS, WIDTH, images, output, perturb
from spatialboost.boosting.channel import CHANNEL, SpatialChannel, boosted_layers, escape, host_parameters
from spatialboost.hosts import FAMILIES

LORA_TARGETS = (
    "qkv",
    "proj",
    "q_proj",
    "k_proj",
    "v_proj",
    "out_proj",
    "o_proj",
    "query",
    "key",
    "value",
    "dense",
    "in_proj",
)


def test_names_match_no_lora_target():
    for host in HOSTS.values():
        model = sb.boost(host.make())
        for name, _ in sb.named_parameters(model):
            path = name[name.index(CHANNEL) :]
            assert not any(part in LORA_TARGETS for part in path.split("."))
            assert not name.endswith(tuple(f".{target}.weight" for target in LORA_TARGETS))


def test_escape_keeps_names_apart():
    assert escape("qkv.weight") == "plus_qkv__weight"
    assert len({escape(name) for name in ("q_proj.weight", "q_proj_weight", "gate", "gate.weight")}) == 4


def test_attn_plus_is_a_copy_and_no_alias():
    model = sb.boost(HOSTS["timm"].make())
    for _, attention, channel in boosted_layers(model):
        for name, owner, leaf in host_parameters(attention):
            plus, base = channel.plus(name), owner._parameters[leaf]
            assert torch.equal(plus, base) and plus.is_contiguous()
            assert plus.untyped_storage().data_ptr() != base.untyped_storage().data_ptr()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_merge_is_exact_for_any_gate(dtype):
    channel = SpatialChannel(HOSTS["timm"].make().blocks[0].attn, FAMILIES["timm"], 0, "channel", None)
    with torch.no_grad():
        channel.gate.normal_(0, 4)
        x = torch.randn(64, WIDTH).to(dtype)
        assert torch.equal(channel.merge(x, x), x)
        expected = torch.sigmoid(channel.gate)
        merged = channel.merge(torch.ones_like(x), torch.zeros_like(x))
    torch.testing.assert_close(merged[0].float(), expected, rtol=2**-7, atol=1e-3)


def test_merge_weighs_the_base_with_the_gate():
    """g = 1 is the frozen channel, g = 0 Attn+ (equation 1)."""
    model, inputs = perturb(sb.boost(HOSTS["timm"].make())), images()
    base = output(HOSTS["timm"].make(), inputs)
    for _, _, channel in boosted_layers(model):
        nn.init.constant_(channel.gate, 100.0)
    torch.testing.assert_close(output(model, inputs), base)
    for _, attention, channel in boosted_layers(model):
        nn.init.constant_(channel.gate, -100.0)
        with torch.no_grad():
            for name, owner, leaf in host_parameters(attention):
                owner._parameters[leaf].fill_(float(name.endswith("weight")))  # the base must not matter
    only_plus = HOSTS["timm"].make()
    with torch.no_grad():
        for (_, _, channel), block in zip(boosted_layers(model), only_plus.blocks, strict=True):
            for name, owner, leaf in host_parameters(block.attn):
                owner._parameters[leaf].copy_(channel.plus(name))
    torch.testing.assert_close(output(model, inputs), output(only_plus, inputs), rtol=1e-4, atol=1e-4)


def test_gate_has_no_gradient_while_both_channels_agree():
    model = sb.boost(HOSTS["timm"].make())
    output(model, images()).square().sum().backward()
    for _, _, channel in boosted_layers(model):
        assert channel.gate.grad.abs().max() == 0
        assert channel.plus("qkv.weight").grad.abs().max() > 0


class Grid(nn.Module):
    """Looks like attention over tokens and gives an image."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return self.proj(x).transpose(1, 2)


class GridAttention(Grid):
    pass


def test_an_output_of_another_layout_is_refused_and_not_mixed_up():
    model = sb.boost(nn.Sequential(GridAttention()))
    with pytest.raises(sb.SpatialBoostError, match=r"shape \(1, 32, 5\); .* 32 features in dimension -1"):
        model(torch.rand(1, 5, WIDTH))
