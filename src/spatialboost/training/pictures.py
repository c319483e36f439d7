"""Pictures of what a run has changed, for its own images: depth from a linear probe, and the colours of its tokens."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from spatialboost.boosting import disabled
from spatialboost.errors import SpatialBoostError
from spatialboost.probes.token_colours import principal_colours, relative_change
from spatialboost.scenes.dataset.reader import open_depth, open_image
from spatialboost.teachers.protocol import BAD_DATA, row_images

# Shape legend: V images, N patches, D width of the tokens, h and w rows and columns of patches.

MOST_TOKENS = 4  # images whose tokens are shown as colours
FIT_ON, MEASURE_ON, SHOWN = 48, 12, 3  # rows of the depth probe, and those of them in its picture


@dataclass(frozen=True)
class TokenPicture:
    """One image, its tokens from the base and from the boosted encoder as colours, and how much they differ.

    Attributes:
        row: Number of the row.
        image: JPEG of the image.
        base: PNG of the base encoder's tokens.
        boosted: PNG of the boosted encoder's tokens, in the same colours.
        change: PNG of the difference of each token.
        mean_change: Mean over the tokens of norm(boosted - base) / norm(base).
    """

    row: int
    image: bytes
    base: bytes
    boosted: bytes
    change: bytes
    mean_change: float


def token_pictures(
    encoder: nn.Module, rows: Any, numbers: Sequence[int], *, image_size: Any, layer: int
) -> list[TokenPicture]:
    """Show tokens as colours: their first three principal components, over both encoders and all images together.

    Args:
        encoder: The boosted encoder.
        rows: Rows with ``images``.
        numbers: Rows to show; of each the first image, at most `MOST_TOKENS`.
        image_size: Image size for the encoder.
        layer: Block whose output is read.

    Raises:
        SpatialBoostError: No row can be read.
    """
    from spatialboost.probes.features import read_features

    images = _read(rows, numbers, MOST_TOKENS, lambda row: np.asarray(open_image(row_images(row)[0])))
    reading: dict[str, Any] = {"image_size": image_size, "layer": layer}
    with disabled(encoder):
        base = read_features(encoder, images.values(), **reading)
    boosted = read_features(encoder, images.values(), **reading)
    base_VND, boosted_VND = base.tokens_VND, boosted.tokens_VND
    colours_2VN3 = principal_colours(torch.stack([base_VND, boosted_VND]))
    change_VN = relative_change(base_VND, boosted_VND)
    # one scale for all images; float noise of an encoder that has not changed is no change
    shade_VN = (change_VN / change_VN.max().clamp(min=1e-4)).numpy()
    found = []
    for place, (row, image) in enumerate(images.items()):
        height = round(224 * image.shape[0] / image.shape[1])
        base_hw3, boosted_hw3 = (colours_2VN3[which, place].unflatten(0, base.grid).numpy() for which in (0, 1))
        change_hw3 = _heat(shade_VN[place].reshape(base.grid))
        found.append(
            TokenPicture(
                row,
                image=small_photo(image, 224),
                base=_png(base_hw3, (224, height)),
                boosted=_png(boosted_hw3, (224, height)),
                change=_png(change_hw3, (224, height)),
                mean_change=float(change_VN[place].mean()),
            )
        )
    return found


def depth_pictures(
    encoder: nn.Module, rows: Any, training: Sequence[int], held_out: Sequence[int], *, image_size: Any, layer: int
) -> tuple[Any, bytes]:
    """Fit the linear depth probe on training rows, measure base and boosted on held-out rows, and draw some of these.

    Args:
        encoder: The boosted encoder.
        rows: Rows with ``images`` and ``depths``.
        training: Rows to fit on; at most `FIT_ON`, evenly spaced, of each the first view.
        held_out: Rows to measure on; at most `MEASURE_ON`.
        image_size: Image size for the encoder.
        layer: Block whose output is read.

    Returns:
        The result of the probe, and a PNG.

    Raises:
        SpatialBoostError: Too few rows can be read.
    """
    from matplotlib.figure import Figure

    from spatialboost.probes.depth import depth_probe
    from spatialboost.probes.pictures import CELL
    from spatialboost.scenes.cues import Cues

    def view(row: Mapping[str, Any]) -> Cues:
        depths = row.get("depths")
        if not depths:
            raise SpatialBoostError("it has no depth map")
        return Cues(np.asarray(open_image(row_images(row)[0])), open_depth(depths[0]), np.eye(3), "image")

    fit_on, test_on = (
        list(_read(rows, numbers, most, view).values())
        for numbers, most in ((training, FIT_ON), (held_out, MEASURE_ON))
    )
    result = depth_probe(encoder, fit_on, test_on, image_size=image_size, layer=layer, num_panels=SHOWN)
    panels = result.panels
    size = (CELL * panels[0].num_pictures, sum(CELL * panel.aspect + 0.3 for panel in panels))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(panels), panels[0].num_pictures, squeeze=False)
    for row, panel in zip(axes, panels, strict=True):
        panel.draw(row)
        for axis in row:
            axis.set_xticks([])
            axis.set_yticks([])
    stream = io.BytesIO()
    figure.savefig(stream, dpi=100)
    return result, stream.getvalue()


def _read(rows: Any, numbers: Sequence[int], most: int, read: Any) -> dict[int, Any]:
    """What `read` makes of some evenly spaced rows, by row number; rows that cannot be read are passed over."""
    found: dict[int, Any] = {}
    step = max(1, len(numbers) // most)
    reason = "there is none"
    for number in [*numbers[::step], *(n for place, n in enumerate(numbers[: 4 * most]) if place % step)]:
        if len(found) == most:
            break
        try:
            found[number] = read(rows[number])
        except BAD_DATA as error:
            reason = str(error)
    if not found:
        raise SpatialBoostError(f"no row can be read: {reason}")
    return dict(sorted(found.items()))


def _heat(values_hw: np.ndarray) -> np.ndarray:
    from matplotlib import colormaps

    return colormaps["magma"](values_hw)[..., :3]


def _png(colours_hw3: np.ndarray, size: tuple[int, int]) -> bytes:
    from PIL import Image

    image = Image.fromarray((colours_hw3 * 255).round().astype(np.uint8))
    stream = io.BytesIO()
    image.resize(size, Image.Resampling.NEAREST).save(stream, "PNG")
    return stream.getvalue()


def small_photo(image_HW3: np.ndarray, width: int) -> bytes:
    """A JPEG of an image that is not wider than a number of pixels."""
    from PIL import Image

    image = Image.fromarray(image_HW3)
    if image.width > width:
        image = image.resize((width, max(1, round(width * image.height / image.width))))
    stream = io.BytesIO()
    image.convert("RGB").save(stream, "JPEG", quality=85)
    return stream.getvalue()
