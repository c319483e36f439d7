"""Normals probe: how well a linear map predicts the direction of the surface from frozen patch tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from spatialboost.errors import SpatialBoostError
from spatialboost.probes.draws import Draw
from spatialboost.probes.inputs import ViewSplits
from spatialboost.probes.measures import Metric, ProbeRow
from spatialboost.probes.normals_panel import NormalsPanel
from spatialboost.probes.options import CommonOptions
from spatialboost.probes.protocol import Measured, Probe, ReadSplit
from spatialboost.probes.result import ProbeResult
from spatialboost.probes.ridge_fit import RIDGES, fit_ridge
from spatialboost.probes.run import Encoders, run_probe
from spatialboost.scenes.camera import unproject
from spatialboost.scenes.cues import Cues
from spatialboost.scenes.sources import Source

# Shape legend: V views, N patches, n patches whose normal is known, R ridges, T = 3 coordinates, H and W pixels.

CONSTANT = "constant normal"
_EDGE = 0.05  # of the depth; neighbouring pixels that differ by more are on two surfaces


@dataclass(frozen=True)
class NormalsProbe(Probe):
    """Linear probe of surface normals: ridge regression from patch tokens to the normal of the patch.

    `normals_probe` describes the method.

    Raises:
        SpatialBoostError: an option that is out of its range.
    """

    name = "normals"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "mean": Metric("mean error", "degrees"),
        "median": Metric("median error", "degrees"),
        "within_11": Metric("within 11.25 degrees", higher_is_better=True),
        "within_22": Metric("within 22.5 degrees", higher_is_better=True),
        "within_30": Metric("within 30 degrees", higher_is_better=True),
    }
    splits = ViewSplits
    baseline = CONSTANT

    folds: Annotated[int, "Parts of the training views, each held out once to choose the ridge."] = 5
    min_valid: Annotated[float, "A patch counts where at least this share of its pixels has a normal."] = 0.5
    ridges: Sequence[float] = RIDGES

    def __post_init__(self) -> None:
        if not 0 < self.min_valid <= 1 or self.folds < 2 or not len(self.ridges) or min(self.ridges) < 0:
            raise SpatialBoostError(
                f"min_valid is {self.min_valid}, folds {self.folds} and ridges {self.ridges}; expected a share above 0 "
                "and up to 1, at least 2 folds, and at least one ridge, none below 0"
            )

    def keep(self, item: Cues, grid: tuple[int, int], image_size: tuple[int, int]) -> np.ndarray:
        """The normal of each patch ``(N, 3)``, NaN where it is not known."""
        return patch_normals(item, grid, self.min_valid)

    def measure(
        self, name: str, train: ReadSplit, test: ReadSplit, draws: Sequence[Draw], shown: Sequence[int]
    ) -> Measured:
        """Fit each draw, predict and score the test views; `shown` of the result has the predicted normals."""
        normal_VN3, truth_VN3 = _stack(train), _stack(test)
        rows, first = [], None
        for draw in draws:
            fit = fit_ridge(train.features, normal_VN3, draw.folds(self.folds), self.ridges, _angles, noun="normal")
            guesses = [nn.functional.normalize(fit.predict(tokens), dim=-1) for tokens in test.features.tokens]
            guess_VN3 = torch.stack(guesses)
            metrics, per_view = score_normals(guess_VN3, truth_VN3)
            rows.append(ProbeRow(name, draw.seed, metrics, {"ridge": fit.ridge}, per_view))
            first = guess_VN3 if first is None else first
        assert first is not None
        return Measured(rows, [first[index].view(*test.features.grid, 3) for index in shown])

    def measure_baseline(self, train: ReadSplit, test: ReadSplit) -> ProbeRow:
        """The score of the mean training normal everywhere."""
        normal_VN3, truth_VN3 = _stack(train), _stack(test)
        mean_3 = nn.functional.normalize(normal_VN3[normal_VN3.isfinite().all(-1)].mean(0), dim=0)
        metrics, per_view = score_normals(mean_3.expand_as(truth_VN3), truth_VN3)
        return ProbeRow(CONSTANT, None, metrics, {}, per_view)

    def settings(self, train: ReadSplit, test: ReadSplit) -> dict[str, Any]:
        """The options as text for the result."""
        return {
            "head": "ridge, closed form, one for each component",
            "normals": f"of the depth map; the mean of a patch where {self.min_valid:g} of its pixels have one",
            "measured on": "patches, not upsampled",
            "ridges": list(self.ridges),
            "ridge chosen by": f"the mean error over {self.folds} folds of the drawn views",
        }

    def panel(self, item: Cues, shown: Mapping[str, Tensor]) -> NormalsPanel:
        """A picture with image, true normals and the predictions of the first run."""
        grid = next(iter(shown.values())).shape[:2]
        truth = patch_normals(item, (grid[0], grid[1]), self.min_valid).reshape(*grid, 3)
        return NormalsPanel(item.source, item.image_HW3, truth, {name: each.numpy() for name, each in shown.items()})


def normals_probe(
    encoders: Encoders,
    train: Source | Sequence[Cues] | str,
    test: Source | Sequence[Cues] | str,
    *,
    image_size: int | tuple[int, int] = 224,
    layer: int | Sequence[int] = -1,
    seeds: Sequence[int] = (0, 1, 2),
    subset: float = 0.8,
    folds: int = 5,
    min_valid: float = 0.5,
    ridges: Sequence[float] = RIDGES,
    batch_size: int = 16,
    num_panels: int = 4,
    progress: bool = False,
) -> ProbeResult:
    """Fit ridge regression from patch tokens to surface normals, and measure the angles on views that were not fitted.

    Example:
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> from spatialboost.scenes.rooms import Rooms
        >>> encoder = VisionTransformer(img_size=64, patch_size=16, embed_dim=48, depth=2, num_heads=2, num_classes=0)
        >>> rooms = Rooms(9, size=64), Rooms(3, first=100, size=64)
        >>> normals_probe({"mine": encoder}, *rooms, image_size=64).names
        ['mine', 'constant normal']

    Normals are in the camera's frame and point to the camera; they come from the depth map, as the cross product of the
    differences of neighbouring points (pixels at the edge of a surface have none). The normal of a patch is the mean of
    its pixels. As for `spatialboost.probes.depth_probe`, each seed draws a share ``subset`` of the training views, and
    the ridge is chosen over ``folds`` of neighbouring views. The scores are those of the field: mean and median angle,
    and the shares within 11.25, 22.5 and 30 degrees, over all patches of the test split together.

    Args:
        encoders: a boosted model, measured as ``"base"`` (within `spatialboost.disabled`) and as ``"boosted"``; or
            models by name, each as it is.
        train: views with depth to fit on, in their natural order.
        test: views to measure on.
        image_size: (height, width) to which the whole view is resized for the encoder, or one number for both.
        layer: block after which tokens are read; the tokens of several are joined along their width.
        seeds: one draw of the training views for each seed.
        subset: share of the training views that a seed draws.
        folds: parts of the drawn views, each held out once to choose the ridge.
        min_valid: a patch counts where at least this share of its pixels has a normal.
        ridges: the ridges to choose from.
        batch_size: views that go through the encoder at a time.
        num_panels: test views in the picture.
        progress: show a progress bar.

    Raises:
        SpatialBoostError: too few views, or an encoder that cannot be read.
    """
    options = CommonOptions(image_size, layer, batch_size, seeds, subset, num_panels, progress)
    return run_probe(NormalsProbe(folds, min_valid, ridges), encoders, train, test, options)


def view_normals(view: Cues) -> np.ndarray:
    """Unit normals ``(H, W, 3)`` in the camera's frame, towards the camera; NaN where they are not known.

    Example:
        >>> wall = Cues(np.zeros((4, 5, 3), np.uint8), np.full((4, 5), 2.0, np.float32), np.eye(3), "wall")
        >>> (view_normals(wall)[1, 2] + 0.0).round(6).tolist()
        [0.0, 0.0, -1.0]
    """
    depth_HW = np.where(view.valid_HW, view.depth_HW, np.nan).astype(np.float64)
    points_HW3 = unproject(depth_HW, view.intrinsics_33)
    differences = []
    for axis in (1, 0):
        ahead = np.roll(points_HW3, -1, axis) - np.roll(points_HW3, 1, axis)
        before, after = np.roll(depth_HW, 1, axis), np.roll(depth_HW, -1, axis)
        with np.errstate(invalid="ignore"):
            edge = np.abs(np.stack([before, after]) - depth_HW).max(0) > _EDGE * depth_HW
        edge[(slice(None), [0, -1]) if axis else ([0, -1],)] = True  # np.roll has gone round
        ahead[edge] = np.nan
        differences.append(ahead)
    normal_HW3 = np.cross(differences[1], differences[0])
    length_HW1 = np.linalg.norm(normal_HW3, axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return normal_HW3 / np.where(length_HW1 > 0, length_HW1, np.nan)


def patch_normals(view: Cues, grid: tuple[int, int], min_valid: float) -> np.ndarray:
    """Unit normals ``(N, 3)`` of the patches, NaN where less than a share ``min_valid`` of the pixels has one."""
    normals_HW3 = view_normals(view)
    height, width = view.size
    row_H = np.arange(height) * grid[0] // height
    column_W = np.arange(width) * grid[1] // width
    cell_HW = row_H[:, None] * grid[1] + column_W
    known_HW = np.isfinite(normals_HW3[..., 0])
    num = grid[0] * grid[1]
    pixels_N = np.bincount(cell_HW.ravel(), minlength=num)
    known_N = np.bincount(cell_HW[known_HW], minlength=num)
    sums_N3 = np.stack([np.bincount(cell_HW[known_HW], normals_HW3[known_HW][:, k], num) for k in range(3)], -1)
    length_N1 = np.linalg.norm(sums_N3, axis=-1, keepdims=True)
    enough_N = (known_N >= min_valid * pixels_N) & (known_N > 0) & (length_N1[:, 0] > 0)
    return np.where(enough_N[:, None], sums_N3 / np.where(length_N1 > 0, length_N1, 1), np.nan)


def score_normals(guess_VN3: Tensor, truth_VN3: Tensor) -> tuple[dict[str, float], list[float]]:
    """The metrics over all patches whose normal is known, and the mean error of each view alone.

    Raises:
        SpatialBoostError: no normal is known.
    """
    cosine_VN = (guess_VN3.double() * truth_VN3.double()).sum(-1)
    degrees_VN = torch.rad2deg(cosine_VN.clamp(-1, 1).acos())
    known_VN = truth_VN3.isfinite().all(-1)
    degrees = degrees_VN[known_VN]
    if not len(degrees):
        raise SpatialBoostError("no patch of the test views has a known normal: give a smaller `min_valid`")
    metrics = {
        "mean": degrees.mean().item(),
        "median": degrees.median().item(),
        **{f"within_{int(angle)}": (degrees < angle).double().mean().item() for angle in (11.25, 22.5, 30.0)},
    }
    views = zip(degrees_VN, known_VN, strict=True)
    return metrics, [degrees_N[known_N].mean().item() for degrees_N, known_N in views if known_N.any()]


def _angles(guess_nRT: Tensor, truth_nT: Tensor) -> Tensor:
    """The sum of the angles over patches, for each ridge."""
    cosine_nR = torch.einsum("nrt,nt->nr", nn.functional.normalize(guess_nRT, dim=-1), truth_nT)
    return cosine_nR.clamp(-1, 1).acos().sum(0)


def _stack(split: ReadSplit) -> Tensor:
    """The normals of all patches ``(V, N, 3)``."""
    return torch.from_numpy(np.stack(split.kept))
