"""Which turns a conversation has: ``{kind: count}``, and the few numbers that are not counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
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


MOST_TURNS = 10_000  # of one kind; more would hang on a mistyped number


@dataclass(frozen=True)
class TurnPlan:
    """Which turns a conversation has; the default is the paper's twelve.

    Example:
        >>> TurnPlan().total, TurnPlan({"closer": 4, "depth": 6}).turns
        (12, {'depth': 6, 'closer': 4})

    Attributes:
        turns: kind -> how many turns; kept in the order in which they are asked, whatever the order given.
        min_gap: two points are compared only if their depths differ by more than this share of the nearer depth.
        smoothness: a point is asked about only if the depth half a percent of the image away, in all eight directions,
            differs by at most this share (plus the source's noise): no point on an edge.
        on_objects: share of the points that are picked on objects; the others are spread over the whole image.
        least: a view of which fewer turns can be asked is not used; the number of all turns = every one is needed.

    Raises:
        SpatialBoostError: an unknown kind, a wrong number, no turn at all, a question on a caption without a caption.
    """

    turns: Mapping[str, int] = field(default_factory=lambda: PAPER)
    min_gap: float = 0.05
    smoothness: float = 0.03
    on_objects: float = 0.5
    least: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.turns, Mapping):
            raise SpatialBoostError(f'turns are {self.turns!r}; expected counts by kind, such as {{"depth": 3}}')
        for kind, count in self.turns.items():
            kind_named(kind)
            if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= MOST_TURNS:
                raise SpatialBoostError(f"{count!r} turns of {kind}; expected a whole number from 0 to {MOST_TURNS}")
        known = list(KINDS)
        order = sorted(self.turns, key=lambda kind: (LEVELS.index(KINDS[kind].level), known.index(kind)))
        object.__setattr__(self, "turns", {kind: self.turns[kind] for kind in order if self.turns[kind]})
        if not self.turns:
            raise SpatialBoostError(f"the plan has no turn; ask for at least one, of {', '.join(known)}")
        for kind in self.turns:
            followed = KINDS[kind].follows
            if followed is not None and followed not in self.turns:
                raise SpatialBoostError(f"{kind} refers to a turn of {followed}; ask for one of these as well")
        if min(self.min_gap, self.smoothness) < 0 or not 0 <= self.on_objects <= 1:
            raise SpatialBoostError(f"{self}: shares must not be negative, and on_objects at most 1")
        if not 1 <= self.least <= self.total:
            raise SpatialBoostError(f"least is {self.least}; expected 1 to {self.total}, the number of all turns")

    @property
    def total(self) -> int:
        """How many questions a conversation has."""
        return sum(self.turns.values())

    @property
    def needs_objects(self) -> bool:
        """Whether any of the turns is about objects."""
        return any(KINDS[kind].objects for kind in self.turns)


def plan_settings(plan: TurnPlan) -> dict[str, Any]:
    """A plan as it stands among the settings of a data set.

    Example:
        >>> plan_settings(TurnPlan({"depth": 2}))["turns"]
        {'depth': 2}
    """
    return asdict(plan)


def renew_settings(found: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a plan, as a data set of any version holds them, in today's form.

    Example:
        >>> found = {"depth": 2, "closer": 1, "relations": ["left_right"], "distance": 0, "caption": True}
        >>> renewed = renew_settings({**found, "min_gap": 0.05, "smoothness": 0.03, "on_objects": 0.5})
        >>> renewed["turns"], renewed["least"]
        ({'depth': 2, 'closer': 1, 'left_right': 1, 'caption': 1, 'caption_question': 1}, 6)

    Data sets of the first version name the counts one by one, and a view had to support every turn.
    """
    if "turns" in found:
        return {**plan_settings(TurnPlan()), **found}
    counts = {"depth": found["depth"], "closer": found["closer"], **Counter(found["relations"])}
    counts |= {"distance": found["distance"], **dict.fromkeys(("caption", "caption_question"), int(found["caption"]))}
    turns = {kind: count for kind, count in counts.items() if count}
    numbers = {name: found[name] for name in ("min_gap", "smoothness", "on_objects")}
    return {"turns": turns, **numbers, "least": sum(turns.values())}
