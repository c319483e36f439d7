"""The interface of a kind of question, and the context that it gets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from spatialboost.scenes.questions.scoring import VERDICT, Scoring
from spatialboost.scenes.questions.turn import Turn

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
        asked: the questions of the conversation so far.
    """

    views: tuple[AskedView, ...]
    poses: tuple[np.ndarray, ...]
    followed: Mapping[str, Any]
    asked: frozenset[str] = frozenset()

    @property
    def view(self) -> AskedView:
        """The only view of a question about one view."""
        return self.views[0]


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
