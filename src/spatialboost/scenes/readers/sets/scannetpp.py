"""ScanNet++, the iPhone's part: ``data/SCENE/iphone/`` with ``rgb/``, ``depth/`` and ``pose_intrinsic_imu.json``."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import CuesError
from spatialboost.scenes.readers.intrinsics import Intrinsics
from spatialboost.scenes.readers.layout import Layout
from spatialboost.scenes.readers.matching import IMAGES, list_files
from spatialboost.scenes.readers.options import ReaderOptions
from spatialboost.scenes.readers.recording import Z_UP, Frame, Recording
from spatialboost.scenes.readers.text import read_json

_FILE = "pose_intrinsic_imu.json"
_EXPECTED = '{"frame_000000": {"aligned_pose": 4x4, "intrinsic": 3x3}, ...}'
_SIZE = (1440, 1920)  # of the video, which `intrinsic` is for


class ScanNetPP(Recording):
    """One scan of the iPhone, its images extracted from ``rgb.mkv`` and its depth maps from ``depth.bin``.

    Depth is in millimetres, 256x192. ``aligned_pose`` is camera to world, in the frame of the laser scan, with z up.
    """

    up_world_3 = Z_UP

    def __init__(self, folder: Path, options: ReaderOptions, root: Path) -> None:
        self.folder = folder
        images, depths = list_files(folder, "rgb/*", IMAGES), list_files(folder, "depth/*", (".png",))
        self.names = [name for name in images if name in depths]
        if not self.names:
            raise SpatialBoostError(
                f"{folder}: none of the {len(images)} images in rgb/ has a depth map; extract both with the scripts of "
                "ScanNet++, as rgb/frame_000000.jpg and depth/frame_000000.png"
            )
        self.pairs = [(images[name][0], depths[name][0]) for name in self.names]

    @classmethod
    def matches(cls, folder: Path, options: ReaderOptions) -> bool:
        return (folder / _FILE).is_file() and (folder / "rgb").is_dir()

    def frame(self, index: int, source: str) -> Frame:
        image, depth = self.pairs[index]
        try:
            file = self.folder / _FILE
            pose_44, matrix_33 = _read_entries(file, os.path.isfile(file) and os.path.getmtime(file))[self.names[index]]
        except KeyError as error:
            raise CuesError(f"{source}: {_FILE} has no entry with aligned_pose and intrinsic for it") from error
        return Frame(image, depth, Intrinsics(matrix_33, _SIZE, _FILE), pose_44=pose_44)


@lru_cache(maxsize=4)  # a scan's file has about 100 MB
def _read_entries(file: Path, changed: float) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pose and camera matrix of each frame; frames without them are left out. ``changed`` is the time of the file."""
    content = read_json(file, f"expected {_EXPECTED}")
    try:
        return {
            name: (
                np.array(entry["aligned_pose"], np.float64).reshape(4, 4),
                np.array(entry["intrinsic"], np.float64).reshape(3, 3),
            )
            for name, entry in content.items()
            if "aligned_pose" in entry and "intrinsic" in entry
        }
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise SpatialBoostError(f"{file} has another form ({error}); expected {_EXPECTED}") from error


LAYOUT = Layout(
    "scannetpp", ScanNetPP, "iphone/rgb/frame_000000.jpg, depth/frame_000000.png and pose_intrinsic_imu.json"
)
