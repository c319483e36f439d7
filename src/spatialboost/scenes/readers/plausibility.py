"""Whether depth, intrinsics and poses of a folder of RGB-D frames fit together, tested on a few frames."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.camera import project, unproject

log = logging.getLogger(__name__)

# Shape legend: H, W = image height and width in pixels; N = frames; P = points.

MILLIMETRES = 1000.0  # values per metre, if the folder does not say otherwise
_SCALES = (100.0, 256.0, 1000.0, 4000.0, 5000.0, 10000.0)  # values per metre that public data sets have
_MEDIAN, _FAR = (0.6, 5.0), 12.0  # metres: usual median of RGB-D cameras in rooms, and usual 99th percentile
_POSSIBLE = (0.005, 1000.0)  # metres: a median outside of this is refused, also if the scale is given
_FOCAL = (0.1, 30.0)  # focal length divided by the width: fields of view of 157 and of 2 degrees
_FRAMES = 5
_PAIRS = 4
_BASELINE, _TURN = 0.15, 25.0  # metres and degrees between the two frames of a pair
_POINTS = 3000  # for each pair
_LEAST_SEEN = 200  # points that both frames of the pairs must see
_OCCLUDED = 0.1  # difference of depth from which on two frames see different things there
_CLEAR, _BETTER = 0.008, 0.5  # disagreement of depth and poses that counts, and how much less another scale must have
_LARGE = 0.04  # disagreement at every scale that is reported

ReadDepth = Callable[[int], np.ndarray | None]  # depth of a frame in metres, 0 = no reading; None = not readable


def intrinsics_problem(
    intrinsics_33: np.ndarray, size: tuple[int, int], intended_size: tuple[int, int] | None
) -> str | None:
    """Say why intrinsics do not belong to images of a size; None if they can.

    Example:
        >>> full = np.array([[500.0, 0, 319.5], [0, 500.0, 239.5], [0, 0, 1]])
        >>> intrinsics_problem(full, (480, 640), None) is None, intrinsics_problem(full, (960, 1280), None) is None
        (True, False)

    Args:
        intrinsics_33: camera matrix.
        size: height and width of an image.
        intended_size: height and width that the folder gives for the intrinsics, or None.
    """
    height, width = size
    (fx, skew, cx), (fy, cy) = intrinsics_33[0], intrinsics_33[1, 1:]
    advice = "expected intrinsics in pixels of this image: rescale them with the images"
    if intended_size is not None and intended_size != size:
        return (
            f"intrinsics.txt is for images of {intended_size[1]}x{intended_size[0]} pixels, this image has "
            f"{width}x{height}; {advice}"
        )
    if not (_FOCAL[0] <= fx / width <= _FOCAL[1] and 0.5 <= fx / fy <= 2 and abs(skew) <= 0.1 * fx):
        return (
            f"the focal lengths of intrinsics.txt are {fx:g} and {fy:g} and its skew {skew:g}, which no camera has "
            f"with images of {width} pixels width; {advice}"
        )
    off = np.array([(cx + 0.5) / width, (cy + 0.5) / height]) - 0.5
    if (np.abs(off) > 0.5).any():
        where = "outside of"
    elif intended_size is None and (np.abs(off).max() > 0.15 or (off > 0.08).all() or (off < -0.08).all()):
        where = "far from the middle of"
        advice += f". If they are right (images cut from larger ones), add a line to intrinsics.txt: {width} {height}"
    else:
        return None
    return (
        f"the principal point of intrinsics.txt is ({cx:.1f}, {cy:.1f}), {where} the image of {width}x{height} pixels; "
        f"{advice}"
    )


def check_depth(
    folder: Path,
    read: ReadDepth,
    num: int,
    scale: float | None,
    intrinsics_33: np.ndarray,
    poses_N44: np.ndarray | None,
) -> None:
    """Compare the depth of a few frames with what is usual, and with the poses.

    Args:
        folder: for messages.
        read: reads the depth of a frame.
        num: number of frames.
        scale: values per metre that the folder gives; None = it gives none, and depth is read as millimetres.
        intrinsics_33: camera matrix.
        poses_N44: camera to world of each frame, or None.

    Raises:
        SpatialBoostError: the depth is not what it would be at this scale.
    """
    depths = {index: read(index) for index in np.unique(np.linspace(0, num - 1, _FRAMES).astype(int)).tolist()}
    found = [depth_HW[depth_HW > 0] for depth_HW in depths.values() if depth_HW is not None]
    readings = np.concatenate(found) if found else np.empty(0)
    if not readings.size:
        return
    near, median, far = np.percentile(readings, (1, 50, 99))
    seen = f"{near:.3g} to {far:.3g} m, half of it beyond {median:.3g} m, in {len(found)} frames"
    _check_range(folder, seen, median, far, scale)
    if poses_N44 is not None:
        _check_poses(folder, read, scale or MILLIMETRES, intrinsics_33, poses_N44)
    log.info("%s: depth is %s (%g values per metre)", folder, seen, scale or MILLIMETRES)


def _check_range(folder: Path, seen: str, median: float, far: float, scale: float | None) -> None:
    usual = _MEDIAN[0] <= median <= _MEDIAN[1] and far <= _FAR
    possible = _POSSIBLE[0] <= median <= _POSSIBLE[1]
    if scale is None and not usual:
        raise SpatialBoostError(
            f"{folder}: read as millimetres, depth is {seen}, which is unusual for an RGB-D camera. Write the number "
            f"of values per metre into {folder / 'depth_scale.txt'}: 1000 if these are millimetres, otherwise the "
            "number of this data set, such as 5000 or 256"
        )
    if not possible:
        raise SpatialBoostError(
            f"{folder}: at {scale:g} values per metre, depth is {seen}, which cannot be right; correct the number in "
            f"{folder / 'depth_scale.txt'}"
        )
    if not usual:
        log.warning(
            "%s: at %g values per metre, depth is %s; is the number in depth_scale.txt right?", folder, scale, seen
        )


def _check_poses(folder: Path, read: ReadDepth, scale: float, intrinsics_33: np.ndarray, poses_N44: np.ndarray) -> None:
    """Depth that is seen from two places must agree. If it agrees only at another scale, that scale is right."""
    pairs = [(i, j, read(i), read(j)) for i, j in _find_pairs(poses_N44)]
    factors = {1.0: scale} | {scale / other: other for other in _SCALES if other != scale}
    errors: dict[float, float] = {}
    for factor, other in factors.items():
        ratios = [
            _disagreement(first * factor, second * factor, intrinsics_33, poses_N44[i], poses_N44[j])
            for i, j, first, second in pairs
            if first is not None and second is not None and first.shape == second.shape
        ]
        both = np.concatenate(ratios) if ratios else np.empty(0)
        if both.size >= _LEAST_SEEN:
            # Not the median: where most of a view is one plane, most points agree at any scale
            errors[other] = float(np.minimum(both, _OCCLUDED).mean())
    if scale not in errors or errors[scale] <= _CLEAR:
        return
    best = min(errors, key=lambda other: errors[other])
    if errors[best] < _BETTER * errors[scale]:
        raise SpatialBoostError(
            f"{folder}: at {scale:g} values per metre, depth and poses.txt disagree by {errors[scale]:.1%}; at "
            f"{best:g} only by {errors[best]:.1%}. Write {best:g} into {folder / 'depth_scale.txt'}, or correct "
            "poses.txt (metres, camera to world)"
        )
    if errors[scale] < _LARGE:
        return
    log.warning(
        "%s: depth seen from two places disagrees by %.0f %%; check poses.txt (metres, camera to world), "
        "intrinsics.txt and the scale of the depth maps",
        folder,
        100 * errors[scale],
    )


def _find_pairs(poses_N44: np.ndarray) -> Sequence[tuple[int, int]]:
    """Pairs of frames that look in a similar direction from two places."""
    centres_N3, turns_N33 = poses_N44[:, :3, 3], poses_N44[:, :3, :3]
    pairs = []
    for first in np.unique(np.linspace(0, 0.9 * (len(poses_N44) - 1), _PAIRS).astype(int)).tolist():
        with np.errstate(invalid="ignore"):
            far = np.linalg.norm(centres_N3[first:] - centres_N3[first], axis=1) >= _BASELINE
            trace = np.einsum("nij,ij->n", turns_N33[first:], turns_N33[first])
            places = np.flatnonzero(far & (trace >= 1 + 2 * np.cos(np.radians(_TURN))))
        if places.size:
            pairs.append((first, first + int(places[0])))
    return pairs


def _disagreement(
    first_HW: np.ndarray, second_HW: np.ndarray, intrinsics_33: np.ndarray, first_44: np.ndarray, second_44: np.ndarray
) -> np.ndarray:
    """For points of the first frame that the second sees, ``(P,)``: difference of the two depths, as a fraction."""
    height, width = first_HW.shape
    step = max(1, int((height * width / _POINTS) ** 0.5))
    points_P3 = unproject(first_HW, intrinsics_33)[::step, ::step].reshape(-1, 3)
    points_P3 = points_P3[points_P3[:, 2] > 0]
    world_P3 = points_P3 @ first_44[:3, :3].T + first_44[:3, 3]
    seen_P3 = (world_P3 - second_44[:3, 3]) @ second_44[:3, :3]
    seen_P3 = seen_P3[seen_P3[:, 2] > 0]
    columns, rows = np.rint(project(seen_P3, intrinsics_33)).T
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    found = second_HW[rows[inside].astype(int), columns[inside].astype(int)]
    expected, read = seen_P3[inside, 2], found > 0
    return np.abs(np.log(found[read] / expected[read]))
