import os
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # each of the processes computes on one core; read when torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from hub_server import hub  # noqa: F401 - a fixture

ASSETS = Path(os.environ.get("SPATIALBOOST_ASSETS", Path(__file__).parents[2] / "shared" / "assets"))


@pytest.fixture(scope="session")
def assets() -> Path:
    """Real weights and RGB-D frames, for the tests that are marked for them."""
    if not ASSETS.is_dir():
        pytest.skip(
            "real assets not found: set SPATIALBOOST_ASSETS to the folder with rgbd_room/ and vit_small_patch14/"
        )
    return ASSETS
