"""Descriptions of objects that are unique in a view: a name, or size and colour, and a place where it is needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain

import numpy as np
from skimage.color import rgb2lab

from spatialboost.scenes.camera import unproject
from spatialboost.scenes.cues import Cues, SceneObject

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
_ROWS, _COLUMNS = ("top", "", "bottom"), ("left", "", "right")


def name_objects(image_HW3: np.ndarray, regions: Sequence[tuple[np.ndarray, str]]) -> list[SceneObject]:
    """Objects with unique descriptions.

    Example:
        >>> image = np.full((9, 9, 3), 120, np.uint8)
        >>> image[:, 6:] = 200, 20, 30
        >>> masks = np.zeros((3, 9, 9), bool)
        >>> masks[0, :3, :3] = masks[1, 6:, :3] = masks[2, 3:6, 7:] = True
        >>> [each.description for each in name_objects(image, [(mask, "box") for mask in masks])]
        ['box at the top left', 'box at the bottom left', 'red box']

    The description is the shortest of these that no other object of the view has: the name alone, with the colour,
    with the place, with both. The other ones that no other object has are further descriptions of the object.

    Returns:
        The objects, in the same order. Regions that look alike and are at the same place have no unique description:
        the first of them is left out like the others.
    """
    options = [_descriptions(image_HW3, mask_HW, name) for mask_HW, name in regions]
    counts = Counter(text for texts in options for text in dict.fromkeys(texts))
    objects = []
    for (mask_HW, _), texts in zip(regions, options, strict=True):
        unique = [text for text in dict.fromkeys(texts) if counts[text] == 1]
        if unique:
            objects.append(SceneObject(unique[0], mask_HW, tuple(unique[1:])))
    return objects


def describe_objects(cues: Cues, masks: Sequence[np.ndarray]) -> list[tuple[str, ...]]:
    """Descriptions of objects without a name, such as ``"large grey object on the left"``, and shorter unique ones.

    The shorter ones leave out size, place or both, so that a question can use one that does not contain its answer.
    An object has none if an earlier one has the same description. Each mask needs a valid depth.
    """
    plain = [f"{name_colour(cues.image_HW3[mask_HW])} object" for mask_HW in masks]
    sized = [f"{_size_word(cues, mask_HW)} {name}".strip() for name, mask_HW in zip(plain, masks, strict=True)]
    places = [(place_words(mask_HW, fine=False), place_words(mask_HW, fine=True)) for mask_HW in masks]
    names = [f"{name} {coarse}" for name, (coarse, _) in zip(sized, places, strict=True)]
    finer = [f"{name} {fine}" for name, (_, fine) in zip(sized, places, strict=True)]
    names = [name if names.count(name) == 1 else fine for name, fine in zip(names, finer, strict=True)]
    shorter = []
    for both, (coarse, _), mask_HW in zip(zip(plain, sized, strict=True), places, masks, strict=True):
        row = _ROWS[_thirds(mask_HW)[0]]
        placed = [f"{name} {place}" for place in (coarse, *([f"at the {row}"] if row else [])) for name in both]
        shorter.append(list(dict.fromkeys([*both, *placed])))
    # An object without the word "large" may be called "grey object" only if no other object is grey
    counts = Counter(chain.from_iterable(shorter))
    return [
        (name, *(other for other in others if counts[other] == 1 and other != name)) if name not in names[:i] else ()
        for i, (name, others) in enumerate(zip(names, shorter, strict=True))
    ]


def place_words(mask_HW: np.ndarray, *, fine: bool) -> str:
    """Where in the image a mask's centre is, such as "on the left", or if `fine` also "at the top left".

    Example:
        >>> mask = np.zeros((9, 9), bool)
        >>> mask[0, 8] = True
        >>> place_words(mask, fine=False), place_words(mask, fine=True)
        ('on the right', 'at the top right')
    """
    row, column = _thirds(mask_HW)
    if fine and _ROWS[row]:
        return f"at the {_ROWS[row]} {_COLUMNS[column]}".strip()
    return f"on the {_COLUMNS[column]}" if _COLUMNS[column] else "in the middle"


def name_colour(pixels_P3: np.ndarray) -> str:
    """Name the median colour of some pixels, uint8 sRGB.

    Example:
        >>> name_colour(np.array([[200, 20, 30], [190, 30, 30], [90, 90, 90]], np.uint8))
        'red'
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


def _descriptions(image_HW3: np.ndarray, mask_HW: np.ndarray, name: str) -> list[str]:
    colour = name_colour(image_HW3[mask_HW])
    words = [name] if name else []
    noun = name or "object"
    if colour not in noun.split():
        words.append(f"{colour} {noun}")
    places = (place_words(mask_HW, fine=False), place_words(mask_HW, fine=True))
    return [*words, *(f"{word} {place}" for place in places for word in words)]


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
