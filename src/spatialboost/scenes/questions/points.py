"""Points for questions: coordinates with two decimals, on pixels with a depth reading, not on edges."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property

import numpy as np

from spatialboost.scenes.cues import Cues
from spatialboost.scenes.questions.layout import SIGMAS
from spatialboost.scenes.questions.turn import CannotAskError

# Shape legend: H, W = image height and width in pixels; G = 99, the side of the grid of points with two decimals;
# L = levels of depth.

Point = tuple[int, int]  # (x, y) in hundredths of the image's width and height

_HUNDREDTHS_G = np.arange(1, 100)  # 0.00 and 1.00 would lie on the image's border
_NEIGHBOURS = [(0, 0), (-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]  # in half hundredths
_BESIDE = 4  # hundredths: the two possible partners of a point are at most this far from each other
_MIN_APART = 5  # hundredths, in x or y, between the two points of a pair
_ATTEMPTS = 16  # this many attempts with the drawn value of ``lower_is_closer``, then as many without it
_LEVELS = 8  # equal parts of the view's range of depths, by their logarithm
_RANGE = (2, 98)  # percentiles of the depths: both ends of this range
_COVERED = 0.875  # fraction of the levels that a row must show, if the view has such rows
_BAND = 3  # hundredths: rows above and below a row that count as the row
_NEAR_LEVEL = 0.05  # a point fits a drawn depth if it is this near to it
_LEVEL_ATTEMPTS = 64


def cell_centres(cells: tuple[int, int]) -> list[Point]:
    """The centres of the cells of a grid, row by row, rounded to hundredths.

    Example:
        >>> cell_centres((1, 4))
        [(12, 50), (38, 50), (62, 50), (88, 50)]
    """
    rows, columns = ([round((2 * place + 1) * 50 / count) for place in range(count)] for count in cells)
    return [(x, y) for y in rows for x in columns]


def pixel_of(point: Point, size: tuple[int, int]) -> tuple[int, int]:
    """(row, column) of the pixel that contains a point. Computed with integers, so that there is no rounding error.

    Example:
        >>> pixel_of((29, 50), (64, 100))
        (32, 29)
    """
    return point[1] * size[0] // 100, point[0] * size[1] // 100


class PointPicker:
    """Picks points of one view at random.

    Args:
        cues: the view.
        masks: bool ``(H, W)`` each, the masks of the objects on which some of the points are picked.
        min_gap: the two points of a pair differ in depth by more than this fraction of the nearer depth, and by more
            than two standard deviations of the source's noise.
        smoothness: excludes points on edges. Half a percent of the image away, in all eight directions, the depth
            differs by at most this fraction plus two standard deviations of the noise.
        on_objects: fraction of the points that lie on an object (each object with the same probability); the others lie
            anywhere.
        cells: rows and columns of a grid: only the centres of its cells are picked. None = all points.

    Raises:
        CannotAskError: no point of the view can be used.
    """

    def __init__(
        self,
        cues: Cues,
        masks: Sequence[np.ndarray],
        *,
        min_gap: float,
        smoothness: float,
        on_objects: float,
        cells: tuple[int, int] | None = None,
    ) -> None:
        self.cues, self.min_gap, self.on_objects = cues, min_gap, on_objects
        near = [_grid_index(cues.size, *shift) for shift in _NEIGHBOURS]
        depth_9GG = np.stack([np.where(cues.valid_HW[i], cues.depth_HW[i], np.nan) for i in near]).astype(np.float64)
        self.depth_GG, self.lowest_GG, self.highest_GG = depth_9GG[0], depth_9GG.min(0), depth_9GG.max(0)
        roughness_GG = np.maximum(self.depth_GG - self.lowest_GG, self.highest_GG - self.depth_GG)
        steady_GG = roughness_GG <= (smoothness + SIGMAS * cues.depth_noise) * self.depth_GG  # False where NaN
        if cells is not None:
            centres_GG = np.zeros_like(steady_GG)
            centres_GG[tuple(np.array([(y - 1, x - 1) for x, y in cell_centres(cells)]).T)] = True
            steady_GG &= centres_GG
        if not steady_GG.any():
            raise CannotAskError("no point has a steady depth around it; the depth is too sparse or too rough")
        areas = [np.flatnonzero(area_GG) for area_GG in (steady_GG, *(steady_GG & mask[near[0]] for mask in masks))]
        # flat indices into the grid: first the whole image, then each object
        self.areas = [area for area in areas if area.size]

    def pick(self, rng: np.random.Generator) -> Point:
        """Pick one point."""
        return self._pick_from(self.areas, rng)

    def pick_several(self, rng: np.random.Generator, most: int, without: Collection[Point] = ()) -> list[Point]:
        """Pick different points of the whole image, at most `most`; fewer where there are not so many.

        Args:
            rng: the source of randomness.
            most: number of points.
            without: points that are not picked.
        """
        side = _HUNDREDTHS_G.size
        taken = [(y - 1) * side + x - 1 for x, y in without]
        free = np.setdiff1d(self.areas[0], np.array(taken, np.int64))
        chosen = rng.permutation(free)[:most].tolist()
        return [(int(_HUNDREDTHS_G[place % side]), int(_HUNDREDTHS_G[place // side])) for place in chosen]

    def pick_level(self, rng: np.random.Generator) -> Point:
        """Pick one point so that its row tells little about its depth.

        In most views the lowest rows show the near floor only. So a row and a depth are drawn, independent of each
        other, and the point is one of this depth in this row. Only rows are used that show almost the whole range of
        depths of the view, or else those that show most of it.
        """
        log_depth_GG, (low, high), rows = self._levels
        row_GG = np.arange(_HUNDREDTHS_G.size)[:, None]
        for _ in range(_LEVEL_ATTEMPTS):  # a row may not show the drawn depth
            level, row = rng.uniform(low, high), rows[rng.integers(rows.size)]
            fits_GG = (np.abs(log_depth_GG - level) <= _NEAR_LEVEL) & (np.abs(row_GG - row) <= _BAND)
            fits = fits_GG.ravel()
            areas = [area[fits[area]] for area in self.areas]
            areas = [area for area in areas if area.size]
            if areas:
                return self._pick_from(areas, rng)
        return self.pick(rng)

    @cached_property
    def _levels(self) -> tuple[np.ndarray, tuple[float, float], np.ndarray]:
        """The logarithms of the depths, the lowest and the highest that is drawn, and the rows of the grid to use."""
        row, column = np.divmod(self.areas[0], _HUNDREDTHS_G.size)
        log_depth_GG = np.log(self.depth_GG)
        depths = log_depth_GG[row, column]
        low, high = np.percentile(depths, _RANGE)
        level = ((depths - low) / max(high - low, 1e-9) * _LEVELS).clip(0, _LEVELS - 1).astype(int)
        inside = (depths >= low) & (depths <= high)
        shown_GL = np.zeros((_HUNDREDTHS_G.size, _LEVELS), bool)
        shown_GL[row[inside], level[inside]] = True
        padded = np.pad(shown_GL, ((_BAND, _BAND), (0, 0)))
        covered_G = np.logical_or.reduce([padded[k : k + _HUNDREDTHS_G.size] for k in range(2 * _BAND + 1)]).mean(1)
        return log_depth_GG, (low, high), np.flatnonzero(covered_G >= min(_COVERED, covered_G.max()))

    def pick_pair(self, rng: np.random.Generator) -> tuple[Point, Point]:
        """Pick two points of clearly different depth, in random order.

        In most views the lower point is the closer one, because of the floor. Here this is true for half of the pairs
        (if the view has such pairs), so that the answer cannot be guessed from the coordinates.

        Raises:
            CannotAskError: the view has no such pair.
        """
        lower_is_closer = rng.random() < 0.5
        for attempt in range(2 * _ATTEMPTS):  # a first point may have no partner, as in the middle of a wall
            first = self.pick(rng)
            apart_GG = self._apart_from(first)
            if attempt < _ATTEMPTS:
                lower_G1 = first[1] < _HUNDREDTHS_G[:, None]
                closer_GG = self.depth_GG < self.depth_GG[first[1] - 1, first[0] - 1]
                apart_GG &= (lower_G1 == closer_GG) == lower_is_closer
                apart_GG[first[1] - 1] = False
            apart = apart_GG.ravel()
            areas = [area[apart[area]] for area in self.areas]
            areas = [area for area in areas if area.size]
            if areas:
                return first, self._pick_from(areas, rng)
        raise CannotAskError("no two points differ in depth by more than the margin")

    def pick_matched_pair(self, rng: np.random.Generator) -> tuple[Point, Point]:
        """Pick two points of clearly different depth so that their coordinates do not tell which one is closer.

        The first point has two possible partners that lie beside each other, one in front of it and one behind it, as
        on both sides of an object's edge. One of the two is drawn, so the answer for almost the same coordinates is a
        fair coin.

        Raises:
            CannotAskError: the view has no such points.
        """
        for _ in range(2 * _ATTEMPTS):
            first = self.pick(rng)
            apart_GG = self._apart_from(first)
            closer_GG = self.depth_GG < self.depth_GG[first[1] - 1, first[0] - 1]
            sides = apart_GG & closer_GG, apart_GG & ~closer_GG
            if not all(side.any() for side in sides):
                continue
            beside = (sides[0] & _grow(sides[1], _BESIDE)).ravel()
            areas = [area[beside[area]] for area in self.areas]
            areas = [area for area in areas if area.size]
            if not areas:
                continue
            partner = self._pick_from(areas, rng)
            around = _grow(_only(partner, sides[1].shape), _BESIDE) & sides[1]
            behind = self.areas[0][around.ravel()[self.areas[0]]]
            if behind.size:
                other = self._pick_from([behind], rng)
                return first, partner if rng.random() < 0.5 else other
        raise CannotAskError("no point has one partner in front of it and one behind it that lie beside each other")

    def depth_at(self, point: Point) -> float:
        """Depth at a point in metres, with six decimals."""
        return round(float(self.depth_GG[point[1] - 1, point[0] - 1]), 6)

    def _pick_from(self, areas: list[np.ndarray], rng: np.random.Generator) -> Point:
        on_object = len(areas) > 1 and rng.random() < self.on_objects
        area = areas[rng.integers(1, len(areas)) if on_object else 0]
        row, column = divmod(int(area[rng.integers(area.size)]), _HUNDREDTHS_G.size)
        return int(_HUNDREDTHS_G[column]), int(_HUNDREDTHS_G[row])

    def _apart_from(self, point: Point) -> np.ndarray:
        """Bool over the grid: the points that can be compared with this point."""
        x, y = point[0] - 1, point[1] - 1
        depth = self.depth_GG[y, x]
        noise_GG = SIGMAS * self.cues.depth_noise * np.hypot(self.depth_GG, depth) + 0.001  # both are rounded to 1 mm
        margin_GG = np.maximum(noise_GG, self.min_gap * np.minimum(self.depth_GG, depth))
        apart_GG = np.abs(self.depth_GG - depth) > margin_GG
        # The answer must stay the same if either point moves by half a percent of the image.
        apart_GG &= (self.highest_GG < self.lowest_GG[y, x]) | (self.lowest_GG > self.highest_GG[y, x])
        apart_GG[max(y - _MIN_APART + 1, 0) : y + _MIN_APART, max(x - _MIN_APART + 1, 0) : x + _MIN_APART] = False
        return apart_GG


def _only(point: Point, shape: tuple[int, int]) -> np.ndarray:
    alone_GG = np.zeros(shape, bool)
    alone_GG[point[1] - 1, point[0] - 1] = True
    return alone_GG


def _grow(mask_GG: np.ndarray, reach: int) -> np.ndarray:
    """Bool: whether a square around each place contains a place of the mask."""
    rows, columns = mask_GG.shape
    padded = np.pad(mask_GG, reach)
    across = np.logical_or.reduce([padded[:, k : k + columns] for k in range(2 * reach + 1)])
    return np.asarray(np.logical_or.reduce([across[k : k + rows] for k in range(2 * reach + 1)]))


def _grid_index(size: tuple[int, int], shift_y: int, shift_x: int) -> tuple[np.ndarray, ...]:
    """Rows and columns of the pixels of the grid's points, shifted by half hundredths. Exact, with integers."""
    height, width = size
    return np.ix_((2 * _HUNDREDTHS_G + shift_y) * height // 200, (2 * _HUNDREDTHS_G + shift_x) * width // 200)
