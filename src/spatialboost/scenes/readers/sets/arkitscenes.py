"""ARKitScenes: ``VIDEO/lowres_wide/``, ``lowres_depth/``, ``lowres_wide_intrinsics/`` and ``lowres_wide.traj``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import CuesError
from spatialboost.scenes.readers.intrinsics import Intrinsics
from spatialboost.scenes.readers.layout import Layout
from spatialboost.scenes.readers.matching import DEPTHS, IMAGES, by_time, list_files, nearest
from spatialboost.scenes.readers.options import ReaderOptions
from spatialboost.scenes.readers.poses import axis_angle_to_matrix, to_camera_to_world
from spatialboost.scenes.readers.recording import Z_UP, Frame, Recording
from spatialboost.scenes.readers.text import read_numbers

# Images and depth maps that belong together, the first that a video has: upsampling, 3dod, raw
_PAIRS = (
    ("wide", "highres_depth"),
    ("lowres_wide", "lowres_depth"),
    ("vga_wide", "lowres_depth"),
    ("wide", "lowres_depth"),
)
_TRAJECTORY = "lowres_wide.traj"
_APART = 0.01  # seconds; files of one frame may differ in the last digit


class ARKitScenes(Recording):
    """One video: depth in millimetres; the world of the poses has z up. Names end in a time, ``VIDEO_TIME.png``."""

    up_world_3 = Z_UP

    def __init__(self, folder: Path, options: ReaderOptions, root: Path) -> None:
        self.folder = folder
        images, depths = _find_pair(folder) or ("", "")
        image_times, image_files = by_time(_by_end(folder, images, IMAGES))
        depth_times, depth_files = by_time(_by_end(folder, depths, DEPTHS))
        together = nearest(image_times, depth_times, _APART)
        if not together:
            raise SpatialBoostError(
                f"{folder}: no image of {images}/ has a depth map of the same time in {depths}/; expected "
                "VIDEO_TIME.png in both"
            )
        self.images = [image_files[index] for index in together]
        self.depths = [depth_files[other] for other in together.values()]
        self.times = [image_times[index] for index in together]
        self.names = [image.stem for image in self.images]
        cameras, self._cameras = by_time(_by_end(folder, f"{images}_intrinsics", (".pincam",)))
        self._camera_of = nearest([float(time or 0) for time in self.times], cameras, _APART)

    @classmethod
    def matches(cls, folder: Path, options: ReaderOptions) -> bool:
        return _find_pair(folder) is not None

    def frame(self, index: int, source: str) -> Frame:
        return Frame(
            image=self.images[index],
            depth=self.depths[index],
            intrinsics=self._read_camera(index, source),
            pose_44=self._poses.get(index),
        )

    def _read_camera(self, index: int, source: str) -> Intrinsics:
        if index not in self._camera_of:
            raise CuesError(f"{source}: no .pincam file has its time")
        file = self._cameras[self._camera_of[index]]
        expected = "expected width height fx fy cx cy"
        try:
            (width, height, fx, fy, cx, cy), *_ = read_numbers(file, expected)
            size = int(height), int(width)
        except (ValueError, OverflowError) as error:
            raise CuesError(f"{source}: {file.name} has another form; {expected}") from error
        return Intrinsics(np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), size, file.name)

    @cached_property
    def _poses(self) -> Mapping[int, np.ndarray]:
        """Camera to world. Each line has a time, and the axis times the angle and the position, world to camera."""
        file = self.folder / _TRAJECTORY
        if not file.exists():
            return {}
        expected = "expected lines of 7 numbers: time, rotation (axis times angle), position"
        rows = read_numbers(file, expected)
        if any(len(row) != 7 for row in rows):
            raise SpatialBoostError(f"{file} has lines of other lengths; {expected}")
        found = {}
        times = [float(time or 0) for time in self.times or ()]
        for index, line in nearest(times, [row[0] for row in rows], _APART).items():
            pose_44 = np.eye(4)
            pose_44[:3, :3], pose_44[:3, 3] = axis_angle_to_matrix(*rows[line][1:4]), rows[line][4:]
            found[index] = to_camera_to_world(pose_44, "world-to-camera")
        return found


def _find_pair(folder: Path) -> tuple[str, str] | None:
    return next((pair for pair in _PAIRS if all((folder / name).is_dir() for name in pair)), None)


def _by_end(folder: Path, inside: str, endings: tuple[str, ...]) -> dict[str, Path]:
    """The files of a folder by what follows the last ``_`` of their names."""
    found = list_files(folder, f"{inside}/*", endings)
    return {key.rpartition("_")[2]: files[0] for key, files in found.items()}


LAYOUT = Layout(
    "arkitscenes",
    ARKitScenes,
    "VIDEO/lowres_wide/, lowres_depth/, lowres_wide_intrinsics/ and lowres_wide.traj",
    levels=4,
)
