"""Read cameras and images of a COLMAP model, in its text and in its binary form.

The formats are described at https://colmap.github.io/format.html. pycolmap reads them, too, but it brings the whole
reconstruction software; only two short files are needed here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import CuesError
from spatialboost.scenes.readers.intrinsics import Intrinsics
from spatialboost.scenes.readers.poses import quaternion_to_matrix, to_camera_to_world
from spatialboost.scenes.readers.text import read_text

# Number and name of each camera model, number of its parameters. The first one or two are focal lengths, the next two
# the principal point, and the others distort.
_MODELS = {
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8),
    6: ("FULL_OPENCV", 12),
    7: ("FOV", 5),
    8: ("SIMPLE_RADIAL_FISHEYE", 4),
    9: ("RADIAL_FISHEYE", 5),
    10: ("THIN_PRISM_FISHEYE", 12),
}
_ONE_FOCAL = ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE")
_FLAT = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV")  # models whose distortion is estimated here
_LARGEST = 0.02  # displacement by distortion, as a fraction of the width, that is accepted


@dataclass(frozen=True)
class Camera:
    """A camera of a model."""

    model: str  # name of the camera model
    size: tuple[int, int]  # height and width
    params: tuple[float, ...]  # as COLMAP orders them

    def intrinsics(self, source: str) -> Intrinsics:
        """The camera matrix; the centre of the top left pixel is (0, 0), where COLMAP has (0.5, 0.5).

        Raises:
            CuesError: the camera distorts the image, so that no camera matrix describes it.
        """
        single = self.model in _ONE_FOCAL
        fx, fy, cx, cy = (self.params[0], *self.params[:3]) if single else self.params[:4]
        shift = self._displacement(fx)
        if shift is None or shift > _LARGEST:
            found = (
                "which a camera matrix cannot describe" if shift is None else f"{shift:.1%} of the width in the corner"
            )
            raise CuesError(
                f"{source}: its camera ({self.model}) distorts the image, {found}; run `colmap image_undistorter` and "
                "give the folder that it writes"
            )
        return Intrinsics(
            np.array([[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1]]), self.size, "the camera of COLMAP"
        )

    def _displacement(self, focal: float) -> float | None:
        """Displacement by radial distortion in the corner, as a fraction of the width; None if it is not known."""
        rest = self.params[3 if self.model in _ONE_FOCAL else 4 :]
        if "FISHEYE" in self.model or self.model == "FOV":
            return None
        if not any(rest):
            return 0.0
        if self.model not in _FLAT:
            return None
        height, width = self.size
        radius = float(np.hypot(height, width)) / 2 / focal
        second = rest[1] if len(rest) > 1 else 0.0
        return abs(rest[0] * radius**2 + second * radius**4) * radius * focal / width


@dataclass(frozen=True)
class Photo:
    """A registered image: rotation (w, x, y, z) and translation from world to camera, number of its camera, name."""

    rotation: tuple[float, ...]
    translation: tuple[float, ...]
    camera: int
    name: str

    def pose_44(self) -> np.ndarray:
        """Camera to world, in the unit of the model."""
        w, x, y, z = self.rotation
        pose_44 = np.eye(4)
        pose_44[:3, :3], pose_44[:3, 3] = quaternion_to_matrix(x, y, z, w), self.translation
        return to_camera_to_world(pose_44, "world-to-camera")


def read_model(folder: Path) -> tuple[dict[int, Camera], list[Photo]]:
    """The cameras and images of a model; the binary files have precedence.

    Raises:
        SpatialBoostError: a file is missing, cut off or has another form, or an image has no camera.
    """
    if (folder / "cameras.bin").is_file():
        cameras, photos = _read_binary(folder)
    else:
        cameras, photos = _read_cameras_text(folder / "cameras.txt"), _read_images_text(folder / "images.txt")
    missing = [photo.name for photo in photos if photo.camera not in cameras]
    if missing:
        raise SpatialBoostError(f"{folder}: the camera of image {missing[0]} is not among its {len(cameras)} cameras")
    return cameras, photos


def _read_cameras_text(file: Path) -> dict[int, Camera]:
    expected = "expected lines CAMERA_ID MODEL WIDTH HEIGHT PARAMS, as COLMAP writes them"
    cameras = {}
    for number, line in enumerate(read_text(file, expected).splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            params = tuple(float(word) for word in words[4:])
            cameras[int(words[0])] = _camera(words[1], int(words[2]), int(words[3]), params)
        except (IndexError, ValueError) as error:
            raise SpatialBoostError(f"{file}, line {number} is not valid ({error}); {expected}") from error
    return cameras


def _read_images_text(file: Path) -> list[Photo]:
    """Each image has two lines; the second one, its points, may be empty."""
    expected = "expected lines IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME and a line of points after each"
    photos, points_next = [], False
    for number, line in enumerate(read_text(file, expected).splitlines(), 1):
        if line.startswith("#"):
            continue
        if points_next or not line.strip():
            points_next = False
            continue
        words = line.split(maxsplit=9)
        try:
            numbers = [float(word) for word in words[1:8]]
            photos.append(Photo(tuple(numbers[:4]), tuple(numbers[4:7]), int(words[8]), words[9].strip()))
        except (IndexError, ValueError) as error:
            raise SpatialBoostError(f"{file}, line {number} is not valid ({error}); {expected}") from error
        points_next = True
    return photos


def _read_binary(folder: Path) -> tuple[dict[int, Camera], list[Photo]]:
    cameras, photos = {}, []
    file = folder / "cameras.bin"
    try:
        reader = _Reader(file.read_bytes())
        for _ in range(reader.count()):
            number, model, width, height = reader.take("<iiQQ")
            name, num = _MODELS.get(model, (f"model {model}", 0))
            cameras[number] = _camera(name, width, height, reader.take(f"<{num}d"))
        file = folder / "images.bin"
        reader = _Reader(file.read_bytes())
        for _ in range(reader.count()):
            _, *pose, camera = reader.take("<i7di")
            name = reader.text()
            reader.skip(24 * reader.count())  # points: x, y and the number of the 3D point
            photos.append(Photo(tuple(pose[:4]), tuple(pose[4:]), camera, name))
    except OSError as error:
        raise SpatialBoostError(f"{file} cannot be read ({error.strerror}); expected a model of COLMAP") from error
    except (struct.error, ValueError) as error:
        raise SpatialBoostError(
            f"{file} is cut off or has another form ({error}); expected a model of COLMAP"
        ) from error
    return cameras, photos


def _camera(model: str, width: int, height: int, params: tuple[float, ...]) -> Camera:
    num = dict(_MODELS.values()).get(model)
    if num is None:
        raise ValueError(f"the camera {model!r} is not known")
    if len(params) != num or min(width, height) < 1 or not np.isfinite(params).all() or params[0] <= 0:
        raise ValueError(f"the camera {model} of {width}x{height} pixels has the parameters {params}")
    return Camera(model, (height, width), params)


class _Reader:
    """Takes values from bytes, one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    def take(self, form: str) -> tuple:
        values = struct.unpack_from(form, self.data, self.place)
        self.place += struct.calcsize(form)
        return values

    def count(self) -> int:
        return self.take("<Q")[0]

    def skip(self, num: int) -> None:
        self.place += num
        if self.place > len(self.data):
            raise ValueError("the file ends early")

    def text(self) -> str:
        end = self.data.index(b"\0", self.place)
        found = self.data[self.place : end].decode()
        self.place = end + 1
        return found
