"""Conversations about a view or a scene: depth at points, relations of objects, and the whole scene."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import Cues, CuesError
from spatialboost.scenes.questions.asking import Asker
from spatialboost.scenes.questions.kinds import KINDS, LEVELS
from spatialboost.scenes.questions.layout import measure_layout
from spatialboost.scenes.questions.meta import IMAGE_TAG, META_VERSION, SCENE_META_VERSION
from spatialboost.scenes.questions.plan import TurnPlan
from spatialboost.scenes.questions.turn import Turn
from spatialboost.scenes.questions.view import AskedView
from spatialboost.scenes.scene import Scene, as_scene

Order = Literal["forward", "reverse", "random"]


@dataclass(frozen=True)
class Conversation:
    """A conversation, and the facts from which its answers were computed."""

    # {"role": "user" | "assistant", "content": text} alternating; the first begins with one <image> line for each image
    messages: list[dict[str, str]]
    meta: dict[str, Any]  # ground truth as JSON-compatible values, described in docs/data-format.md


def build_conversation(
    cues: Cues | Scene, *, seed: int, order: Order = "forward", plan: TurnPlan | None = None
) -> Conversation:
    """Ask questions about a view or a scene that its cues can answer.

    Example:
        >>> cues = Cues(
        ...     image_HW3=np.zeros((40, 40, 3), np.uint8),
        ...     depth_HW=np.full((40, 40), 2.0, np.float32),
        ...     intrinsics_33=np.array([[40.0, 0, 19.5], [0, 40.0, 19.5], [0, 0, 1]]),
        ...     source="example",
        ... )
        >>> build_conversation(cues, seed=0, plan=TurnPlan({"depth": 1})).messages[1]["content"]
        'The depth is 2.000 meters.'

    A point ``(x, y)`` is normalised by the image's width and height, from the top left corner, with two decimals. It
    stands for the pixel that contains it: column ``floor(x * W)``, row ``floor(y * H)``. Depth is z along the optical
    axis. Boxes, relations and their margins are defined in `spatialboost.scenes.questions.layout`. The same seed gives
    the same questions in every order, so that orders can be compared (the paper's Table 7).

    A turn that the view does not support is replaced by a turn of another kind of the same level
    (``meta["replaced"]``), or left out; then the reason is in ``meta["left_out"]``. If there are several
    views, a question about one view names it ("In image 2, ..."). If this view does not support the question, another
    view is tried.

    Args:
        cues: the view or the scene. Relations, distances and captions need objects.
        seed: seed of the random choice of points, pairs and wordings, and of whether "yes" is right (half of the time).
        order: "forward" = pixel, object, scene; "reverse" = scene, object, pixel; "random" = shuffled. The caption
            and the question about it stay last.
        plan: number of turns of each kind; None = the paper's twelve turns.

    Raises:
        CuesError: fewer than ``plan.least`` turns can be asked. The message has the reasons.
        SpatialBoostError: the order is unknown, or the seed is negative.
    """
    validate_choices(order, seed)
    scene, plan = as_scene(cues), plan or TurnPlan()
    views = tuple(AskedView(view, measure_layout(view), plan) for view in scene.views)
    asker = Asker(views, scene.poses, np.random.default_rng(seed))
    asker.ask_all(plan)
    if len(asker.turns) < plan.least:
        raise CuesError(f"{scene.source}: {_too_few(len(asker.turns), plan, asker.left_out)}")
    turns = _arranged(asker.turns, order, seed)
    meta: dict[str, Any] = {
        "version": META_VERSION if len(views) == 1 else SCENE_META_VERSION,
        "seed": seed,
        "source": scene.source,
        "order": order,
        "images": len(views),
        **_facts(views, scene),
        "turns": [turn.facts for turn in turns],
    }
    if asker.left_out:
        meta["left_out"] = asker.left_out
    if asker.replaced:
        meta["replaced"] = asker.replaced
    if dropped := sum((Counter(view.facts.get("dropped", {})) for view in scene.views), Counter[str]()):
        meta["dropped"] = dict(dropped)
    return Conversation(_messages(turns, len(views)), meta)


def validate_choices(order: str, seed: int) -> None:
    """Raise SpatialBoostError if the order is unknown or the seed is negative."""
    if order not in ("forward", "reverse", "random"):
        raise SpatialBoostError(f"order is {order!r}; expected 'forward', 'reverse' or 'random'")
    if seed < 0:
        raise SpatialBoostError(f"seed is {seed}; expected 0 or a positive integer")


def _arranged(turns: Sequence[Turn], order: Order, seed: int) -> list[Turn]:
    """Sort the turns into the given order. Captions and the questions about them stay last."""
    levels = [LEVELS.index(KINDS[turn.facts["kind"]].level) for turn in turns]
    last = LEVELS.index("caption")
    spatial = [i for i, level in enumerate(levels) if level < last]
    captions = [i for i, level in enumerate(levels) if level == last]
    if order == "reverse":
        spatial.sort(key=lambda i: -levels[i])
    elif order == "random":
        spatial = [spatial[i] for i in np.random.default_rng([seed, 1]).permutation(len(spatial))]
    return [turns[i] for i in spatial + captions]


def _messages(turns: Sequence[Turn], images: int) -> list[dict[str, str]]:
    messages = []
    for turn in turns:
        messages += [{"role": "user", "content": turn.question}, {"role": "assistant", "content": turn.answer}]
    messages[0]["content"] = f"{IMAGE_TAG}\n" * images + messages[0]["content"]
    return messages


def _facts(views: Sequence[AskedView], scene: Scene) -> dict[str, Any]:
    """The facts of one view, or a list of facts under ``views``. `facts_of_views` reads both."""
    if len(views) == 1:
        return _view_facts(views[0])
    places = [
        {"source": view.cues.source, "pose": pose.tolist()} for view, pose in zip(views, scene.poses, strict=True)
    ]
    return {"views": [{**place, **_view_facts(view)} for place, view in zip(places, views, strict=True)]}


def _view_facts(view: AskedView) -> dict[str, Any]:
    return {
        "size": list(view.cues.size),
        "intrinsics": np.asarray(view.cues.intrinsics_33, np.float64).tolist(),
        **view.facts,
    }


def _too_few(asked: int, plan: TurnPlan, left_out: dict[str, str]) -> str:
    reasons = list(dict.fromkeys(left_out.values()))
    if not asked and len(reasons) == 1:
        return reasons[0]
    why = "; ".join(f"{kind}: {reason}" for kind, reason in left_out.items())
    return f"{asked} of {plan.total} turns can be asked, expected at least {plan.least} ({why})"
