"""The one exception that the library raises on purpose."""

from __future__ import annotations


class SpatialBoostError(ValueError):
    """A mistake that the user can mend: the message says what was found, what was expected and what to do.

    Example:
        >>> from spatialboost.errors import SpatialBoostError
        >>> issubclass(SpatialBoostError, ValueError)
        True
    """
