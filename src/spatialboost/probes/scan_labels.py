"""Labelled points of a whole scan: ScanNet's meshes, whose vertices have a class."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from spatialboost.errors import SpatialBoostError

NONE = -1  # a point that is not measured
# The 20 classes of ScanNet's benchmark, by their number in the list of NYU's 40 classes that the files use
SCANNET = {
    1: "wall", 2: "floor", 3: "cabinet", 4: "bed", 5: "chair", 6: "sofa", 7: "table", 8: "door", 9: "window",
    10: "bookshelf", 11: "picture", 12: "counter", 14: "desk", 16: "curtain", 24: "refrigerator",
    28: "shower curtain", 33: "toilet", 34: "sink", 36: "bathtub", 39: "other furniture",
}  # fmt: skip


@dataclass(frozen=True)
class LabelledScan:
    """Points with classes, in the world of the poses.

    Attributes:
        points_P3: metres.
        names_P: name of the class of each point; empty if it has none.
    """

    points_P3: np.ndarray
    names_P: np.ndarray

    def at(self, points_n3: np.ndarray, reach: float) -> np.ndarray:
        """Name of the class of the nearest point ``(n,)``; empty if none is within ``reach`` metres."""
        from scipy.spatial import cKDTree

        distance_n, index_n = cKDTree(self.points_P3).query(points_n3, distance_upper_bound=reach)
        names_n = np.append(self.names_P, "")[np.minimum(index_n, len(self.names_P))]
        return np.where(np.isfinite(distance_n), names_n, "")


def find_labels(folder: Path) -> LabelledScan | None:
    """The labelled mesh of a scan of ScanNet (``scene0011_00_vh_clean_2.labels.ply``); None if it has none.

    Raises:
        SpatialBoostError: the file is broken, or its vertices have no label; or trimesh is missing.
    """
    file = next(iter(sorted(folder.glob("*_vh_clean_2.labels.ply"))), None)
    return None if file is None else _read(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=1)  # the scenes of one scan follow each other
def _read(file: Path, changed: int) -> LabelledScan:
    """The vertices of a labelled mesh; classes outside of the benchmark's 20 have no name.

    Raises:
        SpatialBoostError: the file is broken, or its vertices have no label; or trimesh is missing.
    """
    try:
        import trimesh
    except ImportError as error:
        raise SpatialBoostError(f'{file} needs trimesh: pip install "spatialboost[probes]" ({error})') from None
    expected = "expected a PLY file with x, y, z and label of each vertex, as ScanNet hands it out"
    try:
        mesh = trimesh.load(file, process=False)
        vertices = mesh.metadata["_ply_raw"]["vertex"]["data"]
        points_P3 = np.stack([np.ravel(vertices[axis]) for axis in "xyz"], 1).astype(np.float64)
        values_P = np.ravel(vertices["label"]).astype(int)
    except Exception as error:  # readers of meshes raise many kinds of errors on a broken file
        raise SpatialBoostError(f"{file} cannot be read ({type(error).__name__}: {error}); {expected}") from None
    names = np.array([SCANNET.get(value, "") for value in range(max(values_P.max(initial=0), 0) + 1)])
    return LabelledScan(points_P3, names[np.clip(values_P, 0, None)])
