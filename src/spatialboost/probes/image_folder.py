"""Labelled image files: a folder of images for each class."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.photographs import open_photograph
from spatialboost.scenes.paths import is_hidden, is_wanted, user_path

logger = logging.getLogger(__name__)

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


@dataclass(frozen=True)
class LabelledImage:
    """An image and the index of its class.

    Attributes:
        image_HW3: uint8 ``(H, W, 3)``, RGB.
        label: index of its class.
    """

    image_HW3: np.ndarray
    label: int


@dataclass(frozen=True)
class LabelledImages(Sequence[LabelledImage]):
    """Image files, each with a class.

    Attributes:
        paths: the files, sorted by class and name.
        labels: index of each file's class.
        classes: names of the classes, sorted.
        left_out: the error of each file that cannot be opened.
    """

    paths: Sequence[Path]
    labels: Sequence[int]
    classes: Sequence[str]
    left_out: Sequence[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """The paths of the files as text, for reports."""
        return [str(path) for path in self.paths]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Any:
        return LabelledImage(open_photograph(self.paths[index]), self.labels[index])


def read_image_folder(folder: str | Path) -> LabelledImages:
    """The images of a folder laid out as ``CLASS/NAME.jpg`` (also png, webp, bmp, tif).

    An image that cannot be opened is left out, counted and listed. Hidden files and folders are ignored.

    Raises:
        SpatialBoostError: no folder, no class folders, or no image in them.
    """
    folder = user_path(folder)
    if not folder.is_dir():
        raise SpatialBoostError(f"{folder} is not a folder; expected one with a folder of images for each class")
    classes = sorted(child.name for child in folder.iterdir() if child.is_dir() and not is_hidden(child))
    paths, labels, left_out = [], [], []
    for label, name in enumerate(classes):
        for path in sorted((folder / name).iterdir()):
            if path.suffix.lower() not in SUFFIXES or not is_wanted(path):
                continue
            try:
                open_photograph(path)
            except SpatialBoostError as error:
                left_out.append(str(error))
                logger.warning("left out: %s", error)
            else:
                paths.append(path)
                labels.append(label)
    if not paths:
        raise SpatialBoostError(
            f"{folder} has {len(classes)} class folders and no image that can be opened ({len(left_out)} cannot); "
            f"expected CLASS/NAME with one of {sorted(SUFFIXES)}"
        )
    return LabelledImages(paths, labels, classes, left_out)
