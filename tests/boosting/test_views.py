"""The view through which Attn+ runs the host's code."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import spatialboost as sb
from host_models import HEADS, HOSTS, WIDTH, images, output, perturb
from spatialboost.boosting.channel import CHANNEL
from spatialboost.boosting.views import PlusView


def test_view_reads_the_host_and_the_channel():
    attention = sb.boost(HOSTS["timm"].make()).blocks[0].attn
    channel = attention._modules[CHANNEL]
    view = PlusView(attention, channel)
    assert view.num_heads == HEADS and view.training is False
    assert view.qkv.weight is channel.plus("qkv.weight")
    assert view.gate is None
    with pytest.raises(AttributeError):
        view.nothing_of_that_name  # noqa: B018


def test_host_flags_are_read_at_call_time():
    model, inputs = perturb(sb.boost(HOSTS["timm"].make())), images()
    with torch.no_grad():
        expected = output(model, inputs)
        for block in model.blocks:
            block.attn.fused_attn = False
        torch.testing.assert_close(output(model, inputs), expected)
        for block in model.blocks:
            block.attn.scale = 0.0  # unfused, both channels read it: attention becomes an average
        flat = output(model, inputs)
    assert not torch.allclose(flat, expected, atol=1e-3)


def test_dropout_of_the_host_acts_in_training_only():
    model, inputs = perturb(sb.boost(HOSTS["timm"].make())), images()
    for block in model.blocks:
        block.attn.attn_drop.p = 0.5
    with torch.no_grad():
        assert torch.equal(output(model, inputs), output(model, inputs))
        model.train()
        assert not torch.equal(output(model, inputs), output(model, inputs))


@pytest.mark.parametrize("mask", ["padding", "bool", "float"])
def test_masks_reach_both_channels(mask):
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, WIDTH, dropout=0.0, batch_first=True).eval()
    sb.boost(layer)
    perturb(layer)
    x = torch.randn(2, 5, WIDTH)
    hidden = torch.zeros(2, 5, dtype=torch.bool)
    hidden[:, 3:] = True
    square = hidden[0].expand(5, 5)
    masks = {
        "padding": {"src_key_padding_mask": hidden},
        "bool": {"src_mask": square},
        "float": {"src_mask": torch.zeros(5, 5).masked_fill(square, float("-inf"))},
    }[mask]
    changed = x.clone()
    changed[:, 3:] += 10 * torch.randn(2, 2, WIDTH)  # masked tokens must not change the other tokens
    with torch.no_grad():
        assert torch.equal(layer(x, **masks)[:, :3], layer(changed, **masks)[:, :3])


def test_packed_images_do_not_mix():
    host = HOSTS["siglip2"]
    model, inputs = perturb(sb.boost(host.make())), host.inputs()
    with torch.no_grad():
        before = output(model, inputs)
        inputs["pixel_values"][1, 2:] += 5.0  # patches that the mask of the second image hides
        after = output(model, inputs)
    assert torch.equal(before[0], after[0]) and torch.equal(before[1, :2], after[1, :2])
