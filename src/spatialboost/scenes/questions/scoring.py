"""Score a reply against the true answer: by its verdict, or by its length in metres."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

_LENGTH = re.compile(r"(\d+(?:\.\d+)?) ?(centimeter|meter)")
_VERDICT = re.compile(r"Answer: (Yes|No|[A-D](?![\w ])|[A-Za-z][^.]*)")


class Scoring(Protocol):
    """The scoring of replies to one kind of question.

    Example:
        >>> from spatialboost.scenes.questions.kinds import kind_named
        >>> scoring = kind_named("depth").scoring
        >>> scoring.right("The depth is 2.0 meters.", "The depth is 2.500 meters.")
        True
    """

    def right(self, reply: str, truth: str) -> bool:
        """Whether a reply counts as right."""

    def error(self, reply: str, truth: str) -> float | None:
        """The relative error of a reply; None if answers are not numbers."""

    def best_guess(self, truths: Sequence[str]) -> str:
        """The single reply that scores best on all these answers: the baseline without looking at the image."""


@dataclass(frozen=True)
class VerdictScoring:
    """A reply is right if it ends in the same verdict.

    Example:
        >>> VERDICT.right("Comparing their positions, it is left. Answer: Yes.", "Answer: Yes.")
        True
        >>> VERDICT.best_guess(["Point 1 is closer.", "Point 2 is closer.", "Point 2 is closer."])
        'Point 2 is closer.'
    """

    def right(self, reply: str, truth: str) -> bool:
        """Whether both have the same verdict."""
        return read_verdict(reply) == read_verdict(truth)

    def error(self, reply: str, truth: str) -> float | None:
        """Always None: a verdict has no numeric error."""
        return None

    def best_guess(self, truths: Sequence[str]) -> str:
        """The first answer with the most frequent verdict."""
        common = Counter(map(read_verdict, truths)).most_common(1)[0][0]
        return next(truth for truth in truths if read_verdict(truth) == common)


@dataclass(frozen=True)
class LengthScoring:
    """A reply is right if its length is near the true one.

    Example:
        >>> LENGTH.error("The depth is 2.0 meters.", "The depth is 2.500 meters."), LENGTH.error("Far.", "1.000 meters")
        (0.2, 1.0)
        >>> LENGTH.best_guess(["1.000 meters", "2.000 meters", "50.0 centimeters"])
        '1.000 meters'

    Attributes:
        tolerance: maximum relative error of a right reply.
    """

    tolerance: float = 0.25

    def right(self, reply: str, truth: str) -> bool:
        """Whether the relative error is within the tolerance."""
        return self.error(reply, truth) <= self.tolerance

    def error(self, reply: str, truth: str) -> float:
        """abs(reply - truth) / truth; 1 if the reply contains no length."""
        found, expected = read_length(reply), read_length(truth)
        return 1.0 if found is None or not expected else abs(found - expected) / expected

    def best_guess(self, truths: Sequence[str]) -> str:
        """The median length; empty if no answer contains a length."""
        lengths = [length for truth in truths if (length := read_length(truth)) is not None]
        return f"{np.median(lengths):.3f} meters" if lengths else ""


VERDICT = VerdictScoring()
LENGTH = LengthScoring()


def read_length(text: str) -> float | None:
    """Read the last length in a text, in metres.

    Example:
        >>> read_length("It's 50 centimeters."), read_length("The depth is 2.341 meters."), read_length("Far.")
        (0.5, 2.341, None)
    """
    found = _LENGTH.findall(text)
    if not found:
        return None
    number, unit = found[-1]
    return float(number) / (100 if unit == "centimeter" else 1)


def read_verdict(text: str) -> str:
    """Read the verdict of a text: the words or the letter of an option after "Answer:", otherwise the whole text.

    Example:
        >>> read_verdict("Comparing their positions, it is left. Answer: Yes."), read_verdict(" Point 1 is closer. ")
        ('Yes', 'Point 1 is closer.')
    """
    found = _VERDICT.findall(text)
    return found[-1] if found else text.strip()
