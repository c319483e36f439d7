"""Read a folder of RGB-D frames, one frame at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.paths import user_path
from spatialboost.scenes.readers.decode import DepthFormat
from spatialboost.scenes.readers.frames import Frames
from spatialboost.scenes.readers.intrinsics import read_intrinsics
from spatialboost.scenes.readers.layout import Layout
from spatialboost.scenes.readers.matching import DEPTHS, IMAGES, find_path, list_files, read_associations
from spatialboost.scenes.readers.options import ReaderOptions
from spatialboost.scenes.readers.poses import PoseOf, open_poses
from spatialboost.scenes.readers.recording import Frame, Recording
from spatialboost.scenes.readers.text import read_numbers

_EXPECTED = "rgb/*.jpg (or .png), depth/*.png, intrinsics.txt and, if poses are known, poses.txt"


class RGBDRecording(Recording):
    """One recording in the layout that `RGBDFolder` describes."""

    file_options = ("images", "depths", "associations")

    def __init__(self, folder: Path, options: ReaderOptions, root: Path) -> None:
        self.folder = folder
        if options.associations is not None:
            pairs, times = read_associations(find_path(options.associations, folder, "associations"), folder)
            self.images, self.depths = [image for image, _ in pairs], [depth for _, depth in pairs]
            self.names, self.times = [image.stem for image in self.images], times
        else:
            self.images, self.depths = _match(folder, options)
            self.names = [image.stem for image in self.images]
        scale = _read_scale(folder / "depth_scale.txt")
        self.depth_format = DepthFormat(scale=scale)
        own = options.intrinsics is None
        self.intrinsics = read_intrinsics(folder / "intrinsics.txt") if own else None
        self.poses: PoseOf | None = None
        poses = folder / "poses.txt"
        if options.poses is None and poses.exists():
            if poses.is_dir():
                raise SpatialBoostError(f"{poses} is not a file; expected one line for each image")
            self.poses = open_poses(poses, self.names, self.times or [None] * len(self.names))

    @classmethod
    def matches(cls, folder: Path, options: ReaderOptions) -> bool:
        """Whether the folder has the images' folder, or the association file."""
        if options.associations is not None:
            file = user_path(options.associations)
            return (folder / file).is_file() or file.is_file()
        return (folder / "rgb").is_dir() if options.images is None else bool(list_files(folder, options.images, IMAGES))

    def frame(self, index: int, source: str) -> Frame:
        """The image, its depth map and its pose."""
        return Frame(
            image=self.images[index],
            depth=self.depths[index],
            intrinsics=self.intrinsics,
            pose_44=None if self.poses is None else self.poses(index),
        )


RGBD = Layout("rgbd", RGBDRecording, _EXPECTED)


class RGBDFolder(Frames):
    """A sequence of RGB-D frames: a folder of images and depth maps. A frame is read when it is indexed.

    Example::

        frames = RGBDFolder("office", size=240)
        print(len(frames), frames.names[0])
        cues = frames[0]  # image, depth in metres, intrinsics, pose; no objects

    The folder contains

    - ``rgb/NAME.jpg`` (or ``.jpeg``, ``.png``);
    - ``depth/NAME.png``: 16 bit, z in millimetres; 0 and 65535 = no reading. Also ``.tif`` and ``.npy``, where values
      with a decimal point are metres. A depth map of another size with the same aspect ratio is resized, or the image;
    - ``depth_scale.txt`` (optional): values per metre of the depth maps, if they are not millimetres: 5000 for TUM
      RGB-D, 256 for KITTI;
    - ``intrinsics.txt``: 3x3 (or 4x4) camera matrix, or ``fx fy cx cy``, in pixels; the centre of the top left pixel is
      (0, 0). A further line ``WIDTH HEIGHT`` says for which image size it is;
    - ``poses.txt`` (optional): one line for each image, in the order of ``names``, with the 16 numbers of the 4x4
      camera-to-world matrix row by row, in metres. See ``docs/data-format.md`` for its other forms;
    - ``masks/NAME.png`` with ``names.json`` or ``names.csv``, or ``annotations.json`` (optional): objects with names.

    Names are sorted by the numbers in them: ``frame2`` comes before ``frame10``.

    Args:
        path: the folder.
        size: resize to this shorter edge, or to ``(height, width)``, in pixels: the image with antialiasing, the depth
            by nearest neighbour, and the intrinsics. None keeps the original size.
        depth_noise: standard deviation of a reading divided by the depth.
        options: what the files do not say: scale, range, patterns, other files.

    Raises:
        SpatialBoostError: a file is missing, or the files do not fit together. For this test, a few depth maps are
            decoded: depth must be usual for an RGB-D camera (otherwise ``depth_scale.txt`` is required), and it must
            agree with the poses.
        CuesError: from ``[i]``, the frame cannot be used.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        size: int | tuple[int, int] | None = None,
        depth_noise: float = 0.01,
        options: ReaderOptions | None = None,
    ) -> None:
        folder, options = user_path(path), options or ReaderOptions()
        if not RGBDRecording.matches(folder, options):
            found = "is not a folder" if not folder.is_dir() else f"has no {options.images or 'folder rgb/'}"
            raise SpatialBoostError(f"{folder} {found}; expected a folder with {_EXPECTED}")
        super().__init__(RGBDRecording(folder, options, folder), options, size=size, depth_noise=depth_noise)


def _match(folder: Path, options: ReaderOptions) -> tuple[list[Path], list[Path]]:
    """The images, and the depth map of each; where one is missing, the path that it should have."""
    found = list_files(folder, options.images or "rgb/*", IMAGES)
    if not found:
        raise SpatialBoostError(
            f"{folder / 'rgb'} has no image; expected files that end in {', '.join(IMAGES)}, or --images PATTERN"
        )
    depth_folder = folder / (options.depths or "depth/*").rpartition("/")[0]
    if not depth_folder.is_dir():
        raise SpatialBoostError(
            f"{folder} has no folder {depth_folder.name}/; expected depth/NAME.png for each rgb/NAME.jpg, or --depths "
            "PATTERN"
        )
    twins = [files[-1] for files in found.values() if len(files) > 1]
    if twins:
        raise SpatialBoostError(
            f"{twins[0].parent} has {twins[0].name} and an image of the same name with another ending; expected one "
            "image for each depth map: remove one of them"
        )
    images = {key: files[0] for key, files in found.items()}
    depths = {key: files[0] for key, files in list_files(folder, options.depths or "depth/*", DEPTHS).items()}
    if depths and not images.keys() & depths.keys():
        raise SpatialBoostError(
            f"{folder}: no image has a depth map of its name: {next(iter(images.values())).name} is one of the images, "
            f"{next(iter(depths.values())).name} one of the depth maps; expected the same names, or patterns such as "
            "--images 'rgb/rgb_*.jpg' --depths 'depth/depth_*.png'"
        )
    missing = {key: depth_folder / f"{image.stem}.png" for key, image in images.items()}
    return list(images.values()), [depths.get(key, missing[key]) for key in images]


def _read_scale(file: Path) -> float | None:
    """Values per metre; None if the folder does not say."""
    if not file.exists():
        return None
    expected = "expected one number, the values per metre of the depth maps, such as 1000 or 5000"
    rows = read_numbers(file, expected)
    if [len(row) for row in rows] != [1] or not (np.isfinite(rows[0][0]) and rows[0][0] > 0):
        raise SpatialBoostError(f"{file} contains {file.read_text(errors='replace').strip()[:80]!r}; {expected}")
    return rows[0][0]
