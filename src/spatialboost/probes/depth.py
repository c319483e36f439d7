"""Depth probe: how well a head on frozen patch tokens predicts metric depth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from spatialboost.errors import SpatialBoostError
from spatialboost.probes.depth_panel import DepthPanel
from spatialboost.probes.depth_scores import (
    METRICS,
    Average,
    Crop,
    crop_depth,
    enlarge,
    score_depths,
    used_part,
)
from spatialboost.probes.depth_training import Head, MapHead, train_depth_head
from spatialboost.probes.draws import Draw
from spatialboost.probes.heads import HeadTraining
from spatialboost.probes.inputs import ViewSplits
from spatialboost.probes.measures import ProbeRow
from spatialboost.probes.options import CommonOptions, Layer
from spatialboost.probes.patch_depth import PatchDepth, known_depth, patch_depths
from spatialboost.probes.protocol import Measured, Probe, ReadSplit
from spatialboost.probes.result import ProbeResult
from spatialboost.probes.ridge_fit import RIDGES, RidgeFit, fit_ridge
from spatialboost.probes.run import Encoders, run_probe
from spatialboost.probes.windows import FINE, Reading, whole
from spatialboost.scenes.cues import Cues
from spatialboost.scenes.sources import Source

# Shape legend: V views, N patches, n patches of known depth, R ridges, H and W pixels of a depth map, h and w cells of
# a predicted one.

CONSTANT = "constant depth"

Target = Literal["log", "metres"]
Level = Literal["pixels", "patches"]


@dataclass(frozen=True)
class DepthProbe(HeadTraining, Probe):
    """Depth from patch tokens: by ridge regression, or by a head trained by gradient descent.

    `depth_probe` describes the method of ``ridge``. ``linear`` is a linear map to bins of depth, ``dpt`` the head of
    DPT over four layers; both are trained with `sig_loss`.

    Raises:
        SpatialBoostError: an option that is not known or out of its range.
    """

    name = "depth"
    metrics = METRICS
    splits = ViewSplits
    baseline = CONSTANT

    head: Annotated[Head, "Ridge in closed form, or trained: linear to bins of depth, or DPT (four layers)."] = "ridge"
    target: Annotated[Target, "ridge: what is regressed."] = "log"
    patch_depth: Annotated[PatchDepth, "ridge: a patch's depth is the mean or median of its readings."] = "mean"
    level: Annotated[Level, "Measure on the pixels of depth maps, or on patches (ridge only)."] = "pixels"
    folds: Annotated[int, "ridge: parts of the training views, each held out once to choose the ridge."] = 5
    min_valid: Annotated[float, "ridge: a patch counts where this share of its pixels has a reading."] = 0.5
    ridges: Sequence[float] = RIDGES
    crop: Annotated[Crop, "The part of a view that is measured: all, or that of NYUv2 (eigen) or KITTI (garg)."] = (
        "none"
    )
    average: Annotated[Average, "Scores over all pixels together, or the mean of the scores of each view."] = "pixels"
    flips: Annotated[bool, "Average the prediction with that of the mirrored view."] = False
    bins: Annotated[int, "linear, dpt: bins of depth."] = 256
    min_depth: Annotated[float, "linear, dpt: nearest depth in metres that is learnt and measured."] = 0.001
    max_depth: Annotated[float, "linear, dpt: farthest depth in metres."] = 10.0
    channels: Annotated[int, "dpt: width of the fusing layers."] = 256
    features: Annotated[Reading, "linear, dpt: read whole views once, or random windows at each step."] = "stored"
    zoom: Annotated[list[float], "fresh: smallest and largest zoom of windows; depth is divided by it."] = field(
        default_factory=lambda: [1.0, 1.15]
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, allowed in (
            ("head", Head),
            ("target", Target),
            ("patch_depth", PatchDepth),
            ("level", Level),
            ("crop", Crop),
            ("average", Average),
            ("features", Reading),
        ):
            if getattr(self, name) not in get_args(allowed):
                raise SpatialBoostError(f"{name} is {getattr(self, name)!r}; expected one of {get_args(allowed)}")
        if not len(self.ridges) or min(self.ridges) < 0:
            raise SpatialBoostError(f"ridges are {self.ridges}; expected at least one, none below 0")
        if not 0 < self.min_valid <= 1 or self.folds < 2:
            raise SpatialBoostError(
                f"min_valid is {self.min_valid} and folds {self.folds}; expected a share above 0 and up to 1, and at "
                "least 2 folds"
            )
        if self.bins < 2 or not 0 < self.min_depth < self.max_depth or self.channels < 2:
            raise SpatialBoostError(
                f"bins are {self.bins} from {self.min_depth} to {self.max_depth} m and channels {self.channels}; "
                "expected at least 2 of both, and two rising depths above 0"
            )
        if len(self.zoom) not in (1, 2) or not 1 <= self.zoom[0] <= self.zoom[-1]:
            raise SpatialBoostError(f"zoom is {self.zoom}; expected the smallest and the largest, from 1")
        if self.head == "ridge" and self.features == "fresh":
            raise SpatialBoostError(
                "features are 'fresh', but a ridge is fitted to stored ones: give head linear or dpt"
            )
        if self.level == "patches" and (self.head != "ridge" or self.crop != "none"):
            raise SpatialBoostError("level is 'patches', which is for head ridge without a crop: measure on pixels")

    def stored(self, split: str) -> bool:
        """Whether whole views are read once: not where windows are drawn, or mirrored views needed."""
        return self.features == "stored" if split == "train" else not self.flips

    def image(self, item: Cues, image_size: tuple[int, int]) -> np.ndarray:
        """The part of the view that is used."""
        return item.image_HW3[used_part(item.size, self.crop)]

    def keep(self, item: Cues, grid: tuple[int, int], image_size: tuple[int, int]) -> np.ndarray:
        """The depth of each patch, or of a grid that is four times finer (not finer for windows)."""
        if self.head == "ridge":
            return patch_depths(self.depth_of(item), grid, image_size, self.patch_depth, self.min_valid)
        fine = FINE if self.features == "stored" else 1
        return whole((fine * grid[0], fine * grid[1])).of_map(self.depth_of(item)).astype(np.float32)

    def measure(
        self, name: str, train: ReadSplit, test: ReadSplit, draws: Sequence[Draw], shown: Sequence[int]
    ) -> Measured:
        """Fit each draw, predict and score the test views; `shown` of the result has predicted depth maps."""
        if len(train) < 3:
            raise SpatialBoostError(
                f"{len(train)} views to fit on and {len(test)} to measure on can be read "
                f"({len(train.items.left_out) + len(test.items.left_out)} cannot); give at least 3 and 1"
            )
        heads = [self._fit(train, draw) for draw in draws]
        pictures: dict[int, Tensor] = {}

        def pairs() -> Iterator[tuple[list[Tensor], Tensor]]:
            for index, truth_HW in enumerate(self._truths(test)):
                maps = self._predict([head for head, _ in heads], test, index)
                if index in shown:
                    pictures[index] = maps[0]
                yield maps, truth_HW

        scores = score_depths(pairs(), self.average)
        rows = [
            ProbeRow(name, draw.seed, metrics, chosen, per_view)
            for draw, (_, chosen), (metrics, per_view) in zip(draws, heads, scores, strict=True)
        ]
        return Measured(rows, [pictures[index] for index in shown])

    def measure_baseline(self, train: ReadSplit, test: ReadSplit) -> ProbeRow:
        """The score of the mean training depth as the only prediction."""
        depths = torch.from_numpy(np.stack(train.kept))
        metres = depths[depths.isfinite()].double().mean()
        pairs = (([metres.expand(test.features.grid)], truth_HW) for truth_HW in self._truths(test))
        metrics, per_view = score_depths(pairs, self.average)[0]
        return ProbeRow(CONSTANT, None, metrics, {"metres": float(metres)}, per_view)

    def settings(self, train: ReadSplit, test: ReadSplit) -> dict[str, Any]:
        """The options as text for the result."""
        pixels = self.level == "pixels"
        ridge = self.head == "ridge"
        measured = {"measured on": "pixels, predictions upsampled bilinearly" if pixels else "patches, not upsampled"}
        if not (ridge and self.crop == "none" and self.average == "pixels" and not self.flips):
            measured |= {
                "crop": self.crop,
                "average over": self.average,
                "mirrored views in the test": "yes" if self.flips else "no",
            }
        if ridge:
            return {
                "head": "ridge, closed form",
                "target": "log depth" if self.target == "log" else "depth in metres",
                "patch depth": f"{self.patch_depth} where {self.min_valid:g} of the patch is known",
                **measured,
                "ridges": list(self.ridges),
                "ridge chosen by": f"the error in metres over {self.folds} folds of the drawn views",
            }
        windows = f"random windows, zoom {' to '.join(f'{each:g}' for each in self.zoom)}, mirrored or not"
        return {
            "head": "batch normalisation and a linear map" if self.head == "linear" else f"DPT, width {self.channels}",
            "bins": f"{self.bins}, uniform from {self.min_depth:g} to {self.max_depth:g} m",
            "loss": "SigLoss",
            "trained on": "whole views, read once" if self.features == "stored" else windows,
            **measured,
            **self.about_training(),
        }

    def panel(self, item: Cues, shown: Mapping[str, Tensor]) -> DepthPanel:
        """A picture with image, true depth and the predictions of the first run."""
        part = used_part(item.size, self.crop)
        truth_HW = known_depth(item)[part]
        size = (truth_HW.shape[0], truth_HW.shape[1])
        depths = {name: enlarge(depth, size).numpy() for name, depth in shown.items()}
        return DepthPanel(item.source, item.image_HW3[part], truth_HW, depths)

    def depth_of(self, item: Cues) -> np.ndarray:
        """Known depth ``(H, W)`` of the used part, within the range of depths of a trained head."""
        depth_HW = known_depth(item)[used_part(item.size, self.crop)]
        if self.head == "ridge":
            return depth_HW
        with np.errstate(invalid="ignore"):
            return np.where((depth_HW >= self.min_depth) & (depth_HW <= self.max_depth), depth_HW, np.nan)

    def _truths(self, test: ReadSplit) -> Iterator[Tensor]:
        """True depth of one view after the other where it is measured: pixels, or patches in the shape of the grid."""
        if self.level == "pixels":
            return (torch.from_numpy(crop_depth(self.depth_of(view), self.crop)).double() for view in test.items)
        return (torch.from_numpy(depth_N).view(test.features.grid) for depth_N in test.kept)

    def _fit(self, train: ReadSplit, draw: Draw) -> tuple[MapHead, dict[str, float]]:
        """What predicts depth maps ``(B, h, w)`` from tokens ``(B, N, D)``, and what the fit has chosen."""
        if self.head != "ridge":
            head, rate = train_depth_head(self, train, draw)
            return head, {"rate": rate}
        depth_VN1 = torch.from_numpy(np.stack(train.kept))[..., None]
        known = depth_VN1[torch.from_numpy(draw.items)]
        known = known[known.isfinite()]
        if not len(known):
            raise SpatialBoostError("no patch of the training views has a known depth: give a smaller `min_valid`")
        nearest, farthest = known.min().item(), known.max().item()
        target_VN1 = depth_VN1.log() if self.target == "log" else depth_VN1

        def error(guess_nR1: Tensor, truth_n1: Tensor) -> Tensor:
            true_n1 = truth_n1.exp() if self.target == "log" else truth_n1
            return (self._metres(guess_nR1[..., 0], nearest, farthest) - true_n1).square().sum(0)

        fit = fit_ridge(train.features, target_VN1, draw.folds(self.folds), self.ridges, error, noun="depth")
        return (lambda tokens_BND: self._maps(fit, tokens_BND, train.features.grid, nearest, farthest)), {
            "ridge": fit.ridge
        }

    def _maps(
        self, fit: RidgeFit, tokens_BND: Tensor, grid: tuple[int, int], nearest: float, farthest: float
    ) -> Tensor:
        return self._metres(fit.predict(tokens_BND.cpu())[..., 0], nearest, farthest).unflatten(1, grid)

    def _metres(self, guess: Tensor, nearest: float, farthest: float) -> Tensor:
        """Outputs of the linear map as depth in metres, clipped to the fitted range."""
        if self.target == "log":  # clipped before the exponential, so that nothing overflows
            return guess.clamp(float(np.log(nearest)), float(np.log(farthest))).exp()
        return guess.clamp(nearest, farthest)

    @torch.no_grad()
    def _predict(self, heads: Sequence[MapHead], test: ReadSplit, index: int) -> list[Tensor]:
        """The depth map ``(h, w)`` that each head predicts of a test view, float64."""
        if not self.flips:
            tokens_BND = test.features.tokens[index][None]
            return [head(tokens_BND.to(test.features.device))[0].cpu().double() for head in heads]
        assert test.read is not None
        image_HW3 = self.image(test.items[index], test.features.image_size)
        tokens_BND = test.read([image_HW3, np.ascontiguousarray(image_HW3[:, ::-1])])
        both = [head(tokens_BND).cpu().double() for head in heads]
        return [(maps[0] + maps[1].flip(-1)) / 2 for maps in both]


def depth_probe(
    encoders: Encoders,
    train: Source | Sequence[Cues] | str,
    test: Source | Sequence[Cues] | str,
    *,
    image_size: int | tuple[int, int] = 224,
    layer: Layer = -1,
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
    **trained: Any,
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
        **trained: other fields of `DepthProbe`, such as ``head="linear"`` and ``steps``.

    Raises:
        SpatialBoostError: too few views, an encoder that cannot be read, or features of other views.
    """
    probe = DepthProbe(
        target=target,
        patch_depth=patch_depth,
        level=level,
        folds=folds,
        min_valid=min_valid,
        ridges=ridges,
        **trained,
    )
    options = CommonOptions(image_size, layer, batch_size, seeds, subset, num_panels, progress)
    return run_probe(probe, encoders, train, test, options)
