"""Whether depth, intrinsics and poses of a folder of RGB-D frames fit together, tested on a few frames."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.camera import project, unproject
from spatialboost.scenes.readers.decode import MILLIMETRES
from spatialboost.scenes.readers.options import PoseType
from spatialboost.scenes.readers.poses import PoseOf, to_camera_to_world

log = logging.getLogger(__name__)

# Shape legend: H, W = image height and width in pixels; N = frames; P = points.

_SCALES = (100.0, 256.0, 1000.0, 4000.0, 5000.0, 10000.0)  # values per metre that public data sets have
USUAL = (0.6, 5.0, 12.0)  # metres: usual median of RGB-D cameras in rooms, and usual 99th percentile
_POSSIBLE = (0.005, 1000.0)  # metres: a median outside of this is refused, also if the scale is given
_FOCAL = (0.1, 30.0)  # focal length divided by the width: fields of view of 157 and of 2 degrees
_OFF_BOTH, _OFF_ONE = 0.08, 0.15  # distance of the principal point from the middle that counts
_FRAMES = 5
_PAIRS = 4
_BASELINE, _TURN = 0.15, 25.0  # metres and degrees between the two frames of a pair
_LONGEST_STEP = 600  # frames between the two of a pair
_POINTS = 3000  # for each pair
_LEAST_SEEN = 200  # points that both frames of the pairs must see
_OCCLUDED = 0.1  # difference of depth from which on two frames see different things there
_CLEAR, _BETTER = 0.008, 0.5  # disagreement of depth and poses that counts, and how much less another scale must have
_LARGE = 0.04  # disagreement at every scale that is reported


@dataclass(frozen=True)
class Measured:
    """Depth of a frame in metres, 0 = no reading, and the camera matrix in its pixels."""

    depth_HW: np.ndarray
    intrinsics_33: np.ndarray


Measure = Callable[[int], Measured | None]  # None = the frame is not readable


def intrinsics_problem(intrinsics_33: np.ndarray, size: tuple[int, int], size_known: bool, origin: str) -> str | None:
    """Say why intrinsics do not belong to images of a size; None if they can.

    Example:
        >>> full = np.array([[500.0, 0, 319.5], [0, 500.0, 239.5], [0, 0, 1]])
        >>> intrinsics_problem(full, (480, 640), False, "K") is None
        True
        >>> intrinsics_problem(full, (960, 1280), False, "K")[:48]
        'the principal point of K is (319.5, 239.5), far '
    """
    height, width = size
    (fx, skew, cx), (fy, cy) = intrinsics_33[0], intrinsics_33[1, 1:]
    advice = (
        "expected intrinsics in pixels of this image: rescale them, or say for which size they are with a line WIDTH "
        "HEIGHT in the file or --intrinsics 'fx fy cx cy WIDTH HEIGHT'"
    )
    if not (_FOCAL[0] <= fx / width <= _FOCAL[1] and 0.5 <= fx / fy <= 2 and abs(skew) <= 0.1 * fx):
        return (
            f"the focal lengths of {origin} are {fx:g} and {fy:g} and its skew {skew:g}, which no camera has "
            f"with images of {width} pixels width; {advice}"
        )
    off = _off_middle(intrinsics_33, size)
    if (np.abs(off) > 0.5).any():
        where = "outside of"
    elif not size_known and ((off > _OFF_BOTH).all() or (off < -_OFF_BOTH).all()):  # as at another resolution
        where = "far from the middle of"
    else:
        return None
    place = f"({cx:.1f}, {cy:.1f}), {where} the image of {width}x{height} pixels"
    return f"the principal point of {origin} is {place}; {advice}"


def principal_point_warning(intrinsics_33: np.ndarray, size: tuple[int, int], origin: str) -> str | None:
    """A warning if the principal point is far from the middle, as it is in images cut from larger ones."""
    off = _off_middle(intrinsics_33, size)
    if np.abs(off).max() <= _OFF_ONE:
        return None
    return (
        f"the principal point of {origin} is {abs(off[0]):.0%} of the width and {abs(off[1]):.0%} of the height away "
        f"from the middle of the images of {size[1]}x{size[0]} pixels. If that is right, add a line {size[1]} "
        f"{size[0]} to the file; otherwise correct it, or give --intrinsics 'fx fy cx cy'"
    )


def _off_middle(intrinsics_33: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The principal point relative to the middle, as fractions of width and height."""
    return np.array([(intrinsics_33[0, 2] + 0.5) / size[1], (intrinsics_33[1, 2] + 0.5) / size[0]]) - 0.5


def check_depth(
    folder: Path,
    measure: Measure,
    pose_of: PoseOf,
    num: int,
    scale: float,
    usual: tuple[float, float, float] = USUAL,
    *,
    given: bool,
) -> str:
    """Compare the depth of a few frames with what is usual, and with the poses. Returns what the depth is.

    ``usual`` is the lowest and highest usual median and the highest usual 99th percentile, in metres. ``given``: the
    folder, an option or the data set gives the scale (values per metre).

    Raises:
        SpatialBoostError: the depth is not what it would be at this scale.
    """
    measured = [measure(index) for index in np.unique(np.linspace(0, num - 1, _FRAMES).astype(int)).tolist()]
    found = [frame.depth_HW[frame.depth_HW > 0] for frame in measured if frame is not None]
    readings = np.concatenate(found) if found else np.empty(0)
    if not readings.size:
        return "not read: none of a few frames has a reading"
    near, median, far = np.percentile(readings, (1, 50, 99))
    seen = f"{near:.3g} to {far:.3g} m, half of it beyond {median:.3g} m, in {len(found)} frames"
    is_usual = usual[0] <= median <= usual[1] and far <= usual[2]
    _check_range(folder, seen, median, is_usual, scale, given)
    _check_poses(folder, measure, pose_of, num, scale)
    return f"{seen} ({scale:g} values per metre)"


def _check_range(folder: Path, seen: str, median: float, is_usual: bool, scale: float, given: bool) -> None:
    possible = _POSSIBLE[0] <= median <= _POSSIBLE[1]
    if not given and not is_usual:
        unit = "millimetres" if scale == MILLIMETRES else "metres"
        raise SpatialBoostError(
            f"{folder}: read as {unit}, depth is {seen}, which is unusual for an RGB-D camera. Give the number of "
            f"values per metre with --depth-scale or in {folder / 'depth_scale.txt'}: {scale:g} if these are {unit}, "
            "otherwise the number of this data set, such as 5000 or 256"
        )
    if not possible:
        raise SpatialBoostError(
            f"{folder}: at {scale:g} values per metre, depth is {seen}, which cannot be right; correct --depth-scale "
            f"or the number in {folder / 'depth_scale.txt'}"
        )
    if not is_usual:
        log.warning(
            "%s: at %g values per metre, depth is %s; is --depth-scale (or the number in depth_scale.txt) right? "
            "--max-depth cuts off what is too far",
            folder,
            scale,
            seen,
        )


def _check_poses(folder: Path, measure: Measure, pose_of: PoseOf, num: int, scale: float) -> None:
    """Depth that is seen from two places must agree. If it agrees only at another scale, that scale is right."""
    pairs = []
    for (i, first_44), (j, second_44) in _find_pairs(pose_of, num):
        first, second = measure(i), measure(j)
        if first is not None and second is not None and first.depth_HW.shape == second.depth_HW.shape:
            pairs.append((first, second, first_44, second_44))
    errors = {other: error for other in (scale, *_SCALES) if (error := _mean_error(pairs, scale / other)) is not None}
    if scale not in errors or errors[scale] <= _CLEAR:
        return
    best = min(errors, key=lambda other: errors[other])
    if errors[best] < _BETTER * errors[scale]:
        raise SpatialBoostError(
            f"{folder}: at {scale:g} values per metre, depth and poses disagree by {errors[scale]:.1%}; at "
            f"{best:g} only by {errors[best]:.1%}. Write {best:g} into {folder / 'depth_scale.txt'} or give "
            f"--depth-scale {best:g}, or correct the poses (metres, camera to world)"
        )
    if errors[scale] < _LARGE:
        return
    other_types: tuple[PoseType, ...] = ("world-to-camera", "opengl")
    for pose_type in other_types:
        turned = [
            (first, second, to_camera_to_world(first_44, pose_type), to_camera_to_world(second_44, pose_type))
            for first, second, first_44, second_44 in pairs
        ]
        error = _mean_error(turned, 1.0)
        if error is not None and error < min(_LARGE, _BETTER * errors[scale]):
            raise SpatialBoostError(
                f"{folder}: read as camera to world, depth and poses disagree by {errors[scale]:.1%}; read as "
                f"{pose_type} only by {error:.1%}. Give --pose-type {pose_type}"
            )
    log.warning(
        "%s: depth seen from two places disagrees by %.0f %%; check the poses (metres, camera to world; --pose-type), "
        "the intrinsics and the scale of the depth maps",
        folder,
        100 * errors[scale],
    )


def _mean_error(pairs: Sequence[tuple[Measured, Measured, np.ndarray, np.ndarray]], factor: float) -> float | None:
    """How much depth times a factor disagrees in pairs of frames; None if they see too few of the same points."""
    ratios = [
        _disagreement(first.depth_HW * factor, second.depth_HW * factor, first, second, first_44, second_44)
        for first, second, first_44, second_44 in pairs
    ]
    both = np.concatenate(ratios) if ratios else np.empty(0)
    if both.size < _LEAST_SEEN:
        return None
    # Not the median: where most of a view is one plane, most points agree at any scale
    return float(np.minimum(both, _OCCLUDED).mean())


def _find_pairs(pose_of: PoseOf, num: int) -> Sequence[tuple[tuple[int, np.ndarray], tuple[int, np.ndarray]]]:
    """Pairs of frames that look in a similar direction from two places."""
    pairs = []
    for first in np.unique(np.linspace(0, 0.9 * (num - 1), _PAIRS).astype(int)).tolist():
        here_44 = pose_of(first)
        if here_44 is None:
            continue
        for second in range(first + 1, min(num, first + _LONGEST_STEP)):
            there_44 = pose_of(second)
            if there_44 is None:
                continue
            with np.errstate(invalid="ignore"):
                far = np.linalg.norm(there_44[:3, 3] - here_44[:3, 3]) >= _BASELINE
                similar = (there_44[:3, :3] * here_44[:3, :3]).sum() >= 1 + 2 * np.cos(np.radians(_TURN))
            if far and similar:
                pairs.append(((first, here_44), (second, there_44)))
                break
    return pairs


def _disagreement(
    first_HW: np.ndarray,
    second_HW: np.ndarray,
    first: Measured,
    second: Measured,
    first_44: np.ndarray,
    second_44: np.ndarray,
) -> np.ndarray:
    """For points of the first frame that the second sees, ``(P,)``: difference of the two depths, as a fraction."""
    height, width = first_HW.shape
    step = max(1, int((height * width / _POINTS) ** 0.5))
    points_P3 = unproject(first_HW, first.intrinsics_33)[::step, ::step].reshape(-1, 3)
    points_P3 = points_P3[points_P3[:, 2] > 0]
    world_P3 = points_P3 @ first_44[:3, :3].T + first_44[:3, 3]
    seen_P3 = (world_P3 - second_44[:3, 3]) @ second_44[:3, :3]
    seen_P3 = seen_P3[seen_P3[:, 2] > 0]
    columns, rows = np.rint(project(seen_P3, second.intrinsics_33)).T
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    found = second_HW[rows[inside].astype(int), columns[inside].astype(int)]
    expected, read = seen_P3[inside, 2], found > 0
    return np.abs(np.log(found[read] / expected[read]))
