"""Superpixels, and the tree of merges that makes larger regions of them."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed

# Shape legend: H, W = image height and width in pixels; S = superpixels; M = nodes of the tree, superpixels first;
# E = pairs of neighbouring pixels across a boundary.

_BOUNDARY_WEIGHT = 0.35  # of a boundary between regions of the same colour
_COLOUR_WEIGHT = 0.35  # of the colour difference


@dataclass(frozen=True)
class Tree:
    """Regions from superpixels up to the whole image. The cost of a node is never below the cost of its children."""

    children: list[tuple[int, int] | None]  # the two children of each node; None for superpixels
    birth_M: np.ndarray  # cost of the merge that made the node; 0 for superpixels
    death_M: np.ndarray  # cost of the merge of the node with another node; inf for the root

    def leaves(self, node: int) -> list[int]:
        """The superpixels of a node."""
        found, todo = [], [node]
        while todo:
            children = self.children[todo[-1]]
            if children is None:
                found.append(todo.pop())
            else:
                todo[-1:] = children
        return found


def make_superpixels(edges_HW: np.ndarray, *, cell: int) -> np.ndarray:
    """Watershed from the pixel with the weakest edge in each square cell. Returns labels from 0 on, int ``(H, W)``."""
    height, width = edges_HW.shape
    rows, columns = -(-height // cell), -(-width // cell)
    padding = ((0, rows * cell - height), (0, columns * cell - width))
    smooth = np.pad(ndimage.gaussian_filter(edges_HW, 1.0), padding, constant_values=np.inf)
    flattest = smooth.reshape(rows, cell, columns, cell).swapaxes(1, 2).reshape(rows, columns, -1).argmin(-1)
    row = np.arange(rows)[:, None] * cell + flattest // cell
    column = np.arange(columns) * cell + flattest % cell
    seeds_HW = np.zeros((height, width), np.int32)
    seeds_HW[row.ravel(), column.ravel()] = np.arange(1, rows * columns + 1)
    return watershed(edges_HW, seeds_HW) - 1


def merge_superpixels(
    labels_HW: np.ndarray, edges_HW: np.ndarray, colours_HW3: np.ndarray, apart_S: np.ndarray, penalty: float
) -> Tree:
    """Merge the two most similar neighbours, again and again, until one region is left.

    Two regions are similar if the mean edge strength along their boundary is low and their mean colours are close.

    Args:
        labels_HW: superpixel of each pixel, from 0 on.
        edges_HW: edge strength of each pixel.
        colours_HW3: colours, scaled so that a distance of 1 is a clear difference.
        apart_S: bool, divides the superpixels into two groups.
        penalty: added to the edge strength between the two groups.
    """
    num = int(labels_HW.max()) + 1
    sums = [np.bincount(labels_HW.ravel(), c.ravel(), num).tolist() for c in np.moveaxis(colours_HW3, -1, 0)]
    areas = np.bincount(labels_HW.ravel(), minlength=num).tolist()
    regions = list(zip(areas, *sums, strict=True))
    neighbours: list[dict[int, tuple[float, float]]] = [{} for _ in range(num)]
    queue: list[tuple[float, int, int]] = []

    def push(i: int, j: int, length: float, strength: float) -> None:
        neighbours[i][j] = neighbours[j][i] = (length, strength)
        area_i, *sum_i = regions[i]
        area_j, *sum_j = regions[j]
        contrast = sum((a / area_i - b / area_j) ** 2 for a, b in zip(sum_i, sum_j, strict=True)) ** 0.5
        cost = strength / length * (_BOUNDARY_WEIGHT + min(contrast, 1.0)) + _COLOUR_WEIGHT * contrast
        heapq.heappush(queue, (cost, i, j))

    for i, j, length, strength in _boundaries(labels_HW, edges_HW, apart_S, penalty):
        push(i, j, length, strength)
    children: list[tuple[int, int] | None] = [None] * num
    birth, death = [0.0] * num, [np.inf] * num
    gone: set[int] = set()
    height = 0.0
    while queue:
        cost, i, j = heapq.heappop(queue)
        if i in gone or j in gone:
            continue
        height = max(height, cost)
        gone |= {i, j}
        new = len(children)
        children.append((i, j))
        birth.append(height)
        death[i] = death[j] = height
        death.append(np.inf)
        regions.append(tuple(a + b for a, b in zip(regions[i], regions[j], strict=True)))
        around: dict[int, tuple[float, float]] = {}
        for child in (i, j):
            for other, (length, strength) in neighbours[child].items():
                if other not in gone:
                    before = around.get(other, (0.0, 0.0))
                    around[other] = before[0] + length, before[1] + strength
        neighbours.append({})
        for other, (length, strength) in around.items():
            push(other, new, length, strength)
    return Tree(children, np.array(birth), np.array(death))


def _boundaries(
    labels_HW: np.ndarray, edges_HW: np.ndarray, apart_S: np.ndarray, penalty: float
) -> list[tuple[int, int, float, float]]:
    """Pairs of neighbouring superpixels: (lower label, higher label, boundary length, summed edge strength)."""
    num = len(apart_S)
    keys_E, costs_E = [], []
    for here, there in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        one, other = labels_HW[here], labels_HW[there]
        across = one != other
        low, high = np.minimum(one, other)[across], np.maximum(one, other)[across]
        edge = np.maximum(edges_HW[here], edges_HW[there])[across]
        keys_E.append(low.astype(np.int64) * num + high)
        costs_E.append(edge + penalty * (apart_S[low] != apart_S[high]))
    keys, index_E, lengths = np.unique(np.concatenate(keys_E), return_inverse=True, return_counts=True)
    strengths = np.bincount(index_E, np.concatenate(costs_E), len(keys))
    found = zip(keys.tolist(), lengths.tolist(), strengths.tolist(), strict=True)
    return [(*divmod(key, num), length, strength) for key, length, strength in found]
