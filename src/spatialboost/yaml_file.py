"""Read the YAML files of users: runs of training, and builds of data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spatialboost.errors import SpatialBoostError

MOST_DEPTH, MOST_VALUES = 24, 20_000  # the file of a run has a depth of 4 and about 50 values


def read_yaml(file: str | Path) -> Any:
    """The content of a YAML file.

    Raises:
        SpatialBoostError: The file cannot be read, is not YAML, has a key twice, or is nested without end.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses a key that stands twice in one section: the first value would be lost without a word."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
            twice = next((key for key in keys if keys.count(key) > 1), None)
            if twice is not None:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {twice!r} is given twice", node.start_mark
                )
            return super().construct_mapping(node, deep)

    try:
        found = yaml.load(Path(file).read_text(encoding="utf-8"), Loader)  # a safe loader
    except OSError as error:
        raise SpatialBoostError(f"cannot read {file}: {error.strerror}") from None
    except RecursionError:
        raise SpatialBoostError(f"{file} is nested too deep; expected sections of keys") from None
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
            "expected sections of keys"
        )


def read_value(text: str) -> Any:
    """A value on the command line, as YAML reads it; numbers such as 1e-4 are numbers, too.

    Example:
        >>> read_value("1e-4"), read_value("[1, two]"), read_value("null"), read_value("timm:name")
        (0.0001, [1, 'two'], None, 'timm:name')
    """
    import yaml

    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text
    if isinstance(value, str):  # YAML 1.1 wants a dot in a number with an exponent
        try:
            return float(value)
        except ValueError:
            return value
    return value
