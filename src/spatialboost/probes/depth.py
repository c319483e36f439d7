"""Depth probe: how well a linear map predicts metric depth from frozen patch tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from spatialboost.errors import SpatialBoostError
from spatialboost.probes.depth_fit import Target, fit_depth
from spatialboost.probes.depth_panel import DepthPanel
from spatialboost.probes.depth_scores import METRICS, enlarge, score_depths
from spatialboost.probes.draws import Draw
from spatialboost.probes.inputs import ViewSplits
from spatialboost.probes.measures import ProbeRow
from spatialboost.probes.options import CommonOptions
from spatialboost.probes.patch_depth import PatchDepth, known_depth, patch_depths
from spatialboost.probes.protocol import Measured, Probe, ReadSplit
from spatialboost.probes.result import ProbeResult
from spatialboost.probes.run import Encoders, run_probe
from spatialboost.scenes.cues import Cues
from spatialboost.scenes.sources import Source

# Shape legend: V views, N patches, H and W pixels of a depth map.

RIDGES = tuple(10.0**power for power in range(-6, 2))
CONSTANT = "constant depth"

Level = Literal["pixels", "patches"]


@dataclass(frozen=True)
class DepthProbe(Probe):
    """Linear depth probe: ridge regression from patch tokens to metric depth.

    `depth_probe` describes the method.

    Raises:
        SpatialBoostError: an option that is not known or out of its range.
    """

    name = "depth"
    metrics = METRICS
    splits = ViewSplits
    baseline = CONSTANT

    target: Annotated[Target, "What is regressed."] = "log"
    patch_depth: Annotated[PatchDepth, "The depth of a patch: mean or median of its pixels with a reading."] = "mean"
    level: Annotated[Level, "Measure on the pixels of depth maps, or on patches."] = "pixels"
    folds: Annotated[int, "Parts of the training views, each held out once to choose the ridge."] = 5
    min_valid: Annotated[float, "A patch counts where at least this share of its pixels has a reading."] = 0.5
    ridges: Sequence[float] = RIDGES

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("target", self.target, get_args(Target)),
            ("patch_depth", self.patch_depth, get_args(PatchDepth)),
            ("level", self.level, get_args(Level)),
        ):
            if value not in allowed:
                raise SpatialBoostError(f"{name} is {value!r}; expected one of {allowed}")
        if not len(self.ridges) or min(self.ridges) < 0:
            raise SpatialBoostError(f"ridges are {self.ridges}; expected at least one, none below 0")
        if not 0 < self.min_valid <= 1 or self.folds < 2:
            raise SpatialBoostError(
                f"min_valid is {self.min_valid} and folds {self.folds}; expected a share above 0 and up to 1, and at "
                "least 2 folds"
            )

    def keep(self, item: Cues, grid: tuple[int, int], image_size: tuple[int, int]) -> np.ndarray:
        """The depth of each patch."""
        return patch_depths(item, grid, image_size, self.patch_depth, self.min_valid)

    def measure(
        self, name: str, train: ReadSplit, test: ReadSplit, draws: Sequence[Draw], shown: Sequence[int]
    ) -> Measured:
        """Fit each draw, predict and score the test views; `shown` of the result has predicted depths of patches."""
        if len(train) < 3:
            raise SpatialBoostError(
                f"{len(train)} views to fit on and {len(test)} to measure on can be read "
                f"({len(train.items.left_out) + len(test.items.left_out)} cannot); give at least 3 and 1"
            )
        depth_VN = _stack(train)
        fits = [fit_depth(train.features, depth_VN, draw.folds(self.folds), self.target, self.ridges) for draw in draws]
        runs = [fit.predict(test.features) for fit in fits]
        scores = score_depths(runs, self._truths(test), test.features.grid)
        rows = [
            ProbeRow(name, draw.seed, metrics, {"ridge": fit.ridge}, per_view)
            for draw, fit, (metrics, per_view) in zip(draws, fits, scores, strict=True)
        ]
        return Measured(rows, [runs[0][index].view(test.features.grid) for index in shown])

    def measure_baseline(self, train: ReadSplit, test: ReadSplit) -> ProbeRow:
        """The score of the mean training depth as the only prediction."""
        depth_VN = _stack(train)
        metres = depth_VN[depth_VN.isfinite()].mean()
        guess_VN = metres.expand(len(test), depth_VN.shape[1])
        metrics, per_view = score_depths([guess_VN], self._truths(test), test.features.grid)[0]
        return ProbeRow(CONSTANT, None, metrics, {"metres": float(metres)}, per_view)

    def settings(self, train: ReadSplit, test: ReadSplit) -> dict[str, Any]:
        """The options as text for the result."""
        pixels = self.level == "pixels"
        return {
            "head": "ridge, closed form",
            "target": "log depth" if self.target == "log" else "depth in metres",
            "patch depth": f"{self.patch_depth} where {self.min_valid:g} of the patch is known",
            "measured on": "pixels, predictions upsampled bilinearly" if pixels else "patches, not upsampled",
            "ridges": list(self.ridges),
            "ridge chosen by": f"the error in metres over {self.folds} folds of the drawn views",
        }

    def panel(self, item: Cues, shown: Mapping[str, Tensor]) -> DepthPanel:
        """A picture with image, true depth and the predictions of the first run."""
        depths = {
            name: enlarge(depth, (depth.shape[0], depth.shape[1]), item.size).numpy() for name, depth in shown.items()
        }
        return DepthPanel(item.source, item.image_HW3, known_depth(item), depths)

    def _truths(self, test: ReadSplit) -> Iterator[Tensor]:
        """True depth of one view after the other: pixels ``(H, W)`` or patches in the shape of the grid."""
        if self.level == "pixels":
            return (torch.from_numpy(known_depth(view)).double() for view in test.items)
        return (torch.from_numpy(depth_N).view(test.features.grid) for depth_N in test.kept)


def depth_probe(
    encoders: Encoders,
    train: Source | Sequence[Cues] | str,
    test: Source | Sequence[Cues] | str,
    *,
    image_size: int | tuple[int, int] = 224,
    layer: int | Sequence[int] = -1,
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

    The fit is closed form and not random, so each seed draws a share ``subset`` of the training views. The ridge is
    chosen by cross-validation over ``folds`` parts; each part has neighbouring views, because frames of one walk
    resemble their neighbours and random folds would be too easy. Then all drawn views are fitted with this ridge. Every
    encoder gets the same draws. Ridges apply to standardised features. Predictions are clipped to the range of the
    fitted depths and enlarged bilinearly to the resolution of the depth maps. Scores are over all valid pixels of the
    test split together.

    The spread over seeds comes from the draws; the test split is always the same. `ProbeResult.views_won` says on how
    many test views boosted is better.

    Args:
        encoders: a boosted model, measured as ``"base"`` (within `spatialboost.disabled`) and as ``"boosted"``; or
            models by name, each as it is; or, instead of a model, its features of the training and test split as
            `read_features` gives them (of the views that can be read).
        train: views to fit on, in their natural order. A view that cannot be read is left out and listed. Views
            and features are kept in memory while they fit, else read again or kept in a temporary file.
        test: views to measure on.
        image_size: (height, width) to which the whole view is resized for the encoder, or one number for both.
        layer: block after which tokens are read; the tokens of several are joined along their width. The final norm is
            applied to the last layer only.
        seeds: one draw of the training views for each seed.
        target: regress the logarithm of the depth, or metres.
        patch_depth: whether a patch's depth is the mean or the median of its valid pixels.
        level: measure on pixels, or on patches.
        ridges: the ridges to choose from.
        subset: share of the training views that a seed draws.
        folds: parts of the drawn views, each held out once to choose the ridge.
        min_valid: a patch counts where at least this share of its pixels has a reading.
        batch_size: views that go through the encoder at a time.
        num_panels: test views in the picture, evenly spaced, with the first seed's predictions.
        progress: show a progress bar.

    Raises:
        SpatialBoostError: too few views, an encoder that cannot be read, or features of other views.
    """
    probe = DepthProbe(target, patch_depth, level, folds, min_valid, ridges)
    options = CommonOptions(image_size, layer, batch_size, seeds, subset, num_panels, progress)
    return run_probe(probe, encoders, train, test, options)


def _stack(split: ReadSplit) -> Tensor:
    """The depth of all patches ``(V, N)`` in metres, NaN where it is not known."""
    return torch.from_numpy(np.stack(split.kept))
