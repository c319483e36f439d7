"""Tables of names, in which an object may stand as ``"module:attribute"`` so that it is imported when it is needed."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from spatialboost.errors import unknown


def look_up(table: Mapping[str, Any], what: str, name: str) -> Any:
    """What a table holds under a name.

    Example:
        >>> look_up({"root": "math:sqrt"}, "function", "root")(9.0)
        3.0

    Args:
        table: name to object, or to ``"module:attribute"``.
        what: what its names are, for the error.
        name: the name.

    Raises:
        SpatialBoostError: the table has no such name; the nearest right one is in the message.
    """
    if name not in table:
        raise unknown(what, name, table)
    found = table[name]
    if not isinstance(found, str):
        return found
    module, _, attribute = found.partition(":")
    return getattr(import_module(module), attribute)
