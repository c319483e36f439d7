"""How the two splits of a probe are specified, on the command line and in Python: views, or labelled images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from spatialboost.errors import SpatialBoostError
from spatialboost.probes.image_folder import LabelledImages, read_image_folder
from spatialboost.probes.pair_lists import ListedPairs
from spatialboost.probes.retrieval_sets import ImageList, open_retrieval
from spatialboost.probes.segmented_images import SegmentedImages, open_segmentation
from spatialboost.probes.split_lists import listed_views
from spatialboost.probes.view_scenes import ViewScenes
from spatialboost.probes.views import STRIDES, Part, ViewPairs, cut, open_views, split_views


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
    pairs: Annotated[
        Path | None, "List of pairs whose images are in --data: SuperGlue's or NAVI's text file, or ScanNet's test.npz."
    ] = None

    def open(self) -> tuple[None, Any]:
        """The pairs; a list is used as it is, without strides."""
        if self.pairs is not None:
            return None, ListedPairs(self.data, self.pairs)
        return None, ViewPairs(open_views(self.data, views=2), self.strides, self.most)

    @staticmethod
    def as_source(given: Any) -> Any:
        """The given pairs, or the pairs of the given frames; a string is opened as by ``--data``."""
        if isinstance(given, (ViewPairs, ListedPairs)):
            return given
        return ViewPairs(open_views(given, views=2) if isinstance(given, str) else given)


@dataclass(frozen=True)
class SceneSplits(SplitOptions):
    """Scenes of several views with depth and poses, from one source that is cut into two parts, or from two sources.

    Without labels there is nothing to fit, so that all scenes are measured.
    """

    noun = "views"

    data: Annotated[str, "RGB-D folder with poses, NAME:FOLDER, dataset built with several views, or rooms:NUM."]
    test_data: Annotated[str | None, "Scenes to measure on; without it, the last part of --data."] = None
    train: Annotated[
        float, "Share of the scenes to fit on, from the start; without labels there is nothing to fit."
    ] = 0.7
    test: Annotated[float, "Share of the scenes to measure on, at the end; without labels, all are measured."] = 0.22
    views: Annotated[int, "Views of a scene. Recordings are cut into pieces of this number of frames."] = 16
    stride: Annotated[int, "Frames of a recording from one view of a scene to the next."] = 4

    def open(self) -> tuple[Any, Any]:
        """The scenes to fit on, None without labels, and the scenes to measure on."""
        scenes, test = self._open(self.data), None if self.test_data is None else self._open(self.test_data)
        if not scenes.has_labels():
            return None, test or scenes
        if test is not None:
            return scenes, test
        first, last = cut(len(scenes), self.train, self.test, "scenes")
        return scenes.part(first), scenes.part(last)

    def _open(self, data: str) -> ViewScenes:
        return ViewScenes(open_views(data, views=self.views), self.views, self.stride)

    @staticmethod
    def as_source(given: Any) -> Any:
        """The given scenes, or the pieces of the given frames; a string is opened as by ``--data``."""
        if isinstance(given, ViewScenes):
            return given
        return ViewScenes(open_views(given, views=16) if isinstance(given, str) else given)


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


@dataclass(frozen=True)
class RetrievalFolder(SplitOptions):
    """Images that are ranked (the first split) and queries (the second), from the folder of one set."""

    noun = "database and query images"

    data: Annotated[str, "Folder of Oxford or Paris revisited, Met, AmsterTime, or with CLASS/NAME.jpg."]
    mini: Annotated[bool, "Met: rank its small database."] = False

    def open(self) -> tuple[ImageList | None, ImageList]:
        """The database, which is None if it is the queries, and the queries."""
        found = open_retrieval(self.data, mini=self.mini)
        return found.database, found.queries

    @staticmethod
    def as_source(given: Any) -> ImageList:
        """The given images.

        Raises:
            SpatialBoostError: a text; a folder is opened with `open_retrieval`, which gives both.
        """
        if not isinstance(given, ImageList):
            raise SpatialBoostError(f"the images are {given!r:.80}; expected those of `open_retrieval(FOLDER)`")
        return given
