from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from spatialboost.encoders import read_tokens
from spatialboost.errors import SpatialBoostError
from spatialboost.teachers.pixel import PixelObjective, patch_log_depth


@pytest.fixture
def objective() -> PixelObjective:
    torch.manual_seed(0)
    encoder = VisionTransformer(img_size=32, patch_size=16, embed_dim=48, depth=2, num_heads=2, num_classes=0)
    return PixelObjective(encoder)


def test_patch_depth_is_the_mean_of_its_valid_pixels():
    depth = torch.rand(2, 8, 6) + 0.5
    valid = torch.rand(2, 8, 6) > 0.5
    valid[0, :4, :3] = False
    target, known = patch_log_depth(depth, valid, (2, 2))
    assert known.tolist() == [[False, True, True, True], [True] * 4]
    block, mask = depth[1, 4:, 3:], valid[1, 4:, 3:]
    assert torch.allclose(target[1, 3], block[mask].log().mean(), atol=1e-6)


def test_unknown_depth_teaches_nothing(objective):
    images, depth = torch.randn(1, 3, 32, 32), torch.full((1, 32, 32), 2.0)
    depth[:, :16] = float("nan")
    depth[:, 16:, 16:] = 0
    expected = torch.nn.functional.smooth_l1_loss(objective.predict(images)[0, 1, 0].log(), torch.tensor(2.0).log())
    assert torch.allclose(objective(images, depth)["loss"], expected, atol=1e-6)
    with pytest.raises(SpatialBoostError, match="no patch of the batch has a valid depth"):
        objective(images, torch.zeros(1, 32, 32))


def test_learns_depth_that_shows(objective):
    # Brightness shows depth: a few steps must be enough to learn it.
    generator = torch.Generator().manual_seed(0)
    depth = torch.rand(16, 2, 2, generator=generator) * 3 + 0.5
    images = depth.log()[:, None].expand(-1, 3, -1, -1).repeat_interleave(16, 2).repeat_interleave(16, 3)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = objective(pixel_values=images, depth=depth)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    assert objective.predict(images).shape == (16, 2, 2)


def test_learns_classes_that_show():
    torch.manual_seed(0)
    encoder = VisionTransformer(img_size=32, patch_size=16, embed_dim=48, depth=2, num_heads=2, num_classes=0)
    objective = PixelObjective(encoder, depth=False, num_classes=3)
    # Brightness shows the class; one patch of each image has no label
    classes = torch.randint(0, 3, (16, 2, 2), generator=torch.Generator().manual_seed(0))
    images = (classes - 1.0)[:, None].expand(-1, 3, -1, -1).repeat_interleave(16, 2).repeat_interleave(16, 3)
    labels = classes.repeat_interleave(4, 1).repeat_interleave(4, 2)
    labels[:, :4, :4] = -100
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = objective(pixel_values=images, classes=labels)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    predicted = objective.predict_classes(images, (8, 8))
    centre = predicted[:, 6, 6] == classes[:, 1, 1]
    assert predicted.shape == (16, 8, 8) and centre.float().mean() > 0.8


def test_what_is_missing_is_named(objective):
    with pytest.raises(SpatialBoostError, match="has no `depth`"):
        objective(pixel_values=torch.zeros(1, 3, 32, 32))
    with pytest.raises(SpatialBoostError, match="neither pixel_values nor patch_features"):
        objective(depth=torch.ones(1, 2, 2))
    with pytest.raises(SpatialBoostError, match="give the objective `grid`"):
        objective(depth=torch.ones(1, 2, 2), patch_features=torch.zeros(1, 4, 48))
    with pytest.raises(SpatialBoostError, match="the objective has no head"):
        PixelObjective(objective.encoder, depth=False)


def test_cached_features_give_the_loss_of_pixels(objective):
    objective.grid = (2, 2)
    images, depth = torch.randn(2, 3, 32, 32), torch.rand(2, 8, 8) + 1
    features = read_tokens(objective.encoder, images).patches
    assert torch.equal(objective(images, depth)["loss"], objective(depth=depth, patch_features=features)["loss"])
    objective.encoder.requires_grad_(False)
    assert not objective.train().encoder.training and objective.depth_head.training
