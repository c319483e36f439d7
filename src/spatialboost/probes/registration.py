"""Registration of two parts of a scan by nearest features, and its errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from spatialboost.errors import SpatialBoostError
from spatialboost.probes.pose import mutual_matches
from spatialboost.scenes.tracks import rotation_angle

# Shape legend: P points of a part, M matches.

_TRIALS = 20_000


@dataclass(frozen=True)
class Registered:
    """How far a registration is off.

    Attributes:
        rmse: root of the mean squared distance, in metres, between where the common points of the two parts are and
            where they are moved.
        translation: metres between the true and the estimated translation.
        rotation: degrees between the true and the estimated rotation.
    """

    rmse: float
    translation: float
    rotation: float


def match_points(features_PD: Tensor, other_PD: Tensor, most: int, rng: np.random.Generator) -> np.ndarray:
    """Pairs ``(M, 2)`` of points that are each other's nearest by features, among at most ``most`` of each part."""
    chosen = [np.sort(rng.permutation(len(each))[:most]) for each in (features_PD, other_PD)]
    match_M2 = mutual_matches(features_PD[chosen[0]], other_PD[chosen[1]])
    return np.stack([chosen[place][match_M2[:, place]] for place in range(2)], 1)


def match_at_random(num: int, other: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """Pairs ``(M, 2)`` of points, drawn without looking at anything."""
    size = min(num, other, most)
    return np.stack([rng.permutation(each)[:size] for each in (num, other)], 1)


def fit_motion(from_M3: np.ndarray, to_M3: np.ndarray, reach: float) -> np.ndarray | None:
    """The rotation and translation ``(4, 4)`` on which most pairs of points agree; None if there is none.

    Example:
        >>> points = np.random.default_rng(0).normal(size=(50, 3))
        >>> moved = points + [1.0, 0, 0]
        >>> moved[:20] = 5 * points[:20]  # wrong matches
        >>> (fit_motion(points, moved, reach=0.01)[:3, 3].round(6) + 0.0).tolist()
        [1.0, 0.0, 0.0]

    Args:
        from_M3: points of the first part.
        to_M3: the matched points of the second part.
        reach: metres; a pair agrees if it is off by less.
    """
    try:
        import pycolmap
    except ImportError as error:
        raise SpatialBoostError(f'registration needs pycolmap: pip install "spatialboost[probes]" ({error})') from None
    if len(from_M3) < 3:
        return None
    options = pycolmap.RANSACOptions()
    options.max_error, options.max_num_trials, options.random_seed, options.num_threads = reach, _TRIALS, 0, 1
    found = pycolmap.estimate_rigid3d_robust(from_M3, to_M3, options)
    found = found["tgt_from_src"] if isinstance(found, dict) else found
    if found is None:
        return None
    return np.vstack([found.matrix(), [0.0, 0.0, 0.0, 1.0]])


def measure_motion(guess_44: np.ndarray | None, truth_44: np.ndarray, common_P3: np.ndarray) -> Registered:
    """How far an estimated motion is off, on the points that both parts have.

    Args:
        guess_44: None is never right: its RMSE is infinite, the rotation 180 degrees off, and nothing was moved.
        truth_44: the true motion.
        common_P3: in the frame of the first part.
    """
    if guess_44 is None:
        return Registered(np.inf, float(np.linalg.norm(truth_44[:3, 3])), 180.0)
    homogeneous_P4 = np.concatenate([common_P3, np.ones((len(common_P3), 1))], 1)
    apart_P3 = (homogeneous_P4 @ (guess_44 - truth_44).T)[:, :3]
    return Registered(
        float(np.sqrt((apart_P3**2).sum(1).mean())),
        float(np.linalg.norm(guess_44[:3, 3] - truth_44[:3, 3])),
        rotation_angle(guess_44[:3, :3] @ truth_44[:3, :3].T),
    )
