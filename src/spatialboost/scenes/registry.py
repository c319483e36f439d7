"""Look up objects in a table by name. An entry ``"module:attribute"`` is imported only when it is looked up."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from spatialboost.errors import unknown


def look_up(table: Mapping[str, Any], what: str, name: str) -> Any:
    """Return the object that a table has for a name.

    Example:
        >>> look_up({"root": "math:sqrt"}, "function", "root")(9.0)
        3.0

    Raises:
        SpatialBoostError: the table does not have this name. The message suggests the most similar name.
    """
    if name not in table:
        raise unknown(what, name, table)
    found = table[name]
    if not isinstance(found, str):
        return found
    module, _, attribute = found.partition(":")
    return getattr(import_module(module), attribute)
