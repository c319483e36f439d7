"""Score a reply against the true answer: by its verdict, or by one length or several in metres."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

_LENGTH = re.compile(r"(\d+(?:\.\d+)?) ?(centimeter|meter)")
_LISTED = re.compile(r": ?(\d+(?:\.\d+)?)")
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


@dataclass(frozen=True)
class LengthsScoring:
    """A reply is a list of lengths, such as "(0.12, 0.38): 2.3; (0.62, 0.12): 3.1.", compared place by place.

    Example:
        >>> LENGTHS.error("B3: 2.0; A1: 3.0.", "B3: 2.5; A1: 3.0."), LENGTHS.error("B3: 2.5.", "B3: 2.5; A1: 3.0.")
        (0.1, 0.5)

    Attributes:
        tolerance: maximum relative error of a length that counts as right.
    """

    tolerance: float = 0.25

    def right(self, reply: str, truth: str) -> bool:
        """Whether more than half of the lengths are within the tolerance."""
        errors = self._errors(reply, truth)
        return sum(error <= self.tolerance for error in errors) * 2 > len(errors)

    def error(self, reply: str, truth: str) -> float:
        """The mean relative error of the lengths; a length that is missing has an error of 1."""
        errors = self._errors(reply, truth)
        return float(np.mean(errors)) if errors else 1.0

    def best_guess(self, truths: Sequence[str]) -> str:
        """The median length at every place; empty if no answer contains a length."""
        lists = [read_lengths(truth) for truth in truths]
        lengths = [length for each in lists for length in each]
        return "; ".join([f": {np.median(lengths):.1f}"] * max(map(len, lists))) if lengths else ""

    def _errors(self, reply: str, truth: str) -> list[float]:
        found, expected = read_lengths(reply), read_lengths(truth)
        missing = [None] * (len(expected) - len(found))
        pairs = zip([*found, *missing], expected, strict=False)
        return [1.0 if said is None or not true else abs(said - true) / true for said, true in pairs]


VERDICT = VerdictScoring()
LENGTH = LengthScoring()
LENGTHS = LengthsScoring()


def read_lengths(text: str) -> list[float]:
    """Read the numbers of a list, each after a colon.

    Example:
        >>> read_lengths("(0.12, 0.38): 2.3; (0.62, 0.12): 3.1."), read_lengths("Far.")
        ([2.3, 3.1], [])
    """
    return [float(number) for number in _LISTED.findall(text)]


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
