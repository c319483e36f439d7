"""The interface of an extractor: it gets a batch of views and returns the fields that it adds to each view.

To add an extractor, write a file with a class as below and add a line to `spatialboost.scenes.extract.registry`.
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
    """A view with possibly missing cues: the fields of `Cues`. Only the image and the source are always set.

    Example:
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
    up_3: np.ndarray | None = None

    @classmethod
    def of(cls, view: Cues) -> PartialCues:
        """Copy a view that has all its cues."""
        return cls(**{entry.name: getattr(view, entry.name) for entry in fields(cls)})

    def to_cues(self) -> Cues:
        """The view with all its cues.

        Raises:
            CuesError: depth or intrinsics are missing, or the cues do not fit together.
        """
        for name in ("depth_HW", "intrinsics_33"):
            if getattr(self, name) is None:
                raise CuesError(f"{self.source}: {name} is not known; add an extractor of the kind 'depth'")
        return Cues(**{entry.name: getattr(self, entry.name) for entry in fields(self)})

    def known_depth(self) -> np.ndarray | None:
        """Depth with NaN where there is no reading; None if depth is not known."""
        if self.depth_HW is None:
            return None
        valid_HW = np.isfinite(self.depth_HW) & (self.depth_HW > 0)
        if self.valid_HW is not None:
            valid_HW &= self.valid_HW
        return np.where(valid_HW, self.depth_HW, np.nan)

    def adding(self, additions: Mapping[str, Any]) -> PartialCues:
        """Copy the view with new field values. New depth without ``valid_HW`` is valid where it has a reading."""
        stale = "depth_HW" in additions and "valid_HW" not in additions
        return replace(self, **({"valid_HW": None, **additions} if stale else additions))


class TryAgainError(CuesError):
    """The view cannot be used now, but a later try may succeed: a server does not answer. It is never cached."""


@dataclass(frozen=True)
class Kind:
    """The rules for the extractors of one kind.

    Attributes:
        sets: the fields of `PartialCues` that they may set.
        together: if True, each call gets all views of one scene and no other views.
    """

    sets: tuple[str, ...]
    together: bool = False


KINDS: dict[str, Kind] = {
    "depth": Kind(("depth_HW", "valid_HW", "intrinsics_33", "depth_noise", "facts")),
    "masks": Kind(("objects",)),
    "text": Kind(("objects", "facts")),
    "reconstruction": Kind(
        ("depth_HW", "valid_HW", "intrinsics_33", "depth_noise", "pose_44", "up_3", "facts"), together=True
    ),
    "filter": Kind(("facts",)),
}

# What an extractor returns for a view: new values of fields of `PartialCues` by name, or the reason why the view cannot
# be used.
Addition = Mapping[str, Any] | CuesError


class Extractor(Protocol):
    """Adds cues to views that do not have them.

    Example::

        class MiddleBox:
            kind, name = "masks", "middle box"

            def __call__(self, views):
                return [{"objects": [SceneObject("thing in the middle", middle_of(view))]} for view in views]

    A factory (a class or a function) makes the extractor. All options of the factory are keywords. For an extractor
    with a network the options are ``model`` (an id or a folder), ``device`` and ``dtype``.

    Attributes:
        kind: a name in ``KINDS``. It determines the fields that the extractor may set, and the views that it gets.
        name: its name in the settings of a data set. Include the options that change the results.
        provenance: optional, for a network: ``{"model": ..., "revision": ..., "licence": ...}``. The manifest of a data
            set repeats it.
        stores_answers: optional: True if it stores its results itself. Then no other cache is used, so that what failed
            is tried again.
    """

    kind: str
    name: str

    def __call__(self, views: Sequence[PartialCues], /) -> Sequence[Addition]:
        """Return what is added to each view, in the order of the views.

        The same views must give the same result. For a view that cannot be used, return a ``CuesError`` with the
        reason, or a `TryAgainError` if a later try may succeed. If the call raises it instead, each view is tried
        alone, and the views that raise again cannot be used; with a kind that is ``together``, no view of the scene can
        be used.
        """
