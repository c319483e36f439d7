"""Cast rays at triangles, with embree."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Shape legend: V = vertices, F = faces, N = rays.


class Hits(NamedTuple):
    """Where rays hit first."""

    t_N: np.ndarray  # float32, how many times the direction the hit is away; inf where nothing is hit
    face_N: np.ndarray  # int32, number of the face; -1 where nothing is hit
    u_N: np.ndarray  # float32, barycentric weight of the face's second corner
    v_N: np.ndarray  # that of the third corner
    flat_N3: np.ndarray  # float32, a normal of the face, of any length and to either side


class Tracer:
    """Triangles that rays can hit.

    Example:
        >>> triangle = np.array([[-1, -1, 2], [1, -1, 2], [0, 1, 2]], np.float32)
        >>> tracer = Tracer(triangle, np.array([[0, 1, 2]], np.int32))
        >>> hits = tracer.first(np.zeros((1, 3)), np.array([[0, 0, 0.5]]))
        >>> hits.t_N.tolist(), hits.face_N.tolist()
        ([4.0], [0])
    """

    def __init__(self, vertices_V3: np.ndarray, faces_F3: np.ndarray) -> None:
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene

        self._scene = EmbreeScene()
        self._mesh = TriangleMesh(
            scene=self._scene,
            vertices=np.ascontiguousarray(vertices_V3, np.float32),
            indices=np.ascontiguousarray(faces_F3, np.int32),
        )

    def first(self, origins_N3: np.ndarray, directions_N3: np.ndarray) -> Hits:
        """The first hit of each ray. Directions need not have length 1."""
        found = self._scene.run(_rays(origins_N3), _rays(directions_N3), output=1)
        missed = found["primID"] < 0
        return Hits(
            np.where(missed, np.float32(np.inf), found["tfar"]), found["primID"], found["u"], found["v"], found["Ng"]
        )

    def blocked(self, origins_N3: np.ndarray, beams_N3: np.ndarray) -> np.ndarray:
        """Bool ``(N,)``: whether something is between each origin and origin + beam."""
        return self._scene.run(_rays(origins_N3), _rays(beams_N3), query="OCCLUDED", dists=1.0) >= 0


def _rays(values_N3: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values_N3, np.float32)
