"""Ego4D and other frames of videos: folders of images only, one folder for each video."""

from __future__ import annotations

from pathlib import Path

from spatialboost.scenes.readers.layout import Layout
from spatialboost.scenes.readers.matching import IMAGES, list_files
from spatialboost.scenes.readers.options import ReaderOptions
from spatialboost.scenes.readers.recording import Frame, Recording


class VideoFrames(Recording):
    """The images of one folder, in natural order. Depth and intrinsics are for extractors to find."""

    def __init__(self, folder: Path, options: ReaderOptions, root: Path) -> None:
        self.folder = folder
        self.images = [files[0] for files in list_files(folder, "*", IMAGES).values()]
        self.names = [image.stem for image in self.images]

    @classmethod
    def matches(cls, folder: Path, options: ReaderOptions) -> bool:
        return bool(list_files(folder, "*", IMAGES))

    def frame(self, index: int, source: str) -> Frame:
        return Frame(image=self.images[index])


LAYOUT = Layout("ego4d", VideoFrames, "VIDEO/*.jpg (frames that were extracted from the videos)", levels=4)
