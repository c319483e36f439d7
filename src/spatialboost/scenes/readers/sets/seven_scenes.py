"""7-Scenes (Microsoft): ``seq-01/frame-000000.color.png``, ``.depth.png`` and ``.pose.txt``; a scene has several."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spatialboost.scenes.readers.intrinsics import Intrinsics
from spatialboost.scenes.readers.layout import Layout
from spatialboost.scenes.readers.matching import list_files
from spatialboost.scenes.readers.options import ReaderOptions
from spatialboost.scenes.readers.poses import read_pose
from spatialboost.scenes.readers.recording import Frame, Recording

# The set's page gives only the depth camera's default, and says that the cameras are not calibrated. 525 is the usual
# focal length of the Kinect's colour camera. The cameras are 2.5 cm apart, which shifts colours by a few pixels.
_COLOUR = Intrinsics(
    np.array([[525.0, 0, 320], [0, 525.0, 240], [0, 0, 1]]), (480, 640), "the colour camera of 7-Scenes"
)
_DEPTH = Intrinsics(np.array([[585.0, 0, 320], [0, 585.0, 240], [0, 0, 1]]), (480, 640), "the depth camera of 7-Scenes")


class SevenScenes(Recording):
    """One sequence. Depth is in millimetres, 65535 = no reading; poses are camera to world."""

    def __init__(self, folder: Path, options: ReaderOptions, root: Path) -> None:
        self.folder = folder
        self.names = list(list_files(folder, "frame-*.color.png", ()))

    @classmethod
    def matches(cls, folder: Path, options: ReaderOptions) -> bool:
        return bool(list_files(folder, "frame-*.color.png", ()))

    def frame(self, index: int, source: str) -> Frame:
        start = f"frame-{self.names[index]}"
        return Frame(
            image=self.folder / f"{start}.color.png",
            depth=self.folder / f"{start}.depth.png",
            intrinsics=_COLOUR,
            depth_intrinsics=_DEPTH,
            pose_44=read_pose(self.folder / f"{start}.pose.txt", source),
        )


LAYOUT = Layout("7scenes", SevenScenes, "seq-01/frame-000000.color.png, .depth.png and .pose.txt", depth_noise=0.02)
