"""Several views of one place, in one coordinate frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spatialboost.scenes.cues import Cues, CuesError


@dataclass(frozen=True)
class Scene:
    """One or more views of one place. Their common coordinate frame is that of the first view's camera.

    Example:
        >>> from spatialboost.scenes.rooms import Rooms
        >>> scene = Scene([Rooms(1, size=32)[0]])
        >>> len(scene.views), scene.poses[0].tolist() == np.eye(4).tolist()
        (1, True)

    Attributes:
        views: at least one view. If there are several, each must have a pose.

    Raises:
        CuesError: there is no view, or there are several and one has no pose.
    """

    views: Sequence[Cues]

    def __post_init__(self) -> None:
        object.__setattr__(self, "views", tuple(self.views))
        if not self.views:
            raise CuesError("the scene has no view; expected at least one")
        if len(self.views) > 1:
            for number, view in enumerate(self.views, 1):
                if view.pose_44 is None:
                    raise CuesError(f"{view.source}: view {number} of {len(self.views)} has no pose; add its pose_44")

    @property
    def source(self) -> str:
        """The ``source`` of the first view."""
        return self.views[0].source

    @property
    def poses(self) -> tuple[np.ndarray, ...]:
        """For each view, float64 ``(4, 4)``: from its camera's frame to the frame of the first view's camera."""
        first = self.views[0].pose_44
        if first is None:
            return (np.eye(4),)
        world = np.linalg.inv(np.asarray(first, np.float64))
        others = (world @ np.asarray(view.pose_44, np.float64) for view in self.views[1:])
        return (np.eye(4), *others)


def as_scene(views: Cues | Scene) -> Scene:
    """Turn a view into a scene with one view; return a scene unchanged."""
    return views if isinstance(views, Scene) else Scene([views])
