"""The picture of one test view of the depth probe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class DepthPanel:
    """One test view from left to right: image, true depth, prediction of each encoder, error of each encoder.

    Attributes:
        title: the view's source.
        image_HW3: uint8 ``(H, W, 3)``.
        truth_HW: float ``(H, W)`` in metres, NaN where there is no reading.
        predictions: float ``(H, W)`` in metres by encoder.
    """

    title: str
    image_HW3: np.ndarray
    truth_HW: np.ndarray
    predictions: Mapping[str, np.ndarray]

    @property
    def num_pictures(self) -> int:
        """Number of pictures: image, truth, and two for each encoder."""
        return 2 + 2 * len(self.predictions)

    @property
    def aspect(self) -> float:
        """Height of the view over its width."""
        return self.image_HW3.shape[0] / self.image_HW3.shape[1]

    def draw(self, axes: Sequence[Any]) -> None:
        """Draw the pictures; all depths have the colour scale of the truth, all errors share a second scale."""
        nearest, farthest = np.nanmin(self.truth_HW), np.nanmax(self.truth_HW)
        errors = {name: np.abs(guess - self.truth_HW) for name, guess in self.predictions.items()}
        worst = max(float(np.nanpercentile(error, 98)) for error in errors.values())
        axes[0].imshow(self.image_HW3)
        axes[0].set_title(self.title, fontsize=7, parse_math=False)
        shown = axes[1].imshow(self.truth_HW, cmap="turbo", vmin=nearest, vmax=farthest)
        axes[1].set_title("true depth [m]", fontsize=7)
        _colour_bar(axes[1], shown, extend="both")  # predictions may lie beyond the truth of this view
        for axis, (name, guess) in zip(axes[2:], self.predictions.items(), strict=False):
            axis.imshow(guess, cmap="turbo", vmin=nearest, vmax=farthest)
            axis.set_title(f"depth by {name} [m]", fontsize=7, parse_math=False)
        for axis, (name, error) in zip(axes[2 + len(errors) :], errors.items(), strict=True):
            shown = axis.imshow(error, cmap="magma", vmin=0, vmax=worst)
            axis.set_title(f"error of {name}, RMSE {np.nanmean(error**2) ** 0.5:.2f} m", fontsize=7, parse_math=False)
        _colour_bar(axes[-1], shown, extend="max")


def _colour_bar(axis: Any, picture: Any, extend: str) -> None:
    axis.figure.colorbar(picture, ax=axis, fraction=0.04, extend=extend).ax.tick_params(labelsize=6)
