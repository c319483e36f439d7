"""How large an image may be."""

from __future__ import annotations

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
