"""SUN RGB-D: a folder for each frame with ``image/``, ``depth/``, ``intrinsics.txt``, ``extrinsics/``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import CuesError
from spatialboost.scenes.readers.annotations import SURFACES, draw_segmentation, to_objects
from spatialboost.scenes.readers.decode import DepthFormat, image_size
from spatialboost.scenes.readers.intrinsics import read_intrinsics
from spatialboost.scenes.readers.layout import Layout
from spatialboost.scenes.readers.matching import IMAGES, list_files
from spatialboost.scenes.readers.options import ReaderOptions
from spatialboost.scenes.readers.recording import Frame, Recording
from spatialboost.scenes.readers.text import read_json, read_numbers

_POLYGONS = "annotation2Dfinal/index.json"


class SunRGBD(Recording):
    """One frame. Depth is in millimetres, with the lowest three bits as the highest ones; there is no pose.

    ``extrinsics/*.txt`` turns the camera's frame so that y is down along gravity. ``annotation2Dfinal/index.json`` has
    polygons of named objects.
    """

    depth_format = DepthFormat(scale=1000.0, rotated=True)

    def __init__(self, folder: Path, options: ReaderOptions, root: Path) -> None:
        self.folder = folder
        images, depths = _only(folder, "image", IMAGES), _only(folder, "depth", (".png",))
        self.image, self.depth = images, depths
        self.names = [images.stem]

    @classmethod
    def matches(cls, folder: Path, options: ReaderOptions) -> bool:
        return (folder / "intrinsics.txt").is_file() and (folder / "image").is_dir() and (folder / "depth").is_dir()

    def frame(self, index: int, source: str) -> Frame:
        return Frame(
            image=self.image,
            depth=self.depth,
            intrinsics=read_intrinsics(self.folder / "intrinsics.txt"),
            up_3=self._read_up(source),
        )

    def _read_up(self, source: str) -> np.ndarray | None:
        files = sorted((self.folder / "extrinsics").glob("*.txt"))
        if not files:
            return None
        rows = read_numbers(files[-1], "expected a 3x4 matrix")
        if [len(row) for row in rows] != [4, 4, 4]:
            raise CuesError(
                f"{source}: {files[-1].name} has rows of {[len(row) for row in rows]} numbers, expected 3x4"
            )
        up_3 = -np.array(rows[1][:3])  # y after the turn is down
        length = np.linalg.norm(up_3)
        return up_3 / length if abs(length - 1) < 0.02 else None

    @property
    def has_objects(self) -> bool:
        return (self.folder / _POLYGONS).is_file()

    def objects(self, index: int, size: tuple[int, int]) -> Sequence[Any]:
        if not self.has_objects:
            return ()
        file, own_size = self.folder / _POLYGONS, image_size(self.image)
        source = f"{self.folder.name}/{self.names[0]}"
        expected = "expected frames with polygon, and objects with name"
        content = read_json(file, expected)
        masks = []
        try:
            names = [(entry or {}).get("name", "") for entry in content["objects"]]
            for polygon in content["frames"][0]["polygon"]:
                xs, ys = np.atleast_1d(polygon["x"]), np.atleast_1d(polygon["y"])
                name = names[polygon["object"]]
                if own_size is not None and len(xs) == len(ys) >= 3 and name not in SURFACES:
                    points = np.stack([xs, ys], 1).ravel().tolist()
                    masks.append((name, draw_segmentation([points], own_size)))
        except (KeyError, TypeError, IndexError, ValueError, AttributeError, OverflowError) as error:
            raise CuesError(f"{source}: {_POLYGONS} has another form ({error}); {expected}") from error
        return to_objects(masks, size, source)


def _only(folder: Path, inside: str, endings: tuple[str, ...]) -> Path:
    """The one file of a folder of a frame."""
    found = [file for files in list_files(folder, f"{inside}/*", endings).values() for file in files]
    if len(found) != 1:
        raise SpatialBoostError(f"{folder / inside} has {len(found)} images; expected one")
    return found[0]


LAYOUT = Layout("sunrgbd", SunRGBD, "image/, depth/ and intrinsics.txt for each frame", levels=7, depth_noise=0.02)
