"""Camera intrinsics: the forms in which data sets write them, and the image size that they are for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.camera import rescale_intrinsics
from spatialboost.scenes.readers.text import parse_numbers, read_numbers

EXPECTED = (
    "expected the 3x3 camera matrix in pixels, one row in each line: fx 0 cx / 0 fy cy / 0 0 1 (also 4x4), or one line "
    "fx fy cx cy; a further line WIDTH HEIGHT says for which image size it is"
)
_LARGEST = 1e6  # pixels
SAME_SHAPE = 0.02  # largest difference of two aspect ratios that counts as the same, 1296:968 and 640:480 for example


@dataclass(frozen=True)
class Intrinsics:
    """A camera matrix, and the image size that it is for.

    Example:
        >>> half = Intrinsics(np.array([[250.0, 0, 159.5], [0, 250.0, 119.5], [0, 0, 1]]), (240, 320), "example")
        >>> half.at((480, 640))[0].tolist()
        [500.0, 0.0, 319.5]

    Raises:
        SpatialBoostError: a number is not finite, or a focal length or an edge is not positive.
    """

    matrix_33: np.ndarray  # float64 (3, 3); the centre of the top left pixel is (0, 0)
    size: tuple[int, int] | None  # (height, width) of the images that it is for; None = not known
    origin: str  # where it is from, for messages

    def __post_init__(self) -> None:
        if not np.isfinite(self.matrix_33).all() or min(self.matrix_33[0, 0], self.matrix_33[1, 1]) <= 0:
            raise SpatialBoostError(
                f"{self.origin} has focal lengths or other numbers that are not positive; {EXPECTED}"
            )
        if self.size is not None and not 1 <= min(self.size) <= max(self.size) <= _LARGEST:
            raise SpatialBoostError(f"{self.origin} is for images of {self.size[1]}x{self.size[0]} pixels; {EXPECTED}")

    def at(self, size: tuple[int, int]) -> np.ndarray:
        """The camera matrix for images of a size, float64 ``(3, 3)``.

        Raises:
            SpatialBoostError: the images have another aspect ratio, so that they were not only resized.
        """
        if self.size is None or self.size == size:
            return self.matrix_33.copy()
        if not same_shape(self.size, size):
            raise SpatialBoostError(
                f"{self.origin} is for images of {self.size[1]}x{self.size[0]} pixels, this image has "
                f"{size[1]}x{size[0]}, which is another aspect ratio; expected intrinsics of these images: if they "
                "were cut from larger ones, subtract what was cut off from the principal point"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            return rescale_intrinsics(self.matrix_33, self.size, size)


def same_shape(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes have the same aspect ratio, up to rounding.

    Example:
        >>> same_shape((968, 1296), (480, 640)), same_shape((480, 640), (240, 240))
        (True, False)
    """
    return abs(size[1] * other[0] / (size[0] * other[1]) - 1) <= SAME_SHAPE


def read_intrinsics(file: Path) -> Intrinsics:
    """Read a file in one of the forms of ``EXPECTED``.

    Raises:
        SpatialBoostError: the file is missing or has another form.
    """
    return _from_rows(read_numbers(file, EXPECTED), str(file), file.name)


def given_intrinsics(text: str, folder: Path) -> Intrinsics:
    """The intrinsics of an option: the numbers themselves, or the name of a file."""
    try:
        rows = parse_numbers(text, "", "")
    except SpatialBoostError:
        from spatialboost.scenes.readers.matching import find_path

        return read_intrinsics(find_path(text, folder, "intrinsics"))
    name = f"intrinsics {text!r}"
    if [len(row) for row in rows] not in ([4], [6]):
        raise SpatialBoostError(f"{name}: expected 'fx fy cx cy', 'fx fy cx cy WIDTH HEIGHT', or a file")
    return _from_rows([rows[0][:4], *([rows[0][4:]] if len(rows[0]) == 6 else [])], name, name)


def _from_rows(rows: list[list[float]], where: str, origin: str) -> Intrinsics:
    sizes = [len(row) for row in rows]
    size = None
    if len(rows) in (2, 4, 5) and sizes[-1] == 2:
        width, height = rows[-1]
        if not (width.is_integer() and height.is_integer() and min(width, height) >= 1):
            raise SpatialBoostError(
                f"{where} has {width:g} {height:g} in line {len(rows)}; expected width and height in pixels"
            )
        size, rows = (int(height), int(width)), rows[:-1]
    shape = [len(row) for row in rows]
    if shape == [4]:
        fx, fy, cx, cy = rows[0]
        matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
    elif shape in ([3, 3, 3], [9]):
        matrix = np.array(rows).reshape(3, 3)
    elif shape in ([4, 4, 4], [4, 4, 4, 4], [12], [16]):
        full = np.array(rows).reshape(-1, 4)
        if np.abs(full[:3, 3]).max() > 1e-9 or full[3:].tolist() not in ([], [[0.0, 0.0, 0.0, 1.0]]):
            raise SpatialBoostError(f"{where} has more than a camera matrix, {full.tolist()}; {EXPECTED}")
        matrix = full[:3, :3]
    else:
        raise SpatialBoostError(f"{where} has rows of {sizes} numbers; {EXPECTED}")
    if matrix[2].tolist() != [0.0, 0.0, 1.0] or matrix[1, 0] != 0:
        raise SpatialBoostError(f"{where} is not a camera matrix, it contains {matrix.tolist()}; {EXPECTED}")
    return Intrinsics(matrix, size, origin)
