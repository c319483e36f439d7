"""The sources that the command line knows by name.

A new one is a file with a function ``open(options) -> Source`` and a line in ``SOURCES``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.registry import look_up
from spatialboost.scenes.sources import Source


@dataclass(frozen=True)
class SourceOptions:
    """What a user may say of a source; None = the source's own default.

    Attributes:
        path: a folder to read.
        num: how many items.
        first: seed of the first item, where items are made.
        size: pixels: the shorter edge, or ``(height, width)``.
        views: of one place in each item; several make a `Scene`.
        stride: frames from one view to the next, where frames are those of a walk.

    Raises:
        SpatialBoostError: a number below one.
    """

    path: Path | None = None
    num: int | None = None
    first: int = 0
    size: int | tuple[int, int] | None = None
    views: int = 1
    stride: int = 10

    def __post_init__(self) -> None:
        if self.num is not None and self.num < 1:
            raise SpatialBoostError(f"num is {self.num}; expected at least one view")
        if min(self.views, self.stride) < 1:
            raise SpatialBoostError(f"views is {self.views} and stride {self.stride}; expected at least 1")


@dataclass(frozen=True)
class SourceKind:
    """A line of the registry.

    Attributes:
        open: ``"module:function"``; the function takes `SourceOptions` and gives a source.
        extract: names of the extractors that find objects in its views; none where views bring theirs along.
    """

    open: str
    extract: tuple[str, ...] = ()


SOURCES: dict[str, SourceKind] = {
    "rooms": SourceKind("spatialboost.scenes.rooms.source:open_rooms"),
    "rgbd": SourceKind("spatialboost.scenes.readers.rgbd:open_frames", extract=("superpixels",)),
}


def open_source(name: str, options: SourceOptions) -> Source:
    """Open a source by its name, before any of its items is read or made.

    Example:
        >>> len(open_source("rooms", SourceOptions(num=3, size=32)))
        3

    Raises:
        SpatialBoostError: an unknown name, or options that the source cannot take.
    """
    kind: SourceKind = look_up(SOURCES, "source", name)
    return look_up({name: kind.open}, "source", name)(options)
