"""TUM RGB-D: ``rgb/TIME.png`` and ``depth/TIME.png`` with ``rgb.txt``, ``depth.txt`` and ``groundtruth.txt``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.readers.decode import DepthFormat
from spatialboost.scenes.readers.intrinsics import Intrinsics
from spatialboost.scenes.readers.layout import Layout
from spatialboost.scenes.readers.matching import (
    DEPTHS,
    IMAGES,
    by_time,
    find_path,
    list_files,
    nearest,
    parse_time,
    read_associations,
)
from spatialboost.scenes.readers.options import ReaderOptions
from spatialboost.scenes.readers.poses import PoseOf, open_poses
from spatialboost.scenes.readers.recording import Z_UP, Frame, Recording
from spatialboost.scenes.readers.text import read_words

_APART = 0.02  # seconds between an image and its depth map, as in the set's own script

# fx fy cx cy of the colour camera, to which the depth maps are registered. "" = the default of the driver.
_CAMERAS = {
    "freiburg1": (517.3, 516.5, 318.6, 255.3),
    "freiburg2": (520.9, 521.0, 325.1, 249.7),
    "freiburg3": (535.4, 539.2, 320.1, 247.6),
    "": (525.0, 525.0, 319.5, 239.5),
}


class TUM(Recording):
    """One recording: 5000 values per metre, poses of a motion capture system with z up, in seconds since 1970."""

    file_options = ("associations",)
    depth_format = DepthFormat(scale=5000.0)
    up_world_3 = Z_UP

    def __init__(self, folder: Path, options: ReaderOptions, root: Path) -> None:
        self.folder = folder
        times: list[float | None]
        if options.associations is not None:
            pairs, times = read_associations(find_path(options.associations, folder, "associations"), folder)
        else:
            images, depths = _read_list(folder, "rgb", IMAGES), _read_list(folder, "depth", DEPTHS)
            together = nearest(images[0], depths[0], _APART)
            if not together:
                raise SpatialBoostError(
                    f"{folder}: no depth map is within {_APART:g} s of an image; compare rgb.txt and depth.txt"
                )
            pairs = [(images[1][index], depths[1][other]) for index, other in together.items()]
            times = [images[0][index] for index in together]
        self.pairs, self.times = pairs, times
        self.names = [image.stem for image, _ in pairs]
        poses = folder / "groundtruth.txt"
        self.poses: PoseOf | None = None
        if options.poses is None and poses.exists():
            self.poses = open_poses(poses, self.names, times)
        camera = next(name for name in _CAMERAS if name in folder.resolve().name)
        fx, fy, cx, cy = _CAMERAS[camera]
        matrix_33 = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
        self.intrinsics = Intrinsics(matrix_33, (480, 640), f"the camera of TUM RGB-D {camera or '(default)'}")

    @classmethod
    def matches(cls, folder: Path, options: ReaderOptions) -> bool:
        return (folder / "rgb").is_dir() and (folder / "depth").is_dir()

    def frame(self, index: int, source: str) -> Frame:
        image, depth = self.pairs[index]
        return Frame(
            image=image,
            depth=depth,
            intrinsics=self.intrinsics,
            pose_44=None if self.poses is None else self.poses(index),
        )


def _read_list(folder: Path, kind: str, endings: tuple[str, ...]) -> tuple[list[float], list[Path]]:
    """Times and files of ``rgb.txt`` or ``depth.txt``; if it is missing, of the folder."""
    file = folder / f"{kind}.txt"
    if not file.exists():
        return by_time({key: files[0] for key, files in list_files(folder, f"{kind}/*", endings).items()})
    expected = "expected lines with a time and a file name"
    times, files = [], []
    for number, words in read_words(file, expected):
        time = parse_time(words[0])
        if time is None or len(words) != 2:
            raise SpatialBoostError(f"{file}, line {number} is {' '.join(words)[:80]!r}; {expected}")
        times.append(time)
        files.append(folder / words[1])
    return times, files


LAYOUT = Layout("tum", TUM, "rgb/TIME.png, depth/TIME.png, rgb.txt, depth.txt and groundtruth.txt")
