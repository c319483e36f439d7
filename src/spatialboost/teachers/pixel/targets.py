"""Targets for the loss, made from the depth maps and label maps of rows."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spatialboost.errors import SpatialBoostError
from spatialboost.teachers.protocol import row_images, row_meta

# Shape legend: I images of a row, B images, N patches, H and W pixels.

IGNORE = -100  # what torch's cross entropy skips
NO_READING = 2**16 - 1  # besides 0, in depth maps of other software
DETAIL = 4  # label pixels along the side of a patch
Row = Mapping[str, Any]


class PixelTargets:
    """Makes the targets of a row from its columns ``depths`` and ``labels``. It can be pickled.

    Args:
        grid: Rows and columns of patches.
        depth: Make ``depth`` in metres, one value for each patch, 0 where unknown ``(I, rows, columns)``.
        classes: Names of the classes. Make ``classes``, the position in this list of each pixel's class, -100 where
            there is none ``(I, 4 rows, 4 columns)``. None makes no ``classes``.
        by_name: Compare the classes with all words of a description, not only with its last word.
    """

    def __init__(
        self, grid: tuple[int, int], *, depth: bool, classes: Sequence[str] | None, by_name: bool = False
    ) -> None:
        self.grid, self.depth, self.classes, self.by_name = grid, depth, classes, by_name

    def __call__(self, number: int, row: Row) -> dict[str, Tensor]:
        """The targets of a row, for each of its images."""
        targets = {}
        if self.depth:
            targets["depth"] = self._depth(_maps(row, "depths"))
        if self.classes is not None:
            targets["classes"] = self._classes(_maps(row, "labels"), descriptions(row))
        return targets

    def _depth(self, maps: Sequence[np.ndarray]) -> Tensor:
        read = [np.where(each == NO_READING, 0, each / 1000).astype(np.float32) for each in maps]
        metres = [torch.from_numpy(each)[None] for each in read]
        pooled = [patch_log_depth(each, None, self.grid) for each in metres]
        if not any(bool(known.any()) for _, known in pooled):
            raise SpatialBoostError("no pixel of its depth map has a depth above 0")
        return torch.cat([torch.where(known, log.exp(), 0.0).unflatten(1, self.grid) for log, known in pooled])

    def _classes(self, maps: Sequence[np.ndarray], names: Sequence[str]) -> Tensor:
        assert self.classes is not None
        numbers = [IGNORE] + [class_of(name, self.classes, by_name=self.by_name) for name in names]
        table = np.full(256, IGNORE, np.int64)
        table[: min(256, len(numbers))] = numbers[:256]
        size = (self.grid[0] * DETAIL, self.grid[1] * DETAIL)
        classes = torch.stack(
            [torch.from_numpy(_nearest(table[np.where((each < 0) | (each > 255), 0, each)], size)) for each in maps]
        )
        if not (classes != IGNORE).any():
            raise SpatialBoostError(f"none of its objects has one of the classes ({', '.join(self.classes)})")
        return classes


def descriptions(row: Row) -> list[str]:
    """Descriptions of a row's objects. Label i + 1 in the label map belongs to item i of this list.

    Example:
        >>> descriptions({"meta": '{"objects": [{"description": "red box"}]}'})
        ['red box']
    """
    return row_meta(row, "objects", "description")


def class_of(description: str, classes: Sequence[str], *, by_name: bool = False) -> int:
    """Number of the class of a described object, -100 if it has none of the classes.

    Example:
        >>> class_of("small red box", ["box", "sphere"]), class_of("a chair by the door", ["chair"], by_name=True)
        (0, 0)
    """
    words = description.lower().split()
    found = [i for i, name in enumerate(classes) if name in (words if by_name else words[-1:])]
    return found[0] if found else IGNORE


def collect_classes(found: Iterable[Sequence[str]], most: int = 64) -> list[str]:
    """The most frequent last words of the descriptions: in English the last word names the object.

    Example:
        >>> collect_classes([["red box", "blue sphere"], ["tall box"]])
        ['box', 'sphere']
    """
    count = Counter(words[-1] for names in found for name in names if (words := name.lower().split()))
    return sorted(name for name, _ in sorted(count.items(), key=lambda item: (-item[1], item[0]))[:most])


def patch_log_depth(depth: Tensor, valid: Tensor | None, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Mean log depth of the valid pixels of each patch ``(B, N)``, and whether the patch has any valid pixel.

    Example:
        >>> depth = torch.tensor([[[1.0, 0.0], [2.0, 2.0]]])
        >>> target, known = patch_log_depth(depth, None, (2, 1))
        >>> target.exp().tolist(), known.tolist()
        ([[1.0, 2.0]], [[True, True]])
    """
    usable = torch.isfinite(depth) & (depth > 0)
    usable = usable if valid is None else usable & valid.bool()
    log_BHW = torch.where(usable, depth, 1.0).log()
    share = nn.functional.adaptive_avg_pool2d(usable.float()[:, None], grid)
    mean = nn.functional.adaptive_avg_pool2d(torch.where(usable, log_BHW, 0.0)[:, None], grid) / share.clamp(min=1e-9)
    return mean.flatten(1), (share > 0).flatten(1)


def _maps(row: Row, column: str) -> list[np.ndarray]:
    """The maps of a row, one for each of its images."""
    found, images = row.get(column) or [], row_images(row)
    if not isinstance(found, (list, tuple)):
        raise SpatialBoostError(f"`{column}` is {found!r:.80}; expected a list with one map for each image")
    if len(found) != len(images) or not images:
        raise SpatialBoostError(f"it has {len(images)} images and {len(found)} {column}")
    maps = [_open_map(each) for each in found]
    return maps


def _open_map(image: Any) -> np.ndarray:
    """Read a depth map or label map without changing its numbers."""
    if isinstance(image, Mapping):
        from PIL import Image

        try:
            image = Image.open(io.BytesIO(image["bytes"]))
            image.load()
        except Exception as error:  # decoders raise many types of error on damaged bytes
            raise SpatialBoostError(f"a map cannot be decoded ({type(error).__name__}: {error})") from error
    values = np.asarray(image)
    if values.ndim != 2 or values.dtype.kind not in "iu":
        raise SpatialBoostError(f"a map is {values.dtype} {values.shape}; expected whole numbers (height, width)")
    return values


def _nearest(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a map: each new pixel gets the value at its centre."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(size, values.shape, strict=True)
    )
    return values[rows[:, None], columns]
