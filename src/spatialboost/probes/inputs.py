"""How the two splits of a probe are given on the command line and from Python: views, or folders of labelled images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from spatialboost.probes.image_folder import LabelledImages, read_image_folder
from spatialboost.probes.views import Part, open_views, split_views


class SplitOptions(ABC):
    """One way to give a training and a test split. A subclass is a frozen dataclass of options.

    Attributes:
        noun: what the items are called in the settings.
    """

    noun: ClassVar[str]

    @abstractmethod
    def open(self) -> tuple[Any, Any]:
        """The training and the test source that the options name."""

    @staticmethod
    @abstractmethod
    def as_source(given: Any) -> Any:
        """A source as it is; what is named by a string, opened."""


@dataclass(frozen=True)
class ViewSplits(SplitOptions):
    """Views with depth, of one source that is cut in two, or of two."""

    noun = "views"

    data: Annotated[str, "RGB-D folder, dataset built with depth, or rooms:NUM."]
    test_data: Annotated[str | None, "As --data, to measure on; else the last --test of --data."] = None
    train: Annotated[float, "Share of the views, from the first on, to fit on."] = 0.7
    test: Annotated[float, "Share of the views, up to the last, to measure on."] = 0.22

    def open(self) -> tuple[Any, Any]:
        """The views to fit on and the views to measure on."""
        views = open_views(self.data)
        if self.test_data is None:
            return split_views(views, self.train, self.test)
        test = open_views(self.test_data)
        return Part(views, range(len(views))), Part(test, range(len(test)))

    @staticmethod
    def as_source(given: Any) -> Any:
        """Views by number; a string is what ``--data`` takes."""
        return open_views(given) if isinstance(given, str) else given


@dataclass(frozen=True)
class ImageFolders(SplitOptions):
    """Labelled images, a folder for each split."""

    noun = "images"

    train: Annotated[Path, "Folder of training images, CLASS/NAME.jpg."]
    test: Annotated[Path, "Folder of test images, CLASS/NAME.jpg."]

    def open(self) -> tuple[LabelledImages, LabelledImages]:
        """The training and the test images."""
        return read_image_folder(self.train), read_image_folder(self.test)

    @staticmethod
    def as_source(given: Any) -> LabelledImages:
        """Labelled images; a string or path is their folder."""
        return given if isinstance(given, LabelledImages) else read_image_folder(given)
