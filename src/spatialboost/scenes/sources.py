"""Views by number, made when they are asked for: what a build reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from PIL import Image

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.camera import rescale_intrinsics
from spatialboost.scenes.cues import Cues, SceneObject

_ROOMS_AT_ONCE = 32


class Source(Protocol):
    """Views by number: a list of ``Cues``, ``Rooms``, ``RGBDFolder``; ``source[i]`` may raise for a bad item.

    ``names`` (one for each item) and ``name`` (of the whole) are used in reports where they exist.
    """

    def __len__(self) -> int:
        """How many views there are."""

    def __getitem__(self, index: int, /) -> Cues:
        """The view of this number."""


class Rooms:
    """Procedural rooms of the seeds ``first`` to ``first + num - 1``, one view each, rendered a batch at a time.

    Example:
        >>> from spatialboost.scenes.sources import Rooms
        >>> rooms = Rooms(3, size=32)
        >>> len(rooms), rooms[2].source
        (3, 'synthetic:2')

    Args:
        num: how many.
        first: seed of the first room; keep the rooms that one trains on and tests on apart by it.
        size: edge of a square picture, or ``(height, width)``, pixels.
        device: where to render.
    """

    def __init__(self, num: int, *, first: int = 0, size: int | tuple[int, int] = 224, device: str = "cpu") -> None:
        if num < 1 or first < 0:
            raise SpatialBoostError(f"num is {num} and first {first}; expected at least one room, seeds from 0 on")
        self.num, self.first, self.size, self.device = num, first, size, device
        self.name = f"rooms {first}-{first + num - 1} {size} px"
        self._views: tuple[int, list[Cues]] = (-1, [])

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int, /) -> Cues:
        if not 0 <= index < self.num:
            raise IndexError(f"room {index} of {self.num}")
        batch, place = divmod(index, _ROOMS_AT_ONCE)
        if self._views[0] != batch:
            from spatialboost.scenes.rooms.render import render_rooms

            start = self.first + batch * _ROOMS_AT_ONCE
            seeds = range(start, min(start + _ROOMS_AT_ONCE, self.first + self.num))
            self._views = batch, render_rooms(seeds, size=self.size, device=self.device)
        return self._views[1][place]


class Mapped:
    """A source whose views pass through functions, such as ``propose_objects``, when they are asked for.

    Example:
        >>> views = Mapped(Rooms(2, size=32), lambda view: resize_cues(view, 16), name="small rooms")
        >>> views[0].size
        (16, 16)
    """

    def __init__(self, source: Source, *functions: Callable[[Cues], Cues], name: str) -> None:
        self.source, self.functions, self.name = source, functions, name
        self.names: Sequence[str] | None = getattr(source, "names", None)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int, /) -> Cues:
        view = self.source[index]
        for function in self.functions:
            view = function(view)
        return view


class _Some:
    """Some items of a source."""

    def __init__(self, source: Source, items: Sequence[int]) -> None:
        self.source, self.items = source, items
        names: Sequence[str] | None = getattr(source, "names", None)
        self.names = None if names is None else [names[item] for item in items]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int, /) -> Cues:
        return self.source[self.items[index]]


def evenly_spaced(source: Source, num: int) -> Source:
    """``num`` items of a source, from its first to its last at even steps; all of them where it has no more.

    Example:
        >>> len(evenly_spaced(Rooms(10, size=8), 4))
        4
    """
    if num >= len(source):
        return source
    return _Some(source, np.linspace(0, len(source) - 1, num).round().astype(int).tolist())


def resize_cues(cues: Cues, size: int | tuple[int, int]) -> Cues:
    """Resize a view: the image smoothly, depth and masks to the nearest pixel, the intrinsics with them.

    Args:
        cues: the view.
        size: the shorter edge (the aspect is kept), or ``(height, width)``, pixels.
    """
    old_h, old_w = cues.size
    if isinstance(size, int):
        scale = size / min(cues.size)
        size = round(old_h * scale), round(old_w * scale)
    height, width = size
    if height < 1 or width < 1:
        raise SpatialBoostError(f"size is {size}, expected at least one pixel")
    if size == cues.size:
        return cues
    rows = np.minimum(((np.arange(height) + 0.5) * old_h / height).astype(int), old_h - 1)
    columns = np.minimum(((np.arange(width) + 0.5) * old_w / width).astype(int), old_w - 1)
    nearest = np.ix_(rows, columns)
    return replace(
        cues,
        image_HW3=np.asarray(Image.fromarray(cues.image_HW3).resize((width, height), Image.Resampling.BILINEAR)),
        depth_HW=cues.depth_HW[nearest],
        valid_HW=cues.valid_HW[nearest],
        intrinsics_33=rescale_intrinsics(cues.intrinsics_33, cues.size, size),
        objects=[SceneObject(thing.description, thing.mask_HW[nearest]) for thing in cues.objects],
    )
