"""Conversations of 12 turns about one view: from depth at a point over relations of objects to the whole scene."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, permutations
from typing import Any, Literal

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import Cues, CuesError
from spatialboost.scenes.questions import phrases
from spatialboost.scenes.questions.layout import (
    AXES,
    RELATIONS,
    Layout,
    ObjectFact,
    clean_description,
    compare_objects,
    measure_distance,
    measure_layout,
)
from spatialboost.scenes.questions.points import Point, PointPicker, pixel_of

META_VERSION = 1
IMAGE_TAG = "<image>"
Order = Literal["forward", "reverse", "random"]

# Levels of the paper's chain: pixel -> object -> scene. Captions are appended after the spatial turns in every order.
LEVELS = {"depth": 0, "closer": 0, **dict.fromkeys(RELATIONS, 1), "distance": 2, "caption": 3, "caption_question": 3}

_MAX_DESCRIBED = 6  # objects in a caption


@dataclass(frozen=True)
class TurnPlan:
    """Which turns a conversation has, in the order "forward"; the default is the paper's twelve.

    Example:
        >>> TurnPlan().turns, TurnPlan(depth=6, closer=4, relations=(), distance=0, caption=False).turns
        (12, 10)

    Attributes:
        depth: turns that ask the depth at a point.
        closer: turns that ask which of two points is closer.
        relations: kinds of relation, one turn each; a kind may be named more than once.
        distance: turns that ask how far two objects are apart.
        caption: whether a caption and a question on it follow.
        min_gap: two points are compared only if their depths differ by more than this share of the nearer depth.
        smoothness: a point is asked about only if the depth half a percent of the image away, in all eight directions,
            differs by at most this share (plus the source's noise): no point on an edge.
        on_objects: share of the points that are picked on objects; the others are spread over the whole image.

    Raises:
        SpatialBoostError: an unknown kind of relation, a negative number, no turn at all.
    """

    depth: int = 3
    closer: int = 2
    relations: tuple[str, ...] = RELATIONS
    distance: int = 1
    caption: bool = True
    min_gap: float = 0.05
    smoothness: float = 0.03
    on_objects: float = 0.5

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.relations if kind not in RELATIONS]
        if unknown:
            raise SpatialBoostError(f"unknown relations {unknown}; known are {list(RELATIONS)}")
        if (
            min(self.depth, self.closer, self.distance, self.min_gap, self.smoothness) < 0
            or not 0 <= self.on_objects <= 1
        ):
            raise SpatialBoostError(f"{self}: counts and shares must not be negative, and on_objects at most 1")
        if not self.turns:
            raise SpatialBoostError(f"{self} has no turn; ask for at least one")

    @property
    def turns(self) -> int:
        """How many questions a conversation has."""
        return self.depth + self.closer + len(self.relations) + self.distance + 2 * self.caption

    @property
    def needs_objects(self) -> int:
        """How many objects a view must have."""
        return 2 if self.relations or self.distance else int(self.caption)


@dataclass(frozen=True)
class Conversation:
    """A conversation and everything that its answers were computed from.

    Attributes:
        messages: ``{"role": "user" | "assistant", "content": text}`` in turn; the first begins with one ``<image>``
            line per image.
        meta: JSON-able ground truth, described in ``docs/data-format.md``.
    """

    messages: list[dict[str, str]]
    meta: dict[str, Any]


def build_conversation(
    cues: Cues, *, seed: int, order: Order = "forward", plan: TurnPlan | None = None
) -> Conversation:
    """Ask about a view what its cues can answer.

    Example:
        >>> import numpy as np
        >>> from spatialboost.scenes.cues import Cues
        >>> cues = Cues(
        ...     image_HW3=np.zeros((40, 40, 3), np.uint8),
        ...     depth_HW=np.full((40, 40), 2.0, np.float32),
        ...     intrinsics_33=np.array([[40.0, 0, 19.5], [0, 40.0, 19.5], [0, 0, 1]]),
        ...     source="example",
        ... )
        >>> plan = TurnPlan(depth=1, closer=0, relations=(), distance=0, caption=False)
        >>> build_conversation(cues, seed=0, plan=plan).messages[1]["content"]
        'The depth is 2.000 meters.'

    A point ``(x, y)`` is normalised by the image's width and height, from the top left corner, in two decimals; it
    names the pixel that it lies in: column ``floor(x * W)``, row ``floor(y * H)``. Depth is z along the optical axis.
    Boxes, relations and their margins are those of `spatialboost.scenes.questions.layout`. The same seed asks the same
    questions in every order, so that orders can be compared (the paper's Table 7).

    Args:
        cues: the view; objects are needed for relations, distances and captions.
        seed: picks points, pairs, phrasings and whether "yes" is right (which it is half of the time).
        order: "forward" = pixel, object, scene; "reverse" = scene, object, pixel; "random" = shuffled. The caption
            and its question stay last.
        plan: how many turns of which kind; None = the paper's twelve.

    Raises:
        CuesError: the view cannot support the plan: the reason is in the message.
        SpatialBoostError: an unknown order or a negative seed.
    """
    check_choices(order, seed)
    plan = plan or TurnPlan()
    layout = measure_layout(cues)
    if len(layout.objects) < plan.needs_objects:
        raise CuesError(
            f"{cues.source}: {len(layout.objects)} usable objects, but the turns need {plan.needs_objects}; "
            "give the view more objects or ask only about points"
        )
    asker = _Asker(cues, layout, plan, np.random.default_rng(seed))
    turns = [asker.depth() for _ in range(plan.depth)]
    turns += [asker.closer() for _ in range(plan.closer)]
    turns += [asker.relation(kind) for kind in plan.relations]
    turns += [asker.distance() for _ in range(plan.distance)]
    last = asker.caption() if plan.caption else []
    if order == "reverse":
        turns = sorted(turns, key=lambda turn: -LEVELS[turn[2]["kind"]])
    elif order == "random":
        turns = [turns[i] for i in np.random.default_rng([seed, 1]).permutation(len(turns))]
    messages = []
    for question, answer, _ in turns + last:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    messages[0]["content"] = f"{IMAGE_TAG}\n{messages[0]['content']}"
    meta = {
        "version": META_VERSION,
        "seed": seed,
        "source": cues.source,
        "order": order,
        "images": 1,
        "size": list(cues.size),
        "intrinsics": np.asarray(cues.intrinsics_33, np.float64).tolist(),
        "depth_noise": cues.depth_noise,
        "scene_box": list(layout.box_m),
        "objects": [fact.to_json() for fact in layout.objects],
        "turns": [facts for _, _, facts in turns + last],
    }
    return Conversation(messages, meta)


def check_choices(order: str, seed: int) -> None:
    """Raise SpatialBoostError if no conversation can have this order or seed, whatever the view."""
    if order not in ("forward", "reverse", "random"):
        raise SpatialBoostError(f"order is {order!r}; expected 'forward', 'reverse' or 'random'")
    if seed < 0:
        raise SpatialBoostError(f"seed is {seed}; expected a number from 0 on")


_Turn = tuple[str, str, dict[str, Any]]


class _Asker:
    """Writes turns about one view, drawing from one random stream."""

    def __init__(self, cues: Cues, layout: Layout, plan: TurnPlan, rng: np.random.Generator) -> None:
        self.cues, self.layout, self.plan, self.rng = cues, layout, plan, rng
        self.objects = layout.objects

    @cached_property
    def picker(self) -> PointPicker:
        names = {fact.description for fact in self.objects}
        masks = [thing.mask_HW for thing in self.cues.objects if clean_description(thing.description) in names]
        plan = self.plan
        return PointPicker(
            self.cues,
            masks,
            self.rng,
            min_gap=plan.min_gap,
            smoothness=plan.smoothness,
            on_objects=plan.on_objects,
        )

    def depth(self) -> _Turn:
        point = self.picker.pick()
        facts = {"kind": "depth", **self._point_facts([point])}
        question, facts["template"] = self._question("depth", point=phrases.say_point(point))
        return question, f"The depth is {phrases.say_length(facts['depths'][0])}.", facts

    def closer(self) -> _Turn:
        first, second = self.picker.pick_pair()
        pair = [first, second] if self.rng.random() < 0.5 else [second, first]
        facts = {"kind": "closer", **self._point_facts(pair)}
        facts["verdict"] = 1 if facts["depths"][0] < facts["depths"][1] else 2
        question, facts["template"] = self._question(
            "closer", point1=phrases.say_point(pair[0]), point2=phrases.say_point(pair[1])
        )
        return question, f"Point {facts['verdict']} is closer than Point {3 - facts['verdict']}.", facts

    def relation(self, kind: str) -> _Turn:
        pair = next((pair for pair in self._pairs() if self._compare(kind, *pair)), None)
        if pair is None:
            words = "/".join(phrases.WORDS[kind])
            raise CuesError(f"{self.cues.source}: no pair of objects is clear enough to ask about {words}")
        i, j = pair
        true_word, false_word = phrases.WORDS[kind] if self._compare(kind, i, j) == 1 else phrases.WORDS[kind][::-1]
        verdict = bool(self.rng.random() < 0.5)  # so "yes" is right half of the time, whatever the view
        a, b = self.objects[i], self.objects[j]
        asked = true_word if verdict else false_word
        facts: dict[str, Any] = {
            "kind": kind,
            "objects": [i, j],
            "asked": asked,
            "holds": true_word,
            "verdict": verdict,
        }
        question, facts["template"] = self._question(kind, a=a.description, b=b.description, word=asked)
        compared = phrases.say_comparison(kind, a.description, b.description, true_word)
        return question, f"{_located(a, b)} {compared} Answer: {'Yes' if verdict else 'No'}.", facts

    def distance(self) -> _Turn:
        for i, j in self._pairs():
            clear = [kind for kind in AXES if self._compare(kind, i, j)]
            metres = measure_distance(self.objects[i], self.objects[j], self.cues.depth_noise)
            if clear and metres is not None:
                break
        else:
            raise CuesError(f"{self.cues.source}: no two objects are clearly apart, so no distance can be asked")
        kind = clear[self.rng.integers(len(clear))]
        a, b = self.objects[i], self.objects[j]
        word = phrases.WORDS[kind][0 if self._compare(kind, i, j) == 1 else 1]
        facts: dict[str, Any] = {"kind": "distance", "objects": [i, j], "relation": kind, "holds": word}
        facts["distance"] = round(metres, 6)
        question, facts["template"] = self._question("distance", a=a.description, b=b.description)
        compared = phrases.say_comparison(kind, a.description, b.description, word)
        return question, f"{_located(a, b)} {compared} Answer: {phrases.say_length(facts['distance'])}.", facts

    def caption(self) -> list[_Turn]:
        largest = sorted(range(len(self.objects)), key=lambda i: -self.objects[i].pixels)[:_MAX_DESCRIBED]
        named = sorted(largest, key=lambda i: self.objects[i].centre_xy)
        ends = {"caption_closest": self._extreme(named, 1), "caption_farthest": self._extreme(named, -1)}
        names = [self.objects[i].description for i in named]
        ordered = len(named) > 1 and all(self._compare("left_right", i, j) == 1 for i, j in pairwise(named))
        start = "From left to right, the" if ordered else "The"
        text = f"{start} scene shows {phrases.say_list(names)}."
        closest = ends["caption_closest"]
        if closest is not None:
            text += f" The {self.objects[closest].description} is the closest to the viewer."
        facts: dict[str, Any] = {"kind": "caption", "objects": named, "ordered": ordered, "closest": closest}
        question, facts["template"] = self._question("caption")
        asks = ["caption_count", *(kind for kind, end in ends.items() if end is not None)]
        asked = asks[self.rng.integers(len(asks))]
        more: dict[str, Any] = {"kind": "caption_question", "asked": asked, "objects": named}
        follow_up, more["template"] = self._question(asked)
        if asked == "caption_count":
            more["verdict"] = len(named)
            reply = f"{len(named)} object{'s' if len(named) > 1 else ''}."
        else:
            more["verdict"] = ends[asked]
            reply = f"The {self.objects[more['verdict']].description}."
        return [(question, text, facts), (follow_up, reply, more)]

    def _question(self, kind: str, **words: str) -> tuple[str, int]:
        choices = phrases.QUESTIONS[kind]
        template = int(self.rng.integers(len(choices)))
        return choices[template].format(**words), template

    def _pairs(self) -> list[tuple[int, int]]:
        """All ordered pairs of different objects, shuffled: the first that will do is as good as any."""
        pairs = list(permutations(range(len(self.objects)), 2))
        return [pairs[i] for i in self.rng.permutation(len(pairs))]

    def _compare(self, kind: str, i: int, j: int) -> int:
        return compare_objects(kind, self.objects[i], self.objects[j], self.layout.box_m, self.cues.depth_noise)

    def _extreme(self, among: list[int], sign: int) -> int | None:
        """The object that is clearly in front of (1) or behind (-1) all the others."""
        for i in among:
            if len(among) > 1 and all(self._compare("front_behind", i, j) == sign for j in among if j != i):
                return i
        return None

    def _point_facts(self, points: list[Point]) -> dict[str, Any]:
        return {
            "points": [[x / 100, y / 100] for x, y in points],
            "pixels": [list(pixel_of(point, self.cues.size)) for point in points],
            "depths": [self.picker.depth_at(point) for point in points],
        }


def _located(a: ObjectFact, b: ObjectFact) -> str:
    return phrases.say_located(a.description, a.cube, b.description, b.cube)
