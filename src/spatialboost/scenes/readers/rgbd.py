"""Read a folder of RGB-D frames, one frame at a time."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from spatialboost.errors import SpatialBoostError
from spatialboost.photographs import to_rgb
from spatialboost.scenes.cues import Cues, CuesError
from spatialboost.scenes.extract.gravity import find_up_of_walk, up_in_camera
from spatialboost.scenes.paths import is_wanted, user_path
from spatialboost.scenes.readers.plausibility import MILLIMETRES, check_depth, intrinsics_problem
from spatialboost.scenes.sizes import validate_size
from spatialboost.scenes.source_registry import SourceOptions
from spatialboost.scenes.sources import Mapped, Source, Walk, evenly_spaced, resize_cues

# Shape legend: H, W = image height and width in pixels; N = frames.

_IMAGES = (".jpg", ".jpeg", ".png")
_FIRST_IMAGES = 3
_NO_READING = 2**16 - 1  # the largest value of 16 bits; many cameras write it where they measure nothing


class RGBDFolder:
    """A sequence of RGB-D frames: a folder of images and depth maps. A frame is read when it is indexed.

    Example::

        frames = RGBDFolder("office", size=240)
        print(len(frames), frames.names[0])
        cues = frames[0]  # image, depth in metres, intrinsics, pose; no objects

    The folder contains

    - ``rgb/NAME.jpg`` (or ``.jpeg``, ``.png``);
    - ``depth/NAME.png``: 16 bit, z in millimetres, with the same size as the image; 0 and 65535 = no reading;
    - ``depth_scale.txt`` (optional): values per metre of the depth maps, if they are not millimetres: 5000 for TUM
      RGB-D, 256 for KITTI;
    - ``intrinsics.txt``: 3x3 camera matrix in pixels of these images; the centre of the top left pixel is (0, 0). A
      fourth line ``WIDTH HEIGHT`` says for which image size it is;
    - ``poses.txt`` (optional): one line for each image, in the order of ``names``, with the 16 numbers of the 4x4
      camera-to-world matrix row by row, in metres.

    Names are sorted by the numbers in them: ``frame2`` comes before ``frame10``.

    Args:
        path: the folder.
        size: resize to this shorter edge, or to ``(height, width)``, in pixels: the image with antialiasing, the depth
            by nearest neighbour, and the intrinsics. None keeps the original size.
        depth_noise: standard deviation of a reading divided by the depth.

    Raises:
        SpatialBoostError: a file is missing, or the files do not fit together. For this test, a few depth maps are
            decoded: depth must be usual for an RGB-D camera (otherwise ``depth_scale.txt`` is required), and it must
            agree with the poses.
        CuesError: from ``[i]``, the frame cannot be used.
    """

    def __init__(self, path: str | Path, *, size: int | tuple[int, int] | None = None, depth_noise: float = 0.01):
        if size is not None:
            validate_size(size)
        if not 0 <= depth_noise < 1:
            raise SpatialBoostError(f"depth_noise is {depth_noise}, expected a fraction of the depth such as 0.01")
        self.path, self.size, self.depth_noise = user_path(path), size, depth_noise
        self.name = self.path.resolve().name
        self._images = _list_images(self.path)
        self.names = [image.stem for image in self._images]
        if not (self.path / "depth").is_dir():
            raise SpatialBoostError(f"{self.path} has no folder depth/; expected depth/NAME.png for each rgb/NAME.jpg")
        self.depth_scale = _read_scale(self.path / "depth_scale.txt")
        self._intrinsics_33, self._intended_size = _read_intrinsics(self.path / "intrinsics.txt")
        self._poses_N44 = _read_poses(self.path / "poses.txt", len(self.names))
        self._check_sizes()
        check_depth(self.path, self._try_depth, len(self), self.depth_scale, self._intrinsics_33, self._poses_N44)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int, /) -> Cues:
        if not -len(self) <= index < len(self):
            raise IndexError(f"frame {index} of {len(self)} in {self.path}")
        index %= len(self)
        cues = self._read(index)
        if cues.pose_44 is not None:
            cues = replace(cues, up_3=up_in_camera(self._up_3, cues.pose_44))
        return cues if self.size is None else resize_cues(cues, self.size)

    @cached_property
    def _up_3(self) -> np.ndarray | None:
        """The direction up in the frame of the poses, from the floor that the frames show; None if it is not clear."""
        return find_up_of_walk(self._read, len(self))

    def _read(self, index: int) -> Cues:
        source = f"{self.name}/{self.names[index]}"
        image_HW3 = _read_image(self._images[index], source)
        problem = intrinsics_problem(self._intrinsics_33, image_HW3.shape[:2], self._intended_size)
        if problem:
            raise CuesError(f"{source}: {problem}")
        return Cues(
            image_HW3=image_HW3,
            depth_HW=self._read_depth(index),
            intrinsics_33=self._intrinsics_33.copy(),
            source=source,
            pose_44=None if self._poses_N44 is None else self._poses_N44[index].copy(),
            depth_noise=self.depth_noise,
        )

    def _read_depth(self, index: int) -> np.ndarray:
        file = self.path / "depth" / f"{self.names[index]}.png"
        return _read_depth(file, f"{self.name}/{self.names[index]}", self.depth_scale or MILLIMETRES)

    def _try_depth(self, index: int) -> np.ndarray | None:
        try:
            return self._read_depth(index)
        except CuesError:  # it is named when the frame is read
            return None

    def _check_sizes(self) -> None:
        """Raise SpatialBoostError if the intrinsics fit none of the first images."""
        problems = []
        for file in self._images[:_FIRST_IMAGES]:
            try:
                with Image.open(file) as image:
                    problems.append(intrinsics_problem(self._intrinsics_33, image.size[::-1], self._intended_size))
            except Exception:  # it is named when the frame is read
                continue
        if problems and all(problems):
            raise SpatialBoostError(f"{self.path}: {problems[0]}")


def open_frames(options: SourceOptions) -> Source:
    """Open the frames that the command line options describe: all frames of a folder, or some, evenly spaced.

    Raises:
        SpatialBoostError: no folder is given, or it is not a folder of RGB-D frames.
    """
    if options.path is None:
        raise SpatialBoostError("--source rgbd needs --path FOLDER, with rgb/, depth/, intrinsics.txt and poses.txt")
    size = options.size
    folder = RGBDFolder(options.path)
    items: Source = folder
    name = f"{folder.name} {'full size' if size is None else _format_size(size)}"
    if (folder.depth_scale or MILLIMETRES) != MILLIMETRES:
        name += f" {folder.depth_scale:g} per metre"
    if options.views > 1:
        items = Walk(items, views=options.views, stride=options.stride)
        name += f" {options.views} views {options.stride} apart"
    if options.num is not None:
        items = evenly_spaced(items, options.num)
    steps = [] if size is None else [lambda view: resize_cues(view, size)]
    return Mapped(items, *steps, name=name)


def _format_size(size: int | tuple[int, int]) -> str:
    return str(size) if isinstance(size, int) else f"{size[0]}x{size[1]}"


def _list_images(path: Path) -> list[Path]:
    if not (path / "rgb").is_dir():
        found = "is not a folder" if not path.is_dir() else "has no folder rgb/"
        raise SpatialBoostError(
            f"{path} {found}; expected a folder with rgb/*.jpg (or .png), depth/*.png, intrinsics.txt and, if poses "
            "are known, poses.txt"
        )
    images = [file for file in (path / "rgb").iterdir() if file.suffix.lower() in _IMAGES and is_wanted(file)]
    if not images:
        raise SpatialBoostError(f"{path / 'rgb'} has no image; expected files that end in {', '.join(_IMAGES)}")
    images.sort(key=_natural_order)
    twins = [b.name for a, b in pairwise(images) if a.stem == b.stem]
    if twins:
        raise SpatialBoostError(
            f"{path / 'rgb'} has {twins[0]} and an image of the same name with another ending; expected one image "
            "for each depth map: remove one of them"
        )
    return images


def _natural_order(file: Path) -> tuple[list[tuple[int, str]], str]:
    """Sort key that compares numbers by value (2 before 10). Equal keys are ordered by the full file name."""
    pieces = re.split(r"([0-9]+)", file.stem)
    return [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in pieces], file.name


def _read_scale(file: Path) -> float | None:
    """Values per metre; None if the folder does not say."""
    if not file.exists():
        return None
    expected = "expected one number, the values per metre of the depth maps, such as 1000 or 5000"
    rows = _read_numbers(file, expected)
    if [len(row) for row in rows] != [1] or not (np.isfinite(rows[0][0]) and rows[0][0] > 0):
        raise SpatialBoostError(f"{file} contains {file.read_text().strip()[:80]!r}; {expected}")
    return rows[0][0]


def _read_intrinsics(file: Path) -> tuple[np.ndarray, tuple[int, int] | None]:
    """The camera matrix, and the height and width of the images that it is for, if the file says."""
    expected = "expected the 3x3 camera matrix in pixels, one row in each line: fx 0 cx / 0 fy cy / 0 0 1"
    if not file.is_file():
        raise SpatialBoostError(f"{file} is missing; {expected}")
    rows = _read_numbers(file, expected)
    sizes = [len(row) for row in rows]
    if sizes not in ([3, 3, 3], [3, 3, 3, 2]):
        raise SpatialBoostError(f"{file} has rows of {sizes} numbers; {expected}")
    intended_size = None
    if len(rows) == 4:
        width, height = rows.pop()
        if not (width.is_integer() and height.is_integer() and min(width, height) >= 1):
            raise SpatialBoostError(f"{file} has {width:g} {height:g} in line 4; expected width and height in pixels")
        intended_size = int(height), int(width)
    intrinsics_33 = np.array(rows)
    if not np.isfinite(intrinsics_33).all() or min(intrinsics_33[0, 0], intrinsics_33[1, 1]) <= 0:
        raise SpatialBoostError(f"{file} has focal lengths or other numbers that are not positive; {expected}")
    if intrinsics_33[2].tolist() != [0.0, 0.0, 1.0] or intrinsics_33[1, 0] != 0:
        raise SpatialBoostError(f"{file} is not a camera matrix, it contains {intrinsics_33.tolist()}; {expected}")
    return intrinsics_33, intended_size


def _read_poses(file: Path, num: int) -> np.ndarray | None:
    if not file.exists():
        return None
    expected = "expected for each image one line of 16 numbers, the 4x4 camera-to-world matrix row by row"
    rows = _read_numbers(file, expected)
    if len(rows) != num:
        raise SpatialBoostError(f"{file} has {len(rows)} lines but rgb/ has {num} images; {expected}")
    for number, row in enumerate(rows, 1):
        if len(row) != 16:
            raise SpatialBoostError(f"{file}, line {number} has {len(row)} numbers; {expected}")
    return np.array(rows).reshape(num, 4, 4)


def _read_numbers(file: Path, expected: str) -> list[list[float]]:
    """Read the numbers of each line; empty lines at the end are dropped."""
    if not file.is_file():
        raise SpatialBoostError(f"{file} is not a file; {expected}")
    try:
        return [[float(word) for word in line.split()] for line in file.read_text().rstrip().splitlines()]
    except ValueError as error:  # also raised if the file is not text
        raise SpatialBoostError(f"{file} cannot be read as numbers ({error}); {expected}") from error


def _read_image(file: Path, source: str) -> np.ndarray:
    image = _decode(file, source, "image")
    if image.mode.startswith(("I", "F", "LAB")):
        raise CuesError(f"{source}: the image rgb/{file.name} has mode {image.mode}, expected colours of 8 bit")
    return np.array(to_rgb(image))  # as stored: the EXIF orientation is not that of the depth map


def _read_depth(file: Path, source: str, scale: float) -> np.ndarray:
    """Depth in metres, float32; 0 = no reading."""
    if not file.is_file():
        raise CuesError(f"{source}: its depth map depth/{file.name} is missing; add it or remove the image")
    depth = _decode(file, source, "depth map")
    if not depth.mode.startswith("I"):
        raise CuesError(
            f"{source}: the depth map depth/{file.name} has mode {depth.mode}, expected one channel of 16 bit, "
            "millimetres"
        )
    values_HW = np.asarray(depth)
    return np.where(values_HW == _NO_READING, 0, values_HW / scale).astype(np.float32)


def _decode(file: Path, source: str, what: str) -> Image.Image:
    try:
        with Image.open(file) as image:
            image.load()
            return image
    except Exception as error:  # decoders raise many kinds of exceptions on damaged files
        raise CuesError(
            f"{source}: the {what} {file.parent.name}/{file.name} of {_num_bytes(file)} bytes cannot be decoded "
            f"({type(error).__name__}); replace the file or remove it"
        ) from error


def _num_bytes(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0
