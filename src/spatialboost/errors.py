"""The one exception that the library raises on purpose."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SpatialBoostError(ValueError):
    """A mistake that the user can correct: the message says what was found, what was expected and what to do.

    Example:
        >>> from spatialboost.errors import SpatialBoostError
        >>> issubclass(SpatialBoostError, ValueError)
        True
    """


def unknown(what: str, name: object, known: Iterable[str]) -> SpatialBoostError:
    """The error for an unknown name: it gives the name, all known names, and the known name that is most similar.

    Example:
        >>> print(unknown("probe", "dept", ["depth", "knn"]))
        unknown probe 'dept'; known are depth, knn. Did you mean 'depth'?
    """
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f". Did you mean {near[0]!r}?" if near else ""
    return SpatialBoostError(f"unknown {what} {name!r}; known are {', '.join(names)}{hint}")
