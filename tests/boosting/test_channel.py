"""The channel's own parts: names, copies, the merge, views, adapters, classes."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

import spatialboost as sb
from host_models import HEADS, HOSTS, WIDTH, images, output, perturb
from spatialboost.boosting.attach import boosted_class
from spatialboost.boosting.channel import CHANNEL, SpatialChannel, boosted_layers, escape, host_parameters
from spatialboost.boosting.views import PlusView
from spatialboost.hosts import FAMILIES, family_of

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


def test_boosted_class_is_one_per_host_and_pickles_into_a_fresh_process(tmp_path):
    model = sb.boost(HOSTS["timm"].make())
    first, second = (type(attention) for _, attention, _ in boosted_layers(model))
    host = first.__mro__[2]
    assert first is second is boosted_class(host, family_of(model.blocks[0].attn))
    assert (first.__name__, first.__module__) == ("BoostedAttention", "spatialboost.boosting.attach")
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(model))
    torch.save(output(model, images()), tmp_path / "expected.pt")
    code = (
        "import pickle, sys, torch\n"
        f"model = pickle.load(open({str(tmp_path / 'model.pkl')!r}, 'rb'))\n"
        f"expected = torch.load({str(tmp_path / 'expected.pt')!r})\n"
        f"sys.path.insert(0, {sys.path[0]!r})\n"
        "x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))\n"
        "assert torch.equal(model(x), expected)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class DictAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return {"out": self.proj(x)}


def test_output_that_cannot_be_merged():
    model = sb.boost(nn.Sequential(DictAttention()))
    with pytest.raises(sb.SpatialBoostError, match=r"DictAttention returned dict; .*`layers=`"):
        model(torch.rand(1, 3, WIDTH))


def test_encoder_layer_runs_the_channel_in_eval_and_inference_mode():
    host = HOSTS["torch_encoder"]
    model, inputs = sb.boost(host.make()), host.inputs()
    with torch.inference_mode():
        before = output(model, inputs).clone()
        perturb(model)
        assert (output(model, inputs) - before).abs().max() > 1e-3
        torch.testing.assert_close(output(model.eval(), inputs), output(model.train(), inputs))  # dropout is 0


def test_encoder_layer_disabled_takes_its_fast_path_again():
    host = HOSTS["torch_encoder"]
    model, inputs = host.make(), host.inputs()
    with torch.no_grad():
        before = output(model, inputs)
        perturb(sb.boost(model))
        with sb.disabled(model):
            assert torch.equal(output(model, inputs), before)
            assert not any(m._forward_pre_hooks for m in model.modules())


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
    changed[:, 3:] += 10 * torch.randn(2, 2, WIDTH)  # what is masked must not reach the other tokens
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


def test_encoder_packs_padded_batches_in_eval_mode():
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, WIDTH, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    x, padding = torch.randn(2, 5, WIDTH), torch.zeros(2, 5, dtype=torch.bool)
    padding[1, 3:] = True
    with torch.no_grad():
        before = model(x, src_key_padding_mask=padding)
        torch.testing.assert_close(sb.boost(model)(x, src_key_padding_mask=padding), before)
        packed = perturb(model)(x, src_key_padding_mask=padding)
        torch.testing.assert_close(packed[1:, :3], model(x[1:, :3]))
    assert (packed - before).abs().max() > 1e-3


def test_a_cache_of_keys_and_values_is_refused():
    transformers = pytest.importorskip("transformers")
    sizes = {"n_embd": WIDTH, "n_layer": 1, "n_head": HEADS, "n_positions": 9, "vocab_size": 16}
    model = transformers.ImageGPTModel(transformers.ImageGPTConfig(**sizes)).eval()
    ids = torch.arange(8)[None]
    with torch.no_grad():
        before = model(input_ids=ids, use_cache=False).last_hidden_state
        sb.boost(model)
        assert torch.equal(model(input_ids=ids, use_cache=False).last_hidden_state, before)
        with pytest.raises(sb.SpatialBoostError, match="use_cache=False"):
            model(input_ids=ids, use_cache=True)


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
    with pytest.raises(sb.SpatialBoostError, match=r"gives \(1, 32, 5\), .* 32 features in dimension -1"):
        model(torch.rand(1, 5, WIDTH))
