"""NYU Depth v2, the labelled part: one file, ``nyu_depth_v2_labeled.mat``, with names and masks of objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import CuesError
from spatialboost.scenes.readers.annotations import SURFACES, to_objects
from spatialboost.scenes.readers.layout import Layout
from spatialboost.scenes.readers.options import ReaderOptions
from spatialboost.scenes.readers.recording import Frame, Recording
from spatialboost.scenes.readers.sets.nyu import CAMERA

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
                self.labels = [_text(file[reference]) for reference in np.ravel(file["names"])]
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
        return Frame(np.ascontiguousarray(image_3WH.transpose(2, 1, 0)), depth_WH.T, CAMERA)

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


def _text(codes: Any) -> str:
    """A text of MATLAB, which has one number for each character."""
    return "".join(map(chr, np.ravel(codes)))


LAYOUT = Layout("nyu-labeled", NYULabeled, _EXPECTED, depth_noise=0.02)
