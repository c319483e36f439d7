"""The sources that the command line can open by name.

To add a source, write a file with a function ``open(options) -> Source`` and add a line to ``SOURCES``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.registry import look_up
from spatialboost.scenes.sources import Source


@dataclass(frozen=True)
class SourceOptions:
    """Options of a source from the command line. None = the default of the source.

    Attributes:
        path: folder to read.
        num: number of items.
        first: seed of the first item, for generated items.
        size: shorter edge, or ``(height, width)``, in pixels.
        views: number of views in each item. With more than one, an item is a `Scene`.
        stride: number of frames from one view to the next, for a sequence of frames.

    Raises:
        SpatialBoostError: ``num``, ``views`` or ``stride`` is below one.
    """

    path: Path | None = None
    num: int | None = None
    first: int = 0
    size: int | tuple[int, int] | None = None
    views: int = 1
    stride: int = 10

    def __post_init__(self) -> None:
        if self.num is not None and self.num < 1:
            raise SpatialBoostError(f"num is {self.num}; expected at least one item")
        if min(self.views, self.stride) < 1:
            raise SpatialBoostError(f"views is {self.views} and stride {self.stride}; expected at least 1")


@dataclass(frozen=True)
class SourceKind:
    """An entry of the registry.

    Attributes:
        open: ``"module:function"``; the function takes `SourceOptions` and returns a source.
        extract: names of the extractors that find objects in its views; empty if the views already have objects.
    """

    open: str
    extract: tuple[str, ...] = ()


SOURCES: dict[str, SourceKind] = {
    "rooms": SourceKind("spatialboost.scenes.rooms.source:open_rooms"),
    "furnished": SourceKind("spatialboost.scenes.furnished.source:open_furnished"),
    "rgbd": SourceKind("spatialboost.scenes.readers.rgbd:open_frames", extract=("superpixels",)),
}


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
