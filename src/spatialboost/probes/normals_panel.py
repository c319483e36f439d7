"""The picture of one test view of the normals probe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class NormalsPanel:
    """One test view from left to right: image, true normals, and the normals that each encoder predicts.

    Attributes:
        title: the view's source.
        image_HW3: uint8 ``(H, W, 3)``.
        truth: unit normals ``(rows, columns, 3)`` of the patches, NaN where they are not known.
        predictions: unit normals of the patches by encoder, in the same shape.
    """

    title: str
    image_HW3: np.ndarray
    truth: np.ndarray
    predictions: Mapping[str, np.ndarray]

    @property
    def num_pictures(self) -> int:
        """Number of pictures: image, truth, and one for each encoder."""
        return 2 + len(self.predictions)

    @property
    def aspect(self) -> float:
        """Height of the view over its width."""
        return self.image_HW3.shape[0] / self.image_HW3.shape[1]

    def draw(self, axes: Sequence[Any]) -> None:
        """Draw the pictures; red, green and blue are the directions right, up and towards the camera."""
        height, width = self.image_HW3.shape[:2]
        axes[0].imshow(self.image_HW3)
        axes[0].set_title(self.title, fontsize=7, parse_math=False)
        pictures = {"true normals": self.truth, **self.predictions}
        for axis, (name, normals) in zip(axes[1:], pictures.items(), strict=True):
            axis.imshow(_colours(normals), extent=(-0.5, width - 0.5, height - 0.5, -0.5))
            error = ""
            if name in self.predictions:
                cosine = (normals * self.truth).sum(-1).clip(-1, 1)
                error = f", mean error {np.nanmean(np.degrees(np.arccos(cosine))):.0f} degrees"
            axis.set_title(f"{name}{error}", fontsize=7, parse_math=False)


def _colours(normals: np.ndarray) -> np.ndarray:
    """Colours from 0 to 1; grey where the normal is not known."""
    return np.nan_to_num(normals * (1, -1, -1) / 2 + 0.5, nan=0.3)
