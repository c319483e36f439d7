"""The interface of the check of a kind of question."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spatialboost.scenes.cues import Cues


@dataclass(frozen=True)
class MeasuredView:
    """A view whose objects were measured again, from all of their points."""

    cues: Cues  # the view
    # extent of each object in meta, float (6,): xmin, ymin, zmin, xmax, ymax, zmax in metres
    extents: Sequence[np.ndarray]
    # lowest and highest height of each object along gravity, float (2,); empty if gravity is unknown
    heights: Sequence[np.ndarray] = ()


class Check(ABC):
    """Recomputes the answers of one kind of question. It shares no code with the file that asks the question.

    Example:
        >>> class ImageSize(Check):
        ...     level = 2
        ...
        ...     def check(self, question, answer, turn, facts):
        ...         width = facts["size"][1]
        ...         if answer != f"{width} pixels.":
        ...             yield f"the answer is {answer!r}, but the image is {width} pixels wide"
        >>> list(ImageSize().check("How many pixels wide is the image?", "3 pixels.", {}, {"size": [2, 4]}))
        ["the answer is '3 pixels.', but the image is 4 pixels wide"]
    """

    level: int  # of the turns in the order "forward": 0 pixel, 1 object, 2 scene, 3 caption
    follows: str | None = None  # kind of the turn that must come before, about the same view; None = no turn must

    @abstractmethod
    def check(self, question: str, answer: str, turn: dict[str, Any], facts: dict[str, Any]) -> Iterator[str]:
        """Recompute the answer from ``meta``.

        Args:
            question: text of the question, without image lines and without the name of the view.
            answer: text of the answer.
            turn: facts of the turn.
            facts: facts of the view that the turn is about (``size``, ``objects``, ...); all of ``meta`` for a turn
                about the whole scene.

        Yields:
            One sentence for each problem. A ``KeyError``, ``TypeError``, ``ValueError`` or ``IndexError`` counts as a
            problem.
        """

    def measure(self, question: str, turn: dict[str, Any], views: Sequence[MeasuredView]) -> Iterator[str]:
        """Compare the turn with new measurements of the depth maps and masks. The default measures nothing.

        As `check`, with the view that the turn is about, or all views for a turn about the whole scene.
        """
        yield from ()
