"""Pose probe: how well the relative pose of two cameras follows from matches of patch tokens. Nothing is fitted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from spatialboost.errors import SpatialBoostError
from spatialboost.probes.draws import Draw
from spatialboost.probes.inputs import PairSplits
from spatialboost.probes.matches import patch_centres
from spatialboost.probes.measures import Metric, ProbeRow
from spatialboost.probes.options import CommonOptions
from spatialboost.probes.pair_lists import ListedPairs
from spatialboost.probes.pose_errors import area_under_curve, pose_errors
from spatialboost.probes.protocol import Measured, Probe, ReadSplit
from spatialboost.probes.result import ProbeResult
from spatialboost.probes.run import Encoders, run_probe
from spatialboost.scenes.camera import to_pixels
from spatialboost.scenes.cues import Cues
from spatialboost.scenes.scene import Scene
from spatialboost.scenes.sources import Source
from spatialboost.scenes.tracks import rotation_angle

# Shape legend: N patches, M matches, D width of the tokens.

CHANCE = "random matches"
ANGLES = (5, 10, 20)  # degrees
DEGREES = "\N{DEGREE SIGN}"
_TRIALS = 10_000


@dataclass(frozen=True)
class PoseProbe(Probe):
    """Relative camera pose from mutual nearest patch tokens: errors of rotation and direction, and their AUC.

    `pose_probe` describes the method.

    Raises:
        SpatialBoostError: an option that is out of its range, or pycolmap is missing.
    """

    name = "pose"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "error": Metric("error", DEGREES),
        **{f"auc_{angle}": Metric(f"AUC {angle}{DEGREES}", higher_is_better=True) for angle in ANGLES},
        **{f"within_{angle}": Metric(f"<{angle}{DEGREES}", higher_is_better=True) for angle in ANGLES},
        "rotation": Metric("rotation", DEGREES),
        "direction": Metric("direction", DEGREES),
        "distance": Metric("position", "m"),
    }
    splits = PairSplits
    baseline = CHANCE
    draws = False

    depth: Annotated[bool, "Use the depth of the first view: PnP in the place of the essential matrix."] = False
    radius: Annotated[float, "Largest error of a match that agrees with a pose, in patches."] = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.radius < np.inf:
            raise SpatialBoostError(f"radius is {self.radius}; expected a number of patches above 0")
        try:
            import pycolmap  # noqa: F401 - it is needed below; said here, before anything is read
        except ImportError as error:
            raise SpatialBoostError(f'pose needs pycolmap: pip install "spatialboost[probes]" ({error})') from None

    def check_sources(self, train: Any, test: Any) -> None:
        """Raise an error if PnP is asked for and the pairs have no depth."""
        if self.depth and not getattr(test, "has_depth", True):
            raise SpatialBoostError("depth is asked for, but the images of the list have no depth maps: leave it out")

    def keep(self, item: Cues, grid: tuple[int, int], image_size: tuple[int, int]) -> _Camera:
        """The camera, and the depth at each patch centre."""
        pixels_N2 = to_pixels(patch_centres(grid), item.size) if isinstance(item, Cues) else np.zeros((0, 2))
        depth_N = None
        if len(pixels_N2):
            column, row = np.floor(pixels_N2 + 0.5).astype(int).T
            depth_N = np.where(item.valid_HW[row, column], item.depth_HW[row, column], np.nan).astype(np.float32)
        size = item.image_HW3.shape[0], item.image_HW3.shape[1]
        return _Camera(np.asarray(item.intrinsics_33, np.float64), np.asarray(item.pose_44), size, grid, depth_N)

    def measure(
        self, name: str, train: ReadSplit, test: ReadSplit, draws: Sequence[Draw], shown: Sequence[int]
    ) -> Measured:
        """Estimate the pose of each pair from the matches of its tokens."""
        tokens = test.features.tokens
        matches = (mutual_matches(tokens[place], tokens[place + 1]) for place in range(0, len(test), 2))
        return Measured([self._score(name, test, matches)])

    def measure_baseline(self, train: ReadSplit, test: ReadSplit) -> ProbeRow:
        """The score of as many matches as a random pairing of the patches has, each patch at most once."""
        rng = np.random.default_rng(0)
        num = test.features.grid[0] * test.features.grid[1]
        matches = (np.stack([np.arange(num), rng.permutation(num)], 1) for _ in range(len(test) // 2))
        row = self._score(CHANCE, test, matches)
        return ProbeRow(CHANCE, None, row.metrics, row.chosen)

    def settings(self, train: ReadSplit, test: ReadSplit) -> dict[str, Any]:
        """How poses are estimated, and how far the cameras are turned."""
        turns = [rotation_angle(truth_44) for _, _, truth_44 in _pairs(test)]
        return {
            "matches": "mutual nearest patch centres by cosine, not upsampled",
            "errors": "medians",
            "pose": "PnP with the first view's depth" if self.depth else "essential matrix",
            "radius": f"{self.radius:g} patches",
            "direction": "the opposite one is wrong" if self.depth else "the opposite one is right, too",
            "pairs": len(turns),
            "median turn between the cameras": round(float(np.median(turns)), 2),
        }

    def _score(self, name: str, test: ReadSplit, matches: Iterator[np.ndarray]) -> ProbeRow:
        turns, directions, distances, num_failed = [], [], [], 0
        for (first, second, truth_44), match_M2 in zip(_pairs(test), matches, strict=True):
            guess_44 = _estimate(first, second, match_M2, self.radius, use_depth=self.depth)
            turn, direction = pose_errors(guess_44, truth_44, signed=self.depth)
            num_failed += guess_44 is None
            turns.append(turn)
            directions.append(direction)
            if self.depth:
                distances.append(_distance(np.eye(4) if guess_44 is None else guess_44, truth_44))
        errors = np.maximum(turns, directions)
        metrics = {
            "error": float(np.median(errors)),
            **{f"auc_{angle}": area_under_curve(errors.tolist(), angle) for angle in ANGLES},
            **{f"within_{angle}": float((errors <= angle).mean()) for angle in ANGLES},
            "rotation": float(np.median(turns)),
            "direction": float(np.median(directions)),
        }
        if distances:
            metrics["distance"] = float(np.median(distances))
        return ProbeRow(name, None, metrics, {"pairs without a pose": num_failed}, errors.tolist())


def pose_probe(
    encoders: Encoders,
    pairs: Source | Sequence[Scene] | ListedPairs | str,
    *,
    image_size: int | tuple[int, int] = 224,
    layer: int | Sequence[int] = -1,
    depth: bool = False,
    radius: float = 1.0,
    batch_size: int = 16,
    progress: bool = False,
) -> ProbeResult:
    """Measure how well the pose of a second camera relative to a first one follows from matches of patch tokens.

    Example:
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> from spatialboost.scenes.rooms import Rooms
        >>> encoder = VisionTransformer(img_size=64, patch_size=8, embed_dim=48, depth=2, num_heads=2, num_classes=0)
        >>> pose_probe({"mine": encoder}, Rooms(3, size=64, views=2), image_size=64).names
        ['mine', 'random matches']

    Two patches match if each is the other's nearest one by cosine similarity. From the centres of the matches and the
    intrinsics, pycolmap estimates the essential matrix by LO-RANSAC and splits it into a rotation and a direction; with
    ``depth``, the first view's patch centres become points, and the pose is refined PnP. The error of a pair is the
    larger one of the angles between the true and the estimated rotation, and the true and the estimated direction of
    the translation. Where no pose is found, it is 180 degrees, and the position is that of the first camera. The AUC is
    that of SuperGlue (arXiv 1911.11763): the area under the share of pairs below an error, up to 5, 10 and 20 degrees.
    The result also says how far the cameras are turned: the median rotation error of a guess that nothing turned.

    Args:
        encoders: a boosted model, measured as ``"base"`` (within `spatialboost.disabled`) and as ``"boosted"``; or
            models by name, each as it is.
        pairs: scenes of two views with poses, `ListedPairs`, or a text as for ``--data``, such as ``"rooms:100"``.
        image_size: (height, width) to which the whole view is resized for the encoder, or one number for both.
        layer: block after which tokens are read; the tokens of several are joined along their width.
        depth: use the depth of the first view.
        radius: a match agrees with a pose if it is off by at most this number of patches.
        batch_size: views that go through the encoder at a time.
        progress: show a progress bar.

    Raises:
        SpatialBoostError: an item that is not a pair, or an encoder that cannot be read.
    """
    options = CommonOptions(image_size, layer, batch_size, progress=progress)
    return run_probe(PoseProbe(depth, radius), encoders, None, pairs, options)


def mutual_matches(first_ND: Tensor, second_ND: Tensor) -> np.ndarray:
    """Pairs ``(M, 2)`` of tokens that are each other's nearest by cosine similarity.

    Example:
        >>> mutual_matches(torch.eye(3), torch.eye(3)[[2, 0, 1]]).tolist()
        [[0, 1], [1, 2], [2, 0]]
    """
    first_ND, second_ND = (nn.functional.normalize(each.float(), dim=-1) for each in (first_ND, second_ND))
    similarity_NN = first_ND @ second_ND.T
    there_N, back_N = similarity_NN.argmax(1), similarity_NN.argmax(0)
    mutual_M = torch.nonzero(back_N[there_N] == torch.arange(len(there_N)))[:, 0]
    return torch.stack([mutual_M, there_N[mutual_M]], 1).numpy()


@dataclass(frozen=True)
class _Camera:
    """What is kept of a view; ``depth_N`` is the depth at the patch centres, NaN without a reading."""

    matrix_33: np.ndarray
    pose_44: np.ndarray
    size: tuple[int, int]
    grid: tuple[int, int]
    depth_N: np.ndarray | None

    @property
    def pixels_N2(self) -> np.ndarray:  # noqa: N802  # shape suffix
        """(u, v) of the patch centres."""
        return to_pixels(patch_centres(self.grid), self.size)

    @property
    def patch(self) -> float:
        """The longer edge of a patch in pixels."""
        return max(self.size[0] / self.grid[0], self.size[1] / self.grid[1])


def _pairs(split: ReadSplit) -> Iterator[tuple[_Camera, _Camera, np.ndarray]]:
    """The two cameras of each pair, and the matrix from the first one's frame to the second one's."""
    cameras = iter(split.kept)
    for first, second in zip(cameras, cameras, strict=True):
        yield first, second, np.linalg.inv(second.pose_44) @ first.pose_44


def _estimate(
    first: _Camera, second: _Camera, match_M2: np.ndarray, radius: float, *, use_depth: bool
) -> np.ndarray | None:
    """From the first camera's frame to the second's; None if no pose is found."""
    import pycolmap

    if use_depth:
        assert first.depth_N is not None
        match_M2 = match_M2[np.isfinite(first.depth_N[match_M2[:, 0]])]
    if len(match_M2) < 5:
        return None
    # COLMAP's first pixel has its centre at (0.5, 0.5)
    here_M2, there_M2 = (camera.pixels_N2[match_M2[:, place]] + 0.5 for place, camera in enumerate((first, second)))
    if use_depth:
        homogeneous_M3 = np.concatenate([here_M2 - 0.5, np.ones((len(here_M2), 1))], 1)
        assert first.depth_N is not None
        points_M3 = homogeneous_M3 @ np.linalg.inv(first.matrix_33).T * first.depth_N[match_M2[:, :1]]
        absolute = pycolmap.AbsolutePoseEstimationOptions()
        _set(absolute.ransac, radius * second.patch)
        found = pycolmap.estimate_and_refine_absolute_pose(there_M2, points_M3, _colmap(second), absolute)
        return None if found is None else _matrix(found["cam_from_world"])
    options = pycolmap.RANSACOptions()
    _set(options, radius * max(first.patch, second.patch))
    found = pycolmap.estimate_essential_matrix(here_M2, there_M2, _colmap(first), _colmap(second), options)
    return None if found is None else _matrix(found["cam2_from_cam1"])


def _set(options: Any, max_error: float) -> None:
    options.max_error, options.max_num_trials = max_error, _TRIALS
    options.random_seed, options.num_threads = 0, 1


def _colmap(camera: _Camera) -> Any:
    import pycolmap

    (fx, _, cx), (_, fy, cy) = camera.matrix_33[:2]
    height, width = camera.size
    return pycolmap.Camera(model="PINHOLE", width=width, height=height, params=[fx, fy, cx + 0.5, cy + 0.5])


def _matrix(rigid: Any) -> np.ndarray | None:
    matrix_44 = np.vstack([rigid.matrix(), [0.0, 0.0, 0.0, 1.0]])
    return matrix_44 if np.isfinite(matrix_44).all() else None


def _distance(guess_44: np.ndarray, truth_44: np.ndarray) -> float:
    """Metres between the true and the estimated place of the second camera, in the first camera's frame."""
    return float(np.linalg.norm(np.linalg.inv(guess_44)[:3, 3] - np.linalg.inv(truth_44)[:3, 3]))
