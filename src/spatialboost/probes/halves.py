"""The two halves of a scene's views: objects of the first are looked up in the second, and both are registered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from spatialboost.probes.lifting import LiftedScene
from spatialboost.probes.registration import Registered, fit_motion, match_at_random, match_points, measure_motion
from spatialboost.scenes.cues import Cues

# Shape legend: P points of a half, M matches, O objects of the second half, Q objects of both, D width of the tokens.

REACH = 0.1  # metres; matched points that are nearer to each other agree with a motion
RECALL = 0.05  # metres; a registration with a smaller RMSE is right
OVERLAP = 0.3  # least share of the points of the smaller half that the other half has, too
FEWEST = 16  # samples of an object


class Halves:
    """Measures the two halves of many scenes, one scene after the other.

    Args:
        grid: rows and columns of patches.
        voxel: edge of a voxel, metres.
        most: largest number of points of each half that are matched.
    """

    def __init__(self, grid: tuple[int, int], voxel: float, most: int) -> None:
        self.grid, self.voxel, self.most = grid, voxel, most
        self._found: list[list[float]] = []  # for each scene
        self._motions: list[Registered] = []

    def add(self, views: Sequence[Cues], tokens: Sequence[Tensor], *, seed: int, at_random: bool = False) -> None:
        """Measure a scene.

        Args:
            views: its views in order; the second half begins in the middle.
            tokens: patch tokens of each view.
            seed: for the choice of points.
            at_random: answer without looking at the tokens.
        """
        cut = len(views) // 2
        parts = [slice(0, cut), slice(cut, None)]
        first, second = halves = [LiftedScene(views[part], self.grid, self.voxel) for part in parts]
        if not all(len(half.points_P3) for half in halves):
            return  # no depth where it is sampled
        objects = [half.objects(tokens[part], FEWEST) for half, part in zip(halves, parts, strict=True)]
        self._look_up(*objects, at_random=at_random)
        common_P = _common(first, second, 2 * self.voxel)
        if common_P.sum() < max(3, OVERLAP * min(len(half.points_P3) for half in halves)):
            return
        # each half in the frame of its first camera, so that the true motion is that of these two cameras
        first_44, second_44 = (np.linalg.inv(np.asarray(half.views[0].pose_44, np.float64)) for half in halves)
        here_P3, there_P3 = (
            half.points_P3 @ pose_44[:3, :3].T + pose_44[:3, 3]
            for half, pose_44 in zip(halves, (first_44, second_44), strict=True)
        )
        rng = np.random.default_rng([seed, 1])
        if at_random:
            match_M2 = match_at_random(len(here_P3), len(there_P3), self.most, rng)
        else:
            here_PD, there_PD = (half.features(tokens[part]) for half, part in zip(halves, parts, strict=True))
            match_M2 = match_points(here_PD, there_PD, self.most, rng)
        guess_44 = fit_motion(here_P3[match_M2[:, 0]], there_P3[match_M2[:, 1]], REACH)
        self._motions.append(measure_motion(guess_44, second_44 @ np.linalg.inv(first_44), here_P3[common_P]))

    def metrics(self) -> dict[str, float]:
        """The metrics of what could be measured."""
        metrics = {"found": float(np.mean([right for scene in self._found for right in scene]))} if self._found else {}
        if self._motions:
            metrics |= {
                "registered": float(np.mean([motion.rmse < RECALL for motion in self._motions])),
                "translation": float(np.median([motion.translation for motion in self._motions])),
                "rotation": float(np.median([motion.rotation for motion in self._motions])),
            }
        return metrics

    def per_scene(self) -> list[float]:
        """The first of these metrics for each scene."""
        return [float(np.mean(scene)) for scene in self._found] or [
            float(motion.rmse < RECALL) for motion in self._motions
        ]

    def counts(self) -> dict[str, float]:
        """Numbers of objects and scenes that were measured."""
        return {"objects": sum(map(len, self._found)), "scenes with enough in common": len(self._motions)}

    def _look_up(self, here: Mapping[str, Tensor], there: Mapping[str, Tensor], *, at_random: bool) -> None:
        names, common = sorted(there), sorted(here.keys() & there.keys())
        if len(names) < 2 or not common:
            return
        if at_random:
            self._found.append([1 / len(names)] * len(common))
            return
        there_OD, here_QD = (
            nn.functional.normalize(torch.stack([given[name] for name in wanted]), dim=-1)
            for given, wanted in ((there, names), (here, common))
        )
        best_Q = (here_QD @ there_OD.T).argmax(1).tolist()
        self._found.append([float(names[best] == name) for best, name in zip(best_Q, common, strict=True)])


def _common(first: LiftedScene, second: LiftedScene, reach: float) -> np.ndarray:
    """Whether the second half has a point near each point of the first one."""
    from scipy.spatial import cKDTree

    distance_P, _ = cKDTree(second.points_P3).query(first.points_P3, distance_upper_bound=reach)
    return np.isfinite(distance_P)
