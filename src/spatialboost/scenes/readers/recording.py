"""What a layout says of a recording: its frames, and where image, depth, intrinsics and pose of each are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from spatialboost.scenes.readers.decode import DepthFormat
from spatialboost.scenes.readers.intrinsics import Intrinsics
from spatialboost.scenes.readers.options import ReaderOptions

Z_UP = np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True)
class Frame:
    """The parts of one frame; files are not decoded yet."""

    image: Path | np.ndarray  # file, or uint8 (H, W, 3)
    depth: Path | np.ndarray | None = None  # file, or float32 (H, W) in metres; None = the data set has no depth
    intrinsics: Intrinsics | None = None  # of the image; None = not known
    # of the depth map, if its camera is another one at the same place; None = those of the image
    depth_intrinsics: Intrinsics | None = None
    pose_44: np.ndarray | None = None  # camera to world, or None
    up_3: np.ndarray | None = None  # unit vector, "up" along gravity in the camera's frame, or None


class Recording:
    """Frames that one camera took in one place. There is one subclass for each layout, in ``sets/``."""

    # usual median of the depth, and usual 99th percentile, in metres: outside of them, a warning is logged
    usual: ClassVar[tuple[float, float, float]] = (0.6, 5.0, 12.0)
    file_options: ClassVar[tuple[str, ...]] = ()  # of the options images, depths and associations, those that it has
    depth_format: DepthFormat = DepthFormat()  # how depth maps are read
    up_world_3: np.ndarray | None = None  # direction of "up" in the world of the poses, if the layout tells it
    metric_poses: bool = True  # whether poses are in metres
    folder: Path
    names: Sequence[str]  # one for each frame
    times: Sequence[float | None] | None = None  # of each frame in seconds; None = not known

    def __init__(self, folder: Path, options: ReaderOptions, root: Path) -> None:
        """List the frames. Files of single frames are not read yet.

        Args:
            folder: a folder that `matches`.
            options: what the user says.
            root: the folder that the user named; ``folder`` or one above it.

        Raises:
            SpatialBoostError: files are missing or do not fit together.
        """
        raise NotImplementedError

    @classmethod
    def matches(cls, folder: Path, options: ReaderOptions) -> bool:
        """Whether a folder is a recording in this layout."""
        raise NotImplementedError

    def frame(self, index: int, source: str) -> Frame:
        """The parts of a frame.

        Raises:
            CuesError: the frame cannot be used.
        """
        raise NotImplementedError

    def objects(self, index: int, size: tuple[int, int]) -> Sequence[Any]:
        """Objects with masks that the data set names, for an image of ``(height, width)``; empty if it names none."""
        return ()

    @property
    def has_objects(self) -> bool:
        """Whether the data set names objects."""
        return type(self).objects is not Recording.objects

    def format_with(self, options: ReaderOptions) -> DepthFormat:
        """How depth maps are read: the options, and otherwise the layout."""
        form = self.depth_format
        return replace(form, scale=options.depth_scale or form.scale, high=options.max_depth or form.high)
