"""Ridge regression from patch tokens to what is known of each patch; the ridge is chosen by cross-validation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spatialboost.errors import SpatialBoostError
from spatialboost.probes.features import Features
from spatialboost.probes.ridge import Moments, sum_moments

# Shape legend: V views, N patches, n patches whose truth is known, D width of the tokens, R ridges, T targets.

RIDGES = tuple(10.0**power for power in range(-6, 2))


@dataclass(frozen=True)
class RidgeFit:
    """A linear map from a patch token to the targets of its patch.

    Attributes:
        weights_DT: weights of the map, float64.
        biases_T: biases of the map, float64.
        ridge: the chosen ridge.
    """

    weights_DT: Tensor
    biases_T: Tensor
    ridge: float

    def predict(self, tokens_ND: Tensor) -> Tensor:
        """Predicted targets ``(N, T)`` of the patches of one view, float64."""
        return tokens_ND.double() @ self.weights_DT + self.biases_T


def fit_ridge(
    features: Features,
    targets_VNT: Tensor,
    folds: Sequence[np.ndarray],
    ridges: Sequence[float],
    error: Callable[[Tensor, Tensor], Tensor],
    *,
    noun: str,
) -> RidgeFit:
    """Choose the ridge by the error over the folds, then fit all folds together.

    Args:
        features: features of all training views.
        targets_VNT: targets of their patches, NaN where they are not known.
        folds: indices of the views in each fold; each is held out once.
        ridges: the ridges to choose from.
        error: the error of predictions ``(n, R, T)`` for each ridge ``(R,)``, summed over patches, given the true
            targets ``(n, T)``.
        noun: what is predicted, for messages.

    Raises:
        SpatialBoostError: fewer than two folds have a patch whose targets are known.
    """
    parts = [views for views in folds if targets_VNT[views].isfinite().any()]
    if len(parts) < 2:
        raise SpatialBoostError(
            f"only {len(parts)} of {len(folds)} folds of the training views have patches whose {noun} is known: give "
            "more views, or a smaller `min_valid`"
        )
    moments = [Moments.of_pieces(_known_patches(features, targets_VNT, views)) for views in parts]
    error_R = torch.zeros(len(ridges), dtype=torch.float64)
    for held_out, views in enumerate(parts):
        weights_RDT, biases_RT = sum_moments(moments[:held_out] + moments[held_out + 1 :]).solve(ridges)
        for x_nD, y_nT in _known_patches(features, targets_VNT, views):
            error_R += error(torch.einsum("nd,rdt->nrt", x_nD.double(), weights_RDT) + biases_RT, y_nT)
    ridge = ridges[int(error_R.argmin())]
    weights_1DT, biases_1T = sum_moments(moments).solve([ridge])
    return RidgeFit(weights_1DT[0], biases_1T[0], ridge)


def _known_patches(features: Features, targets_VNT: Tensor, views: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
    """Tokens ``(n, D)`` and targets ``(n, T)`` of the patches whose targets are known, view by view."""
    for view in views.tolist():
        known_N = targets_VNT[view].isfinite().all(-1)
        yield features.tokens[view][known_N], targets_VNT[view][known_N]
