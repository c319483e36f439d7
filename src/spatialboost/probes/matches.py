"""Matches probe: do patch tokens find the same point of a place again in another view? Nothing is fitted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import nn

from spatialboost.errors import SpatialBoostError
from spatialboost.probes.draws import Draw
from spatialboost.probes.features import Features
from spatialboost.probes.inputs import PairSplits
from spatialboost.probes.matches_panel import MatchesPanel
from spatialboost.probes.measures import Metric, ProbeRow
from spatialboost.probes.options import CommonOptions
from spatialboost.probes.pair_lists import ListedPairs
from spatialboost.probes.protocol import Measured, Probe, ReadSplit
from spatialboost.probes.result import ProbeResult
from spatialboost.probes.run import Encoders, run_probe
from spatialboost.scenes.camera import to_normalised, to_pixels
from spatialboost.scenes.cues import Cues
from spatialboost.scenes.scene import Scene
from spatialboost.scenes.sources import Source
from spatialboost.scenes.tracks import find_tracks, rotation_angle

# Shape legend: T points, N patches, R radii, D width of the tokens.

RADII = (0.1, 0.05)  # shares of an image's longer side
ANGLES = (0, 15, 30, 60, 180)  # degrees: bins of the change of view, those of Probe3D (arXiv 2404.08636)
CHANCE = "random patch"


def _metric(radius: float, text: str = "") -> Metric:
    return Metric(f"PCK {100 * radius:.0f} %{text}", higher_is_better=True)


@dataclass(frozen=True)
class MatchesProbe(Probe):
    """Points found again in another view by the nearest patch token: the share of correct ones (PCK).

    `matches_probe` describes the method.

    Raises:
        SpatialBoostError: an option that is out of its range.
    """

    name = "matches"
    metrics: ClassVar[Mapping[str, Metric]] = {
        **{f"pck_{radius}": _metric(radius) for radius in RADII},
        **{
            f"pck_{RADII[0]}_turn_{low}_{high}": _metric(RADII[0], f", {low}-{high}\N{DEGREE SIGN}")
            for low, high in pairwise(ANGLES)
        },
    }
    splits = PairSplits
    baseline = CHANCE
    draws = False

    least: Annotated[int, "A pair counts if at least this number of patches is seen in both views."] = 8

    def __post_init__(self) -> None:
        if self.least < 1:
            raise SpatialBoostError(f"least is {self.least}; expected at least 1")

    def check_sources(self, train: Any, test: Any) -> None:
        """Raise an error if the pairs have no depth."""
        if not getattr(test, "has_depth", True):
            raise SpatialBoostError(
                "the images of the list have no depth maps, which say where a point is in the other view: put them "
                "beside the images, or measure `pose`, which needs none"
            )

    def keep(self, item: Cues, grid: tuple[int, int], image_size: tuple[int, int]) -> None:
        """Nothing: the views are read again, as their depth maps are large."""

    def measure(
        self, name: str, train: ReadSplit, test: ReadSplit, draws: Sequence[Draw], shown: Sequence[int]
    ) -> Measured:
        """Find each point of a first view in the second view; `shown` of the result has the pictures of pairs."""
        wanted = {index // 2 for index in shown}
        scored, panels = [], {}
        for pair in _pairs(test, self.least):
            found_T2 = _nearest(test.features, pair)
            distance_T = np.linalg.norm((found_T2 - pair.truth_T2) * pair.aspect, axis=1)
            scored.append((pair, np.stack([distance_T <= radius for radius in RADII]).astype(float)))
            if pair.number in wanted:
                panels[pair.number] = found_T2, pair
        per_view = [float(right_RT[0].mean()) for _, right_RT in scored]
        row = ProbeRow(name, None, _scores(scored), {}, per_view)
        return Measured([row], [panels.get(index // 2) for index in shown])

    def measure_baseline(self, train: ReadSplit, test: ReadSplit) -> ProbeRow:
        """The share of correct answers of a patch that is chosen at random."""
        centres_N2 = patch_centres(test.features.grid)
        scored = []
        for pair in _pairs(test, self.least):
            distance_TN = np.linalg.norm((centres_N2 - pair.truth_T2[:, None]) * pair.aspect, axis=2)
            scored.append((pair, np.stack([(distance_TN <= radius).mean(1) for radius in RADII])))
        return ProbeRow(CHANCE, None, _scores(scored))

    def settings(self, train: ReadSplit, test: ReadSplit) -> dict[str, Any]:
        """How points are matched, and how many pairs could be measured."""
        points = [len(pair.patches_T) for pair in _pairs(test, self.least)]
        return {
            "similarity": "cosine, nearest patch centre, not upsampled",
            "pairs": len(test) // 2,
            "pairs measured": len(points),
            "points": sum(points),
            "least": self.least,
        }

    def panel(self, item: Cues, shown: Mapping[str, Any]) -> MatchesPanel | None:
        """Both views with some of the points, and where each encoder finds them; None for a pair without points."""
        found = {name: each for name, each in shown.items() if each is not None}
        if not found:
            return None
        pair = next(iter(found.values()))[1]
        pixels = {name: to_pixels(found_T2, pair.views[1].size) for name, (found_T2, _) in found.items()}
        distances = {
            name: np.linalg.norm((found_T2 - pair.truth_T2) * pair.aspect, axis=1)
            for name, (found_T2, _) in found.items()
        }
        return MatchesPanel(
            f"{pair.views[0].source}, turned {pair.angle:.0f} degrees",
            (pair.views[0].image_HW3, pair.views[1].image_HW3),
            to_pixels(patch_centres(pair.grid)[pair.patches_T], pair.views[0].size),
            pixels,
            {name: distance_T <= RADII[0] for name, distance_T in distances.items()},
        )


def matches_probe(
    encoders: Encoders,
    pairs: Source | Sequence[Scene] | ListedPairs | str,
    *,
    image_size: int | tuple[int, int] = 224,
    layer: int | Sequence[int] = -1,
    least: int = 8,
    batch_size: int = 16,
    num_panels: int = 4,
    progress: bool = False,
) -> ProbeResult:
    """Measure how often the most similar patch token of a second view is at the same point of the place.

    Example:
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> from spatialboost.scenes.rooms import Rooms
        >>> encoder = VisionTransformer(img_size=64, patch_size=8, embed_dim=48, depth=2, num_heads=2, num_classes=0)
        >>> result = matches_probe({"mine": encoder}, Rooms(4, size=64, views=2), image_size=64)
        >>> result.names
        ['mine', 'random patch']

    Each patch centre of the first view whose point of the place is also seen in the second view (by depth, intrinsics
    and poses, see `spatialboost.scenes.tracks.find_tracks`) is a point. Its token is compared with all patch tokens of
    the second view by cosine similarity; the centre of the nearest one is the answer. It is correct if it is within
    10 % (and 5 %) of the image's longer side of the truth: PCK, the percentage of correct keypoints. The shares are
    over all points of all pairs together; they are also given by the angle between the two cameras, in the bins of
    Probe3D (arXiv 2404.08636). Nothing is fitted or drawn, so there is one run and no spread. `ProbeResult.views_won`
    says on how many pairs boosted is better.

    Args:
        encoders: a boosted model, measured as ``"base"`` (within `spatialboost.disabled`) and as ``"boosted"``; or
            models by name, each as it is.
        pairs: scenes of two views with depth and poses, `ListedPairs`, or a text as for ``--data``, such as
            ``"rooms:100"``.
        image_size: (height, width) to which the whole view is resized for the encoder, or one number for both.
        layer: block after which tokens are read; the tokens of several are joined along their width. The final norm is
            applied to the last layer only.
        least: a pair counts if at least this number of patches is seen in both views.
        batch_size: views that go through the encoder at a time.
        num_panels: pairs in the picture.
        progress: show a progress bar.

    Raises:
        SpatialBoostError: an item that is not a pair, no pair with enough points, or an encoder that cannot be read.
    """
    options = CommonOptions(image_size, layer, batch_size, num_panels=num_panels, progress=progress)
    return run_probe(MatchesProbe(least), encoders, None, pairs, options)


@dataclass(frozen=True)
class _Pair:
    """Two views and the patches of the first one that the second one sees too; (x, y) are shares of a view's size."""

    number: int
    views: tuple[Cues, Cues]
    grid: tuple[int, int]
    patches_T: np.ndarray
    truth_T2: np.ndarray  # in the second view
    angle: float  # between the cameras, in degrees

    @property
    def aspect(self) -> np.ndarray:
        """(width, height) of the second view as shares of its longer side, to measure distances in."""
        height, width = self.views[1].size
        return np.array([width, height]) / max(width, height)


def _pairs(split: ReadSplit, least: int) -> Iterator[_Pair]:
    """The pairs with at least ``least`` common points.

    Raises:
        SpatialBoostError: there is none.
    """
    found, views = 0, iter(split.items)
    for number, (first, second) in enumerate(zip(views, views, strict=True)):
        if not isinstance(first, Cues) or not isinstance(second, Cues):
            continue  # a pair of a list, without depth
        scene = Scene([first, second])
        pixels_N2 = to_pixels(patch_centres(split.features.grid), first.size)
        tracks = find_tracks(scene, pixels_N2)
        patches_T = np.flatnonzero(tracks.visible_VT[1])
        if len(patches_T) < least:
            continue
        found += 1
        truth_T2 = to_normalised(tracks.pixels_VT2[1, patches_T], second.size)
        angle = rotation_angle(scene.poses[1])
        yield _Pair(number, (first, second), split.features.grid, patches_T, truth_T2, angle)
    if not found:
        raise SpatialBoostError(
            f"none of {len(split) // 2} pairs of views has {least} patches that both views see: give pairs with a "
            "smaller stride, or a smaller `least`"
        )


def patch_centres(grid: tuple[int, int]) -> np.ndarray:
    """(x, y) of the patch centres ``(N, 2)``, as shares of the image's size.

    Example:
        >>> patch_centres((1, 2)).tolist()
        [[0.25, 0.5], [0.75, 0.5]]
    """
    y, x = np.mgrid[: grid[0], : grid[1]]
    return np.stack([(x.ravel() + 0.5) / grid[1], (y.ravel() + 0.5) / grid[0]], -1)


def _nearest(features: Features, pair: _Pair) -> np.ndarray:
    """(x, y) of the patch of the second view whose token is most similar to that of each point ``(T, 2)``."""
    first_ND, second_ND = (
        nn.functional.normalize(features.tokens[2 * pair.number + place].float(), dim=-1) for place in range(2)
    )
    best_T = (first_ND[torch.from_numpy(pair.patches_T)] @ second_ND.T).argmax(1).numpy()
    return patch_centres(features.grid)[best_T]


def _scores(scored: Sequence[tuple[_Pair, np.ndarray]]) -> dict[str, float]:
    """PCK over all points of all pairs, and of the pairs in each bin of angles; bins without a pair are left out."""
    metrics = {}
    for place, radius in enumerate(RADII):
        metrics[f"pck_{radius}"] = float(np.concatenate([right_RT[place] for _, right_RT in scored]).mean())
    for low, high in pairwise(ANGLES):
        within = [right_RT[0] for pair, right_RT in scored if low <= pair.angle < high or pair.angle == high == 180]
        if within:
            metrics[f"pck_{RADII[0]}_turn_{low}_{high}"] = float(np.concatenate(within).mean())
    return metrics
