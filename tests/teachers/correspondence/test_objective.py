"""The objective: gradients, batches of sequences of different length, layers, and what it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import spatialboost as sb
from spatialboost.encoders import image_preparation
from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.rooms.render import render_scenes
from spatialboost.scenes.scene import Scene
from spatialboost.teachers.correspondence import CorrespondenceObjective, CorrespondenceOptions
from spatialboost.teachers.correspondence.objective import stack_sequences, supervised_layers
from spatialboost.teachers.correspondence.sequences import Sequences

SHAPE = {"img_size": 64, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 2, "num_classes": 0}
OPTIONS = {"frames": (2, 3), "grids": [6], "width": 16}


@pytest.fixture
def encoder() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(**SHAPE).eval()


def batch_of(encoder, scenes, **options) -> dict:
    preparation = image_preparation(encoder)
    made = Sequences(
        lambda row: preparation(row["images"], (64, 64)), (8, 8), CorrespondenceOptions(**OPTIONS, **options)
    )
    examples = [made.of_scene(scene, np.random.default_rng(0)) for scene in scenes]
    pixels = torch.cat([example.pop("pixel_values") for example in examples])
    return {"pixel_values": pixels, **stack_sequences(examples)}


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    three = render_scenes(range(2, 5), views=3, size=64)
    return [three[0], Scene(three[1].views[:2]), three[2]]


def test_sequences_of_different_length_together_are_those_alone(encoder, scenes):
    """However rows are cut into batches, the loss divided by all matches is the same."""
    for options in ({}, {"epipolar": 4, "negatives": "frames", "over_layers": "sum", "sample": "nearest"}):
        objective = CorrespondenceObjective(encoder, CorrespondenceOptions(**OPTIONS, **options))
        together = batch_of(encoder, scenes, **options)
        items = objective.num_items(together)
        alone = [batch_of(encoder, [scene], **options) for scene in scenes]
        assert items == sum(objective.num_items(each) for each in alone) > 50
        parts = [objective(**each, num_items_in_batch=items)["loss"] for each in alone]
        assert torch.allclose(sum(parts), objective(**together)["loss"], rtol=1e-4)


def test_each_head_reaches_the_blocks_before_it_and_no_block_after_it(encoder, scenes):
    sb.boost(encoder)
    objective = CorrespondenceObjective(encoder, CorrespondenceOptions(**OPTIONS, layers=[1]), layer=1)
    objective(**batch_of(encoder, scenes))["loss"].backward()
    reached = {
        int(name.split(".")[1])
        for name, parameter in sb.named_parameters(encoder)
        if parameter.grad is not None and parameter.grad.any()
    }
    assert reached == {0, 1}
    assert all(p.grad.any() for p in objective.heads.parameters()) and sorted(objective.heads) == ["1"]


def test_heads_change_nothing_in_the_encoder(encoder):
    images = torch.randn(1, 3, 64, 64)
    before = encoder(images)
    objective = CorrespondenceObjective(encoder, CorrespondenceOptions(**OPTIONS))
    assert torch.equal(objective.encoder(images), before)


def test_layers_that_cannot_be_taught_are_refused(encoder):
    assert supervised_layers(encoder, None, -2) == [0, 1]
    with pytest.raises(
        SpatialBoostError, match=r"teacher.layers ends at block 1, and layer: -1 reads block 2: .*layer: 1"
    ):
        CorrespondenceObjective(encoder, CorrespondenceOptions(**OPTIONS, layers=[0, 1]))
    with pytest.raises(SpatialBoostError, match=r"width is 64, .* needs 64 directions .* of at most 48"):
        CorrespondenceObjective(encoder, CorrespondenceOptions(width=64))


def test_attn_plus_learns_to_match_and_more_than_from_exchanged_matches(encoder, scenes):
    sb.boost(encoder)
    objective = CorrespondenceObjective(encoder, CorrespondenceOptions(**OPTIONS))
    batch = batch_of(encoder, scenes)
    optimizer = torch.optim.AdamW(
        [*dict(sb.named_parameters(encoder)).values(), *objective.heads.parameters()], lr=2e-3
    )
    losses = []
    for _ in range(12):
        found = objective(**batch)
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
        losses.append([float(found[name]) for name in ("contrast", "depth")])
    assert losses[-1][0] < 0.9 * losses[0][0] and losses[-1][1] < losses[0][1]
