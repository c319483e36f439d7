"""The normals probe against planes of known direction, rooms whose walls are known, and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from timm.models.vision_transformer import VisionTransformer

from spatialboost.errors import SpatialBoostError
from spatialboost.probes.features import Features
from spatialboost.probes.normals import CONSTANT, normals_probe, patch_normals, score_normals, view_normals
from spatialboost.scenes.cues import Cues
from spatialboost.scenes.rooms import Rooms

CAMERA = np.array([[60.0, 0, 31.5], [0, 60.0, 23.5], [0, 0, 1]])
SIZE, GRID = (48, 64), (6, 8)


def plane(normal, distance: float = 2.0, source: str = "plane") -> Cues:
    """A view of the points p with p . normal = -distance."""
    v, u = np.mgrid[: SIZE[0], : SIZE[1]]
    rays = np.stack([(u - 31.5) / 60, (v - 23.5) / 60, np.ones(SIZE)], -1)
    depth = -distance / (rays @ np.asarray(normal, float))
    return Cues(np.zeros((*SIZE, 3), np.uint8), depth.astype(np.float32), CAMERA, source)


def direction(rng) -> np.ndarray:
    normal = np.array([*rng.uniform(-0.6, 0.6, 2), -1.0])
    return normal / np.linalg.norm(normal)


@pytest.mark.parametrize("seed", range(4))
def test_a_plane_has_its_own_normal_everywhere(seed):
    normal = direction(np.random.default_rng(seed))
    found = view_normals(plane(normal))
    assert np.isnan(found[0]).all() and np.isnan(found[:, -1]).all()  # no neighbour on the other side
    np.testing.assert_allclose(found[1:-1, 1:-1], np.broadcast_to(normal, (46, 62, 3)), atol=1e-3)
    np.testing.assert_allclose(patch_normals(plane(normal), GRID, 0.5), np.broadcast_to(normal, (48, 3)), atol=1e-3)


def test_pixels_at_an_edge_and_without_reading_have_no_normal():
    view = plane((0, 0, -1.0))
    depth = view.depth_HW.copy()
    depth[:, 32:] = 4.0
    depth[20:24, 10:14] = 0.0
    found = view_normals(Cues(view.image_HW3, depth, CAMERA, "step"))
    assert np.isnan(found[:, 31:33]).all() and np.isnan(found[19:25, 10:14]).all()
    assert np.isfinite(found[1:-1, 2:8]).all() and np.isfinite(found[1:-1, 36:60]).all()


def test_rooms_are_made_of_floors_ceilings_and_upright_walls():
    for view in Rooms(4, size=96):
        normals = view_normals(view)
        up = normals[np.isfinite(normals[..., 0])] @ view.up_3
        straight = (np.abs(np.abs(up) - 1) < 0.02) | (np.abs(up) < 0.02)
        assert straight.mean() > 0.8 and (up > 0.98).any()  # the rest is of spheres


def views_and_features(num: int, seed: int):
    rng = np.random.default_rng(seed)
    views = [plane(direction(rng), source=f"{seed}:{index}") for index in range(num)]
    rng = np.random.default_rng(seed + 100)
    tokens = np.stack([patch_normals(view, GRID, 0.5) for view in views])
    mixed = tokens @ np.random.default_rng(7).normal(size=(3, 12)) + 0.05 * rng.normal(size=(num, 48, 12))
    return views, Features(torch.from_numpy(mixed).float(), None, GRID, SIZE, 0, "none")


def test_angles_are_those_of_scikit_learn_s_ridge():
    train, train_features = views_and_features(10, 0)
    test, test_features = views_and_features(4, 1)
    result = normals_probe({"some": (train_features, test_features)}, train, test, ridges=[0.1], subset=1.0, seeds=[0])
    x, x_test = (each.tokens_VND.double().reshape(-1, 12).numpy() for each in (train_features, test_features))
    y, y_test = (np.concatenate([patch_normals(view, GRID, 0.5) for view in views]) for views in (train, test))
    scale = x.std(0)
    theirs = Ridge(alpha=0.1 * len(x)).fit(x / scale, y).predict(x_test / scale)
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    degrees = np.degrees(np.arccos(np.clip((theirs * y_test).sum(1), -1, 1)))
    assert result.spread("some", "mean").mean == pytest.approx(degrees.mean(), abs=1e-3)
    assert result.spread("some", "within_11").mean == pytest.approx((degrees < 11.25).mean(), abs=1e-9)
    assert result.spread("some", "mean").mean < 0.6 * result.spread(CONSTANT, "mean").mean


def test_scores_of_known_angles():
    truth = torch.tensor([[[0.0, 0, -1], [0, 0, -1], [float("nan")] * 3]])
    turned = [[np.sin(np.radians(a)), 0, -np.cos(np.radians(a))] for a in (10, 25, 90)]
    metrics, per_view = score_normals(torch.tensor([turned]), truth)
    assert metrics["mean"] == pytest.approx(17.5) and per_view == [pytest.approx(17.5)]
    assert (metrics["within_11"], metrics["within_22"], metrics["within_30"]) == (0.5, 0.5, 1.0)


def test_an_encoder_on_rooms_and_wrong_options():
    torch.manual_seed(0)
    encoder = VisionTransformer(img_size=48, patch_size=8, embed_dim=48, depth=1, num_heads=2, num_classes=0)
    result = normals_probe({"mine": encoder}, Rooms(8, size=48), Rooms(3, first=50, size=48), image_size=48)
    assert len(result.panels) == 3 and result.spread("mine", "mean").num == 3
    with pytest.raises(SpatialBoostError, match="min_valid is 0"):
        normals_probe({"mine": encoder}, "rooms:3", "rooms:2", min_valid=0)
