"""COLMAP folders, and MVImgNet, which is handed out so: ``images/`` and ``sparse/0/`` with cameras and images."""

from __future__ import annotations

import os
from pathlib import Path

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.paths import natural_order
from spatialboost.scenes.readers.colmap_model import Camera, Photo, read_model
from spatialboost.scenes.readers.layout import Layout
from spatialboost.scenes.readers.matching import DEPTHS, list_files
from spatialboost.scenes.readers.options import ReaderOptions
from spatialboost.scenes.readers.recording import Frame, Recording

_MODELS = ("sparse/0", "sparse", "colmap/sparse/0", "colmap", "")
_IMAGES = ("images", "images_4", "images_8", "images_2", "input", "rgb", "")


class Colmap(Recording):
    """The registered images of a reconstruction, with intrinsics; with depth if there is ``depth/NAME.png``.

    Poses have the unit of the reconstruction, which is not metres: they are used if the option ``pose_scale`` is given.
    """

    file_options = ("depths",)
    metric_poses = False

    def __init__(self, folder: Path, options: ReaderOptions, root: Path) -> None:
        self.folder = folder
        model = _find_model(folder)
        if model is None:
            raise SpatialBoostError(f"{folder} has no cameras.bin or cameras.txt; expected it in sparse/0/")
        self.cameras: dict[int, Camera]
        self.cameras, photos = read_model(model)
        self.photos: list[Photo] = sorted(photos, key=lambda photo: natural_order(photo.name))
        if not self.photos:
            raise SpatialBoostError(f"{model} has no registered image")
        first = self.photos[0].name
        self.images = next(
            (folder / name for name in _IMAGES if os.path.isfile(folder / name / first)), folder / "images"
        )
        self.names = [str(Path(photo.name).with_suffix("")) for photo in self.photos]
        self.depths = list_files(folder, options.depths or "depth/*", DEPTHS)

    @classmethod
    def matches(cls, folder: Path, options: ReaderOptions) -> bool:
        return _find_model(folder) is not None

    def frame(self, index: int, source: str) -> Frame:
        photo = self.photos[index]
        depth = self.depths.get(Path(photo.name).stem)
        return Frame(
            image=self.images / photo.name,
            depth=None if depth is None else depth[0],
            intrinsics=self.cameras[photo.camera].intrinsics(source),
            pose_44=photo.pose_44(),
        )


def _find_model(folder: Path) -> Path | None:
    for name in _MODELS:
        for ending in ("bin", "txt"):
            if (folder / name / f"cameras.{ending}").is_file() and (folder / name / f"images.{ending}").is_file():
                return folder / name
    return None


LAYOUT = Layout("colmap", Colmap, "images/ and sparse/0/ with cameras.bin and images.bin (or .txt)", levels=4)
MVIMGNET = Layout("mvimgnet", Colmap, "CLASS/OBJECT/images/ and CLASS/OBJECT/sparse/0/", levels=4)
