"""Paths that a user names, and files that nobody put there on purpose."""

from __future__ import annotations

import os
import re
from pathlib import Path

from spatialboost.errors import SpatialBoostError

_NUMBERS = re.compile(r"([0-9]+)")
# Folders of systems and archives; other hidden names begin with a dot
_SYSTEM = {"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"}


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path as the user means it: ``~`` is the home folder, and every other character is literal.

    Example:
        >>> user_path("~/data") == Path.home() / "data", user_path("rooms[12]").name
        (True, 'rooms[12]')

    Raises:
        SpatialBoostError: the path contains a character that no path has.
    """
    if "\0" in os.fspath(path):
        raise SpatialBoostError(f"the path {os.fspath(path)!r} contains a null character; expected the path of a file")
    try:
        return Path(path).expanduser()
    except RuntimeError:  # "~name" where there is no user of that name
        return Path(path)


def is_hidden(path: Path) -> bool:
    """Whether a system or a program put a file or folder there: ``.ipynb_checkpoints``, ``._photo.jpg``, ``__MACOSX``.

    Example:
        >>> is_hidden(Path("cats/._1.jpg")), is_hidden(Path(".hidden/1.jpg"))
        (True, False)
    """
    return is_hidden_name(path.name)


def is_hidden_name(name: str) -> bool:
    """Like `is_hidden`, for the name of a file or folder."""
    return name.startswith(".") or name.lower() in _SYSTEM


def is_wanted(path: Path) -> bool:
    """Whether a path in a folder of images may be one of them: a file that is not hidden, or a link to one.

    A link to a missing file counts, so that it is reported and not passed over.
    """
    return not is_hidden(path) and (path.is_file() or path.is_symlink())


def natural_order(file: Path | str) -> tuple[list[str | int], str]:
    """Sort key that compares numbers by value (2 before 10): of the name of a file without its ending, or of a text.

    Example:
        >>> sorted(["10.jpg", "2.jpg", "a.jpg"], key=natural_order)
        ['2.jpg', '10.jpg', 'a.jpg']
    """
    stem, name = (file, file) if isinstance(file, str) else (file.stem, file.name)
    pieces: list[str | int] = [*_NUMBERS.split(stem)]  # text and number in turn, text first
    pieces[1::2] = map(int, pieces[1::2])
    return pieces, name
