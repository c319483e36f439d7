"""Which layers `layers=` chooses."""

from __future__ import annotations

import re

import pytest

import spatialboost as sb
from host_models import timm_model, untouched


@pytest.mark.parametrize(
    ("layers", "indices"),
    [
        (None, [0, 1, 2, 3]),
        ([0, 2], [0, 2]),
        (range(1, 3), [1, 2]),
        ([-1], [3]),
        ([3, 1, 1], [1, 3]),
        (-1, [3]),
        (slice(-2, None), [2, 3]),
        ([0, slice(2, 9)], [0, 2, 3]),
        ("blocks.2.attn", [2]),
        ("blocks.2", [2]),
        ("blocks.[13].attn", [1, 3]),
        (re.compile(r"\.[02]\."), [0, 2]),
        (["blocks.0", -1], [0, 3]),
        (lambda name, module: name.startswith("blocks.2"), [2]),
    ],
)
def test_layers(layers, indices):
    model = sb.boost(timm_model("vit_tiny_patch16_224", depth=4), layers=layers)
    assert [layer.index for layer in sb.status(model).layers] == indices


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([4], r"block 4 has no self-attention layer; there are layers \[0, 1, 2, 3\]"),
        ([-5], "block -1 has no"),
        ([], "has no index"),
        (slice(4, None), r"is empty; there are layers \[0, 1, 2, 3\]"),
        ("blocks.7", r"no name matches 'blocks.7'; there are the 4 self-attention layers \(blocks.0.attn"),
        (["blocks.0", "head"], "no name matches 'head'"),
        (1.5, "float cannot choose layers; expected indices, a slice, names or patterns, or a predicate"),
        (True, "bool cannot choose layers"),
        (lambda name, module: False, "selected none of the 4 self-attention layers"),
    ],
)
def test_layers_that_do_not_exist(layers, message):
    model = timm_model("vit_tiny_patch16_224", depth=4)
    with pytest.raises(sb.SpatialBoostError, match=message):
        sb.boost(model, layers=layers)
    assert untouched(model)


def test_a_name_that_was_passed_over_is_explained():
    model = timm_model("vit_base_patch16_siglip_224")
    with pytest.raises(sb.SpatialBoostError, match=r"layers='attn_pool': attn_pool is passed over: in a pooling head"):
        sb.boost(model, layers="attn_pool")
