"""One question with its answer, and the exception for a question that cannot be asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spatialboost.scenes.cues import CuesError


class CannotAskError(CuesError):
    """A view does not support a question; the message is the reason, without the view's name."""


@dataclass(frozen=True)
class Turn:
    """A question and its answer."""

    question: str  # text of the question
    answer: str  # the true answer
    facts: dict[str, Any]  # the values from which the answer was computed, JSON-compatible; stored in meta["turns"]


def choose_wording(wordings: Sequence[str], rng: np.random.Generator, **words: str) -> tuple[str, int]:
    """Draw one of the wordings and fill in the words.

    Example:
        >>> choose_wording(["How far is the {a}?"], np.random.default_rng(0), a="red box")
        ('How far is the red box?', 0)

    Returns:
        The text, and the index of the wording.
    """
    template = int(rng.integers(len(wordings)))
    return wordings[template].format(**words), template
