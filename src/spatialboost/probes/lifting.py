"""Lift patch tokens of several posed RGB-D views to points, and pool them in voxels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spatialboost.scenes.cues import Cues

# Shape legend: S samples of a view, N patches, P points (one for each voxel), D width of the tokens.

FINE = 4  # samples of a patch in each direction
BACKGROUND = "background"
_AFTER_NOUN = ("on", "by", "in", "next", "near", "from", "of", "with", "against", "at", "under", "behind")


def class_of(description: str) -> str:
    """The class that a description names: its noun.

    Example:
        >>> class_of("small red striped box on the floor"), class_of("office chair"), class_of("floor")
        ('box', 'chair', 'floor')
    """
    words = description.lower().split()
    end = next((place for place, word in enumerate(words) if place and word in _AFTER_NOUN), len(words))
    return words[end - 1] if words else ""


@dataclass(frozen=True)
class _Samples:
    """Points of one view on a grid that is finer than that of the patches, without those that have no reading.

    Attributes:
        points_S3: in the world of the poses, metres.
        tokens_S4: the four patches around each sample.
        weights_S4: their bilinear weights.
        things_S: which of the view's objects it is; -1 is none.
    """

    points_S3: np.ndarray
    tokens_S4: np.ndarray
    weights_S4: np.ndarray
    things_S: np.ndarray

    def pooling(self, rows_S: np.ndarray, num: int, num_patches: int) -> Any:
        """A sparse matrix ``(num, N)`` that adds up the samples' features, interpolated bilinearly, in rows."""
        from scipy.sparse import csr_matrix

        places = np.repeat(rows_S, 4), self.tokens_S4.ravel()
        return csr_matrix((self.weights_S4.ravel(), places), shape=(num, num_patches), dtype=np.float32)


class LiftedScene:
    """The points of some views of one place: one for each voxel that has a depth reading.

    Example:
        >>> from spatialboost.scenes.rooms.render import render_scenes
        >>> views = render_scenes([2], views=4, size=32)[0].views
        >>> scene = LiftedScene(views, grid=(4, 4), voxel=0.1)
        >>> features = scene.features([torch.randn(16, 8) for _ in views])
        >>> features.shape == (len(scene.points_P3), 8), scene.names_P.dtype.kind
        (True, 'U')

    Tokens are enlarged bilinearly, four times in each direction. The feature of a point is the mean over all samples of
    all views in its voxel, and its class is that of most of them.

    Args:
        views: with depth and poses.
        grid: rows and columns of patches.
        voxel: edge of a voxel, metres.

    Attributes:
        points_P3: mean of the samples of each voxel, in the world of the poses, metres.
    """

    def __init__(self, views: Sequence[Cues], grid: tuple[int, int], voxel: float) -> None:
        self.views, self.grid = views, grid
        self._samples = [_sample(view, grid) for view in views]
        points = np.concatenate([samples.points_S3 for samples in self._samples])
        cell = np.floor(points / voxel).astype(np.int64)
        _, rows = np.unique(cell, axis=0, return_inverse=True)
        rows = rows.ravel()
        self._num_samples_P = np.bincount(rows)
        ends = np.cumsum([len(samples.points_S3) for samples in self._samples])
        self._rows = np.split(rows, ends[:-1])
        sums = [np.bincount(rows, points[:, axis]) for axis in range(3)]
        self.points_P3 = np.stack(sums, 1) / self._num_samples_P[:, None]

    def features(self, tokens: Iterable[Tensor]) -> Tensor:
        """The feature ``(P, D)`` of each point.

        Args:
            tokens: patch tokens ``(N, D)`` of each view.
        """
        num, total = len(self.points_P3), None
        for samples, rows_S, tokens_ND in zip(self._samples, self._rows, tokens, strict=True):
            pooled_PD = samples.pooling(rows_S, num, len(tokens_ND)) @ tokens_ND.numpy()
            total = pooled_PD if total is None else total + pooled_PD
        assert total is not None
        return torch.from_numpy(total / self._num_samples_P[:, None].astype(np.float32))

    @cached_property
    def names_P(self) -> np.ndarray:  # noqa: N802  # shape suffix
        """The class of each point: the noun of the object of most of its samples, or background."""
        names = sorted({BACKGROUND, *(class_of(thing.description) for view in self.views for thing in view.objects)})
        places, num = {name: place for place, name in enumerate(names)}, len(names)
        votes = np.zeros(len(self.points_P3) * num, np.int64)
        for view, samples, rows_S in zip(self.views, self._samples, self._rows, strict=True):
            of_things = [places[class_of(thing.description)] for thing in view.objects] + [places[BACKGROUND]]
            votes += np.bincount(rows_S * num + np.array(of_things)[samples.things_S], minlength=len(votes))
        return np.array(names)[votes.reshape(-1, num).argmax(1)]

    def objects(self, tokens: Iterable[Tensor], fewest: int) -> Mapping[str, Tensor]:
        """The mean feature ``(D,)`` of each object that has an identity, over all its samples.

        Args:
            tokens: patch tokens ``(N, D)`` of each view.
            fewest: an object with fewer samples is left out.
        """
        sums: dict[str, Any] = {}
        for view, samples, tokens_ND in zip(self.views, self._samples, tokens, strict=True):
            num_rows = 1 + len(view.objects)  # the first one is for samples of no object
            pooled_OD = samples.pooling(1 + samples.things_S, num_rows, len(tokens_ND)) @ tokens_ND.numpy()
            num_O = np.bincount(1 + samples.things_S, minlength=num_rows)
            for thing, sum_D, num in zip(view.objects, pooled_OD[1:], num_O[1:], strict=True):
                if thing.identity is not None and num:
                    before_D, before = sums.get(thing.identity, (0, 0))
                    sums[thing.identity] = before_D + sum_D, before + num
        return {name: torch.from_numpy(sum_D / np.float32(num)) for name, (sum_D, num) in sums.items() if num >= fewest}


def _sample(view: Cues, grid: tuple[int, int]) -> _Samples:
    height, width = view.size
    rows, columns = grid[0] * FINE, grid[1] * FINE
    y, x = (each.ravel() + 0.5 for each in np.mgrid[:rows, :columns])
    v, u = (y * height / rows).astype(int), (x * width / columns).astype(int)
    there = view.valid_HW[v, u]
    v, u, y, x = v[there], u[there], y[there], x[there]
    homogeneous_S3 = np.stack([u, v, np.ones(len(u))], 1)
    points_S3 = homogeneous_S3 @ np.linalg.inv(view.intrinsics_33).T * view.depth_HW[v, u][:, None].astype(np.float64)
    pose_44 = np.asarray(view.pose_44, np.float64)
    low_y, part_y = _between(y / FINE, grid[0])
    low_x, part_x = _between(x / FINE, grid[1])
    high_y, high_x = np.minimum(low_y + 1, grid[0] - 1), np.minimum(low_x + 1, grid[1] - 1)
    tokens = [row * grid[1] + column for row in (low_y, high_y) for column in (low_x, high_x)]
    weights = [down * across for down in (1 - part_y, part_y) for across in (1 - part_x, part_x)]
    things_S = np.full(len(u), -1)
    for number, thing in enumerate(view.objects):
        things_S[thing.mask_HW[v, u]] = number
    return _Samples(points_S3 @ pose_44[:3, :3].T + pose_44[:3, 3], np.stack(tokens, 1), np.stack(weights, 1), things_S)


def _between(place: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    """The patch before a place, and how far the place is from its centre to that of the next patch."""
    from_centre = np.clip(place - 0.5, 0, num - 1)
    low = np.floor(from_centre).astype(int)
    return low, from_centre - low
