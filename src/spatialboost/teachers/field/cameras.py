"""The cameras of views as a network needs them: projections, rays of patches, points at patches."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spatialboost.teachers.field.positions import grid_places

# Shape legend: leading axes are any, such as I views, or B sequences and V views; N patches.

WAVELENGTHS = (2.0, 4.0, 8.0, 16.0, 32.0)  # metres: from a table's size to a street's


@dataclass(frozen=True)
class Cameras:
    """Poses and intrinsics of views.

    Example:
        >>> cameras = Cameras(torch.eye(4)[None], torch.tensor([[1.0, 1.0, 0.0, 0.0]]), (2, 2))
        >>> cameras.directions()[0, 0]  # towards the upper left
        tensor([-0.2357, -0.2357,  0.9428])

    Attributes:
        poses: World to camera ``(..., 4, 4)``; the world is the frame of the first view's camera. OpenCV: x right, y
            down, z forward.
        intrinsics: ``(..., 4)``: focal lengths and principal point as shares of the image, fx/W, fy/H, cx/W - 0.5,
            cy/H - 0.5. An image reaches from 0 to W.
        grid: Rows and columns of patches.
    """

    poses: Tensor
    intrinsics: Tensor
    grid: tuple[int, int]

    def __getitem__(self, index: Tensor | slice) -> Cameras:
        """Some of the views."""
        return replace(self, poses=self.poses[index], intrinsics=self.intrinsics[index])

    def projections(self) -> Tensor:
        """Intrinsics times pose, from the world to the plane of the image ``(..., 4, 4)``."""
        fx, fy, cx, cy = self.intrinsics.float().unbind(-1)
        matrix = torch.zeros_like(self.poses, dtype=torch.float32)
        matrix[..., 0, 0], matrix[..., 1, 1], matrix[..., 0, 2], matrix[..., 1, 2] = fx, fy, cx, cy
        matrix[..., 2, 2] = matrix[..., 3, 3] = 1
        return matrix @ self.poses.float()

    def directions(self) -> Tensor:
        """Unit vectors from the camera through the centres of patches, in the camera's frame ``(..., N, 3)``."""
        rays = self._rays()
        return rays / rays.norm(dim=-1, keepdim=True)

    def pluecker(self) -> Tensor:
        """Moment and direction of the rays through the centres of patches, in the world ``(..., N, 6)``."""
        turn, shift = self.poses[..., :3, :3].float(), self.poses[..., :3, 3].float()
        directions = self.directions() @ turn  # the rows of the transpose
        origins = -(shift[..., None, :] @ turn).expand_as(directions)
        return torch.cat([torch.linalg.cross(origins, directions), directions], -1)

    def points(self, depths: Tensor) -> Tensor:
        """The points in the world that patches show, from their depth z ``(..., N)``: ``(..., N, 3)``, metres."""
        inside = self._rays() * depths[..., None] - self.poses[..., None, :3, 3].float()
        return inside @ self.poses[..., :3, :3].float()

    def _rays(self) -> Tensor:
        """Rays with z = 1."""
        places = grid_places(self.grid).to(self.intrinsics.device) + 0.5
        fx, fy, cx, cy = (each[..., None] for each in self.intrinsics.float().unbind(-1))
        x = (places[:, 1] / self.grid[1] - 0.5 - cx) / fx
        y = (places[:, 0] / self.grid[0] - 0.5 - cy) / fy
        return torch.stack([x, y, torch.ones_like(x)], -1)


def point_features(points: Tensor) -> Tensor:
    """Sines and cosines of the coordinates of points at several wavelengths ``(..., 30)``.

    Example:
        >>> features = point_features(torch.tensor([[0.5, 0.0, 0.0]]))
        >>> features.shape, round(float(features[0, 0]), 3)
        (torch.Size([1, 30]), 1.0)

    So each number is between -1 and 1, and all points have features of the same length: an error of 10 cm counts as
    much far away as near, and both losses, of size and of direction, can be used on them.

    Args:
        points: ``(..., 3)``, metres.
    """
    angles = torch.cat([points * (2 * torch.pi / length) for length in WAVELENGTHS], -1)
    return torch.cat([angles.sin(), angles.cos()], -1)
