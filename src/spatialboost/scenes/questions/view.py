"""One view as the kinds of question see it: its cues, its measured objects, and a picker of points."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np

from spatialboost.scenes.cues import Cues
from spatialboost.scenes.questions.layout import Layout, ObjectFact, clean_description, compare_objects
from spatialboost.scenes.questions.points import Point, PointPicker, pixel_of

if TYPE_CHECKING:
    from spatialboost.scenes.questions.plan import TurnPlan


@dataclass(frozen=True)
class AskedView:
    """A view, what is measured of it, and the numbers of the plan that say which points can be asked about.

    Attributes:
        cues: the view.
        layout: its box and its usable objects, from `measure_layout`.
        plan: for ``min_gap``, ``smoothness`` and ``on_objects``.
    """

    cues: Cues
    layout: Layout
    plan: TurnPlan

    @property
    def objects(self) -> tuple[ObjectFact, ...]:
        """The objects that are large enough to be asked about; turns name them by their place in this list."""
        return self.layout.objects

    @cached_property
    def picker(self) -> PointPicker:
        """Picks points of this view.

        Raises:
            CannotAskError: no point of the view qualifies.
        """
        names = {fact.description for fact in self.objects}
        masks = [thing.mask_HW for thing in self.cues.objects if clean_description(thing.description) in names]
        plan = self.plan
        return PointPicker(
            self.cues, masks, min_gap=plan.min_gap, smoothness=plan.smoothness, on_objects=plan.on_objects
        )

    def point_facts(self, points: list[Point]) -> dict[str, Any]:
        """Coordinates, pixels (row, column) and depths of points, for the facts of a turn."""
        return {
            "points": [[x / 100, y / 100] for x, y in points],
            "pixels": [list(pixel_of(point, self.cues.size)) for point in points],
            "depths": [self.picker.depth_at(point) for point in points],
        }

    def pairs(self, rng: np.random.Generator) -> list[tuple[int, int]]:
        """All ordered pairs of different objects, shuffled: the first that will do is as good as any."""
        pairs = list(permutations(range(len(self.objects)), 2))
        return [pairs[i] for i in rng.permutation(len(pairs))]

    def compare(self, relation: str, i: int, j: int) -> int:
        """Which way a relation holds between two objects: 1, -1, or 0 where it is too close to call."""
        return compare_objects(relation, self.objects[i], self.objects[j], self.layout.box_m, self.cues.depth_noise)

    def extreme(self, among: list[int], *, closest: bool) -> int | None:
        """The object that is clearly in front of all the others (or behind them); None if there is none."""
        sign = 1 if closest else -1
        for i in among:
            if len(among) > 1 and all(self.compare("front_behind", i, j) == sign for j in among if j != i):
                return i
        return None
