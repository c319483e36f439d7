"""Which rows a run trains on, and which it holds out."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from spatialboost.errors import SpatialBoostError

if TYPE_CHECKING:
    from spatialboost.scenes.dataset.reader import Rows
    from spatialboost.training.config import DataConfig

# Shape legend: N = rows that may be trained on.


def choose_rows(data: DataConfig, rows: Rows, seed: int) -> tuple[Sequence[int], range]:
    """Numbers of the training rows, and of the held-out rows, which are the last ones.

    A smaller subset is part of each larger one of the same seed, so that amounts of data can be compared (the paper's
    Figure 5 and Table 7). It is drawn from all rows, as rows are often ordered by their source.

    Args:
        data: The section ``data`` of the configuration.
        rows: All rows.
        seed: Seed of the subset.

    Raises:
        SpatialBoostError: All rows are held out, or no rows have the share of single views.
    """
    count = len(rows)
    if data.held_out >= count:
        raise SpatialBoostError(
            f"data.held_out is {data.held_out}, but there are only {count} rows: choose a smaller number"
        )
    cut = count - data.held_out
    held_out = range(cut, count)
    if data.single_view is None and (data.limit is None or data.limit >= cut):
        return range(cut), held_out
    order_N = np.random.default_rng(seed).permutation(cut)
    if data.single_view is None:
        chosen = order_N[: data.limit]
    else:
        is_single_N = (rows.lengths("images")[:cut] == 1)[order_N]
        chosen = _mixed(order_N[is_single_N], order_N[~is_single_N], data.single_view, data.limit)
    return array("q", np.sort(chosen).tolist()), held_out


def _mixed(single: np.ndarray, several: np.ndarray, share: float, limit: int | None) -> np.ndarray:
    """Rows with one image and rows with several, in this share: as many as there are, and at most `limit`."""
    total = min(limit or len(single) + len(several), len(single) + len(several))
    while round(share * total) > len(single) or total - round(share * total) > len(several):
        total -= 1
    if not total:
        raise SpatialBoostError(
            f"data.single_view is {share:g}, but of the rows to train on {len(single)} have one image and "
            f"{len(several)} have several: no part of them has this share"
        )
    wanted = round(share * total)
    return np.concatenate([single[:wanted], several[: total - wanted]])
