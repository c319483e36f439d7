"""What a user may say about a folder of RGB-D frames that its files do not say."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import PurePath
from typing import Literal, get_args

from spatialboost.errors import SpatialBoostError

PoseType = Literal["camera-to-world", "world-to-camera", "opengl"]
Fit = Literal["smaller", "image", "depth"]


@dataclass(frozen=True)
class ReaderOptions:
    """Options of the sources that read folders. None = what the files or the data set say.

    Example:
        >>> ReaderOptions(depth_scale=5000, max_depth=4.0).describe()
        'max_depth 4'

    Attributes:
        depth_scale: values per metre of the depth maps, such as 1000 (millimetres) or 5000 (TUM RGB-D).
        max_depth: larger depth is no reading, in metres.
        intrinsics: a file, or the numbers ``"fx fy cx cy"`` or ``"fx fy cx cy WIDTH HEIGHT"`` in pixels. With the size,
            they are rescaled to images of another size.
        poses: a file with the poses of all frames, or a folder with one file for each frame.
        pose_type: ``"camera-to-world"``, ``"world-to-camera"``, or ``"opengl"`` (camera to world, y up and z backward).
        pose_scale: metres per unit of the poses. Poses of COLMAP have a unit of their own and are used only with it.
        associations: a file with one line for each frame: the image and its depth map, each with or without its time.
        images: pattern of the images, such as ``"color/*.jpg"``. Only ``*`` is special.
        depths: pattern of the depth maps, such as ``"depth/sync_depth_*.png"``. What ``*`` stands for is the same in
            the image and in its depth map.
        fit: what happens if a depth map has another size than its image: ``"smaller"`` resizes the larger one,
            ``"image"`` keeps the size of the image, ``"depth"`` keeps that of the depth map.
        up: direction of "up" along gravity in the world of the poses, such as ``(0, 0, 1)``.

    Raises:
        SpatialBoostError: a value is not possible.
    """

    depth_scale: float | None = None
    max_depth: float | None = None
    intrinsics: str | None = None
    poses: str | None = None
    pose_type: PoseType = "camera-to-world"
    pose_scale: float | None = None
    associations: str | None = None
    images: str | None = None
    depths: str | None = None
    fit: Fit = "smaller"
    up: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        for name in ("depth_scale", "max_depth", "pose_scale"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise SpatialBoostError(f"{name} is {value:g}; expected a number above zero")
        for name, choices in (("pose_type", get_args(PoseType)), ("fit", get_args(Fit))):
            if getattr(self, name) not in choices:
                raise SpatialBoostError(f"{name} is {getattr(self, name)!r}; expected {', '.join(choices)}")
        if self.up is not None and (len(self.up) != 3 or not 0 < math.hypot(*self.up) < math.inf):
            raise SpatialBoostError(f"up is {self.up}; expected a direction of three numbers, such as (0, 0, 1)")

    def describe(self) -> str:
        """The options that differ from their defaults, for the settings of a data set. The depth scale is not in it."""
        words = []
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.name != "depth_scale" and value != entry.default:
                if entry.name in ("intrinsics", "poses", "associations"):
                    value = PurePath(value).name  # the same file may lie elsewhere on another machine
                words.append(f"{entry.name} {value:g}" if isinstance(value, float) else f"{entry.name} {value}")
        return " ".join(words)
