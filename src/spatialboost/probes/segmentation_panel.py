"""The picture of one test image of the segmentation probe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np


@dataclass(frozen=True)
class SegmentationPanel:
    """One test image from left to right: image, true classes, and the classes that each encoder predicts.

    Attributes:
        title: name of the image.
        image_HW3: uint8 ``(H, W, 3)``.
        truth_HW: class of each pixel, -1 where it is not measured.
        predictions: class of each pixel by encoder.
    """

    title: str
    image_HW3: np.ndarray
    truth_HW: np.ndarray
    predictions: Mapping[str, np.ndarray]

    @property
    def num_pictures(self) -> int:
        """Number of pictures: image, truth, and one for each encoder."""
        return 2 + len(self.predictions)

    @property
    def aspect(self) -> float:
        """Height of the image over its width."""
        return self.image_HW3.shape[0] / self.image_HW3.shape[1]

    def draw(self, axes: Sequence[Any]) -> None:
        """Draw the pictures; a class has the same colour in all of them, and what is not measured is black."""
        axes[0].imshow(self.image_HW3)
        axes[0].set_title(PurePath(self.title).name[-32:], fontsize=7, parse_math=False)
        pictures = {"true classes": self.truth_HW, **self.predictions}
        for axis, (name, classes_HW) in zip(axes[1:], pictures.items(), strict=True):
            axis.imshow(_colours(np.where(self.truth_HW < 0, -1, classes_HW)))
            right = (classes_HW == self.truth_HW)[self.truth_HW >= 0]
            text = f", {right.mean():.0%} right" if name in self.predictions and len(right) else ""
            axis.set_title(f"{name}{text}", fontsize=7, parse_math=False)


def _colours(classes_HW: np.ndarray) -> np.ndarray:
    """Colours that are far from each other for neighbouring numbers: the golden ratio on the circle of hues."""
    from matplotlib.colors import hsv_to_rgb

    hue = (classes_HW * 0.618034) % 1
    light = 0.55 + 0.45 * ((classes_HW * 0.7548776) % 1)
    return hsv_to_rgb(np.stack([hue, np.full_like(hue, 0.75), np.where(classes_HW < 0, 0, light)], -1))
