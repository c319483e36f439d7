from __future__ import annotations

from pathlib import Path

import pytest

from plain_walk import write_walk


@pytest.fixture
def room(tmp_path) -> Path:
    """The walk in the plain layout."""
    return write_walk(tmp_path)
