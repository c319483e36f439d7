"""How the two splits of a probe are specified, on the command line and in Python: views, or labelled images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from spatialboost.errors import SpatialBoostError
from spatialboost.probes.image_folder import LabelledImages, read_image_folder
from spatialboost.probes.segmented_images import SegmentedImages, open_segmentation
from spatialboost.probes.split_lists import listed_views
from spatialboost.probes.views import STRIDES, Part, ViewPairs, open_views, split_views


class SplitOptions(ABC):
    """One way to give a training and a test split. A subclass is a frozen dataclass of options.

    A probe that fits nothing has no training split: `open` then gives None in its place.

    Attributes:
        noun: name of the items in the settings, such as ``"views"``.
    """

    noun: ClassVar[str]

    @abstractmethod
    def open(self) -> tuple[Any, Any]:
        """The training and the test source that the options name."""

    @staticmethod
    @abstractmethod
    def as_source(given: Any) -> Any:
        """The given source; a string is opened as a source first."""


@dataclass(frozen=True)
class ViewSplits(SplitOptions):
    """Views with depth, from one source that is cut into two parts, or from two sources."""

    noun = "views"

    data: Annotated[str, "RGB-D folder, dataset built with depth, or rooms:NUM."]
    test_data: Annotated[str | None, "Views to measure on; without it, the last part of --data."] = None
    train: Annotated[float, "Share of the views to fit on, from the start."] = 0.7
    test: Annotated[float, "Share of the views to measure on, at the end."] = 0.22
    train_list: Annotated[Path | None, "File that names the views to fit on, such as that of KITTI's Eigen split."] = (
        None
    )
    test_list: Annotated[Path | None, "File that names the views to measure on."] = None

    def open(self) -> tuple[Any, Any]:
        """The views to fit on and the views to measure on.

        Raises:
            SpatialBoostError: the views cannot be opened, or only one of two lists is given.
        """
        if self.test_data is None and (self.train_list is None) != (self.test_list is None):
            raise SpatialBoostError("one list of views is given; expected both train_list and test_list, or test_data")
        views = open_views(self.data)
        if self.test_data is None and self.train_list is None:
            return split_views(views, self.train, self.test)
        test = views if self.test_data is None else open_views(self.test_data)
        return _listed(views, self.train_list, "train"), _listed(test, self.test_list, "test")

    @staticmethod
    def as_source(given: Any) -> Any:
        """The given views; a string is opened as by ``--data``."""
        return open_views(given) if isinstance(given, str) else given


def _listed(views: Any, file: Path | None, split: str) -> Part:
    return Part(views, range(len(views))) if file is None else listed_views(views, file, split)


@dataclass(frozen=True)
class PairSplits(SplitOptions):
    """Pairs of views of one place with depth and poses; nothing is fitted, so all of them are measured."""

    noun = "views"

    data: Annotated[str, "RGB-D folder with poses, NAME:FOLDER, dataset built with several views, or rooms:NUM."]
    strides: Annotated[list[int], "Frames from the first view of a pair to the second; repeat it for several."] = field(
        default_factory=lambda: list(STRIDES)
    )
    most: Annotated[int, "Largest number of pairs of each stride, evenly spaced."] = 100

    def open(self) -> tuple[None, Any]:
        """The pairs."""
        return None, ViewPairs(open_views(self.data, views=2), self.strides, self.most)

    @staticmethod
    def as_source(given: Any) -> Any:
        """The given pairs, or the pairs of the given frames; a string is opened as by ``--data``."""
        if isinstance(given, ViewPairs):
            return given
        return ViewPairs(open_views(given, views=2) if isinstance(given, str) else given)


@dataclass(frozen=True)
class SegmentationFolder(SplitOptions):
    """Images with a class for each pixel, from the folder of one set."""

    noun = "images"

    data: Annotated[str, "Folder of ADE20K, Pascal VOC, or with train/images, train/labels, test/images, test/labels."]
    ignored: Annotated[list[int], "Value in the label files that is not measured; repeat it for several."] = field(
        default_factory=list
    )

    def open(self) -> tuple[SegmentedImages, SegmentedImages]:
        """The training and the test images."""
        return open_segmentation(self.data, ignored=self.ignored)

    @staticmethod
    def as_source(given: Any) -> SegmentedImages:
        """The given images.

        Raises:
            SpatialBoostError: a text; a folder is opened with `open_segmentation`, which gives both splits.
        """
        if not isinstance(given, SegmentedImages):
            raise SpatialBoostError(f"the images are {given!r:.80}; expected those of `open_segmentation(FOLDER)`")
        return given


@dataclass(frozen=True)
class ImageFolders(SplitOptions):
    """Labelled images, one folder for each split."""

    noun = "images"

    train: Annotated[Path, "Folder of training images, CLASS/NAME.jpg."]
    test: Annotated[Path, "Folder of test images, CLASS/NAME.jpg."]

    def open(self) -> tuple[LabelledImages, LabelledImages]:
        """The training and the test images."""
        return read_image_folder(self.train), read_image_folder(self.test)

    @staticmethod
    def as_source(given: Any) -> LabelledImages:
        """The given images; a string or path is opened as their folder."""
        return given if isinstance(given, LabelledImages) else read_image_folder(given)
