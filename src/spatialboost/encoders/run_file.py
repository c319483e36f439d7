"""The paths in the YAML file of a training run."""

from __future__ import annotations

from pathlib import Path

from spatialboost.errors import SpatialBoostError


def resolve_path(path: str | Path, folder: Path) -> Path:
    """A path in a run's file: it starts at the file's folder, whatever the working directory is.

    Example:
        >>> resolve_path("rooms", Path("runs")).as_posix()
        'runs/rooms'
    """
    return folder / user_path(path)


def user_path(path: str | Path) -> Path:
    """A path as a user writes it, with ``~`` for the home folder.

    Raises:
        SpatialBoostError: It contains a character that no path may contain, or the home folder is unknown.
    """
    text = str(path)
    if "\0" in text:
        raise SpatialBoostError(f"the path {text!r} contains a null character")
    try:
        text.encode()
        return Path(text).expanduser()
    except (RuntimeError, UnicodeEncodeError) as error:
        raise SpatialBoostError(f"the path {text!r} cannot be used: {error}") from None
