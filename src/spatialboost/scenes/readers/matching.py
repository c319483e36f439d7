"""Which files of a folder belong to one frame: by name pattern, by an association file, by time."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.paths import is_wanted, natural_order, user_path
from spatialboost.scenes.readers.text import read_words

IMAGES = (".jpg", ".jpeg", ".png")
DEPTHS = (".png", ".tif", ".tiff", ".npy")


def find_path(text: str, folder: Path, what: str) -> Path:
    """A file or folder that an option names: in the folder of the frames, or else from the working directory.

    Raises:
        SpatialBoostError: there is none.
    """
    path = user_path(text)
    inside = folder / path  # an absolute path stays as it is
    for found in (inside, path):
        if found.exists():
            return found
    raise SpatialBoostError(
        f"{what} {text!r}: neither {inside} nor such a file in the working directory exists; expected a file"
    )


def list_files(folder: Path, pattern: str, endings: Sequence[str]) -> dict[str, list[Path]]:
    """The files that fit a pattern, by what ``*`` stands for. The order is natural; hidden files are left out.

    Args:
        folder: the folder that the pattern begins in.
        pattern: such as ``"rgb/*"`` or ``"rgb/rgb_*.jpg"``. Every character but ``*`` is literal.
        endings: endings of the files, if the pattern has none.

    Raises:
        SpatialBoostError: the pattern has ``*`` in the name of a folder.
    """
    inside, _, name = pattern.rpartition("/")
    if "*" in inside or "*" not in name:
        raise SpatialBoostError(
            f"the pattern {pattern!r}: expected a folder and a file name with one or more * in it, such as "
            "'color/frame_*.jpg'"
        )
    given = [ending for ending in (*IMAGES, *DEPTHS) if name.lower().endswith(ending)]
    text = "(.*)".join(re.escape(piece) for piece in name.split("*"))
    if not given:
        text += "(?:" + "|".join(re.escape(ending) for ending in endings) + ")"
    shape = re.compile(text, re.IGNORECASE | re.DOTALL)
    found: dict[str, list[Path]] = {}
    place = folder / inside
    try:
        files = [file for file in place.iterdir() if shape.fullmatch(file.name) and is_wanted(file)]
    except OSError:  # there is no such folder, or it may not be read
        files = []
    for file in sorted(files, key=natural_order):
        if match := shape.fullmatch(file.name):
            found.setdefault("*".join(match.groups()), []).append(file)
    return found


def read_associations(file: Path, folder: Path) -> tuple[list[tuple[Path, Path]], list[float | None]]:
    """The pairs of image and depth map of an association file, and their times.

    Each line has two file names, or two pairs of time and file name. The image and its depth map may be in either
    order; a depth map has "depth" in its path. A line whose image or depth map occurred before is left out.

    Raises:
        SpatialBoostError: a line has another form.
    """
    expected = "expected in each line an image and its depth map, or time, image, time and depth map"
    pairs: list[tuple[Path, Path]] = []
    times: list[float | None] = []
    seen: set[str] = set()
    for number, words in read_words(file, expected):
        if len(words) not in (2, 4):
            raise SpatialBoostError(f"{file}, line {number} has {len(words)} words; {expected}")
        names = words if len(words) == 2 else words[1::2]
        stamps: list[float | None] = [None, None] if len(words) == 2 else [parse_time(words[0]), parse_time(words[2])]
        if len(words) == 4 and None in stamps:
            raise SpatialBoostError(f"{file}, line {number} has no number in the place of a time; {expected}")
        if "depth" in names[0].lower() and "depth" not in names[1].lower():
            names, stamps = names[::-1], stamps[::-1]
        if seen & set(names):
            continue
        seen |= set(names)
        pairs.append((folder / names[0], folder / names[1]))
        times.append(stamps[0])
    if not pairs:
        raise SpatialBoostError(f"{file} names no frame; {expected}")
    return pairs, times


def parse_time(text: str) -> float | None:
    """The time that a text is, in seconds; None if it is none."""
    try:
        time = float(text)
    except ValueError:
        return None
    return time if np.isfinite(time) else None


def nearest(times: Sequence[float], others: Sequence[float], largest: float) -> dict[int, int]:
    """For each time the nearest other time; each of the others belongs to one time at most.

    Example:
        >>> nearest([0.0, 0.1, 0.2], [0.101, 0.09, 5.0], 0.02)
        {1: 0}

    Args:
        times: in seconds, in any order.
        others: in seconds, in any order.
        largest: difference from which on nothing is near.

    Returns:
        Index in ``times`` to index in ``others``.
    """
    if not len(times) or not len(others):
        return {}
    order = np.argsort(others, kind="stable")
    ordered = np.asarray(others, np.float64)[order]
    found: dict[int, tuple[float, int]] = {}  # index in others -> difference, index in times
    for index, time in enumerate(times):
        right = int(np.searchsorted(ordered, time))
        near = min(
            (place for place in (right - 1, right) if 0 <= place < len(ordered)), key=lambda i: abs(ordered[i] - time)
        )
        difference = abs(float(ordered[near]) - time)
        other = int(order[near])
        if difference <= largest and difference < found.get(other, (np.inf, 0))[0]:
            found[other] = difference, index
    return {index: other for other, (_, index) in sorted(found.items(), key=lambda entry: entry[1][1])}


def by_time(names: Mapping[str, Path], prefix: str = "") -> tuple[list[float], list[Path]]:
    """Times and files of a listing whose names are times, such as ``{"1305031102.17": ...}``; others are left out."""
    pairs = [(parse_time(name.removeprefix(prefix)), file) for name, file in names.items()]
    timed = [(time, file) for time, file in pairs if time is not None]
    return [time for time, _ in timed], [file for _, file in timed]
