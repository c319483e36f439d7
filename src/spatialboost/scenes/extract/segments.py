"""Find objects in RGB-D frames without masks: regions that stay unchanged over many merges of superpixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull
from skimage.color import rgb2lab

from spatialboost.scenes.cues import BAD_ITEM, Cues, CuesError, SceneObject
from spatialboost.scenes.extract.merging import Tree, make_superpixels, merge_superpixels
from spatialboost.scenes.extract.naming import describe_objects
from spatialboost.scenes.extract.protocol import Addition, PartialCues
from spatialboost.scenes.extract.regions import MAX_OBJECTS, check_max_objects
from spatialboost.scenes.extract.surfaces import find_bounds, measure_creases, measure_surface
from spatialboost.scenes.sources import resize_cues
from spatialboost.scenes.threads import limited_threads

# Shape legend: H, W = image height and width in pixels; S = superpixels; M = nodes of the merge tree.

_WORKING_EDGE = 180  # pixels, shorter edge: more detail takes more time and does not help
_COLOUR_STEP = 14.0  # a clear colour difference, in CIELAB
_CREASE_STEP = 0.02  # a clear crease, as a fraction of the depth
_PENALTY = 1.5  # added to edges between an object and the floor or a wall

_SHARES = (0.01, 0.42)  # smallest and largest fraction of the image that an object covers
_MIN_VALID = 0.55  # fraction of the region's pixels with a reading
_MAX_BOUND = 0.35  # fraction of the region's pixels on floor, walls or ceiling
_MAX_CUT = 1.7  # number of pixels on the image border divided by the square root of the area
_MIN_SOLIDITY = 0.65  # area divided by the area of the convex hull
_MIN_SCORE = 0.15
# A region that merges with a fragment counts as the same region as before. A fragment has less than _FRAGMENT times the
# region's area, and it existed unchanged only over a range of costs below _MIN_LIFE.
_FRAGMENT = 0.15
_MIN_LIFE = 1.0
_MAX_COST = 6.0  # two regions with a higher merge cost are certainly two objects
_MAX_TRIED = 40  # number of regions with the best scores whose masks are examined


class Superpixels:
    """The extractor that calls ``propose_objects``: masks and descriptions from colour and depth, without a network."""

    kind = "masks"

    def __init__(self, *, max_objects: int = MAX_OBJECTS) -> None:
        check_max_objects(max_objects)
        self.max_objects = max_objects
        # The settings of data sets have contained this name since the first version
        self.name = "proposals" if max_objects == MAX_OBJECTS else f"up to {max_objects} proposals"

    def __call__(self, views: Sequence[PartialCues], /) -> list[Addition]:
        with limited_threads(1):
            return [self._propose(view) for view in views]

    def _propose(self, view: PartialCues) -> Addition:
        try:
            return {"objects": propose_objects(view.to_cues(), max_objects=self.max_objects).objects}
        except BAD_ITEM as error:
            return error if isinstance(error, CuesError) else CuesError(f"{view.source}: {error}")


@dataclass(frozen=True)
class _Candidate:
    score: float
    leaves: list[int]
    mask_HW: np.ndarray


def propose_objects(cues: Cues, *, max_objects: int = MAX_OBJECTS) -> Cues:
    """Find objects in a view from colour and depth alone, and describe each by its size, colour and place.

    Example:
        >>> from spatialboost.scenes.rooms.render import render_rooms
        >>> view = propose_objects(render_rooms([10], size=64)[0])
        >>> len({thing.description for thing in view.objects}) == len(view.objects) > 1
        True

    Superpixels are merged two by two, the most similar pair first. Two regions are similar if they have the same colour
    and there is no concave crease and no depth jump between them. A region counts as an object if it merges with no
    large region over a long range of costs. It is rejected if it is part of the floor or a wall, too small, too large,
    cut by the image border, ragged, or mostly without depth. Masks do not overlap, and descriptions are unique. The
    same view always gives the same objects, ordered by score.

    Returns:
        The same view with the objects that were found; there may be none.
    """
    check_max_objects(max_objects)
    small = resize_cues(cues, _WORKING_EDGE) if min(cues.size) > _WORKING_EDGE else cues
    chosen = _choose(_find_candidates(small), max_objects)
    names = describe_objects(small, [candidate.mask_HW for candidate in chosen])
    rows, columns = (np.arange(was) * now // was for was, now in zip(cues.size, small.size, strict=True))
    return replace(
        cues,
        objects=tuple(
            SceneObject(known[0], candidate.mask_HW[np.ix_(rows, columns)], known[1:])
            for known, candidate in zip(names, chosen, strict=True)
            if known
        ),
    )


def _find_candidates(cues: Cues) -> list[_Candidate]:
    edge = min(cues.size)
    surface = measure_surface(cues, window=2 * max(1, round(edge / 60)) + 1)
    colours_HW3 = rgb2lab(cues.image_HW3) * np.array([0.5, 1.0, 1.0]) / _COLOUR_STEP  # shading changes lightness
    creases_HW = measure_creases(surface, reach=max(1, round(edge / 90)))
    edges_HW = np.minimum(_colour_steps(colours_HW3), 2.5) + np.log2(1.0 + creases_HW / _CREASE_STEP)
    labels_HW = make_superpixels(edges_HW, cell=max(4, round(edge / 20)))
    bounds_S = find_bounds(surface, labels_HW)
    tree = merge_superpixels(labels_HW, edges_HW, colours_HW3 / 2, bounds_S, _PENALTY)
    scores_M = _score(tree, labels_HW, cues.valid_HW, bounds_S)
    candidates = []
    for node in np.argsort(-scores_M, kind="stable")[:_MAX_TRIED].tolist():
        if scores_M[node] < _MIN_SCORE:
            break
        leaves = tree.leaves(node)
        in_S = np.zeros(len(bounds_S), bool)
        in_S[leaves] = True
        region_HW = in_S[labels_HW]
        mask_HW = _tidy(region_HW)
        if mask_HW.mean() < 0.8 * _SHARES[0] or mask_HW.sum() < 0.6 * region_HW.sum():
            continue
        solidity = _solidity(mask_HW)
        if solidity >= _MIN_SOLIDITY and (mask_HW & cues.valid_HW).sum() >= _MIN_VALID * mask_HW.sum():
            candidates.append(_Candidate(float(scores_M[node] * solidity**2), leaves, mask_HW))
    return candidates


def _choose(candidates: list[_Candidate], max_objects: int) -> list[_Candidate]:
    """The candidates with the best scores that share no superpixel."""
    chosen: list[_Candidate] = []
    taken: set[int] = set()
    for candidate in sorted(candidates, key=lambda candidate: -candidate.score):
        if len(chosen) < max_objects and candidate.score >= _MIN_SCORE and taken.isdisjoint(candidate.leaves):
            chosen.append(candidate)
            taken.update(candidate.leaves)
    return chosen


def _score(tree: Tree, labels_HW: np.ndarray, valid_HW: np.ndarray, bounds_S: np.ndarray) -> np.ndarray:
    """Score of each node: the range of costs over which it exists, weighted by its size. 0 = it is not an object."""
    num = len(bounds_S)
    labels = labels_HW.ravel()
    area_S = np.bincount(labels, minlength=num)
    border = np.concatenate([labels_HW[0], labels_HW[-1], labels_HW[1:-1, 0], labels_HW[1:-1, -1]])
    valid_S, border_S = np.bincount(labels, valid_HW.ravel(), num), np.bincount(border, minlength=num)
    totals_M4 = np.zeros((len(tree.children), 4))
    totals_M4[:num] = np.stack([area_S, valid_S, area_S * bounds_S, border_S], -1)
    since_M = np.zeros(len(tree.children))
    for node, children in enumerate(tree.children):
        if children is None:
            continue
        totals_M4[node] = totals_M4[children[0]] + totals_M4[children[1]]
        large, little = sorted(children, key=lambda child: -totals_M4[child, 0])
        area = totals_M4[little, 0]
        lived = area >= 0.008 * labels.size and tree.birth_M[node] - since_M[little] >= _MIN_LIFE
        fragment = area < _FRAGMENT * totals_M4[large, 0] and not lived
        since_M[node] = since_M[large] if fragment else tree.birth_M[node]
    area_M, valid_M, bounds_M, border_M = totals_M4.T
    share_M, cut_M = area_M / labels.size, border_M / np.sqrt(area_M)
    fits_M = (share_M > _SHARES[0]) & (share_M < _SHARES[1]) & (cut_M < _MAX_CUT)
    fits_M &= (valid_M > _MIN_VALID * area_M) & (bounds_M < _MAX_BOUND * area_M)
    life_M = np.minimum(tree.death_M, _MAX_COST) - np.maximum(since_M, 0.5)
    return np.where(fits_M, life_M * share_M**0.25 * (1.0 - 0.35 * cut_M), 0.0)


def _colour_steps(colours_HW3: np.ndarray) -> np.ndarray:
    """Colour difference between the two neighbours of each pixel, ``(H, W)``."""
    smooth = ndimage.gaussian_filter(colours_HW3, (0.8, 0.8, 0.0))
    padded = np.pad(smooth, ((1, 1), (1, 1), (0, 0)), mode="edge")
    down = np.linalg.norm(padded[2:, 1:-1] - padded[:-2, 1:-1], axis=-1)
    across = np.linalg.norm(padded[1:-1, 2:] - padded[1:-1, :-2], axis=-1)
    return np.maximum(down, across)


def _tidy(mask_HW: np.ndarray) -> np.ndarray:
    """The largest connected part, without thin spurs."""
    opened = ndimage.binary_opening(mask_HW, iterations=2 if min(mask_HW.shape) > 120 else 1)
    labels_HW, num = ndimage.label(opened)
    return labels_HW == 1 + int(np.bincount(labels_HW.ravel())[1:].argmax()) if num else opened


def _solidity(mask_HW: np.ndarray) -> float:
    rows = np.flatnonzero(mask_HW.any(1))
    first = mask_HW[rows].argmax(1)
    last = mask_HW.shape[1] - mask_HW[rows, ::-1].argmax(1)
    corners = np.stack([np.concatenate([rows, rows, rows + 1, rows + 1]), np.concatenate([first, last, first, last])])
    return float(mask_HW.sum() / ConvexHull(corners.T).volume)  # "volume" is the area in 2D
