"""How a reply is compared with the true answer: by its verdict, or by the length that it names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

_LENGTH = re.compile(r"(\d+(?:\.\d+)?) ?(centimeter|meter)")
_VERDICT = re.compile(r"Answer: (Yes|No)")


class Scoring(Protocol):
    """How replies to one kind of question are scored."""

    def right(self, reply: str, truth: str) -> bool:
        """Whether a reply counts as right."""

    def error(self, reply: str, truth: str) -> float | None:
        """The relative error of a reply; None where answers are not numbers."""

    def best_guess(self, truths: Sequence[str]) -> str:
        """The one reply that suits all these true answers best: what can be reached without looking."""


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
        """Whether both say the same in the end."""
        return read_verdict(reply) == read_verdict(truth)

    def error(self, reply: str, truth: str) -> float | None:
        """None: a verdict has no error."""
        return None

    def best_guess(self, truths: Sequence[str]) -> str:
        """The first of the answers that have the most frequent verdict."""
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
        tolerance: the largest relative error of a right reply.
    """

    tolerance: float = 0.25

    def right(self, reply: str, truth: str) -> bool:
        """Whether the relative error is within the tolerance."""
        return self.error(reply, truth) <= self.tolerance

    def error(self, reply: str, truth: str) -> float:
        """abs(reply - truth) / truth; 1 where the reply names no length."""
        found, expected = read_length(reply), read_length(truth)
        return 1.0 if found is None or not expected else abs(found - expected) / expected

    def best_guess(self, truths: Sequence[str]) -> str:
        """The median length; empty if no answer names one."""
        lengths = [length for truth in truths if (length := read_length(truth)) is not None]
        return f"{np.median(lengths):.3f} meters" if lengths else ""


VERDICT = VerdictScoring()
LENGTH = LengthScoring()
_LENGTHS = ("depth", "distance")


def scoring_of(kind: str) -> Scoring:
    """How answers of a kind of question are scored.

    Example:
        >>> scoring_of("depth").right("The depth is 2.0 meters.", "The depth is 2.500 meters.")
        True
    """
    return LENGTH if kind in _LENGTHS else VERDICT


def read_length(text: str) -> float | None:
    """The last length that a text names, in metres.

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
    """The verdict of a text: Yes or No after its reasons, else the whole text.

    Example:
        >>> read_verdict("Comparing their positions, it is left. Answer: Yes."), read_verdict(" Point 1 is closer. ")
        ('Yes', 'Point 1 is closer.')
    """
    found = _VERDICT.findall(text)
    return found[-1] if found else text.strip()
