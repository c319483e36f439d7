"""Scenes of several posed views for the points probe: pieces of recordings, or scenes that a source already has."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spatialboost.errors import SpatialBoostError
from spatialboost.probes.scan_labels import LabelledScan, find_labels
from spatialboost.probes.views import has_scenes, recordings
from spatialboost.scenes.cues import BAD_ITEM, Cues, CuesError
from spatialboost.scenes.scene import Scene

logger = logging.getLogger(__name__)

LEAST = 4  # views of a scene, two for each of its halves
SHARE = 0.01  # least share of a view's pixels that have a reading


class ViewScenes(Sequence[Scene]):
    """Scenes of several views with depth and poses.

    Example:
        >>> from spatialboost.scenes.rooms import Rooms
        >>> scenes = ViewScenes(Rooms(3, size=16, views=4))
        >>> len(scenes), len(scenes[0].views), len(scenes.part(range(1, 3)))
        (3, 4, 2)

    Frames of a recording are cut into pieces that follow each other: each has ``views`` frames with ``stride`` between
    them, and no frame is in two pieces. A frame that cannot be used is left out, with its name; a piece with fewer than
    four frames is no scene.

    Args:
        source: single views in the order in which they were taken, or scenes.
        views: frames of a scene.
        stride: frames from one to the next.

    Raises:
        SpatialBoostError: fewer than four views, a stride below one, or no recording is long enough.
        CuesError: from ``[i]``, the scene has fewer than four views that can be used.
    """

    def __init__(self, source: Any, views: int = 16, stride: int = 4) -> None:
        if views < LEAST or stride < 1:
            raise SpatialBoostError(f"views are {views} and stride {stride}; expected at least {LEAST} and 1")
        self.source = source
        self._problems: dict[str, str] = {}
        self.frames: list[range] | None = None
        num = len(source)
        if not has_scenes(source):
            parts, length = recordings(source), views * stride
            self.frames = [
                part[start : start + length : stride]
                for part in parts
                for start in range(0, len(part) - (LEAST - 1) * stride, length)
            ]
            num = len(self.frames)
            if not num:
                raise SpatialBoostError(
                    f"there are {len(source)} views in {len(parts)} recordings, and a scene needs {LEAST} of one "
                    f"recording, {stride} apart: give more views, or a smaller stride"
                )
        self.items: Sequence[int] = range(num)

    def part(self, items: range) -> ViewScenes:
        """Some of the scenes."""
        other = object.__new__(ViewScenes)
        other.__dict__.update(self.__dict__, items=[self.items[item] for item in items], _problems={})
        return other

    @property
    def names(self) -> list[str]:
        """A name for each scene: that of its first frame."""
        names = getattr(self.source, "names", None)
        if self.frames is None:
            return [str(item) if names is None else str(names[item]) for item in self.items]
        return [str(self.frames[item][0] if names is None else names[self.frames[item][0]]) for item in self.items]

    @property
    def left_out(self) -> list[str]:
        """The frames that were left out of the scenes that were read."""
        return list(self._problems.values())

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Any, /) -> Any:
        item = self.items[index]
        if self.frames is None:
            found = self.source[item]
            seen = found.views if isinstance(found, Scene) else [found]
            named: list[tuple[str, Any]] = [(view.source, view) for view in seen]
        else:
            names = getattr(self.source, "names", None)
            named = [(str(frame if names is None else names[frame]), frame) for frame in self.frames[item]]
        views = [view for name, given in named if (view := self._checked(name, given)) is not None]
        if len(views) < LEAST:
            raise CuesError(
                f"{self.names[index]}: the scene has {len(views)} views that can be used; expected at least {LEAST}"
            )
        return Scene(views)

    def _checked(self, name: str, given: Cues | int) -> Cues | None:
        """A view, or the frame with this number; None if it cannot be used."""
        try:
            view = self.source[given] if isinstance(given, int) else given
            if view.pose_44 is None:
                raise CuesError(f"{view.source} has no pose")
            if view.valid_HW.mean() < SHARE:
                raise CuesError(
                    f"{view.source} has depth at {view.valid_HW.mean():.2%} of its pixels, expected {SHARE:.0%}"
                )
        except BAD_ITEM as error:
            if name not in self._problems:
                self._problems[name] = f"{name}: {error or type(error).__name__}"
                logger.warning("left out %s", self._problems[name])
            return None
        return view

    def labels(self, index: int) -> LabelledScan | None:
        """The labelled points of the scan of a scene, if there is such a file; else views have objects or nothing."""
        if self.frames is None:
            return None
        folder = _folder_of(self.source, self.frames[self.items[index]][0])
        return None if folder is None else find_labels(folder)

    def has_labels(self) -> bool:
        """Whether the first scene that can be read has labelled points or objects."""
        for index in range(len(self)):
            try:
                views = self[index].views
            except BAD_ITEM:
                continue
            return self.labels(index) is not None or any(view.objects for view in views)
        return False


def _folder_of(source: Any, frame: int) -> Path | None:
    """The folder of the recording that has a frame."""
    inner = getattr(source, "source", source)
    if hasattr(inner, "find"):  # recordings one after the other
        inner = inner.sources[inner.find(frame)[0]]
    return getattr(inner, "path", None)
