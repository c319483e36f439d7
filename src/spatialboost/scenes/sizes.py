"""How large an image may be, and images and masks of another size."""

from __future__ import annotations

import numpy as np
from PIL import Image

from spatialboost.errors import SpatialBoostError

MAX_EDGE = 2**14  # pixels; JPEG files cannot have more than 65,535
MAX_PIXELS = 2**25  # rendering a room takes about 150 bytes for each pixel


def validate_size(size: int | tuple[int, int], views: int = 1) -> None:
    """Raise if images of this size cannot be made or do not fit into memory.

    Example:
        >>> validate_size(224), validate_size((240, 320), views=2)
        (None, None)

    Args:
        size: shorter edge, or ``(height, width)``, in pixels.
        views: number of images that are held at the same time.

    Raises:
        SpatialBoostError: an edge is below one pixel, or the images are too large.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise SpatialBoostError(f"size is {size}, expected at least one pixel")
    if max(height, width) > MAX_EDGE or height * width * views > MAX_PIXELS:
        of = f" and there are {views} views in each item" if views > 1 else ""
        raise SpatialBoostError(
            f"size is {height}x{width} pixels{of}; expected at most {MAX_EDGE} pixels for each edge and {MAX_PIXELS} "
            "in all images of an item"
        )


def resize_image(image_HW3: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A uint8 image of ``(height, width)``, with bilinear filtering; the image itself if it has this size.

    Example:
        >>> resize_image(np.zeros((4, 6, 3), np.uint8), (2, 3)).shape
        (2, 3, 3)
    """
    if image_HW3.shape[:2] == size:
        return image_HW3
    return np.asarray(Image.fromarray(image_HW3).resize(size[::-1], Image.Resampling.BILINEAR))


def nearest_pixels(old: tuple[int, int], new: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """Index of the rows and columns that give a map or mask of size ``old`` the size ``new``, by nearest neighbour.

    Example:
        >>> np.arange(8).reshape(2, 4)[nearest_pixels((2, 4), (1, 2))].tolist()
        [[5, 7]]
    """
    rows, columns = (
        np.minimum(((np.arange(after) + 0.5) * before / after).astype(int), before - 1)
        for before, after in zip(old, new, strict=True)
    )
    return np.ix_(rows, columns)
