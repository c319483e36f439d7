"""Windows of images: a random one for a step of training, a grid of them for a test, the middle for classification."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

# Shape legend: H and W pixels of an image, h and w pixels of a window.

FINE = 4  # labels or depths of a patch in each direction, to which a head is trained on stored features
FILL = (124, 116, 104)  # the mean colour of ImageNet: about 0 once it is normalised


Reading = Literal["stored", "fresh"]  # features of whole images, read once; those of random windows, at each step


@dataclass(frozen=True)
class Window:
    """A part of a resized image.

    Example:
        >>> window = Window(resized=(4, 8), top=0, left=4, size=(4, 4))
        >>> window.of_image(np.zeros((2, 4, 3), np.uint8)).shape
        (4, 4, 3)
        >>> window.of_map(np.array([[1.0, 2, 3, 4]])).tolist()[0]
        [3.0, 3.0, 4.0, 4.0]

    Attributes:
        resized: height and width to which the whole image is resized.
        top: first row of the window.
        left: first column of the window.
        size: height and width of the window; what is outside of the image has the colour `FILL`.
        mirrored: whether left and right are exchanged.
    """

    resized: tuple[int, int]
    top: int
    left: int
    size: tuple[int, int]
    mirrored: bool = False

    def of_image(self, image_HW3: np.ndarray) -> np.ndarray:
        """The window of an image, uint8 ``(h, w, 3)``."""
        from PIL import Image

        if image_HW3.shape[:2] != self.resized:
            image = Image.fromarray(image_HW3).resize(self.resized[::-1], Image.Resampling.BICUBIC)
            image_HW3 = np.asarray(image)
        bottom, right = self.top + self.size[0], self.left + self.size[1]
        part = image_HW3[self.top : bottom, self.left : right]
        if part.shape[:2] != self.size:
            whole = np.empty((*self.size, 3), np.uint8)
            whole[:] = FILL
            whole[: part.shape[0], : part.shape[1]] = part
            part = whole
        return np.ascontiguousarray(part[:, ::-1] if self.mirrored else part)

    def of_map(self, map_HW: np.ndarray, outside: float = np.nan) -> np.ndarray:
        """The window of a map by the nearest pixel, since a mean of classes or of depths has no meaning.

        Args:
            map_HW: a value of each pixel.
            outside: the value outside of the image.
        """
        rows, columns = (
            ((start + np.arange(length) + 0.5) * full / resized).astype(int)
            for start, length, full, resized in zip(
                (self.top, self.left), self.size, map_HW.shape, self.resized, strict=True
            )
        )
        part = map_HW[np.ix_(rows.clip(max=map_HW.shape[0] - 1), columns.clip(max=map_HW.shape[1] - 1))]
        part[rows >= map_HW.shape[0]] = outside
        part[:, columns >= map_HW.shape[1]] = outside
        return np.ascontiguousarray(part[:, ::-1] if self.mirrored else part)


def whole(size: tuple[int, int], *, mirrored: bool = False) -> Window:
    """The whole image, squeezed to a size."""
    return Window(size, 0, 0, size, mirrored)


def random_window(
    image: tuple[int, int], size: tuple[int, int], zooms: Sequence[float], *, squeezed: bool
) -> tuple[Window, float]:
    """A window at a random place, mirrored or not, of the image resized by a random zoom; and the zoom.

    It draws from torch's global generator.

    Args:
        image: height and width of the image.
        size: height and width of the window.
        zooms: smallest and largest zoom. With 1 the image just covers the window.
        squeezed: whether the image takes the window's aspect, as where whole images are squeezed to one size.
    """
    draw = torch.rand(4).tolist()
    zoom = zooms[0] + (zooms[-1] - zooms[0]) * draw[0]
    resized = _resized(size if squeezed else image, size, zoom)
    top, left = (
        int(place * (max(0, whole - part) + 1)) for place, whole, part in zip(draw[1:3], resized, size, strict=True)
    )
    return Window(resized, top, left, size, mirrored=draw[3] < 0.5), zoom


def sliding_windows(image: tuple[int, int], size: tuple[int, int], stride: float, scale: float) -> list[Window]:
    """Windows that together cover the image, which keeps its aspect.

    Example:
        >>> windows = sliding_windows((480, 720), (512, 512), stride=2 / 3, scale=1.0)
        >>> windows[0].resized, [(window.top, window.left) for window in windows]
        ((512, 768), [(0, 0), (0, 256)])

    The last window of a row or column ends at the border of the image, as in the sliding inference of mmsegmentation.

    Args:
        image: height and width of the image.
        size: height and width of a window.
        stride: step from one window to the next, as a share of its side.
        scale: at 1, the image just covers a window.
    """
    resized = _resized(image, size, scale)
    tops, lefts = (_starts(whole, part, max(1, int(stride * part))) for whole, part in zip(resized, size, strict=True))
    return [Window(resized, top, left, size) for top in tops for left in lefts]


def middle(image: tuple[int, int], size: tuple[int, int]) -> Window:
    """The middle of an image that keeps its aspect and is 8/7 of the window, as in the usual test on ImageNet."""
    resized = _resized(image, size, 8 / 7)
    return Window(resized, (resized[0] - size[0]) // 2, (resized[1] - size[1]) // 2, size)


def _resized(image: tuple[int, int], size: tuple[int, int], zoom: float) -> tuple[int, int]:
    """The image's height and width, so that with a zoom of 1 it just covers the window."""
    factor = zoom * max(size[0] / image[0], size[1] / image[1])
    return max(1, round(factor * image[0])), max(1, round(factor * image[1]))


def _starts(whole: int, part: int, step: int) -> list[int]:
    num = math.ceil(max(0, whole - part) / step) + 1
    return [min(place * step, max(0, whole - part)) for place in range(num)]
