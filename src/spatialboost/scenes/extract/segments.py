"""Objects of RGB-D frames that come without masks: regions that last long while superpixels are merged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull
from skimage.color import rgb2lab

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import BAD_ITEM, Cues, CuesError, SceneObject
from spatialboost.scenes.extract.merging import Tree, make_superpixels, merge_superpixels
from spatialboost.scenes.extract.protocol import Addition, PartialCues
from spatialboost.scenes.extract.surfaces import find_bounds, measure_creases, measure_surface
from spatialboost.scenes.extract.wording import describe_objects
from spatialboost.scenes.sources import resize_cues

# Shape legend: H, W = image height and width in pixels; S = superpixels; M = nodes of the merge tree.

_WORKING_EDGE = 180  # pixels of the shorter edge: finer detail only costs time
_COLOUR_STEP = 14.0  # a clear difference of colour, CIELAB
_CREASE_STEP = 0.02  # a clear crease, share of the depth
_PENALTY = 1.5  # on edges between a thing and the floor or a wall

_SHARES = (0.01, 0.42)  # of the image
_MIN_VALID = 0.55  # of the region's pixels have a reading
_MAX_BOUND = 0.35  # of the region's pixels lie on floor, walls or ceiling
_MAX_CUT = 1.7  # pixels on the image's border over the square root of the area
_MIN_SOLIDITY = 0.65  # area over that of the convex hull
_MIN_SCORE = 0.15
# A region that is merged with a fragment counts as the same region as before: a fragment has at most this share of the
# region's area, and was not itself a region over this range of costs.
_FRAGMENT = 0.15
_OWN_LIFE = 1.0
_MAX_COST = 6.0  # two regions that cost more to merge are certainly two things
_TRIED = 40  # regions with the best scores, whose masks are looked at


_MAX_OBJECTS = 8


class Superpixels:
    """The extractor of ``propose_objects``: masks and descriptions from colour and depth, without a network.

    Args:
        max_objects: the most to propose in a view.
    """

    kind = "masks"

    def __init__(self, *, max_objects: int = _MAX_OBJECTS) -> None:
        _check_max_objects(max_objects)
        self.max_objects = max_objects
        # What data sets have had in their settings from the first version on
        self.name = "proposals" if max_objects == _MAX_OBJECTS else f"up to {max_objects} proposals"

    def __call__(self, views: Sequence[PartialCues], /) -> list[Addition]:
        """The objects of each view."""
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


def propose_objects(cues: Cues, *, max_objects: int = _MAX_OBJECTS) -> Cues:
    """Find things in a view from colour and depth alone, and call each by its size, colour and place.

    Example:
        >>> from spatialboost.scenes.extract.segments import propose_objects
        >>> from spatialboost.scenes.rooms.render import render_rooms
        >>> view = propose_objects(render_rooms([10], size=64)[0])
        >>> len({thing.description for thing in view.objects}) == len(view.objects) > 1
        True

    Superpixels are merged two by two, the most alike first: alike in colour, and without a concave crease or a jump of
    the depth between them. A region that is merged with nothing large over a long range of costs is taken for a thing,
    unless it is part of the floor or a wall, too small, too large, cut by the image's border, ragged, or mostly without
    depth. Masks do not overlap, descriptions are unique; the same view always gives the same objects, the clearest
    first.

    Args:
        cues: the view; objects that it already has are replaced.
        max_objects: the most to propose.

    Returns:
        The same view with objects; there may be none.
    """
    _check_max_objects(max_objects)
    small = resize_cues(cues, _WORKING_EDGE) if min(cues.size) > _WORKING_EDGE else cues
    chosen = _choose(_find_candidates(small), max_objects)
    names = describe_objects(small, [candidate.mask_HW for candidate in chosen])
    rows, columns = (np.arange(was) * now // was for was, now in zip(cues.size, small.size, strict=True))
    return replace(
        cues,
        objects=tuple(
            SceneObject(name, candidate.mask_HW[np.ix_(rows, columns)])
            for name, candidate in zip(names, chosen, strict=True)
            if name
        ),
    )


def _check_max_objects(max_objects: int) -> None:
    if max_objects < 1:
        raise SpatialBoostError(f"max_objects is {max_objects}, expected at least one")


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
    for node in np.argsort(-scores_M, kind="stable")[:_TRIED].tolist():
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
    """The best ones that share no superpixel."""
    chosen: list[_Candidate] = []
    taken: set[int] = set()
    for candidate in sorted(candidates, key=lambda candidate: -candidate.score):
        if len(chosen) < max_objects and candidate.score >= _MIN_SCORE and taken.isdisjoint(candidate.leaves):
            chosen.append(candidate)
            taken.update(candidate.leaves)
    return chosen


def _score(tree: Tree, labels_HW: np.ndarray, valid_HW: np.ndarray, bounds_S: np.ndarray) -> np.ndarray:
    """For each node, over which range of costs it lasts, weighted by its size; 0 where it cannot be a thing."""
    num = len(bounds_S)
    labels = labels_HW.ravel()
    area_S = np.bincount(labels, minlength=num)
    border = np.concatenate([labels_HW[0], labels_HW[-1], labels_HW[1:-1, 0], labels_HW[1:-1, -1]])
    valid_S, border_S = np.bincount(labels, valid_HW.ravel(), num), np.bincount(border, minlength=num)
    totals_M4 = np.zeros((len(tree.parts), 4))
    totals_M4[:num] = np.stack([area_S, valid_S, area_S * bounds_S, border_S], -1)
    since_M = np.zeros(len(tree.parts))
    for node, parts in enumerate(tree.parts):
        if parts is None:
            continue
        totals_M4[node] = totals_M4[parts[0]] + totals_M4[parts[1]]
        large, little = sorted(parts, key=lambda part: -totals_M4[part, 0])
        area = totals_M4[little, 0]
        lived = area >= 0.008 * labels.size and tree.birth_M[node] - since_M[little] >= _OWN_LIFE
        fragment = area < _FRAGMENT * totals_M4[large, 0] and not lived
        since_M[node] = since_M[large] if fragment else tree.birth_M[node]
    area_M, valid_M, bounds_M, border_M = totals_M4.T
    share_M, cut_M = area_M / labels.size, border_M / np.sqrt(area_M)
    fits_M = (share_M > _SHARES[0]) & (share_M < _SHARES[1]) & (cut_M < _MAX_CUT)
    fits_M &= (valid_M > _MIN_VALID * area_M) & (bounds_M < _MAX_BOUND * area_M)
    life_M = np.minimum(tree.death_M, _MAX_COST) - np.maximum(since_M, 0.5)
    return np.where(fits_M, life_M * share_M**0.25 * (1.0 - 0.35 * cut_M), 0.0)


def _colour_steps(colours_HW3: np.ndarray) -> np.ndarray:
    """Differences of colour across each pixel, ``(H, W)``."""
    smooth = ndimage.gaussian_filter(colours_HW3, (0.8, 0.8, 0.0))
    padded = np.pad(smooth, ((1, 1), (1, 1), (0, 0)), mode="edge")
    down = np.linalg.norm(padded[2:, 1:-1] - padded[:-2, 1:-1], axis=-1)
    across = np.linalg.norm(padded[1:-1, 2:] - padded[1:-1, :-2], axis=-1)
    return np.maximum(down, across)


def _tidy(mask_HW: np.ndarray) -> np.ndarray:
    """The largest connected part, without thin spurs."""
    opened = ndimage.binary_opening(mask_HW, iterations=2 if min(mask_HW.shape) > 120 else 1)
    parts, num = ndimage.label(opened)
    return parts == 1 + int(np.bincount(parts.ravel())[1:].argmax()) if num else opened


def _solidity(mask_HW: np.ndarray) -> float:
    rows = np.flatnonzero(mask_HW.any(1))
    first = mask_HW[rows].argmax(1)
    last = mask_HW.shape[1] - mask_HW[rows, ::-1].argmax(1)
    corners = np.stack([np.concatenate([rows, rows, rows + 1, rows + 1]), np.concatenate([first, last, first, last])])
    return float(mask_HW.sum() / ConvexHull(corners.T).volume)  # "volume" is the area in 2D
