"""Where results that take long to make are kept on this machine."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(name: str) -> Path:
    """The folder of this library for ``name`` in the user's cache; ``XDG_CACHE_HOME`` moves it. It may not exist yet.

    Example:
        >>> cache_folder("heads").parts[-2:]
        ('spatialboost', 'heads')
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "spatialboost" / name
