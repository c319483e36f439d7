"""Where cameras, depths and geometric features come from: the protocol, and the geometry that the rows know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from spatialboost.teachers.field.cameras import WAVELENGTHS, Cameras, point_features

# Shape legend: I views of all sequences of a batch, B sequences, N patches, G width of geometric features.

Grid = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """What a geometry model says about the views of a batch.

    Attributes:
        cameras: The camera of each view; the world of a sequence is its first view's camera.
        depths: z at each patch, 0 where unknown ``(I, N)``.
        features: Geometric features, which the field renders ``(I, N, G)``.
        known: Patches whose geometric features are known ``(I, N)``; None: all.
        context: For each view, features that know nothing of the target views ``(I, N, G)``; those of target views have
            no meaning. None: the model has none of its own, and the encoder's take their place.
    """

    cameras: Cameras
    depths: Tensor
    features: Tensor
    known: Tensor | None = None
    context: Tensor | None = None


class GeometryModel(Protocol):
    """A frozen model of geometry.

    Attributes:
        grid: Rows and columns of patches at which it knows depths and features.
        width: Width G of its features.
        columns: Columns of the rows that `Views` has to read for it.
    """

    grid: Grid
    width: int
    columns: tuple[str, ...]

    def __call__(self, batch: Mapping[str, Tensor]) -> Geometry:
        """The geometry of the views in a batch: ``frames`` and ``contexts`` ``(B,)``, and what `Views` adds."""


class KnownGeometry:
    """The geometry that the rows know: poses, intrinsics and depth maps.

    Example:
        >>> known = KnownGeometry((2, 2))
        >>> import torch
        >>> batch = {"poses": torch.eye(4)[None], "intrinsics": torch.tensor([[1.0, 1, 0, 0]])}
        >>> batch["depths"] = torch.ones(1, 4)
        >>> known(batch).features.shape
        torch.Size([1, 4, 30])

    The geometric features of a patch are sines and cosines of the place of its point in the world, see
    `spatialboost.teachers.field.cameras.point_features`. It has no context features of its own: depths are for targets
    only, so that what is nearer has to be seen in the images.

    Args:
        grid: Rows and columns of patches.
    """

    columns: tuple[str, ...] = ("images", "depths", "poses", "intrinsics")
    width = 6 * len(WAVELENGTHS)

    def __init__(self, grid: Grid) -> None:
        self.grid = grid

    def __call__(self, batch: Mapping[str, Any]) -> Geometry:
        """The geometry of the views in a batch of `stack_sequences`."""
        cameras = Cameras(batch["poses"], batch["intrinsics"], self.grid)
        depths = batch["depths"]
        return Geometry(cameras, depths, point_features(cameras.points(depths)), depths > 0)
