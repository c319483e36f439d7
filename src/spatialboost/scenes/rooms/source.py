"""Procedural rooms as a source of views: one room for each seed, rendered when it is loaded."""

from __future__ import annotations

from typing import Any

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.rooms.render import render_rooms, render_scenes
from spatialboost.scenes.sizes import validate_size
from spatialboost.scenes.source_registry import SourceOptions
from spatialboost.scenes.views.mix import ViewMix

_ROOMS_AT_ONCE, _PIXELS_AT_ONCE = 32, 2**22
_DEFAULT_NUM, _DEFAULT_SIZE = 1000, 224


class Rooms:
    """Procedural rooms with the seeds ``first`` to ``first + num - 1``, rendered one batch at a time.

    Example:
        >>> rooms = Rooms(3, size=32)
        >>> len(rooms), rooms[2].source
        (3, 'synthetic:2')
        >>> len(Rooms(3, size=32, views=2)[2].views)
        2

    ``rooms[i]`` is a view (``Cues``). With ``views`` above one it is a ``Scene``; its first view is the same view.

    Args:
        num: number of rooms.
        first: seed of the first room. Use different seeds for train rooms and test rooms.
        size: side of a square image, or ``(height, width)``, in pixels.
        views: number of cameras in each room, or a mix of numbers. The cameras stand on a path through the room.
        device: device of the rendering.

    Raises:
        SpatialBoostError: ``num`` or ``views`` is below one, ``first`` is negative, or the images are too large.
    """

    def __init__(
        self,
        num: int,
        *,
        first: int = 0,
        size: int | tuple[int, int] = _DEFAULT_SIZE,
        views: int | ViewMix = 1,
        device: str = "cpu",
    ) -> None:
        if num < 1 or first < 0:
            raise SpatialBoostError(
                f"num is {num} and first {first}; expected at least one room, and a first seed of 0 or more"
            )
        self.mix = ViewMix.of(views)
        most = self.mix.counts[-1]
        validate_size(size, most)
        height, width = (size, size) if isinstance(size, int) else size
        self._at_once = max(1, min(_ROOMS_AT_ONCE, _PIXELS_AT_ONCE // (height * width * most)))
        self.num, self.first, self.size, self.device = num, first, size, device
        self.name = f"rooms {first}-{first + num - 1} {size} px" + (f" paths of {self.mix.name}" if most > 1 else "")
        self._rendered: tuple[int, list[Any]] = (-1, [])  # number of the batch, and its items

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int, /) -> Any:
        if not 0 <= index < self.num:
            raise IndexError(f"room {index} of {self.num}")
        batch, place = divmod(index, self._at_once)
        if self._rendered[0] != batch:
            start = self.first + batch * self._at_once
            seeds = range(start, min(start + self._at_once, self.first + self.num))
            if self.mix.counts == (1,):
                self._rendered = batch, render_rooms(seeds, size=self.size, device=self.device)
            else:
                scenes = render_scenes(seeds, views=self.mix, size=self.size, device=self.device)
                self._rendered = batch, scenes
        return self._rendered[1][place]


def open_rooms(options: SourceOptions) -> Rooms:
    """Open the rooms that the command line options describe.

    Raises:
        SpatialBoostError: the options have a folder, or say how frames are chosen.
    """
    if options.path is not None:
        raise SpatialBoostError("--path is for --source rgbd; rooms are generated and need no folder: leave --path out")
    if given := options.reader.describe() or options.reader.depth_scale:
        raise SpatialBoostError(
            f"{given} is an option of sources that read a folder; rooms are generated: leave it out"
        )
    if options.stride is not None or options.measure is not None:
        raise SpatialBoostError(
            "--stride and --choose are for the frames of a walk; cameras in a room are placed so that they see much of "
            "the same: leave the option out"
        )
    return Rooms(
        options.num or _DEFAULT_NUM, first=options.first, size=options.size or _DEFAULT_SIZE, views=options.views
    )
