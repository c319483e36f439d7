"""Both losses against slow formulas of their own, and the properties that the paper's description implies."""

from __future__ import annotations

import math

import pytest
import torch

from spatialboost.errors import SpatialBoostError
from spatialboost.teachers.correspondence.heads import Head, build_heads, start_head
from spatialboost.teachers.correspondence.losses import at_points, contrast, counted_negatives, depth_agreement

GRID = (2, 3)


@pytest.fixture
def world():
    torch.manual_seed(0)
    maps = torch.randn(2, 3, 6, 5)  # two layers, three views, six patches
    points, visible = torch.rand(3, 4, 2), torch.rand(3, 4) > 0.3
    visible[0] = True
    return maps, points, visible


def slow_contrast(embedded, points, visible, apart, temperature, across):
    total, places = 0.0, points * torch.tensor([3.0, 2.0])
    for view in range(1, len(points)):
        for i in range(points.shape[1]):
            if not (visible[view, i] and visible[0, i]):
                continue
            anchor, wrong = embedded[0, i], []
            for other in range(1, len(points)) if across else [view]:
                for k in range(points.shape[1]):
                    far = math.dist(places[other, k].tolist(), places[other, i].tolist()) >= apart
                    if k != i and visible[other, k] and far:
                        wrong.append(math.exp(float(anchor @ embedded[other, k]) / temperature))
            right = math.exp(float(anchor @ embedded[view, i]) / temperature)
            total -= math.log(right / (right + sum(wrong)))
    return total


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("apart", [0.0, 0.7])
def test_contrast_is_the_formula(world, across, apart):
    maps, points, visible = world
    embedded = at_points(maps, GRID, points)
    negatives = counted_negatives(points, visible, GRID, apart)
    found = contrast(embedded, visible, negatives, temperature=0.2, across=across)
    slow = [slow_contrast(each, points, visible, apart, 0.2, across) for each in embedded]
    assert torch.allclose(found, torch.tensor(slow), rtol=1e-4)


def test_further_negatives_are_added_to_the_others(world):
    maps, points, visible = world
    embedded, negatives = at_points(maps, GRID, points), torch.zeros(2, 4, 4, dtype=torch.bool)
    far, valid = torch.nn.functional.normalize(torch.randn(2, 2, 4, 3, 5), dim=-1), torch.rand(2, 4, 3) > 0.4
    found = contrast(embedded, visible, negatives, temperature=0.2, far_LGTRE=far, far_valid_GTR=valid)
    slow = 0.0
    for view in (1, 2):
        for i in visible[view].nonzero()[:, 0].tolist():
            scores = (far[0, view - 1, i] @ embedded[0, 0, i] / 0.2).exp()[valid[view - 1, i]].sum()
            right = (embedded[0, 0, i] @ embedded[0, view, i] / 0.2).exp()
            slow -= float((right / (right + scores)).log())
    assert found[0] == pytest.approx(slow, rel=1e-4)


def test_embeddings_of_one_direction_for_each_patch_have_no_loss():
    """One-hot embeddings: the right patch and no other is similar, so both losses vanish."""
    maps = torch.eye(6)[None, None].expand(1, 2, 6, 6)
    y, x = torch.meshgrid(torch.arange(2), torch.arange(3), indexing="ij")
    points = torch.stack([(x.flatten() + 0.5) / 3, (y.flatten() + 0.5) / 2], -1).expand(2, 6, 2)
    visible, depths = torch.ones(2, 6, dtype=torch.bool), torch.arange(1.0, 7).expand(2, 6)
    for sample in ("bilinear", "nearest"):
        embedded = at_points(maps, GRID, points, sample)
        assert torch.allclose(embedded[0, 1], torch.eye(6), atol=1e-5)
        negatives = counted_negatives(points, visible, GRID, 1.0)
        assert negatives.sum() == 30 and contrast(embedded, visible, negatives, temperature=0.03) < 1e-5
        assert depth_agreement(embedded, maps, visible, depths, depths, temperature=0.03) < 1e-5


def test_the_depth_loss_is_the_formula_and_knows_no_unit(world):
    maps, points, visible = world
    embedded = at_points(maps, GRID, points)
    depths, patches = torch.rand(3, 4) + 1, torch.rand(3, 6) + 1
    patches[1, 2] = 0  # a patch without a reading has no part in the mean
    found = depth_agreement(embedded, maps, visible, depths, patches, temperature=0.3)
    slow = 0.0
    for view in (1, 2):
        for i in visible[view].nonzero()[:, 0].tolist():
            weights = [
                math.exp(float(torch.cosine_similarity(embedded[0, 0, i], maps[0, view, j], dim=0)) / 0.3)
                * float(patches[view, j] > 0)
                for j in range(6)
            ]
            guess = sum(w * float(d) for w, d in zip(weights, patches[view], strict=True)) / sum(weights)
            slow += abs(float(depths[view, i]) - guess) / (float(depths[view, i]) + guess + 1e-6)
    assert found[0] == pytest.approx(slow, rel=1e-4)
    scaled = depth_agreement(embedded, maps, visible, 7 * depths, 7 * patches, temperature=0.3)
    assert torch.allclose(scaled, found, rtol=1e-4) and (found < visible[1:].sum()).all()


def test_no_match_and_no_depth_give_no_loss_and_a_finite_gradient(world):
    maps, points, visible = world
    maps = maps.requires_grad_()
    visible = visible.clone()
    visible[1:] = False
    embedded = at_points(maps, GRID, points)
    one = contrast(embedded, visible, counted_negatives(points, visible, GRID, 1.0), temperature=0.07)
    two = depth_agreement(embedded, maps, ~visible, torch.ones(3, 4), torch.zeros(3, 6), temperature=0.07)
    (one + two).sum().backward()
    assert not (one + two).any() and torch.isfinite(maps.grad).all()


def test_a_head_starts_as_the_main_directions_of_the_queries():
    torch.manual_seed(0)
    query, tokens = torch.randn(48, 48), torch.randn(7, 48)
    head = build_heads({3: query}, 12, norm=False)["3"]
    _, values, vectors = torch.linalg.svd(query)
    expected = tokens @ (values[:12].sqrt()[:, None] * vectors[:12]).T
    assert torch.allclose(head(tokens).abs(), expected.abs(), atol=1e-5)
    truncated = build_heads({3: query}, 12, norm=False, start="truncated")["3"]
    assert torch.allclose(
        truncated(tokens).abs(), torch.nn.functional.gelu(truncated.first(tokens)[:, :12]).abs(), atol=1e-6
    )
    before = Head(48, 12)
    weights = before.first.weight.clone()
    start_head(before, query, "random")
    assert torch.equal(before.first.weight, weights)
    with pytest.raises(
        SpatialBoostError, match=r"width is 30.* needs 60 directions .*take teacher.width of at most 24"
    ):
        build_heads({3: query}, 30, start="truncated")
