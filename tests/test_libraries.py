"""One delta for every library's copy of an encoder: saved from one, loaded onto another, with the same outputs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import spatialboost as sb
from deltas import refused
from host_models import HOSTS, OLD_TRANSFORMERS, perturb
from libraries import ENCODERS, REFUSED, build, features
from spatialboost.boosting.channel import boosted_layers
from spatialboost.weights.fingerprint import rotary_orders

pytestmark = pytest.mark.skipif(OLD_TRANSFORMERS, reason="libraries.py knows the keys of transformers 5.18 and later")


@pytest.mark.parametrize(("encoder", "saved_by"), [(e, library) for e in ENCODERS for library in ENCODERS[e]])
def test_one_file_for_every_library(encoder, saved_by, tmp_path):
    trained = perturb(sb.boost(build(encoder, saved_by)))
    expected = features(encoder, saved_by, trained)
    sb.save_pretrained(trained, tmp_path)
    for library in ENCODERS[encoder]:
        model = build(encoder, library)
        if (encoder, saved_by, library) in REFUSED:
            refused(tmp_path, r"not expected: layers.0.q.bias, .*whose name ends in _qkvb", model)
            continue
        base = features(encoder, library, model)
        found = features(encoder, library, sb.load_pretrained(model, tmp_path))
        torch.testing.assert_close(found, expected, msg=lambda text, library=library: f"{library}: {text}")
        assert (found - base).abs().max() > 0.05


@pytest.mark.parametrize("encoder", list(ENCODERS))
def test_copies_of_other_weights_are_refused(encoder, tmp_path):
    saved_by, loaded_by = list(ENCODERS[encoder])[:2]
    sb.save_pretrained(sb.boost(build(encoder, saved_by)), tmp_path)
    refused(tmp_path, "trained on other weights than these", build(encoder, loaded_by, seed=1))


def test_a_masked_bias_is_saved_as_zeros(tmp_path):
    model = perturb(sb.boost(build("DINOv3", "torch.hub")))
    assert model.blocks[0].attn.qkv.bias[32:64].any()
    sb.save_pretrained(model, tmp_path)
    other = sb.load_pretrained(build("DINOv3", "torch.hub"), tmp_path)
    assert not boosted_layers(other)[0][2].plus("qkv.bias")[32:64].any()


def test_a_missing_bias_is_an_error_where_the_base_has_one(tmp_path):
    """timm's DINOv3 without biases is not the same encoder as one whose biases are not zero."""
    sb.save_pretrained(sb.boost(build("DINOv3", "timm")), tmp_path)
    other = build("DINOv3", "transformers")
    nn.init.ones_(other.model.layer[1].attention.v_proj.bias)
    refused(tmp_path, r"missing: layers.1.v.bias \(1\)", other)


# --- rotary position embeddings: pairs of neighbours, or of halves


def interleaved(model: nn.Module) -> nn.Module:
    """The same DINOv3 in the other convention: rows of q and k reordered, and timm set to it."""
    reorder = rotary_orders(2, 32)["interleaved"]
    with torch.no_grad():
        for block in model.blocks:
            rows = block.attn.qkv.weight.chunk(3)
            for name, part in zip("qk", rows, strict=False):
                part.copy_(reorder(f"{name}.weight", part.clone()))
            block.attn.rotate_half = False
    model.rope.rotate_half = False
    model.rope.update_feat_shape([2, 2])
    return model


@pytest.mark.parametrize("saved_by_halves", [True, False])
def test_either_convention_of_rotary_embeddings(saved_by_halves, tmp_path):
    a, b = HOSTS["timm_dinov3"].make(), interleaved(HOSTS["timm_dinov3"].make())
    base = features("DINOv3", "timm", a)
    torch.testing.assert_close(features("DINOv3", "timm", b), base)
    first, second = (a, b) if saved_by_halves else (b, a)
    sb.save_pretrained(perturb(sb.boost(first)), tmp_path)
    found = features("DINOv3", "timm", sb.load_pretrained(second, tmp_path))
    torch.testing.assert_close(found, features("DINOv3", "timm", first))
    assert (found - base).abs().max() > 0.05


def test_the_two_orders_undo_each_other_and_leave_v_alone():
    orders, rows = rotary_orders(2, 12), torch.arange(12.0)
    halves = orders["halves"]("q.bias", rows)
    assert halves.tolist() == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]
    assert torch.equal(orders["interleaved"]("k.bias", halves), rows)
    assert orders["halves"]("v.bias", rows) is rows
    assert orders["halves"]("k_norm.weight", torch.arange(6.0)).tolist() == [0, 2, 4, 1, 3, 5]
    assert rotary_orders(None, 12) == rotary_orders(4, 12) == {}
