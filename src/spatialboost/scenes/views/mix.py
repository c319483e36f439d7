"""The number of views of each item of a source."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from spatialboost.errors import SpatialBoostError

PAPER_MIX = {2: 160.0, 4: 30.0, 8: 10.0}
MAX_VIEWS = 1000
_EXPECTED = "expected a number such as 2, counts with their weights such as 2:160,4:30,8:10, or mix for these weights"


@dataclass(frozen=True)
class ViewMix:
    """Numbers of views and their weights.

    Example:
        >>> ViewMix.parse("mix").name, ViewMix.parse("4").counts
        ('2:160,4:30,8:10 views', (4,))
        >>> [ViewMix.parse("2:1,4:1").draw(item) for item in range(6)]
        [4, 2, 4, 4, 2, 4]

    Raises:
        SpatialBoostError: there is no number, one is not in 1 to 1000, or a weight is not positive.

    Source: the paper's appendix (160K samples of 2 views, 30K of 4 and 10K of 8).
    """

    weights: Mapping[int, float]  # number of views -> its weight in the draw

    def __post_init__(self) -> None:
        for count, weight in self.weights.items():
            if not 1 <= count <= MAX_VIEWS:
                raise SpatialBoostError(f"views is {count}; expected at least 1 and at most {MAX_VIEWS}")
            if not 0 < weight < float("inf"):
                raise SpatialBoostError(f"the weight of {count} views is {weight}; expected a positive number")
        if not self.weights:
            raise SpatialBoostError(f"views is empty; {_EXPECTED}")

    @classmethod
    def parse(cls, text: str) -> ViewMix:
        """Read "2", "mix" or "2:160,4:30,8:10".

        Raises:
            SpatialBoostError: the text has another form, or names a number twice.
        """
        if text == "mix":
            return cls(PAPER_MIX)
        if re.fullmatch(r"-?[0-9]{1,9}", text):
            return cls({int(text): 1.0})
        parts = [re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9}(?:\.[0-9]{1,9})?)", part) for part in text.split(",")]
        found = [(int(part[1]), float(part[2])) for part in parts if part]
        if len(found) < len(parts) or len(dict(found)) < len(found):
            raise SpatialBoostError(f"views is {text[:80]!r}; {_EXPECTED}")
        return cls(dict(found))

    @classmethod
    def of(cls, views: int | ViewMix) -> ViewMix:
        """A mix of one number of views, or the mix itself."""
        return views if isinstance(views, ViewMix) else cls({views: 1.0})

    @property
    def counts(self) -> tuple[int, ...]:
        """The numbers of views, from small to large."""
        return tuple(sorted(self.weights))

    @property
    def name(self) -> str:
        """The mix as text, for the settings of a data set."""
        if len(self.weights) == 1:
            return f"{self.counts[0]} views"
        return f"{','.join(f'{count}:{self.weights[count]:g}' for count in self.counts)} views"

    def draw(self, item: int) -> int:
        """The number of views of an item: always the same for the same item."""
        if len(self.weights) == 1:
            return self.counts[0]
        chances = np.array([self.weights[count] for count in self.counts])
        return int(np.random.default_rng([item, 0x4D1C]).choice(self.counts, p=chances / chances.sum()))
