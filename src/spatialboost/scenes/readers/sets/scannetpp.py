"""ScanNet++, the iPhone's part: ``data/SCENE/iphone/`` with ``rgb/``, ``depth/`` and ``pose_intrinsic_imu.json``."""

from __future__ import annotations

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

    Depth is in millimetres, 256x192. ``aligned_pose`` is camera to world, in the frame of the laser scan, with z up;
    frames without it are left out.
    """

    up_world_3 = Z_UP

    def __init__(self, folder: Path, options: ReaderOptions, root: Path) -> None:
        self.folder = folder
        self.entries = read_json(folder / _FILE, f"expected {_EXPECTED}")
        if not isinstance(self.entries, dict):
            raise SpatialBoostError(f"{folder / _FILE} is a {type(self.entries).__name__}; expected {_EXPECTED}")
        found = list_files(folder, "rgb/*", IMAGES)
        self.names = [name for name in found if "aligned_pose" in (self.entries.get(name) or ())]
        if not self.names:
            raise SpatialBoostError(
                f"{folder}: none of the {len(found)} images in rgb/ has an entry in {_FILE}; extract them with the "
                f"scripts of ScanNet++, as rgb/frame_000000.jpg"
            )
        self.images = [found[name][0] for name in self.names]

    @classmethod
    def matches(cls, folder: Path, options: ReaderOptions) -> bool:
        """Whether the folder is that of the iPhone."""
        return (folder / _FILE).is_file() and (folder / "rgb").is_dir()

    def frame(self, index: int, source: str) -> Frame:
        """Image, depth map, and the entry of the frame."""
        name = self.names[index]
        try:
            pose_44 = np.array(self.entries[name]["aligned_pose"], np.float64).reshape(4, 4)
            matrix_33 = np.array(self.entries[name]["intrinsic"], np.float64).reshape(3, 3)
        except (KeyError, TypeError, ValueError) as error:
            raise CuesError(
                f"{source}: its entry in {_FILE} has another form ({error}); expected {_EXPECTED}"
            ) from error
        return Frame(
            image=self.images[index],
            depth=self.folder / "depth" / f"{name}.png",
            intrinsics=Intrinsics(matrix_33, _SIZE, _FILE),
            pose_44=pose_44,
        )


LAYOUT = Layout(
    "scannetpp", ScanNetPP, "iphone/rgb/frame_000000.jpg, depth/frame_000000.png and pose_intrinsic_imu.json"
)
