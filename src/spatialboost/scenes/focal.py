"""Focal lengths: read from text and from EXIF, and views of many cameras cut to one focal length."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from PIL import ExifTags

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import Cues, CuesError
from spatialboost.scenes.sources import Mapped, Source

# Shape legend: H, W = image height and width in pixels.

_FILM_DIAGONAL = math.hypot(36.0, 24.0)  # mm; "35 mm equivalent" compares the diagonals (CIPA DCG-001)
_UNIT_MM = {2: 25.4, 3: 10.0, 4: 1.0}  # EXIF's unit of pixels per length: inch, cm, mm
_FIELDS_OF_VIEW = (2.0, 170.0)  # degrees; no lens of a photograph is outside of it
_LEAST_KEPT = 0.25  # smallest part of a unified image that may be real


@dataclass(frozen=True)
class FocalLength:
    """A focal length as a user gives it.

    Example:
        >>> round(FocalLength.parse("60deg").pixels((480, 640))), round(FocalLength.parse("26mm").pixels((480, 640)))
        (554, 481)
    """

    value: float  # the number
    # "px" = pixels of the view, "deg" = horizontal field of view, "mm" = 35 mm equivalent
    unit: Literal["px", "deg", "mm"]

    @classmethod
    def parse(cls, text: str) -> FocalLength:
        """Read "1200px", "60deg" or "26mm".

        Raises:
            SpatialBoostError: the text has another form, or no camera has this focal length.
        """
        match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+) ?(px|deg|mm)", str(text).strip())
        if not match:
            raise SpatialBoostError(
                f"focal is {text!r}; expected a length in pixels of the view (1200px), a horizontal field of view "
                "(60deg) or a 35 mm equivalent (26mm)"
            )
        found = cls(float(match[1]), match[2])  # type: ignore[arg-type]
        fits = {"deg": _FIELDS_OF_VIEW, "mm": (4.0, 2000.0), "px": (1.0, math.inf)}[found.unit]
        if not fits[0] <= found.value <= fits[1]:
            raise SpatialBoostError(f"focal is {text!r}; expected {fits[0]:g} to {fits[1]:g} {found.unit}")
        return found

    def pixels(self, size: tuple[int, int]) -> float:
        """The focal length in pixels of an image of ``(height, width)``."""
        if self.unit == "deg":
            return size[1] / (2 * math.tan(math.radians(self.value) / 2))
        return self.value if self.unit == "px" else self.value / _FILM_DIAGONAL * math.hypot(*size)

    def __str__(self) -> str:
        return f"{self.value:g}{self.unit}"


def exif_focal(exif: Mapping[int, Any], size: tuple[int, int]) -> float | None:
    """The focal length of a photograph in pixels, from its EXIF. None if it does not say, or if the image was cut.

    Example:
        >>> exif = {ExifTags.Base.FocalLengthIn35mmFilm: 26, ExifTags.Base.ExifImageWidth: 4000,
        ...         ExifTags.Base.ExifImageHeight: 3000}
        >>> round(exif_focal(exif, (480, 640))), exif_focal(exif, (480, 480)) is None
        (481, True)
    """
    tag = ExifTags.Base
    stored = _number(exif.get(tag.ExifImageHeight)), _number(exif.get(tag.ExifImageWidth))
    if stored[0] and stored[1]:
        ratios = sorted((size[0] / size[1], stored[0] / stored[1]))
        turned = sorted((size[1] / size[0], stored[0] / stored[1]))
        if min(ratios[1] / ratios[0], turned[1] / turned[0]) > 1.02:  # a part of the photograph
            return None
    film, length = _number(exif.get(tag.FocalLengthIn35mmFilm)), _number(exif.get(tag.FocalLength))
    density = _number(exif.get(tag.FocalPlaneXResolution))
    unit = _UNIT_MM.get(int(_number(exif.get(tag.FocalPlaneResolutionUnit)) or 2))
    if film:
        focal = film / _FILM_DIAGONAL * math.hypot(*size)
    elif length and density and unit and stored[0] and stored[1]:
        focal = length * density / unit * max(size) / max(stored[0], stored[1])
    else:
        return None
    view = math.degrees(2 * math.atan(max(size) / (2 * focal)))
    return focal if _FIELDS_OF_VIEW[0] <= view <= _FIELDS_OF_VIEW[1] else None


def _number(value: Any) -> float | None:
    """A positive finite number; None for anything else, such as 0 / 0."""
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def make_intrinsics(focal: float, size: tuple[int, int]) -> np.ndarray:
    """The camera matrix of an image of ``(height, width)`` with square pixels and the principal point in its middle.

    Example:
        >>> make_intrinsics(100.0, (80, 120)).tolist()
        [[100.0, 0.0, 59.5], [0.0, 100.0, 39.5], [0.0, 0.0, 1.0]]
    """
    height, width = size
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]], np.float64)


def measure_field_of_view(cues: Cues) -> float:
    """The angle between the left and the right edge of a view, in degrees.

    Example:
        >>> from spatialboost.scenes.rooms import Rooms
        >>> 40 < measure_field_of_view(Rooms(1, size=64)[0]) < 100
        True
    """
    (focal, _, centre), width = cues.intrinsics_33[0], cues.size[1]
    edges = (centre + 0.5) / focal, (width - 0.5 - centre) / focal  # the centre of the first pixel is 0
    return math.degrees(sum(map(math.atan, edges)))


def unify_focal(cues: Cues, focal: float) -> Cues:
    """Cut or extend a view, so that its focal length is ``focal`` times its longer side.

    Example:
        >>> from spatialboost.scenes.rooms import Rooms
        >>> wide = Rooms(1, size=64)[0]
        >>> narrow = unify_focal(wide, 2 * wide.intrinsics_33[0, 0] / 64)
        >>> narrow.size, bool((narrow.depth_HW == wide.depth_HW[16:48, 16:48]).all())
        ((32, 32), True)

    The same object looks larger through a longer lens, so metres cannot be learnt from images of unknown cameras
    (Metric3D, arXiv 2307.10984). After this, all views come from one camera up to their number of pixels. No pixel is
    resampled and no depth is changed: the image is cut around its principal point, or extended by grey pixels without
    readings. Objects of which nothing is left are dropped.

    Args:
        cues: the view.
        focal: focal length divided by the longer side; 0.87 is a horizontal field of view of 60 degrees.

    Raises:
        CuesError: the view would consist mostly of added pixels, or nothing would be left of it.
    """
    height, width = cues.size
    (fx, _, cx), (fy, cy) = cues.intrinsics_33[0], cues.intrinsics_33[1, 1:]
    longer = max(width / fx, height / fy) * fx  # in pixels of the width
    scale = fx / focal / longer
    new_width, new_height = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = round(cx - (new_width - 1) / 2), round(cy - (new_height - 1) / 2)
    inside_x = min(left + new_width, width) - max(left, 0)
    inside_y = min(top + new_height, height) - max(top, 0)
    if min(inside_x, inside_y) < 1 or inside_x * inside_y < _LEAST_KEPT * new_width * new_height:
        raise CuesError(
            f"{cues.source}: its focal length is {fx / longer:.2f} times its longer side, too far from {focal:g}, "
            "which all views shall have"
        )

    def cut(array: np.ndarray, fill: Any) -> np.ndarray:
        found = np.full((new_height, new_width, *array.shape[2:]), fill, array.dtype)
        rows, columns = (
            slice(max(top, 0), min(top + new_height, height)),
            slice(max(left, 0), min(left + new_width, width)),
        )
        found[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = array[rows, columns]
        return found

    intrinsics_33 = np.array(cues.intrinsics_33, np.float64)
    intrinsics_33[:2, 2] -= left, top
    masks = [(thing, cut(thing.mask_HW, False)) for thing in cues.objects]
    return replace(
        cues,
        image_HW3=cut(cues.image_HW3, 127),
        depth_HW=cut(cues.depth_HW, 0),
        valid_HW=cut(cues.valid_HW, False),
        intrinsics_33=intrinsics_33,
        objects=[replace(thing, mask_HW=mask_HW) for thing, mask_HW in masks if mask_HW.any()],
        facts={**cues.facts, "unified_focal": focal},
    )


def with_one_focal(source: Source, focal: float) -> Mapped:
    """A source whose views are cut or extended to one focal length; see `unify_focal`. Its name records this.

    Raises:
        SpatialBoostError: no camera has this focal length.
    """
    if not 0.1 <= focal <= 30:
        raise SpatialBoostError(f"focal is {focal:g}; expected 0.1 to 30 times the longer side, such as 0.87")
    name = f"{getattr(source, 'name', type(source).__name__)} focal {focal:g}"
    return Mapped(source, partial(unify_focal, focal=focal), name=name)
