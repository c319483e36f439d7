"""Sources: the items that a build reads, loaded one by one by index, and how to make one source from another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.camera import rescale_intrinsics
from spatialboost.scenes.cues import Cues, CuesError
from spatialboost.scenes.scene import Scene
from spatialboost.scenes.sizes import nearest_pixels, resize_image, validate_size


class Source(Protocol):
    """Items with an index: a list of ``Cues``, ``Rooms``, ``RGBDFolder``, ... ``source[i]`` may raise for a bad item.

    Two attributes are optional and used in reports: ``names`` (one name for each item) and ``name`` (of the source).
    """

    def __len__(self) -> int:
        """Number of items."""

    def __getitem__(self, index: int, /) -> Any:
        """The item with this index: a view (``Cues``), or several views of one place (``Scene``)."""


class Mapped:
    """A source that applies functions, such as ``resize_cues``, to each view when the view is loaded.

    Example:
        >>> from spatialboost.scenes.rooms import Rooms
        >>> views = Mapped(Rooms(2, size=32), lambda view: resize_cues(view, 16), name="small rooms")
        >>> views[0].size
        (16, 16)
    """

    def __init__(self, source: Source, *functions: Callable[[Cues], Cues], name: str) -> None:
        self.source, self.functions, self.name = source, functions, name
        self.names: Sequence[str] | None = getattr(source, "names", None)
        self.provenance = getattr(source, "provenance", None)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int, /) -> Any:
        item = self.source[index]
        if isinstance(item, list):  # views that still lack cues
            return [self._apply(view) for view in item]
        return Scene([self._apply(view) for view in item.views]) if isinstance(item, Scene) else self._apply(item)

    def _apply(self, view: Cues) -> Cues:
        for function in self.functions:
            view = function(view)
        return view


class Walk:
    """Scenes made of frames of a sequence: scene ``i`` has the frames ``i``, ``i + stride``, ``i + 2 stride``, ...

    Example:
        >>> from spatialboost.scenes.rooms.render import look, render_views, sample_room
        >>> poses = [look((0.1 * i, -1.4, -1.0), yaw=0.0, pitch=0.2) for i in range(5)]
        >>> walk = Walk(render_views(sample_room(3), poses, size=16), views=2, stride=2)
        >>> len(walk), [view.source for view in walk[1].views]
        (3, ['synthetic:3/view1', 'synthetic:3/view3'])

    Raises:
        SpatialBoostError: there are too few frames, or a number is below one.
        CuesError: from ``[i]``, a frame cannot be used or has no pose.
    """

    def __init__(self, frames: Source, *, views: int, stride: int = 1) -> None:
        self.frames, self.views, self.stride = frames, views, stride
        if min(views, stride) < 1:
            raise SpatialBoostError(f"views is {views} and stride {stride}; expected at least 1")
        self.num = len(frames) - (views - 1) * stride
        if self.num < 1:
            raise SpatialBoostError(
                f"{views} views that are {stride} frames apart need {(views - 1) * stride + 1} frames, found "
                f"{len(frames)}; take fewer views or a smaller stride"
            )
        names: Sequence[str] | None = getattr(frames, "names", None)
        self.names = None if names is None else list(names[: self.num])

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int, /) -> Any:
        """A `Scene`; a list of views if they still lack cues."""
        if not 0 <= index < self.num:
            raise IndexError(f"scene {index} of {self.num}")
        views = []
        for number in range(self.views):
            frame = self.frames[index + number * self.stride]
            if isinstance(frame, Scene):
                raise CuesError(
                    f"{frame.source}: a walk is made of single views, found a scene; give a source of single views"
                )
            views.append(frame)
        return Scene(views) if all(isinstance(view, Cues) for view in views) else views


class Subset:
    """Some items of a source, in any order. An item may occur more than once.

    Example:
        >>> from spatialboost.scenes.rooms import Rooms
        >>> len(Subset(Rooms(10, size=8), [0, 3, 3]))
        3
    """

    def __init__(self, source: Source, items: Sequence[int]) -> None:
        self.source, self.items, self.provenance = source, items, getattr(source, "provenance", None)
        names: Sequence[str] | None = getattr(source, "names", None)
        self.names = None if names is None else [names[item] for item in items]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int, /) -> Cues | Scene:
        return self.source[self.items[index]]


def evenly_spaced(source: Source, num: int) -> Source:
    """``num`` evenly spaced items of a source, from first to last. All items if the source has no more than that.

    Example:
        >>> from spatialboost.scenes.rooms import Rooms
        >>> len(evenly_spaced(Rooms(10, size=8), 4))
        4
    """
    if num >= len(source):
        return source
    return Subset(source, np.linspace(0, len(source) - 1, num).round().astype(int).tolist())


def resize_cues(cues: Cues, size: int | tuple[int, int]) -> Cues:
    """Resize a view: the image with bilinear filtering, depth and masks by nearest neighbour, and the intrinsics.

    Args:
        cues: the view.
        size: the shorter edge (the aspect ratio is kept), or ``(height, width)``, in pixels.
    """
    old_h, old_w = cues.size
    if isinstance(size, int):
        scale = size / min(cues.size)
        size = round(old_h * scale), round(old_w * scale)
    validate_size(size)
    if size == cues.size:
        return cues
    nearest = nearest_pixels(cues.size, size)
    return replace(
        cues,
        image_HW3=resize_image(cues.image_HW3, size),
        depth_HW=cues.depth_HW[nearest],
        valid_HW=cues.valid_HW[nearest],
        intrinsics_33=rescale_intrinsics(cues.intrinsics_33, cues.size, size),
        objects=[replace(thing, mask_HW=thing.mask_HW[nearest]) for thing in cues.objects],
    )
