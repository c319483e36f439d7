"""DL3DV-10K: ``HASH/transforms.json`` with ``images_4/`` (960P), ``images_8/`` (480P) or ``images/`` beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.paths import natural_order
from spatialboost.scenes.readers.colmap_model import Camera
from spatialboost.scenes.readers.layout import Layout
from spatialboost.scenes.readers.matching import DEPTHS, list_files
from spatialboost.scenes.readers.options import ReaderOptions
from spatialboost.scenes.readers.poses import to_camera_to_world
from spatialboost.scenes.readers.recording import Frame, Recording
from spatialboost.scenes.readers.text import read_json

_FILE = "transforms.json"
_IMAGES = ("images_4", "images_8", "images_2", "images")
_EXPECTED = '{"w": ..., "h": ..., "fl_x": ..., "fl_y": ..., "cx": ..., "cy": ..., "frames": [{"file_path": ..., ...}]}'
_CAMERA = ("fl_x", "fl_y", "cx", "cy")
_DISTORTION = ("k1", "k2", "p1", "p2")


class DL3DV(Recording):
    """The frames of one video, with intrinsics; with depth if there is ``depth/NAME.png`` or ``depth/NAME.npy``.

    The camera of ``transforms.json`` is for the largest images (4K), and the images are smaller copies. Its poses are
    camera to world with y up and z backward. They have the unit of the reconstruction, which is not metres: they are
    used if the option ``pose_scale`` is given. The set has no depth: maps of a geometry model in the unit of the poses
    go with ``--pose-scale 1 --depth-scale 1000``, if a file has 1000 values for a unit.
    """

    file_options = ("depths",)
    metric_poses = False

    def __init__(self, folder: Path, options: ReaderOptions, root: Path) -> None:
        self.folder, file = folder, folder / _FILE
        content: Any = read_json(file, f"expected {_EXPECTED}")
        try:
            frames = sorted(content["frames"], key=lambda frame: natural_order(Path(frame["file_path"]).name))
            self.files = [Path(frame["file_path"]).name for frame in frames]
            self.poses = [np.array(frame["transform_matrix"], np.float64).reshape(4, 4) for frame in frames]
            self.cameras = [_camera({**content, **frame}) for frame in frames]
        except (KeyError, AttributeError, TypeError, ValueError, OverflowError) as error:
            raise SpatialBoostError(f"{file} has another form ({error!r:.100}); expected {_EXPECTED}") from error
        if not self.files:
            raise SpatialBoostError(f"{file} has no frame; expected {_EXPECTED}")
        self.images = next((folder / name for name in _IMAGES if os.path.isfile(folder / name / self.files[0])), None)
        if self.images is None:
            raise SpatialBoostError(
                f"{folder} has no image {self.files[0]} in {', '.join(_IMAGES)}; expected the images beside {_FILE}"
            )
        self.names = [str(Path(name).with_suffix("")) for name in self.files]
        self.depths = list_files(folder, options.depths or "depth/*", DEPTHS)

    @classmethod
    def matches(cls, folder: Path, options: ReaderOptions) -> bool:
        return (folder / _FILE).is_file()

    def frame(self, index: int, source: str) -> Frame:
        depth = self.depths.get(self.names[index])
        assert self.images is not None
        return Frame(
            image=self.images / self.files[index],
            depth=None if depth is None else depth[0],
            intrinsics=self.cameras[index].intrinsics(source),
            pose_44=to_camera_to_world(self.poses[index], "opengl"),
        )


def _camera(values: Mapping[str, Any]) -> Camera:
    """The camera of a frame, as COLMAP's model with radial and tangential distortion."""
    params = [float(values[key]) for key in _CAMERA] + [float(values.get(key) or 0) for key in _DISTORTION]
    return Camera("OPENCV", (int(values["h"]), int(values["w"])), tuple(params))


LAYOUT = Layout("dl3dv", DL3DV, "HASH/transforms.json and HASH/images_4/ (or images_8/, images/)")
