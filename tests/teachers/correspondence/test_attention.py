"""Queries and keys against what the hosts compute themselves, and the measures against known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import spatialboost as sb
from readable_encoders import READABLE
from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.rooms.render import render_scenes
from spatialboost.teachers.correspondence import attention_matches
from spatialboost.teachers.correspondence.attention import queries_and_keys, query_weight
from spatialboost.teachers.correspondence.measures import Tally, correlation
from training_rows import SHAPE

KNOWN = (
    *("timm", "timm registers", "timm no cls", "timm wide", "timm eva", "timm naflex", "timm beit"),
    *("vit", "dinov2 registers", "dinov3", "clip", "siglip 2", "aimv2", "open_clip"),
)
WIDE = {**SHAPE, "img_size": 64, "patch_size": 8}


@pytest.mark.parametrize("name", KNOWN)
def test_a_changed_patch_changes_its_own_query_and_no_other(name):
    """In the first layer a token depends on its own patch only: so this shows which token is which patch."""
    readable = READABLE[name]
    encoder, size = readable.make(), readable.size
    images = torch.randn(1, 3, *size).repeat(2, 1, 1, 1)
    images[1, :, 8:16, 16:24] += 1  # row 1, column 2
    found, grid = queries_and_keys(encoder, images, [0, 2])
    assert grid == readable.grid and found[0][0].shape == found[2][1].shape == (2, grid[0] * grid[1], 2, 24)
    for queries_or_keys in found[0]:
        changed = (queries_or_keys[0] != queries_or_keys[1]).flatten(1).any(1).nonzero()[:, 0]
        assert changed.tolist() == [grid[1] + 2]


def test_they_are_the_outputs_of_the_projection_and_a_boosted_layer_has_those_of_both_channels():
    torch.manual_seed(0)
    encoder, images = VisionTransformer(**SHAPE).eval(), torch.randn(2, 3, 32, 32)
    kept = {}
    encoder.blocks[1].attn.qkv.register_forward_hook(lambda module, args, out: kept.update(out=out))
    queries, keys = queries_and_keys(encoder, images, [1])[0][1]
    packed = kept["out"][:, 1:].unflatten(-1, (3, 2, 24))
    assert torch.allclose(queries, packed[:, :, 0], atol=1e-6) and torch.allclose(keys, packed[:, :, 1], atol=1e-6)
    assert torch.equal(query_weight(encoder, 1), encoder.blocks[1].attn.qkv.weight[:48])
    sb.boost(encoder)
    both = queries_and_keys(encoder, images, [1])[0][1][0]
    assert both.shape[2] == 4 and torch.equal(both[:, :, :2], both[:, :, 2:])
    with torch.no_grad():
        for parameter in dict(sb.named_parameters(encoder)).values():
            parameter.add_(0.1 * torch.randn_like(parameter))
    both = queries_and_keys(encoder, images, [1])[0][1][0]
    assert not torch.allclose(both[:, :, :2], both[:, :, 2:])
    with sb.disabled(encoder):
        assert torch.allclose(queries_and_keys(encoder, images, [1])[0][1][0], queries, atol=1e-6)
    assert not [hook for module in encoder.modules() for hook in module._forward_pre_hooks]


def test_a_lora_is_a_part_of_the_projection():
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    encoder, images = VisionTransformer(**SHAPE).eval(), torch.randn(1, 3, 32, 32)
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["qkv"], init_lora_weights=False), encoder)
    kept = []
    encoder.blocks[0].attn.qkv.register_forward_hook(lambda module, args, out: kept.append(out))
    queries, _ = queries_and_keys(encoder, images, [0])[0][0]
    assert torch.allclose(queries, kept[0][:, 1:].unflatten(-1, (3, 2, 24))[:, :, 0], atol=1e-5)


def test_an_encoder_whose_queries_have_no_place_is_refused():
    for name, message in (
        ("pixtral", r"gets tokens \(1, 32, 48\) for 2 images of 16 patches: its queries cannot be placed on the grid"),
        ("yolos", "YolosModel has tokens after its patches, which is not supported here"),
    ):
        with pytest.raises(SpatialBoostError, match=message):
            queries_and_keys(READABLE[name].make(), torch.zeros(2, 3, 32, 32), [0])
    with pytest.raises(SpatialBoostError, match=r"no attention layer 7; it has \[0, 1\]"):
        query_weight(VisionTransformer(**SHAPE), 7)


class Marked(nn.Module):
    """Stands in for an encoder in a tally."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))


@pytest.fixture
def sequence():
    """Two views of 8 x 8 patches; each patch of the first is seen one patch further to the right in the second."""
    y, x = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    here = torch.stack([(x.flatten() + 0.5) / 8, (y.flatten() + 0.5) / 8], -1)
    visible = torch.stack([torch.ones(64, dtype=torch.bool), x.flatten() < 7])
    points = torch.stack([here, here + torch.tensor([1 / 8, 0])])
    return {
        "pixel_values": torch.zeros(2, 3, 8, 8),
        "points": points,
        "visible": visible,
        "places": torch.tensor([0, 3]),
    }


def tally_of(monkeypatch, sequence, queries, keys, radius):
    monkeypatch.setattr(
        "spatialboost.teachers.correspondence.measures.queries_and_keys",
        lambda encoder, pixels, layers: ({0: (queries, keys)}, (8, 8)),
    )
    tally = Tally(Marked(), [0], radius)
    tally.add(sequence)
    return tally.result({})


def test_queries_that_know_the_answer_are_all_right(monkeypatch, sequence):
    own = 20 * torch.eye(64)
    keys = own.roll(1, 0)  # patch j of the second view has the direction of patch j - 1 of the first
    queries, keys = (torch.stack([each, each])[:, :, None] for each in (own, keys))
    found = tally_of(monkeypatch, sequence, queries, keys, 0.5)
    assert found.pck == [1.0] and found.points == 56 and found.by_distance == {3: 1.0} and found.chance == 1 / 64
    assert math.isnan(found.confidence[0]) and found.robustness == {3: 1.0}
    wrong = tally_of(monkeypatch, sequence, queries, queries, 0.5)
    assert wrong.pck == [0.0] and tally_of(monkeypatch, sequence, queries, queries, 1.0).pck == [1.0]


def test_random_queries_are_as_good_as_chance_says(monkeypatch, sequence):
    torch.manual_seed(0)
    found = [
        tally_of(monkeypatch, sequence, torch.randn(2, 64, 1, 16), torch.randn(2, 64, 1, 16), 2.0) for _ in range(40)
    ]
    assert 0.15 < found[0].chance < 0.18
    assert np.mean([each.pck[0] for each in found]) == pytest.approx(found[0].chance, abs=0.02)


def test_confidence_that_knows_when_it_is_wrong_is_correlated():
    assert correlation(np.array([0.9, 0.8, 0.1, 0.2]), np.array([1.0, 1.0, 0.0, 0.0])) > 0.95
    assert math.isnan(correlation(np.ones(4), np.array([1.0, 0, 1, 0])))


def test_scenes_are_measured_and_bad_ones_are_named():
    torch.manual_seed(0)
    encoder = VisionTransformer(**WIDE).eval()
    scenes = render_scenes([2, 3], views=3, size=64)
    found = attention_matches(sb.boost(encoder), scenes, image_size=64, layers=[-1], base=True)
    assert found.layers == [1] and found.grid == (8, 8) and sorted(found.by_distance) == [1, 2]
    single = attention_matches(encoder, [scenes[0].__class__(scenes[0].views[:1]), *scenes], image_size=64, layers=[1])
    assert single.pck == found.pck and "no point" in single.skipped["0"] and "NaN" not in str(single.to_dict())
    with pytest.raises(SpatialBoostError, match="no sequence has a point that two views see, so nothing is measured"):
        attention_matches(encoder, [scenes[0].__class__(scenes[0].views[:1])], image_size=64)
