"""Read the text files of data sets: numbers and words in lines, as different programs write them."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

from spatialboost.errors import SpatialBoostError

_LARGEST = 2**30  # bytes; the largest annotation files of public sets have half of it
_SEPARATORS = str.maketrans(",;[]", "    ")


def read_text(file: Path, expected: str) -> str:
    """The text of a file in UTF-8 or UTF-16, without byte order mark.

    Raises:
        SpatialBoostError: it is missing, not a file, not text, or far too large.
    """
    if not file.exists():
        raise SpatialBoostError(f"{file} is missing; {expected}")
    if not file.is_file():
        raise SpatialBoostError(f"{file} is not a file; {expected}")
    try:
        if file.stat().st_size > _LARGEST:
            raise SpatialBoostError(f"{file} has {file.stat().st_size} bytes, too many for a text file; {expected}")
        data = file.read_bytes()
    except OSError as error:
        raise SpatialBoostError(f"{file} cannot be read ({error.strerror}); {expected}") from error
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if wide else "utf-8").lstrip("\ufeff")
    except UnicodeDecodeError as error:
        raise SpatialBoostError(f"{file} is not a text file; {expected}") from error


def read_words(file: Path, expected: str) -> list[tuple[int, list[str]]]:
    """The words of each line with its number; without empty lines, and without comments, which begin with ``#``.

    Words are separated by blanks, or by commas if the line has a comma; then they may have blanks in them.
    """
    lines = []
    for number, line in enumerate(read_text(file, expected).splitlines(), 1):
        line = _without_comment(line)
        words = [word.strip() for word in line.split(",")] if "," in line else line.split()
        if any(words):
            lines.append((number, words))
    return lines


def read_numbers(file: Path, expected: str) -> list[list[float]]:
    """The numbers of each line, separated by blanks, commas, semicolons or brackets; without lines that have none."""
    return parse_numbers(read_text(file, expected), str(file), expected)


def parse_numbers(text: str, name: str, expected: str) -> list[list[float]]:
    """As `read_numbers`, for a text.

    Example:
        >>> parse_numbers("# fx fy\\n525, 525", "example", "expected numbers")
        [[525.0, 525.0]]
    """
    try:
        rows = [
            [float(word) for word in _without_comment(line).translate(_SEPARATORS).split()]
            for line in text.splitlines()
        ]
    except ValueError as error:
        raise SpatialBoostError(f"{name} cannot be read as numbers ({error}); {expected}") from error
    return [row for row in rows if row]


def read_json(file: Path, expected: str) -> Any:
    """The content of a JSON file."""
    text = read_text(file, expected)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpatialBoostError(f"{file} is not valid JSON ({str(error)[:80]}); {expected}") from error


def _without_comment(line: str) -> str:
    """Cut off ``# ...``. A ``#`` within a word is a part of it."""
    if line.lstrip().startswith("#"):
        return ""
    place = line.find(" #")
    return line if place < 0 else line[:place]
