"""Read the YAML file of a training run, and find the paths in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spatialboost.errors import SpatialBoostError

MOST_DEPTH, MOST_VALUES = 24, 20_000  # a run's file has a depth of 4 and about 50 values


def read_yaml(file: str | Path) -> Any:
    """The content of a YAML file.

    Raises:
        SpatialBoostError: The file cannot be read, is not YAML, or is nested without end.
    """
    import yaml

    try:
        found = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise SpatialBoostError(f"cannot read {file}: {error.strerror}") from None
    except RecursionError:
        raise SpatialBoostError(f"{file} is nested too deep; expected a run's file, with sections of keys") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: wrong UTF-8, a date such as 2024-13-45
        raise SpatialBoostError(f"{file} is not YAML: {' '.join(str(error).split())}") from None
    check_size(found, str(file))
    return found


def check_size(value: Any, where: str) -> None:
    """Refuse values that contain themselves (by YAML anchors), are nested deep, or are very many."""
    level = [value]
    total = 0
    for _ in range(MOST_DEPTH):
        level = [
            inside
            for each in level
            if isinstance(each, (Mapping, list, tuple, set))
            for inside in (each.values() if isinstance(each, Mapping) else each)
        ]
        total += len(level)
        if not level or total > MOST_VALUES:
            break
    if level:
        raise SpatialBoostError(
            f"{where} is nested too deep or has too many values, perhaps by an anchor (&) that contains itself; "
            "expected a run's file, with sections of keys"
        )


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
