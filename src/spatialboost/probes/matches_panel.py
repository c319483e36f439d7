"""The picture of one pair of views of the matches probe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MOST = 24  # points that are drawn


@dataclass(frozen=True)
class MatchesPanel:
    """One pair of views: for each encoder, lines from points of the first view to where it finds them in the second.

    Attributes:
        title: the source of the first view.
        images: both views, uint8 ``(H, W, 3)``.
        points_T2: (u, v) of the points in pixels of the first view.
        found: (u, v) in pixels of the second view ``(T, 2)``, by encoder.
        right: whether it is the right place ``(T,)``, by encoder.
    """

    title: str
    images: tuple[np.ndarray, np.ndarray]
    points_T2: np.ndarray
    found: Mapping[str, np.ndarray]
    right: Mapping[str, np.ndarray]

    @property
    def num_pictures(self) -> int:
        """One for each encoder."""
        return len(self.found)

    @property
    def aspect(self) -> float:
        """Height of both views beside each other over their width."""
        beside = self._beside()
        return beside.shape[0] / beside.shape[1]

    def draw(self, axes: Sequence[Any]) -> None:
        """Draw both views and evenly spaced points: green lines are right, red ones wrong."""
        offset = self.images[0].shape[1]
        chosen = np.unique(np.linspace(0, len(self.points_T2) - 1, min(MOST, len(self.points_T2))).round().astype(int))
        for axis, (name, found_T2) in zip(axes, self.found.items(), strict=True):
            axis.imshow(self._beside())
            for point in chosen:
                colour = "#3fb950" if self.right[name][point] else "#f85149"
                (u, v), (x, y) = self.points_T2[point], found_T2[point]
                axis.plot([u, x + offset], [v, y], "-o", color=colour, linewidth=0.6, markersize=1.5)
            share = f"{self.right[name].mean():.0%} of {len(found_T2)} points right"
            axis.set_title(f"{name}: {share}\n{self.title}", fontsize=7, parse_math=False)

    def _beside(self) -> np.ndarray:
        height = max(image.shape[0] for image in self.images)
        padded = [np.pad(image, ((0, height - image.shape[0]), (0, 0), (0, 0))) for image in self.images]
        return np.concatenate(padded, 1)
