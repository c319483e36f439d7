"""Sequences: from the views of a row to points, where each view sees them, and how deep they are there."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.camera import to_normalised, to_pixels
from spatialboost.scenes.cues import Cues
from spatialboost.scenes.dataset.reader import open_depth, open_image
from spatialboost.scenes.scene import Scene
from spatialboost.scenes.tracks import Tracks, find_tracks
from spatialboost.teachers.correspondence.config import CorrespondenceOptions
from spatialboost.teachers.correspondence.epipolar import far_places
from spatialboost.teachers.pixel.targets import patch_log_depth
from spatialboost.teachers.protocol import Example, Row, row_images

logger = logging.getLogger(__name__)

# Shape legend: F views of a sequence, T points, N patches, E further negatives of a point, H and W pixels.

Grid = tuple[int, int]
COLUMNS = ("images", "depths", "poses", "intrinsics")
_DISAGREE = 0.5  # a smaller share of points whose depths agree makes the poses suspicious
_CLEARLY = 2.0  # how many times more points must agree with the poses read in the other way


class Sequences:
    """Makes the tensors of a row for the correspondence loss. It can be pickled and contains no model.

    The example has ``pixel_values`` ``(F, 3, H, W)`` of the chosen views, the first one first; ``points``
    ``(F, T, 2)``, (x, y) as shares of each view's width and height; ``visible`` ``(F, T)``; ``depths`` ``(F, T)``, z of
    each point in each view in metres; ``patch_depths`` ``(F, N)``, 0 where unknown; ``places`` ``(F,)``, the place of
    each view in the row, counted from the first one; and with the option `epipolar`, ``far`` ``(F, T, E, 2)`` and
    ``far_valid`` ``(F, T, E)``.

    The same row and seed always give the same sequence.

    Args:
        prepare: Turns a row's images into an encoder's input, such as `spatialboost.training.RowImages`.
        grid: Rows and columns of patches.
        options: The options of the teacher.
        seed: Random seed.
        shuffle: Exchange the matches among the points of each view.
        whole: For scores: all views of the row up to the largest number, the row's first one first, and all points of
            the patch grid.
    """

    def __init__(
        self,
        prepare: Callable[[Row], Tensor],
        grid: Grid,
        options: CorrespondenceOptions,
        *,
        seed: int = 0,
        shuffle: bool = False,
        whole: bool = False,
    ) -> None:
        self.prepare, self.grid, self.options, self.seed = prepare, grid, options, seed
        self.shuffle, self.whole = shuffle, whole

    def __call__(self, number: int, row: Row) -> Example:
        """The example of a row.

        Raises:
            SpatialBoostError: The row has one view, no overlap between its views, or poses that cannot be right.
        """
        rng = np.random.default_rng([self.seed, number])
        chosen = self._choose(rng, count_views(row))
        scene = open_scene(row, chosen)
        example = self.of_scene(scene, rng)
        example["places"] = torch.tensor(chosen) - chosen[0]
        return example

    def of_scene(self, scene: Scene, rng: np.random.Generator) -> Example:
        """The example of a scene, of which the first view has the query points."""
        first, options = scene.views[0], self.options
        grids = [self.grid] if self.whole else [(g, g) if g else self.grid for g in options.grids]
        pixels_T2 = to_pixels(np.concatenate([cell_centres(grid) for grid in grids]), first.size)
        tracks = follow(scene, pixels_T2, options)
        kept = np.arange(len(tracks)) if self.whole else choose_points(tracks, options, rng)
        points = np.stack([to_normalised(tracks.pixels_VT2[i, kept], view.size) for i, view in enumerate(scene.views)])
        visible, depths = tracks.visible_VT[:, kept], tracks.depths_VT[:, kept]
        if self.shuffle:
            points, visible, depths = exchanged(points, visible, depths, rng)
        example = {
            "pixel_values": self.prepare({"images": [view.image_HW3 for view in scene.views]}),
            "points": torch.from_numpy(np.nan_to_num(points, nan=0.5).astype(np.float32)),
            "visible": torch.from_numpy(visible.copy()),
            "depths": torch.from_numpy(np.where(visible, depths, 1.0).astype(np.float32)),
            "patch_depths": torch.cat([self._patch_depths(view) for view in scene.views]),
        }
        if options.epipolar and not self.whole:
            far, valid = far_places(scene, pixels_T2[kept], options.epipolar, options.epipolar_distance, rng)
            example |= {"far": torch.from_numpy(far.astype(np.float32)), "far_valid": torch.from_numpy(valid)}
        return example

    def _choose(self, rng: np.random.Generator, count: int) -> list[int]:
        """The numbers of the views of a sequence, the first one first and the others in the order of the row."""
        low, high = self.options.frames
        if self.whole:
            return list(range(min(count, high)))
        first = int(rng.integers(count))
        near = [i for i in range(count) if i != first and abs(i - first) <= self.options.window]
        wanted = min(int(rng.integers(low, high + 1)) - 1, len(near))
        return [first, *sorted(rng.permutation(near)[:wanted].tolist())]

    def _patch_depths(self, view: Cues) -> Tensor:
        """Depth of each patch ``(1, N)``, 0 where unknown."""
        depth_HW = np.where(view.valid_HW, view.depth_HW, 0).astype(np.float32)
        if self.options.patch_depth == "centre":
            column, row = np.floor(to_pixels(cell_centres(self.grid), view.size) + 0.5).astype(int).T
            return torch.from_numpy(depth_HW[row, column])[None]
        log_1N, known_1N = patch_log_depth(torch.from_numpy(depth_HW)[None], None, self.grid)
        return torch.where(known_1N, log_1N.exp(), 0.0)


def count_views(row: Row) -> int:
    """The number of views of a row.

    Raises:
        SpatialBoostError: It is one, or a column has another number.
    """
    lengths = {"images": len(row_images(row))}
    for name in COLUMNS[1:]:
        found = row.get(name)
        if not isinstance(found, (list, tuple)):
            raise SpatialBoostError(f"`{name}` is {found!r:.80}; expected a list with one entry for each image")
        lengths[name] = len(found)
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{count} {name}" for name, count in lengths.items())
        raise SpatialBoostError(f"it has {counts}; expected one of each for every view")
    if lengths["images"] < 2:
        raise SpatialBoostError(
            f"it has {lengths['images']} view; correspondence needs at least two of one place: build the data with "
            "--views 4 or another number"
        )
    return lengths["images"]


def open_scene(row: Row, chosen: list[int]) -> Scene:
    """Some views of a row, decoded.

    Raises:
        SpatialBoostError: An image or a depth map cannot be decoded, or a pose is missing or not rigid.
    """
    views = []
    for i in chosen:
        pose: Any = row["poses"][i]
        views.append(
            Cues(
                image_HW3=np.asarray(open_image(row["images"][i])),
                depth_HW=open_depth(row["depths"][i]),
                intrinsics_33=np.array(row["intrinsics"][i], np.float64),
                source=f"view {i}",
                pose_44=None if pose is None else np.array(pose, np.float64),
            )
        )
    return Scene(views)


def cell_centres(grid: Grid) -> np.ndarray:
    """(x, y) of the centres of equal cells ``(rows * columns, 2)``, as shares of an image's width and height.

    Example:
        >>> cell_centres((1, 2)).tolist()
        [[0.25, 0.5], [0.75, 0.5]]
    """
    y, x = np.mgrid[: grid[0], : grid[1]]
    return np.stack([(x.ravel() + 0.5) / grid[1], (y.ravel() + 0.5) / grid[0]], -1)


def follow(scene: Scene, pixels_T2: np.ndarray, options: CorrespondenceOptions) -> Tracks:
    """Follow points of the first view into all others.

    Raises:
        SpatialBoostError: No point is seen in another view, or most depths disagree and would agree if the poses were
            the other way round.
    """
    limits: Any = {"agree": options.agree, "border": options.border, "neighbours": options.neighbours}
    tracks = find_tracks(scene, pixels_T2, **limits)
    share = _agreeing(scene, tracks, pixels_T2, options)
    if share is None or share < _DISAGREE:
        turned = Scene([replace(view, pose_44=np.linalg.inv(_pose(view))) for view in scene.views])
        other = _agreeing(turned, find_tracks(turned, pixels_T2, **limits), pixels_T2, options)
        if other is not None and other > _DISAGREE and other > _CLEARLY * (share or 0):
            raise SpatialBoostError(
                f"depths agree at {share or 0:.0%} of the points with the poses read as camera to world, and at "
                f"{other:.0%} read as world to camera: invert the poses, or build the data with --pose-type "
                "world-to-camera"
            )
    if not tracks.visible_VT[0].any():
        raise SpatialBoostError(f"{scene.source} has no depth at any of its {len(tracks)} points, so none is followed")
    if not tracks.visible_VT[1:].any():
        why = "they do not overlap" if share is None else "the depths measured there are other ones"
        raise SpatialBoostError(
            f"no point of {scene.source} is seen in one of {len(scene.views) - 1} other views, as {why}: take views "
            "that are nearer to each other, and check poses and intrinsics"
        )
    return tracks


def choose_points(tracks: Tracks, options: CorrespondenceOptions, rng: np.random.Generator) -> np.ndarray:
    """The numbers of the points to learn from: seen in the first view and in another one, at most `points`.

    Of too many, a share is kept that is seen in the most views (only as many as leave `points` of them), and the points
    are drawn from it.
    """
    seen_T = np.flatnonzero(tracks.visible_VT[0] & tracks.visible_VT[1:].any(0))
    if len(seen_T) <= options.points:
        return seen_T
    views_T = tracks.visible_VT[:, seen_T].sum(0)
    most = max(options.points, round(options.keep * len(seen_T)))
    often_T = seen_T[np.argsort(-views_T, kind="stable")[:most]]
    return np.sort(rng.permutation(often_T)[: options.points])


def exchanged(
    points: np.ndarray, visible: np.ndarray, depths: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matches in which each view after the first has the place of another point of the same view, for the control."""
    points, visible, depths = points.copy(), visible.copy(), depths.copy()
    for view in range(1, len(points)):
        seen = rng.permutation(np.flatnonzero(visible[view]))
        if len(seen) < 2:
            visible[view] = False  # a single point cannot be exchanged
            continue
        others = np.roll(seen, 1)
        points[view, seen], depths[view, seen] = points[view, others], depths[view, others]
    return points, visible, depths


def _agreeing(scene: Scene, tracks: Tracks, pixels_T2: np.ndarray, options: CorrespondenceOptions) -> float | None:
    """The share of the points inside other views at which the depths agree; None if no point is inside."""
    inside = find_tracks(scene, pixels_T2, border=options.border, occluder=False).visible_VT[1:]
    return float(tracks.visible_VT[1:].sum() / inside.sum()) if inside.any() else None


def _pose(view: Cues) -> np.ndarray:
    assert view.pose_44 is not None  # a scene of several views has all poses
    return np.asarray(view.pose_44, np.float64)
