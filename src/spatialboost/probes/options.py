"""The options that every probe has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from spatialboost.errors import SpatialBoostError

MOST_PIXELS = 16_384


@dataclass(frozen=True)
class CommonOptions:
    """The options that every probe has.

    Attributes:
        image_size: (height, width) in pixels to which the whole image is resized, or one number for both.
        layer: block after which tokens are read, from 0, negative from the end; the tokens of several are joined along
            their width. The final norm is applied to the last layer only.
        batch_size: images that go through the encoder at a time.
        seeds: one run for each seed, with its own draw of the training items.
        subset: share of the training items that a seed draws.
        num_panels: test items in the picture, evenly spaced, with the predictions of the first seed's run.
        progress: show a progress bar.

    Raises:
        SpatialBoostError: no seed, or a number out of its range.
    """

    image_size: int | tuple[int, int] = 224
    layer: int | Sequence[int] = -1
    batch_size: int = 16
    seeds: Sequence[int] = (0, 1, 2)
    subset: float = 0.8
    num_panels: int = 4
    progress: bool = False

    def __post_init__(self) -> None:
        if not len(self.seeds):
            raise SpatialBoostError(f"seeds are {self.seeds}; expected at least one")
        if not 0 < self.subset <= 1:
            raise SpatialBoostError(f"subset is {self.subset}; expected a share above 0 and up to 1")
        sides = (self.image_size,) if isinstance(self.image_size, int) else tuple(self.image_size)
        if not all(1 <= side <= MOST_PIXELS for side in sides):
            raise SpatialBoostError(f"image_size is {self.image_size}; expected 1 to {MOST_PIXELS} pixels")
        if not all(0 <= seed < 2**32 for seed in self.seeds):
            raise SpatialBoostError(f"seeds are {self.seeds}; expected whole numbers from 0 to {2**32 - 1}")
        if self.batch_size < 1 or self.num_panels < 0:
            raise SpatialBoostError(
                f"batch_size is {self.batch_size} and num_panels {self.num_panels}; expected at least 1 and at least 0"
            )
