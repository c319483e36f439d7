"""Read the values of options of `spatialboost data build`: sizes, turns, points, directions, numbers of views."""

from __future__ import annotations

import re
from collections.abc import Sequence

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.sizes import validate_size
from spatialboost.scenes.views.mix import ViewMix


def parse_size(text: str) -> int | tuple[int, int]:
    """Read "224" (shorter edge) or "240x320" (height x width).

    Example:
        >>> parse_size("224"), parse_size("240x320")
        (224, (240, 320))

    Raises:
        SpatialBoostError: the text has another form.
    """
    match = re.fullmatch(r"([1-9]\d{0,8})(?:x([1-9]\d{0,8}))?", text)
    if not match:
        raise SpatialBoostError(f"size is {text!r}; expected pixels such as 224, or height x width such as 240x320")
    size = int(match[1]) if match[2] is None else (int(match[1]), int(match[2]))
    validate_size(size)
    return size


def parse_direction(text: str) -> tuple[float, float, float]:
    """Read "0 0 1" or "0, 0, 1".

    Example:
        >>> parse_direction("0, -1, 0")
        (0.0, -1.0, 0.0)

    Raises:
        SpatialBoostError: the text has another form.
    """
    try:
        x, y, z = (float(word) for word in text.replace(",", " ").split())
    except ValueError:
        raise SpatialBoostError(f"--up is {text[:80]!r}; expected three numbers, such as '0 0 1'") from None
    return x, y, z


def parse_views(text: str) -> ViewMix:
    """Read the number of views of an item, or a mix of numbers.

    Example:
        >>> parse_views("2").counts, parse_views("mix").counts
        ((2,), (2, 4, 8))

    Raises:
        SpatialBoostError: the text has another form, or a number is too small or too large.
    """
    try:
        return ViewMix.parse(text)
    except SpatialBoostError as error:
        raise SpatialBoostError(f"--{error}") from None


def parse_focal(text: str) -> float | None:
    """Read "0.87", a focal length for all views; None for "question", which writes that of each view into the question.

    Example:
        >>> parse_focal("0.87"), parse_focal("question")
        (0.87, None)

    Raises:
        SpatialBoostError: the text has another form.
    """
    if text == "question":
        return None
    try:
        return float(text)
    except ValueError:
        raise SpatialBoostError(
            f"--focal is {text!r}; expected a number such as 0.87, or question to write the field of view into the text"
        ) from None


def parse_points(text: str) -> tuple[int, int] | None:
    """Read "anywhere", or "cells:4x4" for the centres of the cells of a grid of 4 rows and 4 columns.

    Example:
        >>> parse_points("anywhere"), parse_points("cells:4x6")
        (None, (4, 6))

    Raises:
        SpatialBoostError: the text has another form.
    """
    if text == "anywhere":
        return None
    match = re.fullmatch(r"cells:([1-9]\d{0,3})x([1-9]\d{0,3})", text)
    if not match:
        raise SpatialBoostError(
            f"--points is {text!r}; expected anywhere, or cells:ROWSxCOLUMNS such as cells:4x4 for the centres of cells"
        )
    return int(match[1]), int(match[2])


def parse_turns(words: Sequence[str]) -> dict[str, int]:
    """Read "depth=3", "closer=2", ...

    Example:
        >>> parse_turns(["depth=3", "closer=2"])
        {'depth': 3, 'closer': 2}

    Raises:
        SpatialBoostError: a text has another form, or a kind is given twice.
    """
    turns: dict[str, int] = {}
    for word in words:
        match = re.fullmatch(r"(\w+)=(\d{1,9})", word)
        if not match:
            raise SpatialBoostError(f"--turn {word!r}: expected KIND=COUNT, such as depth=3")
        if match[1] in turns:
            raise SpatialBoostError(
                f"--turn {word!r}: {match[1]} has a count already ({turns[match[1]]}); expected once for each kind"
            )
        turns[match[1]] = int(match[2])
    return turns
