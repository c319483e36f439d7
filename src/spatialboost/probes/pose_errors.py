"""Errors of an estimated relative camera pose, and the area under the curve of errors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spatialboost.scenes.tracks import rotation_angle

FAILED = 180.0  # degrees: the error where no pose was found
STILL = 1e-3  # metres: cameras that are nearer to each other have no direction of translation


def pose_errors(guess_44: np.ndarray | None, truth_44: np.ndarray, *, signed: bool) -> tuple[float, float]:
    """Errors in degrees of the rotation, and of the direction of the translation.

    Example:
        >>> truth = np.eye(4)
        >>> truth[:3, 3] = [1.0, 0, 0]
        >>> guess = truth.copy()
        >>> guess[:3, 3] = [0, 2.0, 0]
        >>> pose_errors(guess, truth, signed=True)
        (0.0, 90.0)

    Args:
        guess_44: from the first camera's frame to the second's; its translation may have any length. None: no pose was
            found, which counts as 180 degrees.
        truth_44: the true one, in metres.
        signed: whether the opposite direction is wrong. It is not where the pose is from an essential matrix, in the
            protocol of SuperGlue (arXiv 1911.11763).
    """
    if guess_44 is None:
        return FAILED, FAILED
    turn = rotation_angle(guess_44[:3, :3] @ truth_44[:3, :3].T)
    lengths = np.linalg.norm(guess_44[:3, 3]), np.linalg.norm(truth_44[:3, 3])
    if lengths[1] < STILL:
        return turn, 0.0
    if lengths[0] == 0:
        return turn, 90.0
    cosine = guess_44[:3, 3] @ truth_44[:3, 3] / (lengths[0] * lengths[1])
    direction = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    return turn, direction if signed else min(direction, 180 - direction)


def area_under_curve(errors: Sequence[float], most: float) -> float:
    """Area under the share of pairs with at most an error, from 0 to ``most``, divided by ``most``.

    Example:
        >>> area_under_curve([0.0, 0.0], 5), area_under_curve([7.0], 5)
        (1.0, 0.0)

    The share rises in straight lines from (0, 0) over the sorted errors, and is constant after the last one that is
    below ``most``, as in SuperGlue (arXiv 1911.11763).
    """
    sorted_errors = np.sort(np.asarray(errors, np.float64))
    within = sorted_errors[sorted_errors < most]
    share = np.arange(1, len(within) + 1) / len(sorted_errors)
    x = np.concatenate([[0.0], within, [most]])
    y = np.concatenate([[0.0], share, share[-1:] if len(share) else [0.0]])
    return float(np.trapezoid(y, x) / most)
