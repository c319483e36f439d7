"""Where things can stand on a model: the true surfaces of tables and shelves, found by rays from above."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spatialboost.scenes.furnished.meshes import Mesh
from spatialboost.scenes.furnished.tracing import Tracer

# Shape legend: P = points of a grid.

_STEP = 0.025  # metres, between the points of the grid
_MOST_SURFACES = 8  # one above the other
_LEVEL = 0.006  # metres: points whose heights differ by less belong to one surface
_LOWEST, _HIGHEST = 0.2, 1.7  # metres above the floor
_MIN_CLEARANCE = 0.12  # metres
_MIN_POINTS = 12


@dataclass(frozen=True)
class Top:
    """A level surface of a model, in the model's own frame."""

    height: float  # above the floor, metres
    clearance: float  # free height above it, metres
    points_P2: np.ndarray  # x and z of points on it, _STEP apart

    def place(
        self, rng: np.random.Generator, half: tuple[float, float], yaw: float, taken: list[tuple[float, float, float]]
    ) -> tuple[float, float] | None:
        """A place for a thing: all of its outline lies on the surface, and it touches no other thing.

        ``half`` is half its width and depth, ``taken`` x, z and radius of the things that stand there.

        Returns:
            x and z in the model's frame, or None.
        """
        cos, sin = abs(np.cos(yaw)), abs(np.sin(yaw))
        reach = np.array([half[0] * cos + half[1] * sin, half[0] * sin + half[1] * cos]) + 0.01
        radius = float(np.hypot(*half))
        for _ in range(8):
            centre = self.points_P2[int(rng.integers(len(self.points_P2)))]
            if any(np.hypot(centre[0] - x, centre[1] - z) < radius + other + 0.015 for x, z, other in taken):
                continue
            inside = (np.abs(self.points_P2 - centre) <= reach + 1e-6).all(1)
            wanted = np.prod(2 * np.floor(reach / _STEP) + 1)
            # One more ring of points: the surface goes on beyond the outline.
            ring = np.abs(self.points_P2 - centre).max(1)
            if inside.sum() >= wanted and (ring >= reach.min()).any():
                return float(centre[0]), float(centre[1])
        return None


def find_tops(mesh: Mesh) -> tuple[Top, ...]:
    """Find the level surfaces of a model on which something can stand, the largest first."""
    width, height, depth = mesh.size
    x_P, z_P = (axis.ravel() for axis in np.meshgrid(_grid(width), _grid(depth)))
    if not x_P.size:
        return ()
    tracer = Tracer(mesh.vertices_V3, mesh.faces_F3)
    corner = mesh.vertices_V3[mesh.faces_F3]
    normal_F3 = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    level_F = np.abs(normal_F3[:, 1]) > 0.98 * np.linalg.norm(normal_F3, axis=1)
    above_P = np.full(x_P.shape, height + 10.0)  # height of what is above each point
    ray_P = np.full(x_P.shape, height + 0.01)
    found: list[np.ndarray] = []
    down_P3 = np.broadcast_to(np.array([0.0, 1.0, 0.0]), (len(x_P), 3))
    for _ in range(_MOST_SURFACES):
        hits = tracer.first(np.stack([x_P, -ray_P, z_P], 1), down_P3)
        hit_P = hits.face_N >= 0
        if not hit_P.any():
            break
        y_P = np.where(hit_P, ray_P - np.where(hit_P, hits.t_N, 0.0), -1.0)
        flat_P = hit_P & level_F[hits.face_N] & (y_P > _LOWEST) & (y_P < _HIGHEST)
        flat_P &= above_P - y_P > _MIN_CLEARANCE
        if flat_P.any():
            found.append(np.stack([x_P, z_P, y_P, above_P - y_P], 1)[flat_P])
        above_P = np.where(hit_P, y_P, above_P)
        ray_P = np.where(hit_P, y_P - 0.002, -1.0)
    return _group(np.concatenate(found)) if found else ()


def _group(points_P4: np.ndarray) -> tuple[Top, ...]:
    """Group points by height."""
    tops = []
    points_P4 = points_P4[np.argsort(points_P4[:, 2], kind="stable")]
    starts = np.flatnonzero(np.diff(points_P4[:, 2], prepend=-9.0) > _LEVEL)
    for group in np.split(points_P4, starts[1:]):
        if len(group) < _MIN_POINTS or np.ptp(group[:, 2]) > 2 * _LEVEL:
            continue
        tops.append(Top(float(group[:, 2].max()), float(group[:, 3].min()), group[:, :2]))
    return tuple(sorted(tops, key=lambda top: (-len(top.points_P2), top.height)))


def _grid(side: float) -> np.ndarray:
    count = int(side / 2 / _STEP)
    return np.arange(-count, count + 1) * _STEP
