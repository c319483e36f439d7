"""Poses of several views of one place, from points that two views share and the depth of one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from PIL import Image
from skimage.feature import match_descriptors

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.camera import unproject
from spatialboost.scenes.cues import CuesError
from spatialboost.scenes.extract.networks import Network
from spatialboost.scenes.extract.protocol import Addition, PartialCues

# Shape legend: H, W = image height and width in pixels; M = matches. A pixel is (u, v), the first one (0, 0).

_LEAST = 15  # on frames of an office with measured depth, poses from 12 points and more were right, those below 9 wrong
_MAX_ERROR = 0.0075  # of the longer side of the image: 4 pixels of 540
_PEAK = 0.003  # of SIFT; COLMAP's own limit finds half as many points in rooms
_RATIO = 0.85  # distance to the best match over the distance to the second best
_JUMP = 0.05  # relative change of depth in the neighbourhood of a point above which its depth is not certain

Matches = tuple[np.ndarray, np.ndarray]  # float (M, 2) each: where the same points are in two views


@dataclass(frozen=True)
class _Placed:
    """A view in the common frame: that of the first view. Its own depth is multiplied by ``scale``."""

    to_world_44: np.ndarray
    scale: float
    points: int  # number of points that agree with the pose


class MatchedPoses:
    """The extractor ``matched-poses``: where each view of a scene was taken, and depth of one common scale.

    Two views share points where SIFT (COLMAP's) or a network of transformers sees the same thing. Depth makes 3D points
    of them, and the pose of the other view is the one in which most of these are seen where they were matched (PnP with
    RANSAC, COLMAP's). View by view, beginning with the one that shares most points with the first.

    Each view needs depth and intrinsics: put an extractor of the kind depth before this one. Depth of a network has a
    scale of its own in each view. The views are brought to one scale by the ratio of the distances that the pose says
    to those of the depth map (its median over the points), and this scale is the median of those of all views.
    ``facts["reconstruction"]`` has the number of ``points`` and the ``scale`` by which the depth was multiplied.

    Scenes that have poses, and single views, stay as they are.

    Args:
        matcher: LightGlue, SuperGlue or EfficientLoFTR: a folder, or ``user/name`` on the Hub. None takes SIFT.
        least: smallest number of points that must agree with a pose; a scene with a view below it is left out.
        revision, device, dtype: see `Network`.

    Raises:
        SpatialBoostError: pycolmap is missing, the matcher cannot be loaded, or ``least`` is below six.
    """

    kind = "reconstruction"

    def __init__(
        self,
        *,
        matcher: str | None = None,
        least: int = _LEAST,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "float32",
    ) -> None:
        if least < 6:
            raise SpatialBoostError(f"least is {least}; expected at least 6 points, fewer fit any pose")
        try:
            import pycolmap  # noqa: F401 - it is needed below; said here, before anything is read
        except ImportError as error:
            raise SpatialBoostError(f"matched-poses needs pycolmap: pip install pycolmap ({error})") from None
        self.least = least
        self.network: Network | None = None
        self.provenance = {"model": "SIFT of COLMAP", "revision": "", "licence": "bsd-3-clause"}
        if matcher:
            task = "AutoModelForKeypointMatching"
            self.network = Network(task, matcher, revision=revision, device=device, dtype=dtype)
            self.provenance = self.network.provenance
        matched = self.network.label if self.network else "SIFT"
        self.name = f"matched-poses ({matched}, at least {least} points)"

    def __call__(self, views: Sequence[PartialCues], /) -> list[Addition]:
        """The pose, the scaled depth and the counts of each view of one scene."""
        if len(views) == 1 or all(view.pose_44 is not None for view in views):
            return [{} for _ in views]
        for view in views:
            if view.depth_HW is None or view.intrinsics_33 is None:
                raise CuesError(f"{view.source}: its depth is not known; put an extractor of the kind 'depth' before")
        placed = self._place(views, self.match([view.image_HW3 for view in views]))
        scale = 1.0 / float(np.median([each.scale for each in placed]))
        additions: list[Addition] = []
        for view, each in zip(views, placed, strict=True):
            pose_44 = each.to_world_44.copy()
            pose_44[:3, 3] *= scale
            factor = each.scale * scale
            facts = {**view.facts, "reconstruction": {"points": each.points, "scale": round(factor, 4)}}
            assert view.depth_HW is not None  # checked above
            depth_HW = (view.depth_HW * factor).astype(np.float32)
            additions.append({"pose_44": pose_44, "depth_HW": depth_HW, "valid_HW": view.valid_HW, "facts": facts})
        return additions

    def match(self, images: Sequence[np.ndarray]) -> dict[tuple[int, int], Matches]:
        """Where each two images show the same points."""
        pairs = list(combinations(range(len(images)), 2))
        if self.network is not None:
            return {(i, j): self._match_by_network(images[i], images[j]) for i, j in pairs}
        found = [_find_points(image) for image in images]
        matches = {}
        for i, j in pairs:
            (places_i, words_i), (places_j, words_j) = found[i], found[j]
            if min(len(words_i), len(words_j)) < 2:
                matches[i, j] = places_i[:0], places_j[:0]
                continue
            rows = match_descriptors(words_i, words_j, cross_check=True, max_ratio=_RATIO)
            matches[i, j] = places_i[rows[:, 0]], places_j[rows[:, 1]]
        return matches

    def _match_by_network(self, one: np.ndarray, other: np.ndarray) -> Matches:
        assert self.network is not None
        processor, sizes = self.network.processor, [[one.shape[:2], other.shape[:2]]]
        with self.network.running():
            inputs = self.network.place(processor([one, other], return_tensors="pt"))
            outputs = self.network.model(**inputs)
            (found,) = processor.post_process_keypoint_matching(outputs, sizes)
        return found["keypoints0"].cpu().numpy().astype(float), found["keypoints1"].cpu().numpy().astype(float)

    def _place(self, views: Sequence[PartialCues], matches: dict[tuple[int, int], Matches]) -> list[_Placed]:
        placed = {0: _Placed(np.eye(4), 1.0, 0)}
        known = [_points_of(view) for view in views]
        while len(placed) < len(views):
            best: tuple[int, _Placed] | None = None
            for number in range(len(views)):
                if number in placed:
                    continue
                found = _fit_pose(views[number], known, placed, matches, number)
                if found is not None and (best is None or found.points > best[1].points):
                    best = number, found
            if best is None or best[1].points < self.least:
                number = next(number for number in range(len(views)) if number not in placed)
                points = best[1].points if best else 0
                raise CuesError(
                    f"{views[number].source}: at most {points} points agree with a pose relative to the other views; "
                    f"expected at least {self.least}. The views show too little in common"
                )
            placed[best[0]] = best[1]
        return [placed[number] for number in range(len(views))]


def _find_points(image_HW3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places (M, 2) and descriptors of the SIFT points of an image."""
    import pycolmap

    options = pycolmap.FeatureExtractionOptions()
    options.use_gpu, options.num_threads = False, 1
    options.sift.peak_threshold = _PEAK
    finder = pycolmap.FeatureExtractor.create(options, pycolmap.Device.cpu)
    grey_HW = np.ascontiguousarray(Image.fromarray(image_HW3).convert("L"))
    places, descriptors = finder.extract_from_uint8_array(grey_HW)
    return np.array([(each.x - 0.5, each.y - 0.5) for each in places]).reshape(-1, 2), np.asarray(descriptors.data)


def _points_of(view: PartialCues) -> np.ndarray:
    """3D points of a view in its own frame, ``(H, W, 3)``; NaN without a reading and at edges of depth."""
    known_HW = view.known_depth()
    assert known_HW is not None and view.intrinsics_33 is not None
    depth_HW = known_HW.astype(float)
    padded = np.pad(depth_HW, 1, mode="edge")
    around = [padded[1:-1, :-2], padded[1:-1, 2:], padded[:-2, 1:-1], padded[2:, 1:-1]]
    certain_HW = np.all([np.abs(each - depth_HW) <= _JUMP * depth_HW for each in around], axis=0)
    return unproject(np.where(certain_HW, depth_HW, np.nan), view.intrinsics_33)


def _fit_pose(
    view: PartialCues,
    known: Sequence[np.ndarray],
    placed: dict[int, _Placed],
    matches: dict[tuple[int, int], Matches],
    number: int,
) -> _Placed | None:
    """The pose of a view in which the points that it shares with the placed views are seen where they were matched."""
    import pycolmap

    seen, points = [], []
    for other, place in placed.items():
        there, here = matches[other, number] if other < number else matches[number, other][::-1]
        own = _at(known[other], there) * place.scale
        good = np.isfinite(own).all(-1)
        seen.append(here[good])
        points.append(own[good] @ place.to_world_44[:3, :3].T + place.to_world_44[:3, 3])
    seen_M2, points_M3 = np.concatenate(seen), np.concatenate(points)
    if len(seen_M2) < 4:
        return None
    height, width = view.image_HW3.shape[:2]
    assert view.intrinsics_33 is not None
    fx, fy, cx, cy = view.intrinsics_33[[0, 1, 0, 1], [0, 1, 2, 2]]
    camera = pycolmap.Camera(model="PINHOLE", width=width, height=height, params=[fx, fy, cx + 0.5, cy + 0.5])
    options = pycolmap.AbsolutePoseEstimationOptions()
    options.ransac.max_error = _MAX_ERROR * max(height, width)
    options.ransac.random_seed, options.ransac.num_threads = 0, 1
    fit = pycolmap.estimate_and_refine_absolute_pose(seen_M2 + 0.5, points_M3, camera, options)
    if fit is None:
        return None
    from_world_34, agree_M = fit["cam_from_world"].matrix(), np.asarray(fit["inlier_mask"], bool)
    away_M = points_M3[agree_M] @ from_world_34[2, :3] + from_world_34[2, 3]
    own_M = _at(known[number], seen_M2[agree_M])[:, 2]
    ratios = (away_M / own_M)[np.isfinite(own_M) & (away_M > 0)]
    if not len(ratios):
        return None
    to_world_44 = np.linalg.inv(np.vstack([from_world_34, [0.0, 0.0, 0.0, 1.0]]))
    return _Placed(to_world_44, float(np.median(ratios)), int(agree_M.sum()))


def _at(points_HW3: np.ndarray, places_M2: np.ndarray) -> np.ndarray:
    """The points at the pixels that contain some places, ``(M, 3)``; NaN outside of the image."""
    height, width = points_HW3.shape[:2]
    column, row = np.floor(places_M2 + 0.5).astype(int).T
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    found = points_HW3[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
    return np.where(inside[:, None], found, np.nan)
