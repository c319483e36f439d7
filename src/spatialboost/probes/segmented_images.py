"""Images with a class for each pixel, in the layouts in which the public sets are handed out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.photographs import open_photograph
from spatialboost.scenes.cues import CuesError
from spatialboost.scenes.paths import is_wanted, user_path

IMAGES = (".jpg", ".jpeg", ".png", ".webp")
MOST_CLASSES = 1000
NONE = -1  # a pixel that is not measured
FOLDERS = {"images": ("images", "rgb", "image"), "labels": ("labels", "label", "annotations", "masks")}


@dataclass(frozen=True)
class SegmentedImage:
    """An image and the class of each pixel.

    Attributes:
        image_HW3: uint8 ``(H, W, 3)``, RGB.
        labels_HW: int64 ``(H, W)``; -1 is not measured.
        source: name of the image.
    """

    image_HW3: np.ndarray
    labels_HW: np.ndarray
    source: str


@dataclass(frozen=True)
class SegmentedImages(Sequence[SegmentedImage]):
    """Image files, each with a file of labels of the same size.

    Attributes:
        files: image and labels of each item.
        classes: number of classes; None takes it from the labels.
        ignored: values in the label files that are not measured.
        first: value of the first class in the label files.
        left_out: the reason for each image that has no file of labels.
    """

    files: Sequence[tuple[Path, Path]]
    classes: int | None = None
    ignored: Sequence[int] = (255,)
    first: int = 0
    left_out: Sequence[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """The paths of the images as text, for reports."""
        return [str(image) for image, _ in self.files]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: Any) -> Any:
        path, labels = self.files[index]
        return self._checked(open_photograph(path), _read_labels(labels), path, labels)

    def _checked(self, image_HW3: np.ndarray, values_HW: np.ndarray, path: Path, labels: Path) -> SegmentedImage:
        """The item with its classes from 0.

        Raises:
            CuesError: the labels have another size, or values that are no class.
        """
        if values_HW.shape != image_HW3.shape[:2]:
            raise CuesError(f"{labels} has {values_HW.shape} labels, but the image {path} has {image_HW3.shape[:2]}")
        labels_HW = values_HW.astype(np.int64) - self.first
        labels_HW[np.isin(values_HW, self.ignored)] = NONE
        most = (self.classes or MOST_CLASSES) - 1
        wrong = labels_HW[(labels_HW > most) | (labels_HW < NONE)]
        if len(wrong):
            raise CuesError(
                f"{labels} has the class {int(wrong[0]) + self.first}; expected {self.first} to {most + self.first}, "
                f"or {list(self.ignored)} for pixels that are not measured"
            )
        return SegmentedImage(image_HW3, labels_HW, str(path))


def open_segmentation(folder: str | Path, *, ignored: Sequence[int] = ()) -> tuple[SegmentedImages, SegmentedImages]:
    """The training and the test images of a set; its layout is found by its folders.

    - ADE20K (`ADEChallengeData2016`): ``images/training``, ``annotations/training``, ``.../validation``; 150 classes,
      0 is not measured. From http://sceneparsing.csail.mit.edu.
    - Pascal VOC 2012 (`VOCdevkit/VOC2012`): ``JPEGImages``, ``SegmentationClass``, ``ImageSets/Segmentation``; 21
      classes with the background, 255 is not measured. From http://host.robots.ox.ac.uk/pascal/VOC/voc2012.
    - any other: ``train/images``, ``train/labels``, ``test/images``, ``test/labels`` with files of the same names; also
      ``rgb`` and ``label``, and ``val`` for ``test``. The number of classes is that of the labels.

    Args:
        folder: the folder of the set.
        ignored: further values of the label files that are not measured.

    Raises:
        SpatialBoostError: the folder has none of these layouts, or no image with labels.
    """
    folder = user_path(folder)
    if (folder / "annotations" / "training").is_dir():
        splits = [
            _pairs(folder / "images" / each, folder / "annotations" / each) for each in ("training", "validation")
        ]
        options: dict[str, Any] = {"classes": 150, "ignored": (0, *ignored), "first": 1}
    elif (folder / "SegmentationClass").is_dir():
        splits = [_listed(folder, each) for each in ("train", "val")]
        options = {"classes": 21, "ignored": (255, *ignored)}
    elif (folder / "train").is_dir():
        test = next((each for each in ("test", "val", "validation") if (folder / each).is_dir()), "test")
        splits = [
            _pairs(*(_subfolder(folder / each, FOLDERS[kind]) for kind in ("images", "labels")))
            for each in ("train", test)
        ]
        options = {"ignored": (255, *ignored)}
    else:
        raise SpatialBoostError(
            f"{folder} has none of annotations/training (ADE20K), SegmentationClass (Pascal VOC) and train/: expected "
            "the folder of one of these sets, or train/images, train/labels, test/images and test/labels"
        )
    for files, left_out in splits:
        if not files:
            raise SpatialBoostError(f"{folder}: no image has labels ({len(left_out)} have none)")
    train, test_images = (SegmentedImages(files, left_out=left_out, **options) for files, left_out in splits)
    return train, test_images


def _subfolder(folder: Path, names: Sequence[str]) -> Path:
    for name in names:
        if (folder / name).is_dir():
            return folder / name
    raise SpatialBoostError(f"{folder} has no folder {names[0]}; expected one of {', '.join(names)}")


def _pairs(images: Path, labels: Path) -> tuple[list[tuple[Path, Path]], list[str]]:
    """Images with the labels of the same name, and the names of images without."""
    if not images.is_dir() or not labels.is_dir():
        raise SpatialBoostError(f"{images if labels.is_dir() else labels} is not a folder")
    wanted = sorted(path for path in images.iterdir() if path.suffix.lower() in IMAGES and is_wanted(path))
    return _with_labels(wanted, labels)


def _listed(folder: Path, split: str) -> tuple[list[tuple[Path, Path]], list[str]]:
    """The images that a list of Pascal VOC names."""
    file = folder / "ImageSets" / "Segmentation" / f"{split}.txt"
    try:
        names = file.read_text(encoding="utf-8").split()
    except OSError as error:
        raise SpatialBoostError(f"{file} cannot be read ({error}); expected a name of an image in each line") from None
    return _with_labels([folder / "JPEGImages" / f"{name}.jpg" for name in names], folder / "SegmentationClass")


def _with_labels(images: Sequence[Path], labels: Path) -> tuple[list[tuple[Path, Path]], list[str]]:
    found = [(path, labels / f"{path.stem}.png") for path in images]
    missing = [f"{path}: it has no labels in {labels}" for path, label in found if not label.is_file()]
    return [(path, label) for path, label in found if label.is_file()], missing


def _read_labels(path: Path) -> np.ndarray:
    """The values of a file of labels ``(H, W)``; of an image with a palette, the indices.

    Raises:
        CuesError: the file cannot be read, or has colours in the place of classes.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            values = np.asarray(image)
    except Exception as error:  # decoders raise many kinds of errors on a broken file
        raise CuesError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from error
    if values.ndim != 2 or values.dtype.kind not in "ui":
        raise CuesError(f"{path} is {values.dtype} {values.shape}; expected one whole number for each pixel, its class")
    return values
