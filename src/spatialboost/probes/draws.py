"""The training items that each seed draws; they are drawn here once, so that every encoder gets the same items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Draw:
    """The training items of one run.

    Attributes:
        seed: seed of the draw; None if nothing is drawn and all items are used.
        items: their indices, in ascending order.
    """

    seed: int | None
    items: np.ndarray

    def folds(self, num: int) -> list[np.ndarray]:
        """The items cut into ``num`` parts of neighbours (fewer if there are fewer items).

        Frames of one walk resemble their neighbours, so random folds would be too easy.

        Example:
            >>> [fold.tolist() for fold in Draw(0, np.array([1, 2, 4, 7, 8])).folds(2)]
            [[1, 2, 4], [7, 8]]
        """
        return np.array_split(self.items, min(num, len(self.items)))


def draw_items(num: int, seed: int, subset: float) -> Draw:
    """Draw a share ``subset`` of ``num`` items at random, at least two items.

    Example:
        >>> draw_items(10, seed=0, subset=0.4).items.tolist()
        [2, 4, 6, 7]
    """
    drawn = np.random.default_rng(seed).permutation(num)[: max(2, round(subset * num))]
    return Draw(seed, np.sort(drawn))


def draw_for_seeds(num: int, seeds: Sequence[int], subset: float) -> list[Draw]:
    """One draw of the ``num`` training items for each seed."""
    return [draw_items(num, seed, subset) for seed in seeds]


def take_all(num: int) -> Draw:
    """All items, for the only run of a probe that draws nothing."""
    return Draw(None, np.arange(num))
