"""KITTI: raw drives with the depth maps of the depth benchmark, or that benchmark's ``val_selection_cropped``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.readers.decode import DepthFormat
from spatialboost.scenes.readers.intrinsics import Intrinsics, read_intrinsics
from spatialboost.scenes.readers.layout import Layout
from spatialboost.scenes.readers.matching import IMAGES, list_files
from spatialboost.scenes.readers.options import ReaderOptions
from spatialboost.scenes.readers.recording import Frame, Recording
from spatialboost.scenes.readers.text import read_text

_CALIBRATION = "calib_cam_to_cam.txt"
# Where the benchmark's depth maps lie, relative to a folder above the drive
_BENCHMARK = ("", "depth", "data_depth_annotated")
_DEPTH_ROOTS = ("", "gts", *(f"{name}/{part}" for name in _BENCHMARK for part in ("train", "val")))


class KITTI(Recording):
    """The images of one camera that have a depth map: 256 values per metre, a reading at one pixel of five."""

    depth_format = DepthFormat(scale=256.0)
    usual = (2.0, 40.0, 100.0)

    def __init__(self, folder: Path, options: ReaderOptions, root: Path) -> None:
        self.folder = folder
        self.intrinsics: Intrinsics | None = None
        cropped = (folder / "groundtruth_depth").is_dir()
        if cropped:
            images = list_files(folder, "image/*_sync_image_*.png", ())
            depths = list_files(folder, "groundtruth_depth/*_sync_groundtruth_depth_*.png", ())
        else:
            images = list_files(folder, "data/*", IMAGES)
            depths = _find_depths(folder, root)
            if options.intrinsics is None:
                self.intrinsics = _read_calibration(folder)
        both = [key for key in images if key in depths]
        if not both:
            raise SpatialBoostError(
                f"{folder}: none of its {len(images)} images has a depth map; expected the depth benchmark's "
                "DRIVE/proj_depth/groundtruth/image_02/*.png beside them, or in train/ and val/ of the given folder"
            )
        self.pairs = [(images[key][0], depths[key][0]) for key in both]
        self.names = [image.stem for image, _ in self.pairs]

    @classmethod
    def matches(cls, folder: Path, options: ReaderOptions) -> bool:
        selection = (folder / "image").is_dir() and (folder / "groundtruth_depth").is_dir()
        return selection or (folder.name in ("image_02", "image_03") and (folder / "data").is_dir())

    def frame(self, index: int, source: str) -> Frame:
        image, depth = self.pairs[index]
        file = self.folder / "intrinsics" / f"{image.stem}.txt"
        intrinsics = self.intrinsics
        if intrinsics is None and file.exists():
            intrinsics = read_intrinsics(file)
        return Frame(image=image, depth=depth, intrinsics=intrinsics)


def _find_depths(folder: Path, root: Path) -> dict[str, list[Path]]:
    """The depth maps of a camera of a drive, which are handed out in another archive than the images."""
    drive = folder.parent
    places = [drive, *(root / place.lstrip("/") / drive.name for place in _DEPTH_ROOTS)]
    for place in places:
        if found := list_files(place, f"proj_depth/groundtruth/{folder.name}/*.png", ()):
            return found
    return {}


def _read_calibration(folder: Path) -> Intrinsics:
    """The left 3x3 of the camera's projection matrix after rectification."""
    files = [above / _CALIBRATION for above in (folder.parent, folder.parent.parent)]
    file = next((file for file in files if file.exists()), None)
    expected = f"expected {_CALIBRATION} in the folder of the day, with 12 numbers in the line P_rect_02"
    if file is None:
        raise SpatialBoostError(f"{folder.parent} has no calibration; {expected}")
    number = folder.name[-2:]
    for line in read_text(file, expected).splitlines():
        key, _, numbers = line.partition(":")
        if key.strip() == f"P_rect_{number}":
            try:
                matrix_34 = np.array(numbers.split(), np.float64).reshape(3, 4)
            except ValueError as error:
                raise SpatialBoostError(f"{file}: its line {key} has another form ({error}); {expected}") from error
            return Intrinsics(matrix_34[:, :3], None, file.name)
    raise SpatialBoostError(f"{file} has no line P_rect_{number}; {expected}")


LAYOUT = Layout(
    "kitti",
    KITTI,
    "DATE/DRIVE/image_02/data/, proj_depth/ and calib_cam_to_cam.txt (or image/ and groundtruth_depth/)",
    levels=5,
)
