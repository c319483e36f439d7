"""Masks of a network as objects of a view: small ones are dropped, overlaps are resolved, and each gets a name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import SceneObject
from spatialboost.scenes.extract.naming import name_objects
from spatialboost.scenes.extract.protocol import Addition, PartialCues

# Shape legend: H, W = image height and width in pixels; a box is [x0, y0, x1, y1] in pixels, x1 and y1 outside of it.

MAX_OBJECTS = 8

_LEAST = 0.004  # smallest fraction of the image that an object covers
_MOST, _MOST_NAMED = 0.42, 0.9  # largest fraction; without a name, a larger one is usually a wall, the floor or the sky

_MAX_CUT = 1.7  # pixels on the image's border over the square root of the area; above it, it is a wall, a floor or sky
_INSIDE = 0.8  # fraction of the smaller mask above which it lies inside the larger one
_KEPT = 0.5  # fraction of a mask that must be left after its overlaps are given away
_STEP = 0.03  # relative difference of two depths above which one surface is in front of the other


@dataclass(frozen=True)
class Region:
    """A mask that may become an object."""

    mask_HW: np.ndarray  # bool (H, W)
    score: float  # confidence of the network, 0 to 1
    name: str = ""  # what it shows, such as "chair"; "" if that is not known


def objects_of(view: PartialCues, regions: Sequence[Region], *, max_objects: int = MAX_OBJECTS) -> list[SceneObject]:
    """The objects of a view: its settled regions (see `settle_regions`) with descriptions that are unique in the view.

    A region that gets no unique description is left out.
    """
    regions = settle_regions(regions, view.known_depth(), max_objects=max_objects)
    return name_objects(view.image_HW3, [(region.mask_HW, region.name) for region in regions])


def add_objects(views: Sequence[PartialCues], found: Sequence[Sequence[Region]], *, max_objects: int) -> list[Addition]:
    """What a segmenter adds to each view: `objects_of` its regions."""
    pairs = zip(views, found, strict=True)
    return [{"objects": objects_of(view, regions, max_objects=max_objects)} for view, regions in pairs]


def settle_regions(
    regions: Sequence[Region], depth_HW: np.ndarray | None = None, *, max_objects: int = MAX_OBJECTS
) -> list[Region]:
    """Regions that do not overlap, the most important first: by score times the square root of the area.

    Example:
        >>> table, cup = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
        >>> table[8:16, 2:18] = cup[10:14, 4:8] = True
        >>> [int(region.mask_HW.sum()) for region in settle_regions([Region(table, 0.9), Region(cup, 0.9)])]
        [112, 16]

    Masks that are empty, below 0.4 % or above 42 % of the image (90 % if they have a name), and those whose score is
    not a number, are dropped. So are those without a name that lie along the border of the image, as walls and skies
    do. Of two regions of the same thing (IoU above 0.8) the one with the better score stays. A pixel that two regions
    claim goes to one of them:

    - if depth is known, to the region whose own depth is closer to that of the overlap. A region without a name of its
      own inside another one at the same depth is a part of it (such as a shirt of a person) and is dropped;
    - otherwise to the smaller one: a mask spills over what stands in front of it more often than the other way round.

    A region that loses more than half of its pixels is dropped.
    """
    fit = [region for region in regions if _fits(region)]
    ranked = sorted(fit, key=lambda region: -region.score * float(np.sqrt(region.mask_HW.sum())))
    chosen: list[Region] = []
    for region in sorted(fit, key=lambda region: -region.score):
        if all(_iou(region.mask_HW, other.mask_HW) <= _INSIDE for other in chosen):
            chosen.append(region)
    chosen = [region for region in ranked if any(region is other for other in chosen)]
    masks = _separate(chosen, depth_HW)
    settled = [
        Region(mask, region.score, region.name)
        for region, mask in zip(chosen, masks, strict=True)
        if mask.mean() >= _LEAST and mask.sum() >= _KEPT * region.mask_HW.sum()
    ]
    return settled[:max_objects]


def check_max_objects(max_objects: int) -> None:
    """Raise a `SpatialBoostError` unless at least one object may be found."""
    if max_objects < 1:
        raise SpatialBoostError(f"max_objects is {max_objects}, expected at least one")


def box_mask(box: Sequence[float], size: tuple[int, int]) -> np.ndarray:
    """The pixels whose centres are in a box: bool ``(H, W)``.

    Example:
        >>> int(box_mask([1, 0, 3, 2], (4, 4)).sum())
        4
    """
    x0, y0, x1, y1 = box
    rows, columns = np.arange(size[0])[:, None] + 0.5, np.arange(size[1]) + 0.5
    return (rows >= y0) & (rows < y1) & (columns >= x0) & (columns < x1)


def _fits(region: Region) -> bool:
    most = _MOST_NAMED if region.name else _MOST
    if not (_LEAST <= region.mask_HW.mean() <= most and np.isfinite(region.score)):
        return False
    return bool(region.name) or _border(region.mask_HW) <= _MAX_CUT * float(np.sqrt(region.mask_HW.sum()))


def _border(mask_HW: np.ndarray) -> int:
    """Number of pixels of a mask on the border of the image."""
    edges = (mask_HW[0], mask_HW[-1], mask_HW[1:-1, 0], mask_HW[1:-1, -1])
    return sum(int(np.count_nonzero(edge)) for edge in edges)


def _iou(one_HW: np.ndarray, other_HW: np.ndarray) -> float:
    both = np.count_nonzero(one_HW & other_HW)
    return both / (np.count_nonzero(one_HW) + np.count_nonzero(other_HW) - both)


def _separate(regions: list[Region], depth_HW: np.ndarray | None) -> list[np.ndarray]:
    """The masks without the pixels that they lose to others, in the same order."""
    masks = [region.mask_HW for region in regions]
    areas = [np.count_nonzero(mask) for mask in masks]
    left = [mask.copy() for mask in masks]
    by_area = sorted(range(len(masks)), key=lambda number: -areas[number])
    for place, large in enumerate(by_area):
        for small in by_area[place + 1 :]:
            overlap_HW = masks[large] & masks[small]
            shared = np.count_nonzero(overlap_HW)
            if not shared:
                continue
            inside = bool(shared >= _INSIDE * areas[small])
            loser = _behind(masks[large], masks[small], overlap_HW, depth_HW, inside=inside)
            if loser == "part" and regions[small].name in ("", regions[large].name):
                left[small][:] = False
            else:
                left[small if loser == "small" else large] &= ~overlap_HW
    return left


def _behind(
    large_HW: np.ndarray, small_HW: np.ndarray, overlap_HW: np.ndarray, depth_HW: np.ndarray | None, *, inside: bool
) -> str:
    """Which of two regions loses their overlap: "large", "small", or "part" if the small one belongs to the large."""
    if depth_HW is None:
        return "large"
    shared, rest, own = (_median(depth_HW, each) for each in (overlap_HW, large_HW & ~small_HW, small_HW & ~large_HW))
    to_large = abs(shared - rest) / shared  # NaN if one of them has no reading: comparisons are false then
    if inside:
        return "part" if to_large < _STEP else "large"
    to_small = abs(shared - own) / shared
    return "small" if to_large < to_small - _STEP else "large"


def _median(depth_HW: np.ndarray, mask_HW: np.ndarray) -> float:
    values = depth_HW[mask_HW]
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else float("nan")
