"""NYU Depth v2: folders of frames, ``rgb_00000.jpg`` with ``sync_depth_00000.png``, or ``nyu_depth_v2_labeled.mat``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import CuesError
from spatialboost.scenes.readers.annotations import SURFACES, to_objects
from spatialboost.scenes.readers.intrinsics import Intrinsics
from spatialboost.scenes.readers.layout import Layout
from spatialboost.scenes.readers.matching import IMAGES, list_files
from spatialboost.scenes.readers.options import ReaderOptions
from spatialboost.scenes.readers.recording import Frame, Recording

# The colour camera of the set's toolbox, to which the depth maps are registered
_MATRIX_33 = np.array([[518.85790117, 0, 325.58244941], [0, 519.46961112, 253.73616633], [0, 0, 1]])
_CAMERA = Intrinsics(_MATRIX_33, (480, 640), "the camera of NYU Depth v2")


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
        return Frame(image=image, depth=depth, intrinsics=_CAMERA)


def _list(folder: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    images = list_files(folder, "rgb_*", IMAGES) or list_files(folder, "rgb/rgb_*", IMAGES)
    depths = list_files(folder, "sync_depth_*.png", ()) or list_files(folder, "depth/sync_depth_*.png", ())
    return {key: files[0] for key, files in images.items()}, {key: files[0] for key, files in depths.items()}


LAYOUT = Layout(
    "nyu", NYU, "rgb_00000.jpg and sync_depth_00000.png (beside each other, or in rgb/ and depth/)", depth_noise=0.02
)


_EXPECTED = "nyu_depth_v2_labeled.mat, a file of HDF5 with images, depths, labels, instances and names"


class NYULabeled(Recording):
    """The 1449 frames of the file. Depth is in metres, without what the set's authors filled in."""

    def __init__(self, folder: Path, options: ReaderOptions, root: Path) -> None:
        import h5py

        self.folder = folder
        try:
            with h5py.File(folder) as file:
                self.names = [str(index) for index in range(len(file["images"]))]
                self.depths = "rawDepths" if "rawDepths" in file else "depths"
                self.labels = ["".join(map(chr, np.ravel(file[reference]))) for reference in np.ravel(file["names"])]
                sizes = {len(file[key]) for key in (self.depths, "labels", "instances")}
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise SpatialBoostError(f"{folder} cannot be read ({str(error)[:80]}); expected {_EXPECTED}") from error
        if sizes != {len(self.names)}:
            raise SpatialBoostError(f"{folder} has {len(self.names)} images, but {sizes} maps; expected {_EXPECTED}")

    @classmethod
    def matches(cls, folder: Path, options: ReaderOptions) -> bool:
        return folder.suffix == ".mat" and folder.is_file()

    def frame(self, index: int, source: str) -> Frame:
        """Image and depth map. The file has them with columns before rows."""
        image_3WH, depth_WH = self._read(index, "images", self.depths)
        return Frame(np.ascontiguousarray(image_3WH.transpose(2, 1, 0)), depth_WH.T, _CAMERA)

    def objects(self, index: int, size: tuple[int, int]) -> Sequence[Any]:
        """Each instance of a class that is a thing."""
        labels_WH, instances_WH = self._read(index, "labels", "instances")
        pairs_WH = labels_WH.astype(np.int64).T * 256 + instances_WH.T
        masks = []
        for pair in np.unique(pairs_WH):
            label = int(pair) // 256
            if label and self.labels[label - 1] not in SURFACES:
                masks.append((self.labels[label - 1], pairs_WH == pair))
        return to_objects(masks, size, f"{self.folder.name}/{index}")

    def _read(self, index: int, *keys: str) -> list[np.ndarray]:
        import h5py

        try:
            with h5py.File(self.folder) as file:
                return [file[key][index] for key in keys]
        except (OSError, KeyError) as error:
            raise CuesError(f"{self.folder.name}/{index}: {' or '.join(keys)} cannot be read ({error})") from error


LABELED = Layout("nyu-labeled", NYULabeled, _EXPECTED, depth_noise=0.02)
