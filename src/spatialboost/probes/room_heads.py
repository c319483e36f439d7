"""Linear depth heads fitted on procedural rooms, for pictures of images without depth; they are kept in a cache."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from spatialboost.probes.cache_folder import cache_folder
from spatialboost.probes.depth import RIDGES
from spatialboost.probes.depth_fit import DepthFit, fit_depth
from spatialboost.probes.depth_scores import score_depths
from spatialboost.probes.encoder_facts import encoder_facts
from spatialboost.probes.features import each_encoder, read_features
from spatialboost.probes.patch_depth import patch_depths
from spatialboost.scenes.dataset.files import replace_file
from spatialboost.scenes.rooms import Rooms
from spatialboost.weights.tensor_file import digest

logger = logging.getLogger(__name__)

FIT_ON, MEASURE_ON = 48, 16  # rooms
FIRST = 700_000  # number of the first of these rooms; trainings begin at room 0
_FOLDS = 4
_VERSION = 1  # change it when older heads must not be used any more


@dataclass(frozen=True)
class RoomHeads:
    """Depth heads of some encoders.

    Attributes:
        fits: the head of each encoder.
        rmse: its error in metres on rooms that it was not fitted on.
    """

    fits: Mapping[str, DepthFit]
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
        depth_VN = torch.from_numpy(
            np.stack([patch_depths(view, features.grid, features.image_size, "mean", 0.5) for view in views])
        )
        tokens_VND = features.tokens_VND
        fitted, measured = (
            replace(features, tokens=part, cls_VD=None) for part in (tokens_VND[:FIT_ON], tokens_VND[FIT_ON:])
        )
        fits[name] = fit_depth(fitted, depth_VN[:FIT_ON], np.array_split(np.arange(FIT_ON), _FOLDS), "log", RIDGES)
        truths = (depth_N.view(features.grid) for depth_N in depth_VN[FIT_ON:])
        rmse[name] = score_depths([fits[name].predict(measured)], truths, features.grid)[0][0]["rmse"]
    heads = RoomHeads(fits, rmse)
    if known:
        _save(file, heads)
    return heads


def _save(file: Path, heads: RoomHeads) -> None:
    tensors: dict[str, torch.Tensor] = {}
    numbers: dict[str, Any] = {}
    for name, fit in heads.fits.items():
        about = asdict(fit)
        tensors |= {f"{name}.{key}": about.pop(key).contiguous() for key in ("weight_D", "bias")}
        numbers[name] = {**about, "rmse": heads.rmse[name]}
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
            numbers = json.loads(opened.metadata()["heads"])
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 - not a mapping
        rmse = {name: about.pop("rmse") for name, about in numbers.items()}
        fits = {
            name: DepthFit(weight_D=tensors[f"{name}.weight_D"], bias=tensors[f"{name}.bias"], **about)
            for name, about in numbers.items()
        }
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s cannot be read (%s); the heads are fitted again", file, type(error).__name__)
        return None
    return RoomHeads(fits, rmse)
