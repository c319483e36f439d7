"""Decode images and depth maps of frames; a broken file raises an error that names it."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from spatialboost.errors import SpatialBoostError
from spatialboost.photographs import to_rgb
from spatialboost.scenes.cues import CuesError
from spatialboost.scenes.sizes import MAX_EDGE, MAX_PIXELS

# Shape legend: H, W = image height and width in pixels.

_FARTHEST = 1e30  # floating-point values from here on are no reading
MILLIMETRES = 1000.0  # values per metre of integers, if nothing else is known; floating-point values are metres


@dataclass(frozen=True)
class DepthFormat:
    """How the values of depth maps are to be read."""

    scale: float | None = None  # values per metre; None = integers are millimetres, floating-point values are metres
    high: float = np.inf  # larger depth is no reading, in metres
    rotated: bool = False  # whether the lowest three of 16 bits are the highest in truth, as in SUN RGB-D


def read_image(file: Path, source: str) -> np.ndarray:
    """An image as uint8 ``(H, W, 3)``, as its pixels are stored: the EXIF orientation is not that of the depth map."""
    image = _decode(file, source, "image")
    if image.mode.startswith(("I", "F", "LAB")):
        raise CuesError(f"{source}: the image {_short(file)} has mode {image.mode}, expected colours of 8 bit")
    try:
        return np.array(to_rgb(image))
    except SpatialBoostError as error:
        raise CuesError(f"{source}: the image {_short(file)}: {error}") from error


def image_size(file: Path) -> tuple[int, int] | None:
    """Height and width from the header; None if it cannot be read."""
    try:
        with Image.open(file) as image:
            return image.height, image.width
    except Exception:  # decoders raise many kinds of exceptions on damaged files; it is named when the image is read
        return None


def read_depth(file: Path, source: str, form: DepthFormat) -> np.ndarray:
    """Depth in metres, float32 ``(H, W)``; 0 = no reading.

    PNG and TIFF of 16 or 32 bit, TIFF with floating-point values, or ``.npy``. Without a reading are values that are
    not above zero, not finite, the largest of their type, or out of the format's range.

    Raises:
        CuesError: the file is missing or damaged, or has no depth.
    """
    if not os.path.isfile(file):
        raise CuesError(f"{source}: its depth map {_short(file)} is missing; add it or remove the image")
    if file.suffix.lower() == ".npy":
        return to_metres(_load_array(file, source), form)
    image = _decode(file, source, "depth map")
    if not image.mode.startswith(("I", "F")):
        raise CuesError(
            f"{source}: the depth map {_short(file)} has mode {image.mode}, expected one channel of 16 bit, "
            "millimetres, or of floating-point values in metres"
        )
    values_HW = np.asarray(image)
    if image.mode == "I" and file.suffix.lower() == ".png":  # older releases of PIL open 16 bit as 32
        values_HW = values_HW.astype(np.uint16)
    return to_metres(values_HW, form)


def read_labels(file: Path, source: str) -> np.ndarray:
    """A label image as integers ``(H, W)``: one channel of 8 or 16 bit, or a palette.

    Raises:
        CuesError: the file is damaged or has colours.
    """
    image = _decode(file, source, "label image")
    if image.mode not in ("1", "L", "P") and not image.mode.startswith("I"):
        raise CuesError(
            f"{source}: the label image {_short(file)} has mode {image.mode}, expected one channel of 8 or 16 bit"
        )
    return np.asarray(image).astype(np.int64)


def assumed_scale(file: Path) -> float:
    """Values per metre of a depth map of which nothing else is known: 1 if they are floating-point, 1000 otherwise."""
    try:
        if file.suffix.lower() == ".npy":
            return 1.0 if np.load(file, mmap_mode="r", allow_pickle=False).dtype.kind == "f" else MILLIMETRES
        with Image.open(file) as image:
            return 1.0 if image.mode.startswith("F") else MILLIMETRES
    except Exception:  # decoders raise many kinds of exceptions on damaged files
        return MILLIMETRES


def to_metres(values_HW: np.ndarray, form: DepthFormat) -> np.ndarray:
    """Stored values as depth in metres, float32; 0 = no reading.

    Example:
        >>> to_metres(np.array([[0, 1500, 65535]], np.uint16), DepthFormat()).tolist()
        [[0.0, 1.5, 0.0]]
        >>> to_metres(np.array([[12000]], np.uint16), DepthFormat(rotated=True)).tolist()
        [[1.5]]
    """
    whole = np.issubdtype(values_HW.dtype, np.integer)
    if whole:
        lost_HW = (values_HW <= 0) | (values_HW == np.iinfo(values_HW.dtype).max)
    else:
        lost_HW = ~((values_HW > 0) & (values_HW < min(float(np.finfo(values_HW.dtype).max), _FARTHEST)))  # also NaN
        values_HW = np.where(lost_HW, 0, values_HW)
    if form.rotated:
        values_HW = ((values_HW >> 3) | (values_HW << 13)).astype(np.uint16)
    depth_HW = (values_HW / (form.scale or (MILLIMETRES if whole else 1.0))).astype(np.float32)
    depth_HW[lost_HW] = 0
    depth_HW[depth_HW > form.high] = 0
    return depth_HW


def _load_array(file: Path, source: str) -> np.ndarray:
    try:
        values = np.load(file, mmap_mode="r", allow_pickle=False)
        shape = values.shape  # a zip of several arrays has none
    except Exception as error:
        raise CuesError(
            f"{source}: the depth map {_short(file)} of {_num_bytes(file)} bytes cannot be read "
            f"({type(error).__name__}); replace the file or remove it"
        ) from error
    plane = [edge for edge in shape if edge != 1] if len(shape) == 3 else [*shape]
    if len(plane) != 2 or values.dtype.kind not in "uif" or max(plane) > MAX_EDGE or np.prod(plane) > MAX_PIXELS:
        raise CuesError(
            f"{source}: the depth map {_short(file)} is {values.dtype} {shape}, expected numbers of shape (H, W)"
        )
    return np.array(values).reshape(plane)


def _decode(file: Path, source: str, what: str) -> Image.Image:
    try:
        with warnings.catch_warnings():  # PIL's warning about the limit; the error below says the same
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                if max(image.size) > MAX_EDGE or image.width * image.height > MAX_PIXELS:
                    raise CuesError(
                        f"{source}: the {what} {_short(file)} has {image.width} x {image.height} pixels, expected at "
                        f"most {MAX_EDGE} for each edge and {MAX_PIXELS} in all"
                    )
                image.load()
                return image
    except CuesError:
        raise
    except Exception as error:  # decoders raise many kinds of exceptions on damaged files
        raise CuesError(
            f"{source}: the {what} {_short(file)} of {_num_bytes(file)} bytes cannot be decoded "
            f"({type(error).__name__}); replace the file or remove it"
        ) from error


def _short(file: Path) -> str:
    return f"{file.parent.name}/{file.name}"


def _num_bytes(file: Path) -> int:
    return os.path.getsize(file) if os.path.isfile(file) else 0  # Path.is_file raises if a name is too long
