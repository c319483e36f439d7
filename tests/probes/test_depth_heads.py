"""Bins, SigLoss and the trained depth heads: against a second computation, and on views whose depth can be seen."""

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from spatialboost.errors import SpatialBoostError
from spatialboost.probes.depth import CONSTANT, depth_probe
from spatialboost.probes.depth_heads import BinnedDepth, DPTDepth, LinearDepth, sig_loss
from spatialboost.scenes.cues import Cues


def tiny_vit(depth: int = 4) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=depth, num_heads=2, num_classes=0)


def slopes(num: int, seed: int, slanted: bool = False) -> list[Cues]:
    """Views whose brightness is their depth, from 1 to 6 m; some pixels have no reading."""
    rng = np.random.default_rng(seed)
    views = []
    for index in range(num):
        near, far = rng.uniform(1, 2), rng.uniform(3, 6)
        depth = np.linspace(near, far, 40, dtype=np.float32)[:, None].repeat(48, 1)
        depth = depth + np.linspace(0, 0.9 if slanted else 0, 48, dtype=np.float32)
        image = (depth[..., None] * 36).astype(np.uint8).repeat(3, 2)
        depth[rng.random(depth.shape) < 0.3] = 0
        views.append(Cues(image, depth, np.diag([60.0, 60.0, 1.0]), f"slope {seed}:{index}"))
    return views


TRAIN, TEST = slopes(16, 0), slopes(4, 1)
SMALL = {"image_size": 32, "seeds": (0,), "steps": 60, "batch": 8, "rates": [0.01], "bins": 32, "max_depth": 7.0}


def test_bins_are_a_weighted_mean():
    outputs = torch.randn(2, 5, 3, 4)
    found = BinnedDepth(5, 0.5, 8.5)(outputs)
    for image, row, column in np.ndindex(2, 3, 4):
        weights = [max(0.0, float(value)) + 0.1 for value in outputs[image, :, row, column]]
        bins = [0.5, 2.5, 4.5, 6.5, 8.5]
        mean = sum(weight * depth for weight, depth in zip(weights, bins, strict=True)) / sum(weights)
        assert float(found[image, row, column]) == pytest.approx(mean, abs=1e-4)


def test_sig_loss_is_a_second_computation_s():
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.5, 9, (3, 6, 7))
    guess = truth * rng.uniform(0.6, 1.5, truth.shape)
    truth[rng.random(truth.shape) < 0.4] = np.nan
    known = np.isfinite(truth)
    g = np.log(guess[known] + 0.001) - np.log(truth[known] + 0.001)
    theirs = np.sqrt(np.var(g, ddof=1) + 0.15 * np.mean(g) ** 2)
    assert float(sig_loss(torch.from_numpy(guess), torch.from_numpy(truth))) == pytest.approx(theirs, abs=1e-9)
    nothing = torch.full((1, 2, 2), float("nan"))
    depth = torch.ones(1, 2, 2, requires_grad=True)
    sig_loss(depth, nothing).backward()
    assert (depth.grad == 0).all()
    sig_loss(depth, torch.ones(1, 2, 2)).backward()  # no error at all: the gradient stays finite
    assert depth.grad.isfinite().all()


def test_maps_are_finer_than_the_patches_and_every_weight_learns():
    bins = BinnedDepth(16, 0.1, 5.0)
    for head, fine in ((LinearDepth(64, (4, 6), bins), 4), (DPTDepth(256, (4, 6), bins, channels=16), 8)):
        width = 64 if fine == 4 else 256
        depth = head(torch.randn(2, 24, width))
        assert depth.shape == (2, 4 * fine, 6 * fine) and bool(((depth > 0.1) & (depth < 5)).all())
        depth.square().sum().backward()
        idle = [name for name, each in head.named_parameters() if each.grad is None or not each.grad.any()]
        # the deepest fusing layer of DPT has nothing to fuse with, so one of its parts rests, in transformers too
        assert all("fusion_stage.layers.0.residual_layer1" in name for name in idle)
    with pytest.raises(SpatialBoostError, match="are 100 wide; expected a multiple of 32"):
        DPTDepth(100, (4, 6), bins, channels=16)


@pytest.mark.parametrize(
    "settings",
    [
        {"head": "linear"},
        {"head": "linear", "features": "fresh", "flips": True, "zoom": [1.0, 1.3], "average": "views"},
        {"head": "dpt", "layer": "quarters", "channels": 8, "clip": 35.0, "warmup": 0.2, "steps": 40},
    ],
    ids=["stored", "fresh", "dpt"],
)
def test_a_trained_head_sees_the_depth(settings):
    result = depth_probe({"mine": tiny_vit()}, TRAIN, TEST, **{**SMALL, **settings})
    assert result.spread("mine", "rmse").mean < 0.5 * result.spread(CONSTANT, "rmse").mean
    assert result.spread("mine", "delta3").mean > result.spread("mine", "delta1").mean - 1e-9
    assert result.settings["bins"] == "32, uniform from 0.001 to 7 m" and result.settings["loss"] == "SigLoss"
    assert result.rows[0].chosen == {"rate": 0.01}
    again = depth_probe({"mine": tiny_vit()}, TRAIN, TEST, **{**SMALL, **settings})
    assert again.to_dict() == result.to_dict()


def test_mirrored_views_are_turned_back_before_the_mean():
    """On views whose depth changes from left to right, a mean with a map that is not turned back would be flat."""
    train, test = slopes(16, 0, slanted=True), slopes(4, 1, slanted=True)
    both = {
        flips: depth_probe({"mine": tiny_vit()}, train, test, image_size=32, flips=flips) for flips in (False, True)
    }
    assert both[True].values("mine", "rmse") != both[False].values("mine", "rmse")
    assert both[True].spread("mine", "rmse").mean < 1.15 * both[False].spread("mine", "rmse").mean
    assert both[True].settings["mirrored views in the test"] == "yes"


def test_what_is_out_of_range_or_of_the_crop_is_not_measured():
    near = depth_probe({"mine": tiny_vit()}, TRAIN, TEST, **{**SMALL, "head": "linear", "max_depth": 2.5})
    assert near.spread("mine", "rmse").mean < 1.0  # depths up to 6 m would be missed by more
    whole = depth_probe({"mine": tiny_vit()}, TRAIN, TEST, image_size=32)
    cropped = depth_probe({"mine": tiny_vit()}, TRAIN, TEST, image_size=32, crop="eigen")
    assert cropped.values("mine", "rmse") != whole.values("mine", "rmse") and cropped.settings["crop"] == "eigen"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"head": "mlp"}, "head is 'mlp'; expected one of"),
        ({"head": "dpt"}, "needs four layers, and the features are those of 1: give layer 'quarters'"),
        ({"head": "linear", "bins": 1}, "bins are 1"),
        ({"head": "linear", "min_depth": 9.0}, "two rising depths"),
        ({"head": "linear", "level": "patches"}, "measure on pixels"),
        ({"features": "fresh"}, "give head linear or dpt"),
        ({"head": "linear", "zoom": [2.0, 1.0]}, "zoom is"),
        ({"head": "linear", "warmup": 1.5}, "warmup 1.5"),
        ({"head": "linear", "optimiser": "lbfgs"}, "optimiser is 'lbfgs'"),
        ({"crop": "middle"}, "crop is 'middle'"),
        ({"layer": "thirds"}, "layer is 'thirds'"),
    ],
)
def test_wrong_settings_say_what_is_right(settings, message):
    with pytest.raises(SpatialBoostError, match=message):
        depth_probe({"mine": tiny_vit()}, TRAIN, TEST, **{**SMALL, **settings})
