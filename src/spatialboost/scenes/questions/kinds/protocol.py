"""The interface of a kind of question, and the context that it gets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from spatialboost.scenes.questions.names import choose_names, usable_names
from spatialboost.scenes.questions.scoring import VERDICT, Scoring
from spatialboost.scenes.questions.turn import Turn, choose_wording

if TYPE_CHECKING:
    from spatialboost.scenes.questions.view import AskedView

Level = Literal["pixel", "object", "scene", "caption"]
LEVELS: tuple[Level, ...] = ("pixel", "object", "scene", "caption")  # the order "forward"; captions always stay last


@dataclass(frozen=True)
class Context:
    """The views that a question is about.

    Attributes:
        views: one view, or all views of the scene for a kind that needs several.
        poses: for each of these views the transform from its camera to the camera of the scene's first view, float64
            ``(4, 4)``.
        followed: facts of the turn that the question refers to, for a kind with ``follows``.
        earlier: facts of the turns so far that are about the same view or views.
        asked: the questions of the conversation so far.
    """

    views: tuple[AskedView, ...]
    poses: tuple[np.ndarray, ...]
    followed: Mapping[str, Any]
    earlier: tuple[Mapping[str, Any], ...] = ()
    asked: frozenset[str] = frozenset()

    @property
    def view(self) -> AskedView:
        """The only view of a question about one view."""
        return self.views[0]

    def word(self, wordings: Sequence[str], rng: np.random.Generator, **words: str) -> tuple[str, int]:
        """`choose_wording`, limited to the wordings that the plan allows."""
        return choose_wording(wordings[: self.view.plan.wordings], rng, **words)

    def can_name(self, relation: str) -> bool:
        """Whether at least two objects have a name that does not contain the answer to questions about the relation."""
        return sum(bool(usable_names(relation, thing.names)) for thing in self.view.objects) > 1

    def named_pairs(self, relation: str, rng: np.random.Generator) -> Iterator[tuple[tuple[int, int], tuple[str, str]]]:
        """Ordered pairs of objects with a clear relation, with names that do not contain the answer, the best first.

        Pairs come in random order; those last whose names have different nouns, so that general knowledge would help;
        before these, pairs that an earlier turn of the same kind asked about, or whose boxes an earlier answer stated.
        """
        stated = [(turn["kind"], frozenset(turn["objects"])) for turn in self.earlier if "holds" in turn]
        places = {pair for _, pair in stated}
        ranked = []
        for pair in self.view.pairs(rng):
            names = choose_names(relation, *(self.view.objects[i].names for i in pair))
            if names is not None:
                both = frozenset(pair)
                ranked.append(((not names[2], (relation, both) in stated, both in places), pair, names[:2]))
        ranked.sort(key=lambda entry: entry[0])
        return ((pair, names) for _, pair, names in ranked if self.view.compare(relation, *pair))


class Kind(ABC):
    """A kind of question. To add one, add a file and a table line in `kinds`, and a file and a table line in `checks`.

    Example:
        >>> class Size(Kind):
        ...     name = "image_size"
        ...     title = "size of the image"
        ...     level = "scene"
        ...     wordings = ("How many pixels wide is the image?",)
        ...
        ...     def ask(self, context, rng):
        ...         width = context.view.cues.size[1]
        ...         return Turn(self.wordings[0], f"{width} pixels.", {"width": width})

    Attributes:
        name: name in plans, in ``meta`` and on the command line.
        title: readable name on the page that shows a data set.
        level: determines the position of its turns in a conversation.
        wordings: templates of the question.
        objects: minimum number of usable objects in each view that the question is about.
        views: 1 = the question is about one view. If there are several, the view is drawn at random, and the question
            names it. 2 or more = the question is about all views of a scene, which must have at least this many.
        follows: for the level "caption": the kind of the earlier turn that the question refers to. The question is
            about the last turn of this kind and comes after it. It is left out if there is no such turn.
        texts: key of the facts of a view under which an extractor stores texts for this kind. A view with such texts
            needs no objects.
        scoring: compares replies with the true answer.
    """

    name: str
    title: str
    level: Level
    wordings: tuple[str, ...]
    objects: int = 0
    views: int = 1
    follows: str | None = None
    texts: str | None = None
    scoring: Scoring = VERDICT

    @abstractmethod
    def ask(self, context: Context, rng: np.random.Generator) -> Turn:
        """Ask one question.

        Args:
            context: what the question is about.
            rng: the only source of randomness.

        Raises:
            CannotAskError: the view does not support the question, or the answer would not be clear. If another draw
                could succeed, the kind must repeat the draw itself.
        """

    def exchanged(self, answer: str, other: str) -> str:
        """The answer of another view to this question, for the control experiment with shuffled answers.

        Args:
            answer: the true answer.
            other: the answer of another view to its own question of this kind.
        """
        return other
