"""Read a folder of RGB-D frames, one frame at a time."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import Cues, CuesError
from spatialboost.scenes.source_registry import SourceOptions
from spatialboost.scenes.sources import Mapped, Source, Walk, evenly_spaced, resize_cues

# Shape legend: H, W = image height and width in pixels; N = frames.

_IMAGES = (".jpg", ".jpeg", ".png")
_MILLIMETRES = 1000.0


class RGBDFolder:
    """A sequence of RGB-D frames: a folder of images and depth maps. A frame is read when it is indexed.

    Example::

        frames = RGBDFolder("office", size=240)
        print(len(frames), frames.names[0])
        cues = frames[0]  # image, depth in metres, intrinsics, pose; no objects

    The folder contains

    - ``rgb/NAME.jpg`` (or ``.jpeg``, ``.png``);
    - ``depth/NAME.png``: 16 bit, z in millimetres, with the same size as the image; 0 = no reading;
    - ``intrinsics.txt``: 3x3 camera matrix in pixels of these images; the centre of the top left pixel is (0, 0);
    - ``poses.txt`` (optional): one line for each image, in the order of ``names``, with the 16 numbers of the 4x4
      camera-to-world matrix row by row, in metres.

    Names are sorted by the numbers in them: ``frame2`` comes before ``frame10``.

    Args:
        path: the folder.
        size: resize to this shorter edge, or to ``(height, width)``, in pixels: the image with antialiasing, the depth
            by nearest neighbour, and the intrinsics. None keeps the original size.
        depth_noise: standard deviation of a reading divided by the depth.

    Raises:
        SpatialBoostError: a file is missing, or the files do not fit together. No image is decoded for this test.
        CuesError: from ``[i]``, the frame cannot be used.
    """

    def __init__(self, path: str | Path, *, size: int | tuple[int, int] | None = None, depth_noise: float = 0.01):
        if size is not None and min(size if isinstance(size, tuple) else (size,)) < 1:
            raise SpatialBoostError(f"size is {size}, expected at least one pixel")
        if depth_noise < 0:
            raise SpatialBoostError(f"depth_noise is {depth_noise}, expected a fraction of the depth such as 0.01")
        self.path, self.size, self.depth_noise = Path(path), size, depth_noise
        self.name = self.path.resolve().name
        self._images = _list_images(self.path)
        self.names = [image.stem for image in self._images]
        if not (self.path / "depth").is_dir():
            raise SpatialBoostError(f"{self.path} has no folder depth/; expected depth/NAME.png for each rgb/NAME.jpg")
        self._intrinsics_33 = _read_intrinsics(self.path / "intrinsics.txt")
        self._poses_N44 = _read_poses(self.path / "poses.txt", len(self.names))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int, /) -> Cues:
        if not -len(self) <= index < len(self):
            raise IndexError(f"frame {index} of {len(self)} in {self.path}")
        index %= len(self)
        source = f"{self.name}/{self.names[index]}"
        image_HW3 = _read_image(self._images[index], source)
        height, width = image_HW3.shape[:2]
        cx, cy = self._intrinsics_33[:2, 2]
        if not (-0.5 <= cx < width and -0.5 <= cy < height):
            raise CuesError(
                f"{source}: the principal point of intrinsics.txt is ({cx:.1f}, {cy:.1f}), outside of the image of "
                f"{width}x{height} pixels; expected intrinsics in pixels of this image: rescale them with the images"
            )
        cues = Cues(
            image_HW3=image_HW3,
            depth_HW=_read_depth(self.path / "depth" / f"{self.names[index]}.png", source),
            intrinsics_33=self._intrinsics_33.copy(),
            source=source,
            pose_44=None if self._poses_N44 is None else self._poses_N44[index].copy(),
            depth_noise=self.depth_noise,
        )
        return cues if self.size is None else resize_cues(cues, self.size)


def open_frames(options: SourceOptions) -> Source:
    """Open the frames that the command line options describe: all frames of a folder, or some, evenly spaced.

    Raises:
        SpatialBoostError: no folder is given, or it is not a folder of RGB-D frames.
    """
    if options.path is None:
        raise SpatialBoostError("--source rgbd needs --path FOLDER, with rgb/, depth/, intrinsics.txt and poses.txt")
    size = options.size
    items: Source = RGBDFolder(options.path)
    name = f"{options.path.resolve().name} {'full size' if size is None else _format_size(size)}"
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
    images = [file for file in (path / "rgb").iterdir() if file.suffix.lower() in _IMAGES]
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


def _read_intrinsics(file: Path) -> np.ndarray:
    expected = "expected the 3x3 camera matrix in pixels, one row in each line: fx 0 cx / 0 fy cy / 0 0 1"
    if not file.is_file():
        raise SpatialBoostError(f"{file} is missing; {expected}")
    rows = _read_numbers(file, expected)
    if len(rows) != 3 or any(len(row) != 3 for row in rows):
        raise SpatialBoostError(f"{file} has rows of {[len(row) for row in rows]} numbers; {expected}")
    intrinsics_33 = np.array(rows)
    if not np.isfinite(intrinsics_33).all() or min(intrinsics_33[0, 0], intrinsics_33[1, 1]) <= 0:
        raise SpatialBoostError(f"{file} has focal lengths or other numbers that are not positive; {expected}")
    if intrinsics_33[2].tolist() != [0.0, 0.0, 1.0] or intrinsics_33[1, 0] != 0:
        raise SpatialBoostError(f"{file} is not a camera matrix, it contains {intrinsics_33.tolist()}; {expected}")
    return intrinsics_33


def _read_poses(file: Path, num: int) -> np.ndarray | None:
    if not file.is_file():
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
    try:
        return [[float(word) for word in line.split()] for line in file.read_text().rstrip().splitlines()]
    except ValueError as error:  # also raised if the file is not text
        raise SpatialBoostError(f"{file} cannot be read as numbers ({error}); {expected}") from error


def _read_image(file: Path, source: str) -> np.ndarray:
    image = _decode(file, source, "image")
    if image.mode.startswith(("I", "F")):
        raise CuesError(f"{source}: the image rgb/{file.name} has mode {image.mode}, expected colours of 8 bit")
    return np.array(image.convert("RGB"))


def _read_depth(file: Path, source: str) -> np.ndarray:
    if not file.is_file():
        raise CuesError(f"{source}: its depth map depth/{file.name} is missing; add it or remove the image")
    depth = _decode(file, source, "depth map")
    if not depth.mode.startswith("I"):
        raise CuesError(
            f"{source}: the depth map depth/{file.name} has mode {depth.mode}, expected one channel of 16 bit, "
            "millimetres"
        )
    return (np.asarray(depth) / _MILLIMETRES).astype(np.float32)


def _decode(file: Path, source: str, what: str) -> Image.Image:
    try:
        with Image.open(file) as image:
            image.load()
            return image
    except Exception as error:  # decoders raise many kinds of exceptions on damaged files
        raise CuesError(
            f"{source}: the {what} {file.parent.name}/{file.name} of {file.stat().st_size} bytes cannot be decoded "
            f"({type(error).__name__}); replace the file or remove it"
        ) from error
