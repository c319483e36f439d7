"""The options that every probe has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from spatialboost.errors import SpatialBoostError

QUARTERS = "quarters"
Layer = int | Sequence[int] | str  # the only text is QUARTERS
MOST_PIXELS = 16_384


@dataclass(frozen=True)
class CommonOptions:
    """The options that every probe has.

    Attributes:
        image_size: (height, width) in pixels to which the whole image is resized, or one number for both.
        layer: block after which tokens are read, from 0, negative from the end; the tokens of several are joined along
            their width; ``"quarters"`` is the last block of each quarter of the encoder. The final norm is applied to
            the last layer only.
        batch_size: images that go through the encoder at a time.
        seeds: one run for each seed, with its own draw of the training items.
        subset: share of the training items that a seed draws.
        num_panels: test items in the picture, evenly spaced, with the predictions of the first seed's run.
        progress: show a progress bar.
        protocol: name of the published protocol that the options follow, and what is changed of it. Its image size is
            then rounded to whole patches of the encoder.

    Raises:
        SpatialBoostError: no seed, or a number out of its range.
    """

    image_size: int | tuple[int, int] = 224
    layer: Layer = -1
    batch_size: int = 16
    seeds: Sequence[int] = (0, 1, 2)
    subset: float = 0.8
    num_panels: int = 4
    progress: bool = False
    protocol: str | None = None

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


def fit_to_patches(image_size: int | tuple[int, int], patch: int) -> tuple[int, int]:
    """Height and width, rounded to whole patches.

    Example:
        >>> fit_to_patches(512, 14), fit_to_patches((480, 640), 16)
        ((518, 518), (480, 640))
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    return max(1, round(height / patch)) * patch, max(1, round(width / patch)) * patch


def parse_size(text: str) -> int | tuple[int, int]:
    """The image size that a command line says.

    Example:
        >>> parse_size("224"), parse_size("480x640")
        (224, (480, 640))

    Raises:
        SpatialBoostError: it is neither a number nor two.
    """
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and len(side) < 10 for side in sides):
        raise SpatialBoostError(f"image_size is {text!r}; expected pixels such as 224, or height and width: 480x640")
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))


def parse_layer(words: Sequence[str]) -> Layer:
    """The layers that a command line says: numbers, or ``quarters``.

    Example:
        >>> parse_layer(["-1"]), parse_layer(["3", "-1"]), parse_layer(["quarters"])
        (-1, (3, -1), 'quarters')

    Raises:
        SpatialBoostError: a word is no whole number.
    """
    if list(words) == [QUARTERS]:
        return QUARTERS
    try:
        numbers = tuple(int(word) for word in words)
    except ValueError:
        raise SpatialBoostError(f"layer is {' '.join(words)!r}; expected whole numbers, or {QUARTERS} alone") from None
    return numbers[0] if len(numbers) == 1 else numbers
