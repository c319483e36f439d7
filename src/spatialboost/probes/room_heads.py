"""Linear depth heads fitted on procedural rooms, for pictures of images without depth; they are kept in a cache."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from spatialboost.probes.cache_folder import cache_folder
from spatialboost.probes.depth_scores import score_depths
from spatialboost.probes.encoder_facts import encoder_facts
from spatialboost.probes.features import Features, each_encoder, read_features
from spatialboost.probes.patch_depth import known_depth, patch_depths
from spatialboost.probes.ridge_fit import RIDGES, RidgeFit, fit_ridge
from spatialboost.scenes.dataset.files import replace_file
from spatialboost.scenes.rooms import Rooms
from spatialboost.weights.tensor_file import digest

logger = logging.getLogger(__name__)

# Shape legend: V views, N patches, R ridges, D width of the tokens, T = 1 target.

FIT_ON, MEASURE_ON = 48, 16  # rooms
FIRST = 700_000  # number of the first of these rooms; trainings begin at room 0
_FOLDS = 4
_VERSION = 1  # change it when older heads must not be used any more


@dataclass(frozen=True)
class RoomHead:
    """A linear map from a patch token to the logarithm of the depth of its patch.

    Attributes:
        fit: the map.
        nearest: smallest of the fitted depths in metres; predictions are clipped to the fitted range.
        farthest: largest of the fitted depths.
    """

    fit: RidgeFit
    nearest: float
    farthest: float

    def predict(self, tokens_ND: Tensor) -> Tensor:
        """The depth of each patch ``(N,)`` in metres, float64."""
        return _metres(self.fit.predict(tokens_ND)[..., 0], self.nearest, self.farthest)


@dataclass(frozen=True)
class RoomHeads:
    """Depth heads of some encoders.

    Attributes:
        fits: the head of each encoder.
        rmse: its error in metres on rooms that it was not fitted on.
    """

    fits: Mapping[str, RoomHead]
    rmse: Mapping[str, float]


def room_heads(encoder: nn.Module, *, image_size: int, layer: int, progress: bool = False) -> RoomHeads:
    """Fit the head of the depth probe on procedural rooms, for the base and for the boosted encoder.

    Example:
        >>> import spatialboost as sb, timm
        >>> encoder = sb.boost(timm.create_model("vit_tiny_patch16_224", depth=1, img_size=32, num_classes=0))
        >>> room_heads(encoder, image_size=32, layer=-1).rmse.keys()  # doctest: +SKIP
        dict_keys(['base', 'boosted'])

    The heads are kept in the user's cache and read from there for the same weights, size and layer.

    Args:
        encoder: a boosted encoder.
        image_size: side in pixels at which images are read.
        layer: block after which tokens are read.
        progress: show a progress bar.

    Raises:
        SpatialBoostError: the encoder cannot be read.
    """
    facts = encoder_facts(encoder)
    identity = [_VERSION, facts["weights"], facts["delta"], image_size, layer, FIRST, FIT_ON, MEASURE_ON]
    known = facts["weights"] is not None and facts["delta"] is not None
    file = cache_folder("room-heads") / f"{digest(json.dumps(identity).encode())}.safetensors"
    if known and (found := _load(file)) is not None:
        return found
    fits, rmse = {}, {}
    rooms = Rooms(FIT_ON + MEASURE_ON, first=FIRST, size=image_size)
    views = [rooms[number] for number in range(len(rooms))]
    for name, model, switched in each_encoder(encoder, reserved=""):
        with switched():
            title = f"depth head of {name}, fitted once on rooms" if progress else None
            features = read_features(model, views, image_size=image_size, layer=layer, progress=title)
        depth_VN1 = torch.from_numpy(
            np.stack(
                [patch_depths(known_depth(view), features.grid, features.image_size, "mean", 0.5) for view in views]
            )
        )[..., None]
        fits[name] = head = _fit(replace(features, tokens=features.tokens_VND[:FIT_ON]), depth_VN1[:FIT_ON])
        pairs = (
            ([head.predict(features.tokens[view]).view(features.grid)], depth_VN1[view, :, 0].view(features.grid))
            for view in range(FIT_ON, len(views))
        )
        rmse[name] = score_depths(pairs)[0][0]["rmse"]
    heads = RoomHeads(fits, rmse)
    if known:
        _save(file, heads)
    return heads


def _fit(features: Features, depth_VN1: Tensor) -> RoomHead:
    known = depth_VN1[depth_VN1.isfinite()]
    nearest, farthest = known.min().item(), known.max().item()

    def error(guess_nR1: Tensor, log_n1: Tensor) -> Tensor:
        return (_metres(guess_nR1[..., 0], nearest, farthest) - log_n1.exp()).square().sum(0)

    folds = np.array_split(np.arange(len(depth_VN1)), _FOLDS)
    return RoomHead(fit_ridge(features, depth_VN1.log(), folds, RIDGES, error, noun="depth"), nearest, farthest)


def _metres(log_depth: Tensor, nearest: float, farthest: float) -> Tensor:
    return log_depth.clamp(math.log(nearest), math.log(farthest)).exp()


def _save(file: Path, heads: RoomHeads) -> None:
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for name, head in heads.fits.items():
        tensors |= {
            f"{name}.weights": head.fit.weights_DT.contiguous(),
            f"{name}.biases": head.fit.biases_T.contiguous(),
        }
        about = {"nearest": head.nearest, "farthest": head.farthest}
        numbers[name] = {"ridge": head.fit.ridge, "rmse": heads.rmse[name], "range": about}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, save(tensors, {"heads": json.dumps(numbers)}))
    except OSError as error:
        logger.warning("the depth heads are not kept for the next time: %s", error)


def _load(file: Path) -> RoomHeads | None:
    """The heads in a file; None if it does not exist or cannot be read."""
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="pt") as opened:
            numbers: dict[str, Any] = json.loads(opened.metadata()["heads"])
            fits = {}
            for name, about in numbers.items():
                weights_DT, biases_T = (opened.get_tensor(f"{name}.{key}") for key in ("weights", "biases"))
                fits[name] = RoomHead(RidgeFit(weights_DT, biases_T, about["ridge"]), **about["range"])
        return RoomHeads(fits, {name: about["rmse"] for name, about in numbers.items()})
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s cannot be read (%s); the heads are fitted again", file, type(error).__name__)
        return None
