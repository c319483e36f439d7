"""What a kind of question has to say of itself, and what it may look at when it asks."""

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
    """What a question is about.

    Attributes:
        views: one view, or all views of the scene for a kind that needs several.
        poses: of each of these views, camera to the first view's camera of the scene: float64 ``(4, 4)``.
        followed: facts of the turn that the question refers to, for a kind that follows another.
    """

    views: tuple[AskedView, ...]
    poses: tuple[np.ndarray, ...]
    followed: Mapping[str, Any]

    @property
    def view(self) -> AskedView:
        """The view that a question about one view is about."""
        return self.views[0]


class Kind(ABC):
    """A kind of question. To add one: a file here, its line in `kinds`, its check in `checks` with its line there.

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
        name: in plans, in ``meta`` and on the command line.
        title: for people, on the page that shows a data set.
        level: where its turns stand in the order of a conversation.
        wordings: the question's templates.
        objects: how many usable objects each view must have that it is asked about.
        views: 1 = it is asked about one view, which is drawn at random where there are several, and named in the
            question; 2 or more = it is asked about all views of a scene that has at least so many.
        follows: for the level "caption": the kind of the turn that it refers to. It is asked about the last such turn,
            comes after it, and is left out where there is none.
        scoring: how replies are compared with the true answer.
    """

    name: str
    title: str
    level: Level
    wordings: tuple[str, ...]
    objects: int = 0
    views: int = 1
    follows: str | None = None
    scoring: Scoring = VERDICT

    @abstractmethod
    def ask(self, context: Context, rng: np.random.Generator) -> Turn:
        """Ask one question.

        Args:
            context: what it is about.
            rng: the only source of chance.

        Raises:
            CannotAskError: the view does not support the question, or the answer would be too close to call. A kind
                draws again by itself where another draw may do.
        """
