"""What several views tell together: which objects are the same, and what is visible where.

The frame of all answers is that of the first view's camera (x right, y down, z forward, metres).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from spatialboost.scenes.camera import project
from spatialboost.scenes.cues import Cues, SceneObject
from spatialboost.scenes.questions.layout import SIGMAS, ObjectFact, clean_description
from spatialboost.scenes.questions.points import Point

if TYPE_CHECKING:
    from spatialboost.scenes.questions.kinds.protocol import Context

# Shape legend: H, W = image height and width in pixels; P = points of an object; G = points with two decimals.

_AGREE = 0.05  # two depths of one point differ by at most this fraction of the depth, plus the noise
_MAX_POINTS = 2000  # of one object; with more, an evenly spaced sample is taken
_SAME, _OTHER = 0.6, 0.02  # share of an object's points on a mask of another view: the same object, another object
_LEAST_SEEN = 0.3  # of an object's points in another view, if it is to be recognised there
_HIDDEN = 0.01  # largest share of its points that another view may see of an object that it does not show
_AROUND = 0.03  # a point this close to an image, as a fraction of its size, may be visible in it
_PLACES = re.compile(
    r"\b(left|right|top|bottom|upper|lower|middle|center|centre|corner|edge|above|below|near|nearest|far|farther|"
    r"farthest|front|behind|back|close|closest|distant|wall|floor|ceiling|background|foreground)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Seen:
    """An object in one of the views."""

    context: Context  # the views
    view: int  # number of the view
    number: int  # number of the object in the view

    @cached_property
    def thing(self) -> SceneObject:
        """The object with its mask."""
        things = self.cues.objects
        return next(thing for thing in things if clean_description(thing.description) == self.fact.description)

    @property
    def fact(self) -> ObjectFact:
        """Its measurements."""
        return self.context.views[self.view].objects[self.number]

    @property
    def cues(self) -> Cues:
        """Its view."""
        return self.context.views[self.view].cues

    @property
    def plain_name(self) -> str | None:
        """The first of its descriptions that does not say where it is; None if each of them does."""
        return next((name for name in self.fact.names if not _PLACES.search(name)), None)

    @cached_property
    def centre_3(self) -> np.ndarray:
        """The centre of its extent, in the frame of the first view."""
        extent_23 = np.reshape(self.fact.extent_m, (2, 3))
        pose_44 = self.context.poses[self.view]
        return pose_44[:3, :3] @ extent_23.mean(0) + pose_44[:3, 3]

    @property
    def noise_m(self) -> float:
        """Standard deviation of its distance from its own camera, metres."""
        return self.cues.depth_noise * self.fact.depth_m

    @cached_property
    def cloud(self) -> np.ndarray:
        """Its points in the first view's frame, float64 ``(P, 3)``."""
        index = np.flatnonzero(self.thing.mask_HW & self.cues.valid_HW)
        index = index[:: -(-index.size // _MAX_POINTS)]
        row, column = np.divmod(index, self.cues.size[1])
        rays_3P = np.linalg.inv(np.asarray(self.cues.intrinsics_33, np.float64)) @ np.stack(
            [column, row, np.ones_like(row)]
        )
        pose_44 = self.context.poses[self.view]
        return (rays_3P / rays_3P[2] * self.cues.depth_HW.ravel()[index]).T @ pose_44[:3, :3].T + pose_44[:3, 3]

    def seen_in(self, view: int) -> np.ndarray:
        """The pixels (row, column) of those of its points that another view sees, int ``(P, 2)``."""
        pixels_P2, z_P = self._project(self.cloud, view)
        other = self.context.views[view].cues
        inside = ((pixels_P2 >= 0) & (pixels_P2 < other.size)).all(-1)
        row, column = pixels_P2[inside].astype(int).T
        margin = (_AGREE + SIGMAS * (self.cues.depth_noise + other.depth_noise)) * z_P[inside]
        agrees = other.valid_HW[row, column] & (np.abs(other.depth_HW[row, column] - z_P[inside]) <= margin)
        return np.stack([row, column], -1)[agrees]

    def _project(self, points_P3: np.ndarray, view: int) -> tuple[np.ndarray, np.ndarray]:
        """(row, column) of points of the first view's frame in another view (NaN behind it), and their depths."""
        pose_44 = self.context.poses[view]
        local_P3 = (points_P3 - pose_44[:3, 3]) @ pose_44[:3, :3]
        with np.errstate(invalid="ignore"):
            columns_rows_P2 = project(local_P3, self.context.views[view].cues.intrinsics_33)
        return np.floor(columns_rows_P2[:, ::-1] + 0.5), local_P3[:, 2]

    def same_as(self, other: Seen) -> bool | None:
        """Whether two objects of different views are one thing; None if it is not clear.

        The source knows it, or the points of each are compared with the mask of the other one.
        """
        if self.knows(other):
            return self.thing.identity == other.thing.identity
        shares = []
        for one, two in ((self, other), (other, self)):
            pixels_P2 = one.seen_in(two.view)
            on_mask = int(two.thing.mask_HW[tuple(pixels_P2.T)].sum())
            shares.append((on_mask / max(len(pixels_P2), 1), len(pixels_P2) / len(one.cloud)))
        if all(on_mask >= _SAME and seen >= _LEAST_SEEN for on_mask, seen in shares):
            return True
        return False if all(on_mask * seen <= _OTHER for on_mask, seen in shares) else None

    def knows(self, other: Seen) -> bool:
        """Whether the source says which things these two are."""
        return None not in (self.thing.identity, other.thing.identity)

    def is_hidden_in(self, view: int) -> bool:
        """Whether another view clearly does not show it: no part of it, and nothing with its name."""
        cues = self.context.views[view].cues
        for thing in cues.objects:
            if clean_description(thing.description) in (self.fact.description, self.plain_name):
                return False
            if thing.identity is not None and thing.identity == self.thing.identity:
                return False
        if len(self.seen_in(view)) > _HIDDEN * len(self.cloud):
            return False
        return not self._corner_shows_in(view)

    def _corner_shows_in(self, view: int) -> bool:
        """Whether a corner of its box or its centre is in the image of a view and not behind a surface."""
        extent_23 = np.reshape(self.fact.extent_m, (2, 3))
        corners_83 = np.array([[extent_23[(i >> axis) & 1, axis] for axis in range(3)] for i in range(8)])
        pose_44 = self.context.poses[self.view]
        points_93 = np.vstack([corners_83, extent_23.mean(0)]) @ pose_44[:3, :3].T + pose_44[:3, 3]
        pixels_92, z_9 = self._project(points_93, view)
        cues = self.context.views[view].cues
        size = np.array(cues.size)
        near_9 = ((pixels_92 >= -_AROUND * size) & (pixels_92 < (1 + _AROUND) * size)).all(-1)
        row, column = np.clip(pixels_92[near_9], 0, size - 1).astype(int).T
        depth = np.where(cues.valid_HW[row, column], cues.depth_HW[row, column], np.inf)
        return bool((z_9[near_9] <= (1 + _AGREE) * depth).any())


def objects_in(context: Context, view: int) -> list[Seen]:
    """The usable objects of a view."""
    return [Seen(context, view, number) for number in range(len(context.views[view].objects))]


def other_views(context: Context, rng: np.random.Generator, told_by: tuple[str, ...] = ()) -> Iterator[int]:
    """The numbers of all views but the first, in random order, without those that such an earlier turn is about."""
    told = [turn["images"][1] for turn in context.earlier if turn["kind"] in told_by]
    yield from (k for k in (rng.permutation(len(context.views) - 1) + 1).tolist() if k not in told)


def point_on(mask_HW: np.ndarray, rng: np.random.Generator) -> Point | None:
    """A point with two decimals inside a mask, so that the mask goes on around it; None if it is too small."""
    height, width = mask_HW.shape
    hundredths = np.arange(100)  # 1.00 would lie outside of the image
    on_GG = mask_HW[np.ix_(hundredths * height // 100, hundredths * width // 100)]
    inside_GG = ndimage.binary_erosion(on_GG, np.ones((3, 3)))  # the points around it are on the mask, too
    found = np.argwhere(inside_GG)
    if not len(found):
        return None
    y, x = found[rng.integers(len(found))].tolist()
    return x, y
