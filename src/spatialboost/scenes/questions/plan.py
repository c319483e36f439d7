"""The plan of a conversation: the number of turns of each kind, and the margins for points and pairs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.questions.kinds import KINDS, LEVELS, kind_named

PAPER: Mapping[str, int] = MappingProxyType(
    {
        "depth": 3,
        "closer": 2,
        "left_right": 1,
        "above_below": 1,
        "front_behind": 1,
        "larger_smaller": 1,
        "distance": 1,
        "caption": 1,
        "caption_question": 1,
    }
)

# For items of several views: the paper's order (pixel, object, scene, caption); half of the turns need several views.
# The paper does not say which questions it asks there.
SEVERAL: Mapping[str, int] = MappingProxyType(
    {
        "depth": 2,
        "closer": 1,
        "left_right": 1,
        "same_object": 1,
        "which_view": 1,
        "closer_across": 1,
        "camera_direction": 1,
        "camera_rotation": 1,
        "distance_across": 1,
        "caption": 1,
        "caption_question": 1,
    }
)

_TWO_WORDINGS = {"wordings": 2}  # of data sets before `TurnPlan.wordings`
MAX_TURNS = 10_000  # of one kind; stops a build with a mistyped number
MAX_CELLS = 50  # a side: with more, two centres could be the same point with two decimals


@dataclass(frozen=True)
class TurnPlan:
    """The turns of a conversation. The default is the paper's twelve turns.

    Example:
        >>> TurnPlan().total, TurnPlan({"closer": 4, "depth": 6}).turns
        (12, {'depth': 6, 'closer': 4})

    Attributes:
        turns: kind -> number of turns. The plan sorts the kinds into the order in which they are asked.
        min_gap: two points are compared only if their depths differ by more than this fraction of the nearer depth.
        smoothness: excludes points on edges. A point is used only if the depth half a percent of the image away, in all
            eight directions, differs by at most this fraction of the depth (plus the source's noise).
        on_objects: fraction of the points that are picked on objects; the others are picked in the whole image.
        least: minimum number of turns; an item that supports fewer is not used. With the number of all turns, every
            turn is required.
        wordings: None = all wordings of a question. A number = only the first ones of each kind, for a small language
            model that knows no others. Points are then drawn as in data sets of before there were more than
            two wordings, and the coordinates tell more about the answer.
        field_of_view: questions with a length in the answer say the camera's horizontal field of view before, in words.
        cells: rows and columns of a grid: points in questions are the centres of its cells, each asked for its depth at
            most once in a conversation. For a language model that gets names of cells before visual tokens
            (``teacher.prompt``). The coordinates then tell more about the answer. None = points anywhere.

    Raises:
        SpatialBoostError: a kind is unknown, a number is wrong, there is no turn, or a question about a caption has no
            caption.
    """

    turns: Mapping[str, int] = field(default_factory=lambda: PAPER)
    min_gap: float = 0.05
    smoothness: float = 0.03
    on_objects: float = 0.5
    least: int = 1
    wordings: int | None = None
    field_of_view: bool = False
    cells: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.turns, Mapping):
            raise SpatialBoostError(f'turns are {self.turns!r}; expected counts by kind, such as {{"depth": 3}}')
        for kind, count in self.turns.items():
            kind_named(kind)
            if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= MAX_TURNS:
                raise SpatialBoostError(f"{count!r} turns of {kind}; expected a whole number from 0 to {MAX_TURNS}")
        known = list(KINDS)
        order = sorted(self.turns, key=lambda kind: (LEVELS.index(KINDS[kind].level), known.index(kind)))
        object.__setattr__(self, "turns", {kind: self.turns[kind] for kind in order if self.turns[kind]})
        if not self.turns:
            raise SpatialBoostError(f"the plan has no turn; ask for at least one of {', '.join(known)}")
        for kind in self.turns:
            followed = KINDS[kind].follows
            if followed is not None and followed not in self.turns:
                raise SpatialBoostError(f"{kind} refers to a turn of {followed}; add at least one turn of {followed}")
        for name, most in (("min_gap", math.inf), ("smoothness", math.inf), ("on_objects", 1.0)):
            value = getattr(self, name)
            if (
                isinstance(value, bool)
                or not isinstance(value, int | float)
                or not 0 <= value <= most
                or value == math.inf
            ):
                limit = f" and must be at most {most:g}" if most == 1 else ""
                raise SpatialBoostError(f"{name} is {value!r}; it must be a number, must not be negative{limit}")
        if isinstance(self.least, bool) or not isinstance(self.least, int) or not 1 <= self.least <= self.total:
            raise SpatialBoostError(f"least is {self.least}; expected 1 to {self.total}, the number of all turns")
        if not isinstance(self.field_of_view, bool):
            raise SpatialBoostError(f"field_of_view is {self.field_of_view!r}; expected true or false")
        number = self.wordings
        if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
            raise SpatialBoostError(
                f"wordings is {number!r}; expected None for all, or the first 1, 2, ... of each kind"
            )

        if self.cells is not None:
            object.__setattr__(self, "cells", _grid(self.cells))

    @property
    def balances_points(self) -> bool:
        """Whether points are drawn so that their coordinates tell little about the answer."""
        return self.wordings is None and self.cells is None

    @property
    def total(self) -> int:
        """Number of all turns."""
        return sum(self.turns.values())

    @property
    def needs_objects(self) -> bool:
        """Whether at least one turn is about objects."""
        return any(KINDS[kind].objects for kind in self.turns)


def _grid(cells: Any) -> tuple[int, int]:
    """Rows and columns, checked."""
    sides = tuple(cells) if isinstance(cells, Sequence) and not isinstance(cells, str) else ()
    whole = all(isinstance(side, int) and not isinstance(side, bool) and 1 <= side <= MAX_CELLS for side in sides)
    if len(sides) != 2 or not whole:
        raise SpatialBoostError(f"cells is {cells!r}; expected rows and columns from 1 to {MAX_CELLS}, such as (4, 4)")
    return sides


def plan_settings(plan: TurnPlan) -> dict[str, Any]:
    """The settings of a plan, as they are stored in a data set.

    Example:
        >>> plan_settings(TurnPlan({"depth": 2}))["turns"]
        {'depth': 2}
    """
    return {**asdict(plan), "cells": None if plan.cells is None else list(plan.cells)}  # as JSON has it


def renew_settings(found: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the settings of a plan from a data set of any version to the current form.

    Example:
        >>> found = {"depth": 2, "closer": 1, "relations": ["left_right"], "distance": 0, "caption": True}
        >>> renewed = renew_settings({**found, "min_gap": 0.05, "smoothness": 0.03, "on_objects": 0.5})
        >>> renewed["turns"], renewed["least"]
        ({'depth': 2, 'closer': 1, 'left_right': 1, 'caption': 1, 'caption_question': 1}, 6)

    Older data sets have two wordings of each question. Data sets of version 1 store each count under its own name. In
    that version a view had to support every turn.
    """
    if "turns" in found:
        return {**plan_settings(TurnPlan()), **_TWO_WORDINGS, **found}
    counts = {"depth": found["depth"], "closer": found["closer"], **Counter(found["relations"])}
    counts |= {"distance": found["distance"], **dict.fromkeys(("caption", "caption_question"), int(found["caption"]))}
    turns = {kind: count for kind, count in counts.items() if count}
    numbers = {name: found[name] for name in ("min_gap", "smoothness", "on_objects")}
    return {
        "turns": turns,
        **numbers,
        "least": sum(turns.values()),
        **_TWO_WORDINGS,
        "field_of_view": False,
        "cells": None,
    }
