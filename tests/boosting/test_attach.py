"""The class of a boosted module: pickles, methods of the host besides `forward`, outputs that cannot be merged."""

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
from spatialboost.boosting.channel import boosted_layers
from spatialboost.hosts import family_of


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
    inputs = {"input_ids": ids, "position_ids": ids}  # transformers 4.57 makes no positions without a cache
    with torch.no_grad():
        before = model(**inputs, use_cache=False).last_hidden_state
        sb.boost(model)
        assert torch.equal(model(**inputs, use_cache=False).last_hidden_state, before)
        with pytest.raises(sb.SpatialBoostError, match="use_cache=False"):
            model(**inputs, use_cache=True)
