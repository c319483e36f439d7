"""NYU Depth v2 as folders of synchronised frames: ``rgb_00000.jpg`` with ``sync_depth_00000.png``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.readers.intrinsics import Intrinsics
from spatialboost.scenes.readers.layout import Layout
from spatialboost.scenes.readers.matching import IMAGES, list_files
from spatialboost.scenes.readers.options import ReaderOptions
from spatialboost.scenes.readers.recording import Frame, Recording

# The colour camera of the set's toolbox, to which the depth maps are registered
_MATRIX_33 = np.array([[518.85790117, 0, 325.58244941], [0, 519.46961112, 253.73616633], [0, 0, 1]])
CAMERA = Intrinsics(_MATRIX_33, (480, 640), "the camera of NYU Depth v2")


class NYU(Recording):
    """One scene; the depth maps, in millimetres, are beside the images or in ``depth/``. There are no poses."""

    def __init__(self, folder: Path, options: ReaderOptions, root: Path) -> None:
        self.folder = folder
        images, depths = _list(folder)
        both = [key for key in images if key in depths]
        if not both:
            raise SpatialBoostError(f"{folder}: no image rgb_*.jpg has a depth map sync_depth_*.png of its number")
        self.pairs = [(images[key], depths[key]) for key in both]
        self.names = [image.stem for image, _ in self.pairs]

    @classmethod
    def matches(cls, folder: Path, options: ReaderOptions) -> bool:
        return all(_list(folder))

    def frame(self, index: int, source: str) -> Frame:
        image, depth = self.pairs[index]
        return Frame(image=image, depth=depth, intrinsics=CAMERA)


def _list(folder: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    images = list_files(folder, "rgb_*", IMAGES) or list_files(folder, "rgb/rgb_*", IMAGES)
    depths = list_files(folder, "sync_depth_*.png", ()) or list_files(folder, "depth/sync_depth_*.png", ())
    return {key: files[0] for key, files in images.items()}, {key: files[0] for key, files in depths.items()}


LAYOUT = Layout(
    "nyu", NYU, "rgb_00000.jpg and sync_depth_00000.png (beside each other, or in rgb/ and depth/)", depth_noise=0.02
)
