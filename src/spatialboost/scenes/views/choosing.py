"""Scenes of frames of a walk: two frames that see enough of the same, and frames between them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from spatialboost.errors import SpatialBoostError, unknown
from spatialboost.scenes.cues import BAD_ITEM, Cues, CuesError
from spatialboost.scenes.extract.protocol import PartialCues
from spatialboost.scenes.scene import Scene
from spatialboost.scenes.sources import Source, Walk
from spatialboost.scenes.views.measures import MEASURES, View, ViewMeasure
from spatialboost.scenes.views.mix import ViewMix

_FARTHEST = 1000  # frames: offsets that are tried from a frame
_GROWTH = 1.2  # each offset is about this much larger than the one before
_KEPT = 512  # reduced frames in memory


class ChosenViews:
    """Scenes of frames of a walk, chosen by how much the frames differ. Scene ``i`` begins with frame ``i``.

    Example:
        >>> from spatialboost.scenes.rooms.render import look, render_views, sample_room
        >>> poses = [look((0.1 * i, -1.4, -1.0), yaw=0.1 * i, pitch=0.2) for i in range(9)]
        >>> scenes = ChosenViews(render_views(sample_room(3), poses, size=48), views=2)
        >>> len(scenes), len(scenes[4].views), scenes[4].source
        (9, 2, 'synthetic:3/view4')

    The last view of a scene is a frame before or after frame ``i``, drawn at random from those whose difference to it
    is in the range of the measure. So the camera goes forwards along the walk in half of the scenes, and backwards in
    the other half: whether it moved to the left or to the right cannot be guessed. If there are more views, they are
    frames between these two, as evenly spaced as possible. Each is measured again: it must not differ too much from the
    first and the last view, and it must not be the same picture as the view before it.

    A scene whose number of views was drawn from a mix gets the next smaller number if there are too few frames for it.
    The same frames always give the same scenes.

    Raises:
        SpatialBoostError: fewer than two frames, or fewer than two views.
        CuesError: from ``[i]``: the frame cannot be used, or no other frame fits it.
    """

    def __init__(self, frames: Source, *, views: int | ViewMix, measure: ViewMeasure | None = None) -> None:
        self.frames, self.mix = frames, ViewMix.of(views)
        self.measure: ViewMeasure = MEASURES["overlap"]() if measure is None else measure
        if self.mix.counts[0] < 2 or len(frames) < 2:
            raise SpatialBoostError(
                f"{self.mix.name} of {len(frames)} frames; expected at least 2 views in each scene, of 2 frames or more"
            )
        self.names: Sequence[str] | None = getattr(frames, "names", None)
        self._reduced: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int, /) -> Scene | list[PartialCues]:
        if not 0 <= index < len(self):
            raise IndexError(f"scene {index} of {len(self)}")
        views = [self._frame(number) for number in self.choose(index)]
        if all(isinstance(view, Cues) and view.pose_44 is not None for view in views):
            return Scene(views)  # type: ignore[arg-type]
        return [view if isinstance(view, PartialCues) else PartialCues.of(view) for view in views]

    def choose(self, index: int) -> list[int]:
        """The numbers of the frames of a scene.

        Raises:
            CuesError: no other frame fits this one.
        """
        wanted = self.mix.draw(index)
        self._reduce(index)  # an error of this frame is the item's error
        partners = self._partners(index)
        fitting = []
        for partner in partners:  # measured one after the other, until one will do
            if self._fits(index, partner, pair=True):
                chosen = self._between(index, partner, wanted)
                if chosen:
                    return chosen
                fitting.append(partner)
        for count in [count for count in reversed(self.mix.counts) if count < wanted]:
            for partner in fitting:
                chosen = self._between(index, partner, count)
                if chosen:
                    return chosen
        name = self.names[index] if self.names is not None else f"frame {index}"
        near, far = self.measure.nearest, self.measure.farthest
        if fitting:
            raise CuesError(f"{name}: no {wanted} views can be chosen: too few frames fit between it and another frame")
        raise CuesError(
            f"{name}: none of the {len(partners)} frames before and after it that were tried differs from it by "
            f"{near:.2f} to {far:.2f} ({self.measure.name})"
        )

    def _partners(self, index: int) -> list[int]:
        """Frames at growing distances before and after a frame, in random order."""
        offsets, offset = [], 1
        while offset <= min(_FARTHEST, len(self) - 1):
            offsets += [offset, -offset]
            offset = max(offset + 1, round(offset * _GROWTH))
        found = [index + offset for offset in offsets if 0 <= index + offset < len(self)]
        rng = np.random.default_rng([index, 0x9A12])
        return [found[i] for i in rng.permutation(len(found))]

    def _between(self, first: int, last: int, count: int) -> list[int]:
        """The first and the last frame with ``count - 2`` frames between them; empty if one of these does not fit."""
        if abs(last - first) < count - 1:
            return []
        chosen = [first]
        for place in np.linspace(first, last, count)[1:-1]:
            for number in _nearest_first(float(place), chosen[-1], last, abs(last - first) / (count - 1) / 2):
                ends = self._fits(first, number) and self._fits(last, number)
                if ends and self._differs(chosen[-1], number) and self._differs(last, number):
                    chosen.append(number)
                    break
            else:
                return []
        return [*chosen, last]

    def _fits(self, one: int, other: int, *, pair: bool = False) -> bool:
        """Whether two frames have enough in common; with ``pair``, also whether they differ enough."""
        try:
            difference = self.measure.difference(self._reduce(one), self._reduce(other))
        except BAD_ITEM:  # the other frame is broken: another one is taken
            return False
        return (self.measure.nearest if pair else 0.0) <= difference <= self.measure.farthest

    def _differs(self, one: int, other: int) -> bool:
        return self.measure.difference(self._reduce(one), self._reduce(other)) >= self.measure.same

    def _reduce(self, number: int) -> Any:
        found = self._reduced.pop(number, None)
        if found is None:
            found = self.measure.reduce(self._frame(number))
            if len(self._reduced) >= _KEPT:
                del self._reduced[next(iter(self._reduced))]  # the one that was not needed for longest
        self._reduced[number] = found
        return found

    def _frame(self, number: int) -> View:
        frame = self.frames[number]
        if isinstance(frame, Scene):
            raise CuesError(f"{frame.source}: a walk is made of single views, found a scene; give single views")
        return frame


def _nearest_first(place: float, after: int, last: int, reach: float) -> Iterator[int]:
    """Whole numbers within ``reach`` of a place, the nearest first, that lie strictly between two frames."""
    middle, low, high = round(place), min(after, last), max(after, last)
    for step in range(int(reach) + 1):
        for number in dict.fromkeys((middle + step, middle - step)):
            if low < number < high and abs(number - place) <= reach + 0.5:
                yield number


def take_views(frames: Source, views: int | ViewMix, stride: int | None, measure: ViewMeasure | None) -> Source:
    """Scenes of frames of a sequence as the command line options describe them; the frames themselves for one view.

    Without a stride, the views are chosen by the measure; its default is `Overlap`.

    Raises:
        SpatialBoostError: both a stride and a mix or a measure are given, or there are too few frames.
    """
    mix = ViewMix.of(views)
    if mix.counts == (1,):
        return frames
    if stride is None:
        return ChosenViews(frames, views=mix, measure=measure)
    if len(mix.counts) > 1 or measure is not None:
        raise SpatialBoostError(
            "a stride is given, and how the views are chosen, too; leave out the stride, or give a number of views only"
        )
    return Walk(frames, views=mix.counts[0], stride=stride)


def name_of_choice(views: int | ViewMix, stride: int | None, measure: ViewMeasure | None) -> str:
    """How the views of a scene are chosen, for the name of a source; empty for single views.

    Example:
        >>> name_of_choice(2, 10, None), name_of_choice(4, None, None), name_of_choice(1, 10, None)
        (' 2 views 10 apart', ' 4 views chosen by overlap 0.3 to 0.8', '')
    """
    mix = ViewMix.of(views)
    if mix.counts == (1,):
        return ""
    chosen = (measure or MEASURES["overlap"]()).name
    return f" {mix.name} {f'{stride} apart' if stride is not None else f'chosen by {chosen}'}"


def open_measure(text: str) -> ViewMeasure:
    """Make a measure from its name and options: "overlap", "overlap:low=0.2" or "lpips:net=alex,weights=FILE".

    Example:
        >>> open_measure("overlap:low=0.2,high=0.7").name
        'overlap 0.2 to 0.7'

    Raises:
        SpatialBoostError: the name or an option is unknown, or a value is wrong.
    """
    name, _, rest = text.partition(":")
    if name not in MEASURES:
        raise unknown("measure of views", name, MEASURES)
    options: dict[str, Any] = {}
    known = {"overlap": ("low", "high"), "lpips": ("net", "weights", "device", "low", "high")}[name]
    for part in filter(None, rest.split(",")):
        key, found, value = part.partition("=")
        if not found or key not in known:
            raise SpatialBoostError(f"{part!r} is no option of {name}; expected {', '.join(f'{k}=...' for k in known)}")
        if key in ("low", "high"):
            if not re.fullmatch(r"\d{1,4}(\.\d{1,9})?|\.\d{1,9}", value):
                raise SpatialBoostError(f"{key} is {value!r}; expected a number such as 0.3")
            options[key] = float(value)
        else:
            options[key] = value
    measure: ViewMeasure = MEASURES[name](**options)
    return measure
