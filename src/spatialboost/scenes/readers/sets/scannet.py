"""ScanNet as its SensReader exports it: ``color/0.jpg``, ``depth/0.png``, ``pose/0.txt``, ``intrinsic/``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.readers.annotations import SURFACES, label_objects
from spatialboost.scenes.readers.decode import read_labels
from spatialboost.scenes.readers.intrinsics import read_intrinsics
from spatialboost.scenes.readers.layout import Layout
from spatialboost.scenes.readers.matching import IMAGES, list_files
from spatialboost.scenes.readers.options import ReaderOptions
from spatialboost.scenes.readers.poses import read_pose
from spatialboost.scenes.readers.recording import Z_UP, Frame, Recording
from spatialboost.scenes.readers.text import read_json


class ScanNet(Recording):
    """One scan: depth in millimetres, smaller than the images; poses are camera to world, with z up.

    With ``instance-filt/0.png`` (or ``instance/``) and ``SCENE.aggregation.json``, which ScanNet hands out as 2D
    annotations, frames have named objects.
    """

    up_world_3 = Z_UP

    def __init__(self, folder: Path, options: ReaderOptions, root: Path) -> None:
        self.folder = folder
        found = list_files(folder, "color/*", IMAGES)
        if not found:
            raise SpatialBoostError(
                f"{folder / 'color'} has no image; expected color/0.jpg, depth/0.png and pose/0.txt"
            )
        self.names, self.images = list(found), [files[0].name for files in found.values()]  # there may be millions
        intrinsic = folder / "intrinsic"
        self.intrinsics = read_intrinsics(intrinsic / "intrinsic_color.txt") if options.intrinsics is None else None
        depth = intrinsic / "intrinsic_depth.txt"
        self.depth_intrinsics = read_intrinsics(depth) if depth.exists() else None
        self.masks = next((folder / name for name in ("instance-filt", "instance") if (folder / name).is_dir()), None)

    @classmethod
    def matches(cls, folder: Path, options: ReaderOptions) -> bool:
        return all((folder / name).is_dir() for name in ("color", "depth", "pose"))

    def frame(self, index: int, source: str) -> Frame:
        name = self.names[index]
        return Frame(
            image=self.folder / "color" / self.images[index],
            depth=self.folder / "depth" / f"{name}.png",
            intrinsics=self.intrinsics,
            depth_intrinsics=self.depth_intrinsics,
            pose_44=read_pose(self.folder / "pose" / f"{name}.txt", source),
        )

    @property
    def has_objects(self) -> bool:
        return self.masks is not None and bool(self._names)

    def objects(self, index: int, size: tuple[int, int]) -> Sequence[Any]:
        file = None if self.masks is None else self.masks / f"{self.names[index]}.png"
        if file is None or not file.exists() or not self._names:
            return ()
        source = f"{self.folder.name}/{self.names[index]}"
        labels_HW = read_labels(file, source)
        surfaces = [value for value, name in self._names.items() if name in SURFACES]
        labels_HW[np.isin(labels_HW, surfaces)] = 0
        return label_objects(labels_HW, self._names, size, source, same_in_all=True)

    @cached_property
    def _names(self) -> Mapping[int, str]:
        """Value in the instance masks to name: one more than the number of the instance."""
        file = next(iter(sorted(self.folder.glob("*.aggregation.json"))), None)
        if file is None:
            return {}
        expected = "expected segGroups with objectId and label"
        try:
            return {group["objectId"] + 1: str(group["label"]) for group in read_json(file, expected)["segGroups"]}
        except (KeyError, TypeError) as error:
            raise SpatialBoostError(f"{file} has another form ({error}); {expected}") from error


LAYOUT = Layout("scannet", ScanNet, "color/0.jpg, depth/0.png, pose/0.txt and intrinsic/intrinsic_color.txt")
