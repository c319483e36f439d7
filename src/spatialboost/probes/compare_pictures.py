"""The pictures of `compare`: a photograph with its tokens, its depth, and matches to another photograph."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Shape legend: H and W pixels, h and w rows and columns of patches, M matches.

MOST = 40  # matches that are drawn
_WIDTH, _TITLE = 12.0, 0.35  # inches: width of a figure, height of its title


def token_picture(
    image_HW3: np.ndarray, colours: Mapping[str, np.ndarray], change_hw: np.ndarray, most: float
) -> bytes:
    """A PNG: the photograph, the tokens of each encoder as colours, and how much each token has changed.

    Args:
        image_HW3: the photograph.
        colours: colours from 0 to 1 ``(h, w, 3)`` by encoder.
        change_hw: relative change of each token.
        most: largest change in all photographs, which is white.
    """
    figure, axes = _row(image_HW3, 2 + len(colours))
    extent = _extent(image_HW3)
    for axis, (name, colours_hw3) in zip(axes[1:], colours.items(), strict=False):
        axis.imshow(colours_hw3, extent=extent, interpolation="nearest")
        axis.set_title(f"tokens, {name}", fontsize=9)
    axes[-1].imshow(change_hw, cmap="magma", vmin=0, vmax=most, extent=extent, interpolation="nearest")
    axes[-1].set_title(f"change: {change_hw.mean():.1%} of the norm", fontsize=9)
    return _png(figure)


def depth_picture(image_HW3: np.ndarray, depths: Mapping[str, np.ndarray]) -> bytes:
    """A PNG: the photograph, and the depth in metres ``(H, W)`` by each encoder, with one colour scale."""
    figure, axes = _row(image_HW3, 1 + len(depths))
    values = np.concatenate([depth_HW.ravel() for depth_HW in depths.values()])
    near, far = np.percentile(values, (2, 98)).tolist()
    for axis, (name, depth_HW) in zip(axes[1:], depths.items(), strict=True):
        drawn = axis.imshow(depth_HW, cmap="turbo", vmin=near, vmax=max(far, near + 1e-3))
        axis.set_title(f"depth, {name} [m]", fontsize=9)
    figure.colorbar(drawn, ax=axes[-1], fraction=0.04, extend="both").ax.tick_params(labelsize=7)
    return _png(figure)


def match_picture(
    images: tuple[np.ndarray, np.ndarray], grid: tuple[int, int], matches: Mapping[str, np.ndarray]
) -> bytes:
    """A PNG: for each encoder, both photographs beside each other and lines between patches that match.

    A line has the colour of its place in the first photograph, from left to right.

    Args:
        images: the two photographs, of any sizes.
        grid: rows and columns of patches.
        matches: numbers of the patches ``(M, 2)`` by encoder.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    height = max(image.shape[0] for image in images)
    widths = [image.shape[1] * height / image.shape[0] for image in images]
    total = sum(widths)
    size = (_WIDTH, _WIDTH / len(matches) * height / total + _TITLE)
    figure = Figure(figsize=size, layout="constrained")
    for axis, (name, pairs_M2) in zip(figure.subplots(1, len(matches), squeeze=False)[0], matches.items(), strict=True):
        for image, left, wide in zip(images, (0.0, widths[0]), widths, strict=True):
            axis.imshow(image, extent=(left, left + wide, height, 0))
        chosen = np.unique(np.linspace(0, len(pairs_M2) - 1, min(MOST, len(pairs_M2))).round().astype(int))
        for pair in pairs_M2[chosen]:
            (x1, y1), (x2, y2) = (_centre(number, grid) for number in pair)
            line = [x1 * widths[0], widths[0] + x2 * widths[1]], [y1 * height, y2 * height]
            axis.plot(*line, "-o", color=colormaps["turbo"](x1), linewidth=0.8, markersize=2)
        axis.set_xlim(0, total)
        axis.set_ylim(height, 0)
        axis.set_xticks([])
        axis.set_yticks([])
        number = f"{len(pairs_M2)} of {grid[0] * grid[1]} patches match both ways"
        axis.set_title(f"{name}: {number}", fontsize=9, parse_math=False)
    return _png(figure)


def _centre(number: int, grid: tuple[int, int]) -> tuple[float, float]:
    """(x, y) of the centre of a patch, as shares of the image's size."""
    row, column = divmod(int(number), grid[1])
    return (column + 0.5) / grid[1], (row + 0.5) / grid[0]


def _row(image_HW3: np.ndarray, num: int) -> tuple[Any, Sequence[Any]]:
    """A figure with a row of pictures, the photograph first."""
    from matplotlib.figure import Figure

    height = _WIDTH / num * image_HW3.shape[0] / image_HW3.shape[1]
    figure = Figure(figsize=(_WIDTH, height + _TITLE), layout="constrained")
    axes = figure.subplots(1, num, squeeze=False)[0]
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
    axes[0].imshow(image_HW3)
    axes[0].set_title("image", fontsize=9)
    return figure, axes


def _extent(image_HW3: np.ndarray) -> tuple[float, float, float, float]:
    """Where tokens are drawn, so that they have the shape of the photograph."""
    return (0, image_HW3.shape[1], image_HW3.shape[0], 0)


def _png(figure: Any) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, dpi=100)
    return stream.getvalue()
