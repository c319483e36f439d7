"""Names of regions as descriptions that are unique in a view, with colour and place words where they are needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from spatialboost.scenes.cues import SceneObject
from spatialboost.scenes.extract.wording import name_colour

# Shape legend: H, W = image height and width in pixels.

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


def place_words(mask_HW: np.ndarray, *, fine: bool) -> str:
    """Where in the image a mask's centre is, such as "on the left", or if `fine` also "at the top left".

    Example:
        >>> mask = np.zeros((9, 9), bool)
        >>> mask[0, 8] = True
        >>> place_words(mask, fine=False), place_words(mask, fine=True)
        ('on the right', 'at the top right')
    """
    centre = np.argwhere(mask_HW).mean(0) + 0.5
    row, column = np.minimum(centre * 3 / mask_HW.shape, 2).astype(int).tolist()
    if fine and _ROWS[row]:
        return f"at the {_ROWS[row]} {_COLUMNS[column]}".strip()
    return f"on the {_COLUMNS[column]}" if _COLUMNS[column] else "in the middle"


def _descriptions(image_HW3: np.ndarray, mask_HW: np.ndarray, name: str) -> list[str]:
    colour = name_colour(image_HW3[mask_HW])
    words = [name] if name else []
    noun = name or "object"
    if colour not in noun.split():
        words.append(f"{colour} {noun}")
    places = (place_words(mask_HW, fine=False), place_words(mask_HW, fine=True))
    return [*words, *(f"{word} {place}" for place in places for word in words)]
