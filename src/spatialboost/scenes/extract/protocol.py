"""What an extractor is: a batch of views in, and for each view what it adds.

A new extractor is one file with a class as below, and a line in `spatialboost.scenes.extract.registry`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

import numpy as np

from spatialboost.scenes.cues import Cues, CuesError, SceneObject

# Shape legend: H, W = image height and width in pixels.


@dataclass(frozen=True)
class PartialCues:
    """What is known so far of a view: the fields of `Cues`, of which only the image is sure to be there.

    Example:
        >>> import numpy as np
        >>> view = PartialCues(np.zeros((4, 6, 3), np.uint8), "holiday.jpg")
        >>> view.to_cues()
        Traceback (most recent call last):
        ...
        spatialboost.scenes.cues.CuesError: holiday.jpg: depth_HW is not known; add an extractor of the kind 'depth'
    """

    image_HW3: np.ndarray
    source: str
    depth_HW: np.ndarray | None = None
    intrinsics_33: np.ndarray | None = None
    objects: Sequence[SceneObject] = ()
    pose_44: np.ndarray | None = None
    valid_HW: np.ndarray | None = None
    depth_noise: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, view: Cues) -> PartialCues:
        """A view of which everything is known."""
        return cls(**{entry.name: getattr(view, entry.name) for entry in fields(cls)})

    def to_cues(self) -> Cues:
        """The view with all its cues.

        Raises:
            CuesError: depth or intrinsics are not known, or the cues contradict each other.
        """
        for name in ("depth_HW", "intrinsics_33"):
            if getattr(self, name) is None:
                raise CuesError(f"{self.source}: {name} is not known; add an extractor of the kind 'depth'")
        return Cues(**{entry.name: getattr(self, entry.name) for entry in fields(self)})

    def adding(self, additions: Mapping[str, Any]) -> PartialCues:
        """The view with some fields set; depth that is set again is valid where it has a reading."""
        stale = "depth_HW" in additions and "valid_HW" not in additions
        return replace(self, **({"valid_HW": None, **additions} if stale else additions))


@dataclass(frozen=True)
class Kind:
    """What the extractors of a kind do.

    Attributes:
        sets: the fields of `PartialCues` that they may set.
        together: whether all views of a scene must be given at once, and nothing else with them.
    """

    sets: tuple[str, ...]
    together: bool = False


KINDS: dict[str, Kind] = {
    "depth": Kind(("depth_HW", "valid_HW", "intrinsics_33", "depth_noise")),
    "masks": Kind(("objects",)),
    "text": Kind(("objects", "facts")),
    "reconstruction": Kind(("depth_HW", "valid_HW", "intrinsics_33", "depth_noise", "pose_44"), together=True),
    "filter": Kind(("facts",)),
}

# What an extractor adds to a view: fields of `PartialCues` by name; or the reason why the view cannot be used.
Addition = Mapping[str, Any] | CuesError


class Extractor(Protocol):
    """Adds to views what their source does not bring along.

    Example::

        class MiddleBox:
            kind, name = "masks", "middle box"

            def __call__(self, views):
                return [{"objects": [SceneObject("thing in the middle", middle_of(view))]} for view in views]

    It is made by a factory (a class or a function) with keyword options only. A factory of an extractor with a network
    calls them ``model`` (an id or a folder), ``device`` and ``dtype``.

    Attributes:
        kind: a name in ``KINDS``: which fields it may set, and which views it is given.
        name: what it is called in the settings of a data set; names the options that change its results as well.
    """

    kind: str
    name: str

    def __call__(self, views: Sequence[PartialCues], /) -> Sequence[Addition]:
        """What it adds to each view, in their order.

        The same views must give the same result. A view that cannot be used gives a ``CuesError`` with the reason; one
        that is raised instead costs every view that made it raise when it was alone.
        """
