"""The sources that the command line can open by name.

To add a source, write a file with a function ``open(options) -> Source`` and add a line to ``SOURCES``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.readers.options import ReaderOptions
from spatialboost.scenes.registry import look_up
from spatialboost.scenes.sources import Source
from spatialboost.scenes.views.mix import ViewMix

if TYPE_CHECKING:
    from spatialboost.scenes.views.measures import ViewMeasure


@dataclass(frozen=True)
class SourceOptions:
    """Options of a source from the command line. None = the default of the source.

    Raises:
        SpatialBoostError: ``num``, ``views`` or ``stride`` is below one.
    """

    path: Path | None = None  # folder to read
    num: int | None = None  # number of items
    first: int = 0  # seed of the first item, for generated items
    size: int | tuple[int, int] | None = None  # shorter edge, or (height, width), in pixels
    # number of views in each item, or a mix of numbers. With more than one, an item is a `Scene`.
    views: int | ViewMix = 1
    # number of frames from one view to the next, for a sequence of frames. None = the views are chosen.
    stride: int | None = None
    measure: ViewMeasure | None = None  # how the views are chosen; None = the default of the source
    column: str | None = None  # the column of a data set that has the images
    reader: ReaderOptions = field(default_factory=ReaderOptions)  # options of the sources that read a folder

    def __post_init__(self) -> None:
        if self.num is not None and self.num < 1:
            raise SpatialBoostError(f"num is {self.num}; expected at least one item")
        if self.stride is not None and self.stride < 1:
            raise SpatialBoostError(f"stride is {self.stride}; expected at least 1")
        ViewMix.of(self.views)  # an error if it is below one


@dataclass(frozen=True)
class SourceKind:
    """An entry of the registry."""

    open: str  # "module:function"; the function takes `SourceOptions` and returns a source
    # names of the extractors that find objects in its views; empty if the views already have objects
    extract: tuple[str, ...] = ()
    # name of the extractor that gives depth to its views; empty if the views already have depth
    depth: tuple[str, ...] = ()


_SETS = "spatialboost.scenes.readers.sets"

SOURCES: dict[str, SourceKind] = {
    "rooms": SourceKind("spatialboost.scenes.rooms.source:open_rooms"),
    "furnished": SourceKind("spatialboost.scenes.furnished.source:open_furnished"),
    "rgbd": SourceKind("spatialboost.scenes.readers.rgbd:RGBD", extract=("superpixels",)),
    "images": SourceKind("spatialboost.scenes.images.folder:open_images", ("superpixels",), ("depth-anything",)),
    "dataset": SourceKind("spatialboost.scenes.images.table:open_table", ("superpixels",), ("depth-anything",)),
    # Public data sets in the layouts in which they are handed out
    "7scenes": SourceKind(f"{_SETS}.seven_scenes:LAYOUT", extract=("superpixels",)),
    "arkitscenes": SourceKind(f"{_SETS}.arkitscenes:LAYOUT", extract=("superpixels",)),
    "kitti": SourceKind(f"{_SETS}.kitti:LAYOUT", extract=("superpixels",)),
    "nyu": SourceKind(f"{_SETS}.nyu:LAYOUT", extract=("superpixels",)),
    "nyu-labeled": SourceKind(f"{_SETS}.nyu:LABELED", extract=("superpixels",)),
    "scannet": SourceKind(f"{_SETS}.scannet:LAYOUT", extract=("superpixels",)),
    "scannetpp": SourceKind(f"{_SETS}.scannetpp:LAYOUT", extract=("superpixels",)),
    "sunrgbd": SourceKind(f"{_SETS}.sunrgbd:LAYOUT", extract=("superpixels",)),
    "tum": SourceKind(f"{_SETS}.tum:LAYOUT", extract=("superpixels",)),
    # Images without depth
    "colmap": SourceKind(f"{_SETS}.colmap:LAYOUT", ("superpixels",), ("depth-anything",)),
    "dl3dv": SourceKind(f"{_SETS}.dl3dv:LAYOUT", ("superpixels",), ("depth-anything",)),
    "ego4d": SourceKind(f"{_SETS}.ego4d:LAYOUT", ("superpixels",), ("depth-anything",)),
    "mvimgnet": SourceKind(f"{_SETS}.colmap:MVIMGNET", ("superpixels",), ("depth-anything",)),
}


def default_extractors(name: str, source: Source, *, objects: bool = True) -> tuple[str, ...]:
    """The extractors that give the views of a source what they lack if the user names none: depth, and objects.

    Example:
        >>> from spatialboost.scenes.rooms import Rooms
        >>> default_extractors("rooms", Rooms(1, size=32)), default_extractors("images", [])
        ((), ('depth-anything', 'superpixels'))

    Raises:
        SpatialBoostError: the name is unknown.
    """
    kind: SourceKind = look_up(SOURCES, "source", name)
    depth = () if getattr(source, "has_depth", not kind.depth) else kind.depth
    return (*depth, *(kind.extract if objects and not getattr(source, "has_objects", False) else ()))


def open_source(name: str, options: SourceOptions) -> Source:
    """Open a source by its name. No item is read or generated yet.

    Example:
        >>> len(open_source("rooms", SourceOptions(num=3, size=32)))
        3

    Raises:
        SpatialBoostError: the name is unknown, or the source does not accept the options.
    """
    kind: SourceKind = look_up(SOURCES, "source", name)
    return look_up({name: kind.open}, "source", name)(options)
