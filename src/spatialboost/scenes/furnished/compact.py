"""Make meshes smaller: remove faces that nobody can see, and merge vertices that are closer than a pixel."""

from __future__ import annotations

import functools

import numpy as np

from spatialboost.scenes.furnished.tracing import Tracer

# Shape legend: V = vertices, F = faces, D = directions.

_DIRECTIONS = 32
_LARGE_FACE = 0.02  # metres: longest edge


def find_visible(vertices_V3: np.ndarray, faces_F3: np.ndarray) -> np.ndarray:
    """Bool ``(F,)``: the faces that can be seen from outside: from their middle, some direction is free.

    The inside of closed cupboards, screws and books behind books is a large part of many models. A large face may be
    hidden only in its middle: of such faces, a point near each corner counts as well.
    """
    tracer = Tracer(vertices_V3, faces_F3)
    size = float(np.ptp(vertices_V3, axis=0).max())
    corner_F33 = vertices_V3[faces_F3]
    visible_F = _escapes(tracer, corner_F33.mean(1), size)
    edge_F = np.sqrt(np.square(corner_F33 - np.roll(corner_F33, 1, axis=1)).sum(-1)).max(1)
    unsure = np.flatnonzero(~visible_F & (edge_F > max(_LARGE_FACE, size / 100)))
    for k in range(3):
        unsure = unsure[~visible_F[unsure]]
        weights_3 = np.roll([0.84, 0.08, 0.08], k).astype(np.float32)
        visible_F[unsure] = _escapes(tracer, weights_3 @ corner_F33[unsure], size)
    return visible_F


def _escapes(tracer: Tracer, points_N3: np.ndarray, size: float) -> np.ndarray:
    """Bool ``(N,)``: whether a ray from each point leaves the model, in one of some directions."""
    free_N = np.zeros(len(points_N3), bool)
    for direction in _sphere():
        hidden = np.flatnonzero(~free_N)
        if not hidden.size:
            break
        beam = np.broadcast_to(direction, (hidden.size, 3))
        free_N[hidden] = ~tracer.blocked(points_N3[hidden] + 1e-4 * size * beam, beam * (2 * size))
    return free_N


def merge_vertices(
    vertices_V3: np.ndarray, faces_F3: np.ndarray, cell: float, among_F: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Merge the vertices in each cell of a grid, and remove faces that become a line or that occur twice.

    Example:
        >>> vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1.001, 0]], np.float32)
        >>> merge_vertices(vertices, np.array([[0, 1, 2], [0, 2, 3]], np.int32), cell=0.1)[1].tolist()
        [[0, 2, 1]]

    A vertex that is alone in its cell keeps its position. Without ``among_F``, all faces are kept.

    Returns:
        The new vertices, the new faces, and the old number of each new face.
    """
    old_F = np.arange(len(faces_F3)) if among_F is None else np.flatnonzero(among_F)
    is_used = np.zeros(len(vertices_V3), bool)
    is_used[faces_F3[old_F]] = True
    used = np.flatnonzero(is_used)
    keys = np.floor(vertices_V3[used] / cell + 0.5).astype(np.int64)
    keys -= keys.min(0)
    span = keys.max(0) + 1
    flat = (keys[:, 0] * span[1] + keys[:, 1]) * span[2] + keys[:, 2]
    _, first, group = np.unique(flat, return_index=True, return_inverse=True)
    counts = np.bincount(group)
    sums = np.stack([np.bincount(group, vertices_V3[used, axis]) for axis in range(3)], 1)
    merged = (sums / counts[:, None]).astype(np.float32)
    alone = counts == 1
    merged[alone] = vertices_V3[used[first[alone]]]
    renumber = np.zeros(len(vertices_V3), np.int32)
    renumber[used] = group
    faces = renumber[faces_F3[old_F]]
    whole = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    ordered = np.sort(faces, 1).astype(np.int64)
    num = len(merged)
    key = (ordered[:, 0] * num + ordered[:, 1]) * num + ordered[:, 2]
    once = np.zeros(len(faces), bool)
    once[np.unique(key, return_index=True)[1]] = True
    kept = np.flatnonzero(whole & once)
    return merged, np.ascontiguousarray(faces[kept]), old_F[kept]


@functools.cache
def _sphere() -> np.ndarray:
    """Directions that cover the sphere evenly: a Fibonacci lattice, in an order that covers it early."""
    k = np.arange(_DIRECTIONS) + 0.5
    y = 1 - 2 * k / _DIRECTIONS
    angle = np.pi * (1 + 5**0.5) * k
    radius = np.sqrt(1 - y * y)
    directions = np.stack([radius * np.cos(angle), y, radius * np.sin(angle)], 1).astype(np.float32)
    return directions[np.random.default_rng(0).permutation(_DIRECTIONS)]
