"""Draw the turns of a plan about a scene. A turn that cannot be asked is left out, and the reason is recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from spatialboost.scenes.focal import measure_field_of_view
from spatialboost.scenes.questions.kinds import KINDS, LEVELS, Context, Kind
from spatialboost.scenes.questions.phrases import format_angles
from spatialboost.scenes.questions.plan import TurnPlan
from spatialboost.scenes.questions.scoring import read_length
from spatialboost.scenes.questions.turn import CannotAskError, Turn
from spatialboost.scenes.questions.view import AskedView
from spatialboost.scenes.questions.wordings import FIELD_OF_VIEW


class Asker:
    """Asks questions about the views of one scene, with one random generator."""

    def __init__(self, views: tuple[AskedView, ...], poses: tuple[np.ndarray, ...], rng: np.random.Generator) -> None:
        self.views, self.poses, self.rng = views, poses, rng
        self.turns: list[Turn] = []  # so far; their facts include ``kind`` and, if there are several views, ``view``
        self.left_out: dict[str, str] = {}  # kind -> the reason why at least one of its turns could not be asked
        # kind -> kinds of the turns of the same level that were asked instead of its turns
        self.replaced: dict[str, list[str]] = {}

    def ask_all(self, plan: TurnPlan) -> None:
        """Ask every turn of a plan, in the order of the plan. Then replace turns that could not be asked."""
        missing: list[tuple[str, CannotAskError]] = []
        for name, count in plan.turns.items():
            for _ in range(count):
                try:
                    self.turns.append(self._ask(KINDS[name]))
                except CannotAskError as reason:
                    missing.append((name, reason))
        for name, why in missing:
            turn = self._replacement(plan, KINDS[name])
            if turn is None:
                self.left_out.setdefault(name, str(why))
            else:
                self.turns.append(turn)
                self.replaced.setdefault(name, []).append(turn.facts["kind"])
        self.turns.sort(key=lambda turn: LEVELS.index(KINDS[turn.facts["kind"]].level))

    def _replacement(self, plan: TurnPlan, kind: Kind) -> Turn | None:
        """A turn of another kind of the plan and of the same level that repeats no turn; the rarest kind first."""
        if kind.level == "caption":
            return None
        others = [name for name in plan.turns if KINDS[name].level == kind.level and name != kind.name]
        counts = Counter(turn.facts["kind"] for turn in self.turns)
        for name in sorted(others, key=lambda name: counts[name]):
            try:
                turn = self._ask(KINDS[name])
            except CannotAskError:
                continue
            if all(_subject(turn) != _subject(earlier) for earlier in self.turns):
                return turn
        return None

    def _ask(self, kind: Kind) -> Turn:
        """Ask about the first view that supports the question, or about the scene."""
        reason: CannotAskError | None = None
        for view, context in self._contexts(kind):
            try:
                _require_objects(kind, context)
                turn = kind.ask(context, self.rng)
            except CannotAskError as error:
                reason = reason or error
                continue
            facts: dict[str, Any] = {"kind": kind.name, **turn.facts}
            question = turn.question
            if view is not None:
                question, facts["view"] = name_view(view, question), view
            if context.view.plan.field_of_view and read_length(turn.answer) is not None:
                said, facts["fields_of_view"] = self._say_fields_of_view(context)
                question = f"{said} {question}"
            return Turn(question, turn.answer, facts)
        raise reason or CannotAskError("there is nothing to ask about")

    def _say_fields_of_view(self, context: Context) -> tuple[str, list[float]]:
        """A sentence with the horizontal field of view of each image of a question, and the degrees.

        There is one angle if all agree.
        """
        degrees = [round(measure_field_of_view(view.cues), 1) for view in context.views]
        degrees = degrees[:1] if len(set(degrees)) == 1 else degrees
        return context.word(FIELD_OF_VIEW, self.rng, angle=format_angles(degrees))[0], degrees

    def _contexts(self, kind: Kind) -> Iterator[tuple[int | None, Context]]:
        """The possible contexts of a turn, and the number of the view if the question must name it."""
        followed = self._followed(kind)
        asked = frozenset(turn.question for turn in self.turns)
        if kind.views > 1:
            if len(self.views) < kind.views:
                raise CannotAskError(f"the scene has {len(self.views)} views, but this question needs {kind.views}")
            yield None, Context(self.views, self.poses, followed, self._earlier(None), asked)
        elif len(self.views) == 1:
            yield None, Context(self.views, self.poses, followed, self._earlier(None), asked)
        else:
            order = [followed["view"]] if "view" in followed else self.rng.permutation(len(self.views)).tolist()
            for i in order:
                yield i, Context(self.views[i : i + 1], self.poses[i : i + 1], followed, self._earlier(i), asked)

    def _earlier(self, view: int | None) -> tuple[dict[str, Any], ...]:
        """Facts of the turns so far about a view; None = about the only view, or about the scene."""
        return tuple(turn.facts for turn in self.turns if turn.facts.get("view") == view)

    def _followed(self, kind: Kind) -> dict[str, Any]:
        """Facts of the last turn of the kind that this kind refers to; empty if it refers to no other kind."""
        if kind.follows is None:
            return {}
        for turn in reversed(self.turns):
            if turn.facts["kind"] == kind.follows:
                return turn.facts
        raise CannotAskError(f"it refers to a turn of {kind.follows}, which could not be asked")


def _subject(turn: Turn) -> Any:
    """What a turn is about; equal for two turns with the same answer."""
    facts = turn.facts
    about = sorted(facts["objects"]) if "objects" in facts else facts.get("points", turn.question)
    return facts["kind"], facts.get("view"), about


def name_view(view: int, question: str) -> str:
    """Add the number of the view to a question. Views are counted from 0 here and from 1 in the text.

    Example:
        >>> name_view(1, "How far is the lamp from the chair?")
        'In image 2, how far is the lamp from the chair?'
    """
    return f"In image {view + 1}, {question[:1].lower()}{question[1:]}"


def _require_objects(kind: Kind, context: Context) -> None:
    if kind.texts is not None and any(view.cues.facts.get(kind.texts) for view in context.views):
        return
    for view in context.views:
        if len(view.objects) < kind.objects:
            raise CannotAskError(f"{len(view.objects)} usable objects, but the question needs {kind.objects}")
