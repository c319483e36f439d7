"""The fit of the depth probe: ridge regression from patch tokens to depth, its ridge chosen by cross-validation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from spatialboost.errors import SpatialBoostError
from spatialboost.probes.features import Features
from spatialboost.probes.ridge import Moments, sum_moments

# Shape legend: V views, N patches, n patches of known depth, D width of the tokens, R ridges.

Target = Literal["log", "metres"]


@dataclass(frozen=True)
class DepthFit:
    """A linear map from a patch token to the depth of its patch.

    Attributes:
        weight_D: weights of the map, float64.
        bias: bias of the map, float64.
        ridge: the chosen ridge.
        nearest: smallest of the fitted depths, in metres; predictions are clipped to the fitted range.
        farthest: largest of the fitted depths.
        target: what is regressed.
    """

    weight_D: Tensor
    bias: Tensor
    ridge: float
    nearest: float
    farthest: float
    target: Target

    def predict(self, features: Features) -> Tensor:
        """Predicted depth ``(V, N)`` in metres; views are computed one by one."""
        guess_VN = torch.stack([tokens_ND.double() @ self.weight_D for tokens_ND in features.tokens]) + self.bias
        return to_metres(guess_VN, self.target, self.nearest, self.farthest)


def fit_depth(
    features: Features, depth_VN: Tensor, folds: Sequence[np.ndarray], target: Target, ridges: Sequence[float]
) -> DepthFit:
    """Choose the ridge by the squared error in metres over the folds, then fit all folds together.

    Args:
        features: features of all training views.
        depth_VN: depth of their patches in metres, NaN where it is not known.
        folds: indices of the views in each fold.
        target: what is regressed: log depth, or metres.
        ridges: the ridges to choose from.

    Raises:
        SpatialBoostError: fewer than two folds have a patch whose depth is known.
    """
    parts = [views for views in folds if depth_VN[views].isfinite().any()]
    if len(parts) < 2:
        raise SpatialBoostError(
            f"only {len(parts)} of {len(folds)} folds of the training views have patches whose depth is known: give "
            "more views, or a smaller `min_valid`"
        )
    moments = [
        Moments.of_pieces(
            (x_nD, depth_n.log() if target == "log" else depth_n)
            for x_nD, depth_n in _known_patches(features, depth_VN, views)
        )
        for views in parts
    ]
    depths = depth_VN[np.concatenate(parts)]
    depths = depths[depths.isfinite()]
    nearest, farthest = depths.min().item(), depths.max().item()
    error_R = torch.zeros(len(ridges), dtype=torch.float64)
    for held_out, views in enumerate(parts):
        weights_RD, biases_R = sum_moments(moments[:held_out] + moments[held_out + 1 :]).solve(ridges)
        for x_nD, depth_n in _known_patches(features, depth_VN, views):
            guess_nR = to_metres(x_nD.double() @ weights_RD.T + biases_R, target, nearest, farthest)
            error_R += (guess_nR - depth_n[:, None]).square().sum(0)
    ridge = ridges[int(error_R.argmin())]
    weights_1D, bias_1 = sum_moments(moments).solve([ridge])
    return DepthFit(weights_1D[0], bias_1[0], ridge, nearest, farthest, target)


def to_metres(guess: Tensor, target: Target, nearest: float, farthest: float) -> Tensor:
    """Convert outputs of the linear map to depth in metres, clipped to the fitted range."""
    if target == "log":  # clipped before the exponential, so that nothing overflows
        return guess.clamp(float(np.log(nearest)), float(np.log(farthest))).exp()
    return guess.clamp(nearest, farthest)


def _known_patches(features: Features, depth_VN: Tensor, views: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
    """Tokens ``(n, D)`` and depths ``(n,)`` of the patches of known depth, view by view."""
    for view in views.tolist():
        known_N = depth_VN[view].isfinite()
        yield features.tokens[view][known_N], depth_VN[view][known_N]
