"""Depth probe: how much of a view's metric depth a linear map reads off frozen patch tokens."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from spatialboost.errors import SpatialBoostError
from spatialboost.probes.features import Features, each_encoder, load_views, read_both
from spatialboost.probes.result import Metric, Panel, ProbeResult, ProbeRow
from spatialboost.probes.ridge import Moments, sum_moments
from spatialboost.scenes.cues import Cues
from spatialboost.scenes.sources import Source

logger = logging.getLogger(__name__)

# Shape legend: V views, N patches, D width of the encoder, R ridges, H and W pixels of a depth map.

RIDGES = tuple(10.0**power for power in range(-6, 2))
METRICS = {
    "rmse": Metric("RMSE", "m"),
    "abs_rel": Metric("AbsRel"),
    "delta1": Metric("delta < 1.25", higher_is_better=True),
}
CONSTANT = "constant depth"

Target = Literal["log", "metres"]
PatchDepth = Literal["mean", "median"]
Level = Literal["pixels", "patches"]


def depth_probe(
    encoders: nn.Module | Mapping[str, nn.Module | tuple[Features, Features]],
    train: Source | Sequence[Cues],
    test: Source | Sequence[Cues],
    *,
    image_size: int | tuple[int, int] = 224,
    layer: int = -1,
    seeds: Sequence[int] = (0, 1, 2),
    target: Target = "log",
    patch_depth: PatchDepth = "mean",
    level: Level = "pixels",
    ridges: Sequence[float] = RIDGES,
    subset: float = 0.8,
    folds: int = 5,
    min_valid: float = 0.5,
    batch_size: int = 16,
    num_panels: int = 4,
    progress: bool = False,
) -> ProbeResult:
    """Fit ridge regression from patch tokens to depth, and measure it on views that were not fitted.

    Example:
        >>> import numpy as np
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> from spatialboost.scenes.cues import Cues
        >>> rng = np.random.default_rng(0)
        >>> def view(metres):
        ...     image = np.full((32, 32, 3), 40 * metres, np.uint8)
        ...     return Cues(image, np.full((32, 32), metres, np.float32), np.eye(3) * 30, f"wall at {metres} m")
        >>> walls = [view(metres) for metres in rng.uniform(1, 6, 12)]
        >>> encoder = VisionTransformer(img_size=32, patch_size=16, embed_dim=48, depth=2, num_heads=2, num_classes=0)
        >>> result = depth_probe({"mine": encoder}, walls[:9], walls[9:], image_size=32)
        >>> sorted(result.names)
        ['constant depth', 'mine']

    The fit is closed form, so the seeds draw the training views: each takes ``subset`` of them at random. The ridge is
    chosen on these by cross-validation over ``folds`` runs of views in the order given (frames of one walk resemble
    their neighbours: scattered folds would be too easy), then all of them are fitted with it. Every encoder gets the
    same draws. Features are standardised, ridges are relative to that. Predictions are clipped to the depths of the
    fitted patches. Scores are over all valid pixels of the test split together, which stays at its own resolution:
    predictions are enlarged bilinearly.

    The spread over seeds is that of the draws, on one and the same test split; how a gain is spread over the test
    views, `ProbeResult.views_won` says.

    Args:
        encoders: a boosted model, measured as ``"base"`` (within `spatialboost.disabled`) and as ``"boosted"``; or
            models by name, each as it is; or, instead of a model, its features of the training and test split as
            `read_features` gives them (of the views that can be read).
        train: views to fit on, in their natural order; read once and held in memory. One that cannot be read is left
            out and named.
        test: views to measure on.
        image_size: (height, width) at which the encoder sees the whole view, or one number for both.
        layer: block after which tokens are read; the final norm is applied to the last layer only.
        seeds: each one draw of the training views.
        target: regress the logarithm of the depth, or metres.
        patch_depth: a patch's depth is the mean or the median of its valid pixels.
        level: measure on pixels, or on patches.
        ridges: the grid to choose from.
        subset: share of the training views that a seed draws.
        folds: parts of these, each held out once to choose the ridge.
        min_valid: a patch counts where at least this share of its pixels has a reading.
        batch_size: views that go through the encoder at a time.
        num_panels: test views kept for the picture, evenly spaced, with the first seed's predictions.
        progress: show a progress bar.

    Raises:
        SpatialBoostError: too few views, an encoder that cannot be read, or features of other views.
    """
    _check_settings(target, patch_depth, level, seeds, ridges, subset, folds, min_valid)
    (train_views, left_out_train), (test_views, left_out_test) = load_views(train), load_views(test)
    if len(train_views) < 3 or not test_views:
        raise SpatialBoostError(
            f"{len(train_views)} views to fit on and {len(test_views)} to measure on can be read "
            f"({len(left_out_train) + len(left_out_test)} cannot); give at least 3 and 1"
        )
    draws = [_draw_views(len(train_views), seed, subset, folds) for seed in seeds]
    images = [[view.image_HW3 for view in views] for views in (train_views, test_views)]
    reading: dict[str, Any] = {"image_size": image_size, "layer": layer, "batch_size": batch_size, "progress": progress}

    rows, about, predictions = [], {}, {}
    for name, model, switched in each_encoder(encoders, reserved=CONSTANT):
        train_features, test_features = read_both(name, model, switched, *images, **reading)
        about[name] = train_features.about()
        depth_VN = _patch_depths(train_views, train_features, patch_depth, min_valid)
        fits = [_fit(train_features, depth_VN, draw, target, ridges) for draw in draws]
        predictions[name] = [_predict(fit, test_features, target) for fit in fits]
        truths = _truths(test_views, test_features, level, patch_depth, min_valid)
        scores = _score(predictions[name], truths, test_features.grid)
        rows += [
            ProbeRow(name, seed, metrics, {"ridge": fit.ridge}, per_view)
            for seed, fit, (metrics, per_view) in zip(seeds, fits, scores, strict=True)
        ]
    truths = _truths(test_views, test_features, level, patch_depth, min_valid)
    rows.append(_constant(depth_VN, truths, test_features))

    first = about[next(iter(about))]
    settings = {
        "head": "ridge, closed form",
        "target": "log depth" if target == "log" else "depth in metres",
        "patch depth": f"{patch_depth} where {min_valid:g} of the patch is known",
        "layer": first["layer"],
        "norm": first["norm"],
        "resolution": first["resolution"],
        "measured on": "pixels, predictions upsampled bilinearly" if level == "pixels" else "patches, not upsampled",
        "views": [len(train_views), len(test_views)],
        "left out": left_out_train + left_out_test,
        "seeds": list(seeds),
        "seeds draw": f"{subset:g} of the training views; {folds} folds of these choose the ridge",
        "ridges": list(ridges),
        "encoders": about,
    }
    panels = _panels(test_views, predictions, about, num_panels)
    return ProbeResult("depth", settings, METRICS, rows, panels)


@dataclass(frozen=True)
class _Fit:
    weight_D: Tensor
    bias: Tensor
    ridge: float
    nearest: float  # range of the fitted depths, in metres
    farthest: float


def _check_settings(
    target: str,
    patch_depth: str,
    level: str,
    seeds: Sequence[int],
    ridges: Sequence[float],
    subset: float,
    folds: int,
    min_valid: float,
) -> None:
    for name, value, allowed in (
        ("target", target, ("log", "metres")),
        ("patch_depth", patch_depth, ("mean", "median")),
        ("level", level, ("pixels", "patches")),
    ):
        if value not in allowed:
            raise SpatialBoostError(f"{name} is {value!r}; expected one of {allowed}")
    if not len(seeds) or not len(ridges) or min(ridges) < 0:
        raise SpatialBoostError(
            f"seeds are {seeds} and ridges {ridges}; expected at least one each, ridges not below 0"
        )
    if not 0 < subset <= 1 or not 0 < min_valid <= 1 or folds < 2:
        raise SpatialBoostError(
            f"subset is {subset}, min_valid {min_valid} and folds {folds}; expected shares above 0 and up to 1, and at "
            "least 2 folds"
        )


def _draw_views(num: int, seed: int, subset: float, folds: int) -> list[np.ndarray]:
    """Indices of the drawn training views, cut into folds of neighbours."""
    drawn = np.random.default_rng(seed).permutation(num)[: max(2, round(subset * num))]
    return np.array_split(np.sort(drawn), min(folds, len(drawn)))


def _cells(view: Cues, features: Features) -> tuple[np.ndarray, np.ndarray]:
    """Depth of the pixels of each patch ``(N, pixels of a patch)``, NaN where there is no reading."""
    (rows, columns), (height, width) = features.grid, features.image_size
    # nearest neighbour: depths of two surfaces have no meaningful mean, and holes stay holes
    row = ((np.arange(height) + 0.5) * view.size[0] / height).astype(int)
    column = ((np.arange(width) + 0.5) * view.size[1] / width).astype(int)
    depth_hw = np.where(view.valid_HW, view.depth_HW, np.nan)[np.ix_(row, column)]
    cells = depth_hw.reshape(rows, height // rows, columns, width // columns).swapaxes(1, 2)
    cells = cells.reshape(rows * columns, -1)
    return cells, np.isfinite(cells).mean(1)


def _view_patches(view: Cues, features: Features, patch_depth: str, min_valid: float) -> np.ndarray:
    """Depth ``(N,)`` of each patch in metres, NaN where too little of it has a reading."""
    cells, share = _cells(view, features)
    enough = share >= min_valid
    depth_N = np.full(len(cells), np.nan)
    depth_N[enough] = (np.nanmean if patch_depth == "mean" else np.nanmedian)(cells[enough], axis=1)
    return depth_N


def _patch_depths(views: Sequence[Cues], features: Features, patch_depth: str, min_valid: float) -> Tensor:
    return torch.from_numpy(np.stack([_view_patches(view, features, patch_depth, min_valid) for view in views]))


def _fit(
    features: Features, depth_VN: Tensor, folds: Sequence[np.ndarray], target: str, ridges: Sequence[float]
) -> _Fit:
    """Choose the ridge by the squared error in metres over the folds, then fit all of them."""
    parts = []
    for views in folds:
        depth_vN = depth_VN[views]
        known_vN = depth_vN.isfinite()
        parts.append((features.tokens_VND[views][known_vN], depth_vN[known_vN]))
    parts = [(x_nD, depth_n) for x_nD, depth_n in parts if len(depth_n)]
    if len(parts) < 2:
        raise SpatialBoostError(
            f"only {len(parts)} of {len(folds)} folds of the training views have patches whose depth is known: give "
            "more views, or a smaller `min_valid`"
        )
    moments = [Moments.of(x_nD, depth_n.log() if target == "log" else depth_n) for x_nD, depth_n in parts]
    depths = torch.cat([depth_n for _, depth_n in parts])
    nearest, farthest = depths.min().item(), depths.max().item()
    error_R = torch.zeros(len(ridges), dtype=torch.float64)
    for held, (x_nD, depth_n) in enumerate(parts):
        weights_RD, biases_R = sum_moments(moments[:held] + moments[held + 1 :]).solve(ridges)
        guess_nR = _to_metres(x_nD.double() @ weights_RD.T + biases_R, target, nearest, farthest)
        error_R += (guess_nR - depth_n[:, None]).square().sum(0)
    ridge = ridges[int(error_R.argmin())]
    weights_1D, bias_1 = sum_moments(moments).solve([ridge])
    return _Fit(weights_1D[0], bias_1[0], ridge, nearest, farthest)


def _to_metres(guess: Tensor, target: str, nearest: float, farthest: float) -> Tensor:
    if target == "log":  # before the exponential, so that nothing overflows
        return guess.clamp(float(np.log(nearest)), float(np.log(farthest))).exp()
    return guess.clamp(nearest, farthest)


def _predict(fit: _Fit, features: Features, target: str) -> Tensor:
    """Depth ``(V, N)`` in metres."""
    guess_VN = torch.stack([tokens_ND.double() @ fit.weight_D for tokens_ND in features.tokens_VND]) + fit.bias
    return _to_metres(guess_VN, target, fit.nearest, fit.farthest)


def _truths(
    views: Sequence[Cues], features: Features, level: str, patch_depth: str, min_valid: float
) -> Iterator[Tensor]:
    """True depth of one view after the other, at pixels ``(H, W)`` or patches ``(rows, columns)``, NaN if unknown."""
    for view in views:
        if level == "pixels":
            yield torch.from_numpy(np.where(view.valid_HW, view.depth_HW, np.nan)).double()
        else:
            yield torch.from_numpy(_view_patches(view, features, patch_depth, min_valid)).view(features.grid)


def _enlarge(depth_N: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    enlarged = nn.functional.interpolate(depth_N.view(1, 1, *grid), size=size, mode="bilinear", align_corners=False)
    return enlarged[0, 0]


def _score(
    runs: Sequence[Tensor], truths: Iterator[Tensor], grid: tuple[int, int]
) -> list[tuple[dict[str, float], list[float]]]:
    """For each run's ``(V, N)``: the metrics over all known pixels, and the RMSE of each view."""
    sums = torch.zeros(len(runs), 4, dtype=torch.float64)  # pixels, squared, relative, within a quarter
    per_view: list[list[float]] = [[] for _ in runs]
    for index, truth in enumerate(truths):
        known = truth.isfinite()
        depth = truth[known]
        for run, predictions_VN in enumerate(runs):
            guess = predictions_VN[index]
            guess = guess.view(grid) if truth.shape == grid else _enlarge(guess, grid, (truth.shape[0], truth.shape[1]))
            guess = guess[known]
            error = guess - depth
            ratio = torch.maximum(guess / depth, depth / guess)
            found = error.square().sum(), (error.abs() / depth).sum(), (ratio < 1.25).sum()
            sums[run] += torch.tensor([len(depth), *(float(value) for value in found)], dtype=torch.float64)
            if len(depth):
                per_view[run].append((float(found[0]) / len(depth)) ** 0.5)
    scores = []
    for (num, squared, relative, within), views in zip(sums.tolist(), per_view, strict=True):
        if not num:
            raise SpatialBoostError(
                "no patch of the test views has a known depth: measure on pixels, or give a smaller `min_valid`"
            )
        metrics = {"rmse": (squared / num) ** 0.5, "abs_rel": relative / num, "delta1": within / num}
        scores.append((metrics, views))
    return scores


def _constant(depth_VN: Tensor, truths: Iterator[Tensor], features: Features) -> ProbeRow:
    """What the mean training depth everywhere would score: an encoder that says nothing."""
    metres = depth_VN[depth_VN.isfinite()].mean()
    guess_VN = metres.expand(features.tokens_VND.shape[:2])
    metrics, per_view = _score([guess_VN], truths, features.grid)[0]
    return ProbeRow(CONSTANT, None, metrics, {"metres": float(metres)}, per_view)


def _panels(
    views: Sequence[Cues], predictions: Mapping[str, list[Tensor]], about: Mapping[str, Any], num: int
) -> list[Panel]:
    panels = []
    for index in sorted({round(place) for place in np.linspace(0, len(views) - 1, min(num, len(views)))}):
        view = views[index]
        guesses = {
            name: _enlarge(runs[0][index], tuple(about[name]["grid"]), view.size).numpy()
            for name, runs in predictions.items()
        }
        truth = np.where(view.valid_HW, view.depth_HW, np.nan)
        panels.append(Panel(view.source, view.image_HW3, truth, guesses))
    return panels
