"""Make a view of the bytes of a photograph."""

from __future__ import annotations

import io
import re
import warnings

from PIL import ExifTags, Image

from spatialboost.errors import SpatialBoostError
from spatialboost.photographs import open_photograph
from spatialboost.scenes.camera import rescale_intrinsics
from spatialboost.scenes.cues import CuesError
from spatialboost.scenes.extract.protocol import PartialCues
from spatialboost.scenes.focal import exif_focal, make_intrinsics
from spatialboost.scenes.sizes import resize_image

USUAL_EDGE = 480  # pixels; larger photographs are made smaller unless a size is given

_FILE = re.compile(r" <_io\.BytesIO object at 0x[0-9a-f]+>")  # in PIL's messages; it differs from run to run
_LEAST_EDGE = 16
_LONGEST = 8.0  # longer side divided by the shorter one; panoramas have no pinhole camera


def view_photograph(content: bytes, source: str, size: int | tuple[int, int] | None = None) -> PartialCues:
    """Decode a photograph: upright, 8-bit RGB, with its intrinsics if its EXIF gives the focal length.

    Example:
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (1280, 960)).save(file, "JPEG")
        >>> view = view_photograph(file.getvalue(), "holiday.jpg")
        >>> view.image_HW3.shape, view.intrinsics_33 is None
        ((480, 640, 3), True)

    Args:
        content, source: the bytes of the image file, and the name of the view.
        size: shorter edge, or ``(height, width)``, in pixels; an image of another shape is cut around its middle. None
            makes the shorter edge 480 pixels if it is longer.

    Raises:
        CuesError: the image cannot be used; see `spatialboost.photographs.open_photograph`.
    """
    try:
        image_HW3 = open_photograph(content)
    except SpatialBoostError as error:
        raise CuesError(f"{source}: {_FILE.sub('', str(error))}") from error
    height, width = image_HW3.shape[:2]
    if min(height, width) < _LEAST_EDGE or max(height, width) > _LONGEST * min(height, width):
        raise CuesError(
            f"{source}: the image has {width}x{height} pixels; expected at least {_LEAST_EDGE} for each edge, and a "
            f"longer edge of at most {_LONGEST:g} times the shorter one"
        )
    focal = _focal_of(content)
    intrinsics_33 = None if focal is None else make_intrinsics(focal, (height, width))
    new_size = _size_of((height, width), size)
    if new_size != (height, width):
        box = _box((height, width), new_size)
        image_HW3 = resize_image(image_HW3[box], new_size)
        if intrinsics_33 is not None:
            cut = box[0].stop - box[0].start, box[1].stop - box[1].start
            intrinsics_33[:2, 2] -= box[1].start, box[0].start
            intrinsics_33 = rescale_intrinsics(intrinsics_33, cut, new_size)
    facts = {} if focal is None else {"focal": "exif"}
    return PartialCues(image_HW3, source, intrinsics_33=intrinsics_33, facts=facts)


def describe_size(size: int | tuple[int, int] | None) -> str:
    """What `view_photograph` does for a size, as text for the name of a source.

    Example:
        >>> describe_size(None), describe_size(224), describe_size((240, 320))
        ('480 px or less', '224 px', '240x320')
    """
    if isinstance(size, tuple):
        return f"{size[0]}x{size[1]}"
    return f"{USUAL_EDGE} px or less" if size is None else f"{size} px"


def _size_of(old: tuple[int, int], size: int | tuple[int, int] | None) -> tuple[int, int]:
    """The new height and width of an image."""
    if isinstance(size, tuple):
        return size
    edge = min(USUAL_EDGE, *old) if size is None else size
    scale = edge / min(old)
    return max(1, round(old[0] * scale)), max(1, round(old[1] * scale))


def _box(old: tuple[int, int], new: tuple[int, int]) -> tuple[slice, slice]:
    """The middle part of an image that has the shape of the new size: rows and columns."""
    scale = min(old[0] / new[0], old[1] / new[1])
    if abs(old[0] * new[1] - old[1] * new[0]) < max(old):  # the same shape but for rounding
        return slice(0, old[0]), slice(0, old[1])
    height, width = min(old[0], round(new[0] * scale)), min(old[1], round(new[1] * scale))
    top, left = (old[0] - height) // 2, (old[1] - width) // 2
    return slice(top, top + height), slice(left, left + width)


def _focal_of(content: bytes) -> float | None:
    """The focal length in pixels that the EXIF of an image gives. It can be read: `open_photograph` has read it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(content)) as image:
            try:
                exif = image.getexif()
                return exif_focal({**exif, **exif.get_ifd(ExifTags.IFD.Exif)}, image.size[::-1])
            except Exception:  # damaged EXIF raises many kinds of errors; the image itself is good
                return None
