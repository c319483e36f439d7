"""Descriptions of objects without a known name, made of their size, colour and place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain

import numpy as np
from skimage.color import rgb2lab

from spatialboost.scenes.camera import unproject
from spatialboost.scenes.cues import Cues

# Shape legend: H, W = image height and width in pixels; P = pixels.

# Upper limit of the CIELAB hue angle of each colour name, in degrees. The names are those of the palette, plus beige.
_HUES = (
    (10, "pink"),
    (50, "red"),
    (88, "orange"),
    (113, "yellow"),
    (170, "green"),
    (225, "cyan"),
    (305, "blue"),
    (330, "purple"),
    (360, "pink"),
)
_DULL = {"red": 28.0, "orange": 40.0, "yellow": 33.0}  # chroma below which these are brown or beige
_LARGE, _SMALL = 0.9, 0.35  # metres: limits for the diagonal of the visible extent
_COLUMNS = ("on the left", "in the middle", "on the right")
_ROWS = ("at the top", "", "at the bottom")
_GRID = (
    ("at the top left", "at the top", "at the top right"),
    _COLUMNS,
    ("at the bottom left", "at the bottom", "at the bottom right"),
)


def name_objects(cues: Cues, masks: Sequence[np.ndarray]) -> list[tuple[str, ...]]:
    """Names of each object: its description, such as ``"large grey object on the left"``, and shorter unique ones.

    The shorter names leave out size, place or both, so that a question can use one that does not contain its answer.
    An object is without names if an earlier one has the same description.

    Args:
        cues: the view.
        masks: bool ``(H, W)`` each, with at least one valid depth; the most important first.
    """
    forms = []
    for description, mask_HW in zip(describe_objects(cues, masks), masks, strict=True):
        size, colour = _size_word(cues, mask_HW), name_colour(cues.image_HW3[mask_HW])
        row, column = _thirds(mask_HW)
        plain, sized = f"{colour} object", f"{size} {colour} object".strip()
        places = [_COLUMNS[column], *([_ROWS[row]] if _ROWS[row] else [])]
        placed = [f"{name} {place}" for place in places for name in (plain, sized)]
        forms.append((description, [plain, sized, *placed]))
    # An object without the word "large" may be called "grey object" only if no other object is grey
    counts = Counter(chain.from_iterable(set(names) for _, names in forms))
    return [
        (description, *(name for name in dict.fromkeys(names) if counts[name] == 1 and name != description))
        if description
        else ()
        for description, names in forms
    ]


def describe_objects(cues: Cues, masks: Sequence[np.ndarray]) -> list[str]:
    """Describe each object, such as ``"large grey object on the left"``; "" if an earlier one has the same description.

    Args:
        cues: the view.
        masks: bool ``(H, W)`` each, with at least one valid depth; the most important first.
    """
    words, spots = [], []
    for mask_HW in masks:
        size, colour = _size_word(cues, mask_HW), name_colour(cues.image_HW3[mask_HW])
        words.append(f"{size} {colour} object".strip())
        spots.append(_thirds(mask_HW))
    names = [f"{word} {_COLUMNS[column]}" for word, (_, column) in zip(words, spots, strict=True)]
    finer = [f"{word} {_GRID[row][column]}" for word, (row, column) in zip(words, spots, strict=True)]
    names = [name if names.count(name) == 1 else fine for name, fine in zip(names, finer, strict=True)]
    return [name if name not in names[:i] else "" for i, name in enumerate(names)]


def name_colour(pixels_P3: np.ndarray) -> str:
    """Name the median colour of some pixels.

    Example:
        >>> name_colour(np.array([[200, 20, 30], [190, 30, 30], [90, 90, 90]], np.uint8))
        'red'

    Args:
        pixels_P3: uint8 ``(P, 3)``, sRGB.
    """
    return name_lab(rgb2lab(pixels_P3[None])[0])


def name_lab(colours_P3: np.ndarray) -> str:
    """The same for colours in CIELAB."""
    lightness, a, b = np.median(colours_P3, axis=0).tolist()
    chroma = float(np.hypot(a, b))
    if chroma < 11.0 or lightness < 10.0 or (chroma < 16.0 and lightness < 25.0):
        return "black" if lightness < 25.0 else "white" if lightness > 72.0 else "grey"
    hue = float(np.degrees(np.arctan2(b, a))) % 360.0
    name = next(name for limit, name in _HUES if hue <= limit)
    if chroma < _DULL.get(name, 0.0):
        return "beige" if lightness > 52.0 else "brown"
    return name


def _size_word(cues: Cues, mask_HW: np.ndarray) -> str:
    points_P3 = unproject(cues.depth_HW, cues.intrinsics_33)[mask_HW & cues.valid_HW]
    low, high = np.percentile(points_P3[:, :2], (3, 97), axis=0)
    diagonal = float(np.hypot(*(high - low)))
    return "large" if diagonal > _LARGE else "small" if diagonal < _SMALL else ""


def _thirds(mask_HW: np.ndarray) -> tuple[int, int]:
    """(row, column) of the cell that contains the mask's centre, in a 3x3 grid over the image."""
    centre = np.argwhere(mask_HW).mean(0) + 0.5
    row, column = np.minimum(centre * 3 / mask_HW.shape, 2).astype(int).tolist()
    return row, column
