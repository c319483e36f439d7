"""A rendered walk in the plain layout of RGB-D folders, for tests that change its files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from rendered_walk import NUM, assert_frame, matrix, pose, shot
from spatialboost.scenes.readers.options import ReaderOptions
from spatialboost.scenes.readers.rgbd import RGBDFolder

SIZE = (60, 80)
CAMERA = matrix(66.0, 66.5, 39.8, 29.6)
NAMES = [f"{index:03d}" for index in range(NUM)]


def write_walk(tmp_path: Path) -> Path:
    """The walk in the plain layout. The folder's name has brackets, a blank and ``~``, which are only letters."""
    folder = tmp_path / "~my [room] 1*"
    for name in ("rgb", "depth"):
        (folder / name).mkdir(parents=True)
    for index, name in enumerate(NAMES):
        image, depth = shot(index, CAMERA, SIZE)
        Image.fromarray(image).save(folder / "rgb" / f"{name}.png")
        Image.fromarray(np.rint(depth * 1000).astype(np.uint16)).save(folder / "depth" / f"{name}.png")
    np.savetxt(folder / "poses.txt", [pose(index).ravel() for index in range(NUM)])
    np.savetxt(folder / "intrinsics.txt", CAMERA)
    return folder


def rewrite_depth(folder: Path, write: Callable[[np.ndarray, Path], None]) -> None:
    """Write each depth map, given in metres, as another file."""
    for index, name in enumerate(NAMES):
        (folder / "depth" / f"{name}.png").unlink()
        write(shot(index, CAMERA, SIZE)[1], folder / "depth" / name)


def opened(folder: Path, **options) -> RGBDFolder:
    return RGBDFolder(folder, options=ReaderOptions(**options))


def assert_walk(frames) -> None:
    assert len(frames) == NUM
    for index in (0, 3, NUM - 1):
        assert_frame(frames[index], index)


# --- intrinsics


def numbers(values) -> str:
    return " ".join(f"{value:.9f}" for value in np.ravel(values))
