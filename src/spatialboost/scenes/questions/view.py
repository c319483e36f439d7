"""One view as input of the kinds of question: its cues, its measured objects, and a picker of points."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np

from spatialboost.scenes.cues import Cues
from spatialboost.scenes.questions.checks.generated import readable_names
from spatialboost.scenes.questions.layout import Layout, ObjectFact, clean_description, compare_objects
from spatialboost.scenes.questions.points import Point, PointPicker, pixel_of

if TYPE_CHECKING:
    from spatialboost.scenes.questions.plan import TurnPlan


@dataclass(frozen=True)
class AskedView:
    """A view, its measurements, and the plan with the limits for points.

    Attributes:
        cues: the view.
        layout: its box and its usable objects, from `measure_layout`.
        plan: the plan; ``min_gap``, ``smoothness``, ``on_objects`` and ``cells`` are used.
    """

    cues: Cues
    layout: Layout
    plan: TurnPlan

    @property
    def objects(self) -> tuple[ObjectFact, ...]:
        """The usable objects. The facts of turns refer to them by their index in this list."""
        return self.layout.objects

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What the check of a text needs to know of the view, as in ``meta``."""
        return layout_facts(self.layout, self.cues.depth_noise)

    @cached_property
    def readable(self) -> frozenset[str]:
        """The names of objects that the check of a text can tell from other words."""
        return readable_names([self.facts])

    @cached_property
    def picker(self) -> PointPicker:
        """Picks points of this view.

        Raises:
            CannotAskError: no point of the view can be used.
        """
        names = {fact.description for fact in self.objects}
        masks = [thing.mask_HW for thing in self.cues.objects if clean_description(thing.description) in names]
        plan = self.plan
        margins = {"min_gap": plan.min_gap, "smoothness": plan.smoothness, "on_objects": plan.on_objects}
        return PointPicker(self.cues, masks, **margins, cells=plan.cells)

    def point_facts(self, points: list[Point]) -> dict[str, Any]:
        """Coordinates, pixels (row, column) and depths of points, for the facts of a turn."""
        return {
            "points": [[x / 100, y / 100] for x, y in points],
            "pixels": [list(pixel_of(point, self.cues.size)) for point in points],
            "depths": [self.picker.depth_at(point) for point in points],
        }

    def pairs(self, rng: np.random.Generator) -> list[tuple[int, int]]:
        """All ordered pairs of different objects, in random order."""
        pairs = list(permutations(range(len(self.objects)), 2))
        return [pairs[i] for i in rng.permutation(len(pairs))]

    def compare(self, relation: str, i: int, j: int) -> int:
        """Compare two objects with `compare_objects`: 1, -1, or 0 if the relation is not clear."""
        return compare_objects(relation, self.objects[i], self.objects[j], self.layout.box_m, self.cues.depth_noise)

    def extreme(self, among: list[int], *, closest: bool) -> int | None:
        """The object that is clearly in front of all others (or behind all others); None if there is no such object."""
        sign = 1 if closest else -1
        for i in among:
            if len(among) > 1 and all(self.compare("front_behind", i, j) == sign for j in among if j != i):
                return i
        return None


def layout_facts(layout: Layout, depth_noise: float) -> dict[str, Any]:
    """The facts of a view that say where its objects are, as in ``meta``."""
    return {
        "depth_noise": depth_noise,
        "scene_box": list(layout.box_m),
        "up": None if layout.up is None else list(layout.up),
        "objects": [fact.to_json() for fact in layout.objects],
    }
