"""Camera poses: the forms in which data sets write them, as 4x4 camera-to-world matrices in metres."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import CuesError
from spatialboost.scenes.paths import is_wanted
from spatialboost.scenes.readers.matching import nearest, parse_time
from spatialboost.scenes.readers.options import PoseType
from spatialboost.scenes.readers.text import read_numbers, read_words

NEAR = 0.02  # seconds between a frame and its pose
EXPECTED = (
    "expected for each image one line of 16 numbers, the 4x4 camera-to-world matrix row by row; or of 12 (3x4) or 7 "
    "(tx ty tz qx qy qz qw), also with the image's time or name before them; or a .log file, or a folder with one file "
    "for each image"
)
_FLIP_44 = np.diag([1.0, -1.0, -1.0, 1.0])  # y up and z backward to y down and z forward

PoseOf = Callable[[int], np.ndarray | None]  # pose of a frame as the file has it; may raise CuesError


def open_poses(path: Path, names: Sequence[str], times: Sequence[float | None]) -> PoseOf:
    """The poses of a file or folder, for frames with these names and times.

    Raises:
        SpatialBoostError: the file has another form, or another number of poses.
    """
    if path.is_dir():
        files = {file.stem: file for file in path.iterdir() if is_wanted(file)}
        files |= {name.removesuffix(".pose"): file for name, file in files.items()}  # 7-Scenes
        return partial(_of_folder, files, list(names), path)
    if path.suffix == ".log":
        matrices = _read_log(path)
        _compare(path, len(matrices), len(names), "poses")
        return partial(_of_list, matrices)
    lines = read_words(path, EXPECTED)
    if lines and all(len(words) == 4 for _, words in lines) and len(lines) == 4 * len(names):
        rows = np.array(read_numbers(path, EXPECTED)).reshape(len(names), 4, 4)
        return partial(_of_list, list(rows))
    if lines and all(len(words) in (8, 13, 17) for _, words in lines):
        return partial(_of_list, _match_keys(path, lines, names, times))
    rows_of_numbers = read_numbers(path, EXPECTED)
    _compare(path, len(rows_of_numbers), len(names), "lines")
    for number, row in enumerate(rows_of_numbers, 1):
        if len(row) not in (7, 12, 16):
            raise SpatialBoostError(f"{path}, line {number} has {len(row)} numbers; {EXPECTED}")
    return partial(_of_list, [to_matrix(row) for row in rows_of_numbers])


def read_pose(file: Path, source: str) -> np.ndarray:
    """The pose of a file with one pose: 4x4, 3x4, or position and quaternion; float64 ``(4, 4)``.

    Raises:
        CuesError: the file is missing or has another form.
    """
    try:
        numbers = np.concatenate([*read_numbers(file, "expected the 4x4 camera-to-world matrix"), []]).tolist()
    except SpatialBoostError as error:
        raise CuesError(f"{source}: {error}") from error
    if len(numbers) not in (7, 12, 16):
        raise CuesError(
            f"{source}: {file.name} has {len(numbers)} numbers; expected the 16 of the 4x4 camera-to-world matrix, 12 "
            "of 3x4, or tx ty tz qx qy qz qw"
        )
    return to_matrix(numbers)


def to_matrix(numbers: Sequence[float]) -> np.ndarray:
    """A pose of 16 (4x4), 12 (3x4) or 7 numbers (tx ty tz qx qy qz qw) as float64 ``(4, 4)``.

    A quaternion without direction, which some programs write where tracking was lost, gives NaN.

    Example:
        >>> to_matrix([1, 2, 3, 0, 0, 0, 1]).tolist()[0]
        [1.0, 0.0, 0.0, 1.0]
    """
    pose_44 = np.eye(4)
    if len(numbers) == 7:
        pose_44[:3, :3], pose_44[:3, 3] = quaternion_to_matrix(*numbers[3:]), numbers[:3]
    else:
        pose_44[: len(numbers) // 4] = np.reshape(numbers, (-1, 4))
    return pose_44


def quaternion_to_matrix(x: float, y: float, z: float, w: float) -> np.ndarray:
    """The rotation matrix of a quaternion of any length; NaN if it has none.

    Example:
        >>> quaternion_to_matrix(0, 0, 1, 1).round(6).tolist()
        [[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        x, y, z, w = np.array([x, y, z, w], np.float64) / np.linalg.norm([x, y, z, w])
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def axis_angle_to_matrix(x: float, y: float, z: float) -> np.ndarray:
    """The rotation matrix about an axis by the axis' length in radians.

    Example:
        >>> axis_angle_to_matrix(0, 0, np.pi / 2).round(6).tolist()
        [[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """
    with np.errstate(invalid="ignore", over="ignore"):
        half = np.linalg.norm([x, y, z]) / 2
        sine, cosine = 0.5 * float(np.sinc(half / np.pi)), float(np.cos(half))  # the first is sin(half) / (2 half)
    return quaternion_to_matrix(x * sine, y * sine, z * sine, cosine)


def to_camera_to_world(pose_44: np.ndarray, pose_type: PoseType, scale: float = 1.0) -> np.ndarray:
    """A pose of a type as camera to world, x right, y down, z forward, in metres.

    The scale is in metres per unit of the pose. A matrix that is not rigid stays one that is not; `Cues` refuses it.
    """
    pose_44 = np.array(pose_44, np.float64)
    if pose_type == "world-to-camera":
        pose_44[:3, :3] = pose_44[:3, :3].T.copy()
        with np.errstate(invalid="ignore", over="ignore"):
            pose_44[:3, 3] = -pose_44[:3, :3] @ pose_44[:3, 3]
    elif pose_type == "opengl":
        pose_44 = pose_44 @ _FLIP_44
    pose_44[:3, 3] *= scale
    return pose_44


def _of_list(matrices: Sequence[np.ndarray | None], index: int) -> np.ndarray | None:
    return matrices[index]


def _of_folder(files: dict[str, Path], names: list[str], folder: Path, index: int) -> np.ndarray:
    source = f"{folder.name}/{names[index]}"
    if names[index] not in files:
        raise CuesError(f"{source}: it has no pose file in {folder}; add it or remove the image")
    return read_pose(files[names[index]], source)


def _compare(path: Path, found: int, num: int, what: str) -> None:
    if found != num:
        raise SpatialBoostError(f"{path} has {found} {what} but rgb/ has {num} images; {EXPECTED}")


def _match_keys(
    path: Path, lines: Sequence[tuple[int, list[str]]], names: Sequence[str], times: Sequence[float | None]
) -> list[np.ndarray | None]:
    """Poses that begin with a name or a time. An image without one has no pose."""
    poses: dict[str, np.ndarray] = {}
    for number, (key, *words) in lines:
        try:
            poses[key] = to_matrix([float(word) for word in words])
        except ValueError as error:
            raise SpatialBoostError(f"{path}, line {number} cannot be read as numbers ({error}); {EXPECTED}") from error
    known = set(names)
    named = {Path(key).stem if key not in known else key: pose for key, pose in poses.items()}
    if known & named.keys():
        return [named.get(name) for name in names]
    stamps = [
        (time, pose) for time, pose in ((parse_time(key), pose) for key, pose in poses.items()) if time is not None
    ]
    timed = [(index, time) for index, time in enumerate(times) if time is not None]
    if not timed or not stamps:
        raise SpatialBoostError(
            f"{path} begins its lines with {next(iter(poses))!r}, which is no image's name, and the images have no "
            f"times; {EXPECTED}"
        )
    pairs = nearest([time for _, time in timed], [time for time, _ in stamps], NEAR)
    if not pairs:
        raise SpatialBoostError(
            f"{path}: no pose is within {NEAR:g} s of an image; its times are {stamps[0][0]:.6f} to "
            f"{stamps[-1][0]:.6f}, those of the images {timed[0][1]:.6f} to {timed[-1][1]:.6f}"
        )
    found: list[np.ndarray | None] = [None] * len(names)
    for index, other in pairs.items():
        found[timed[index][0]] = stamps[other][1]
    return found


def _read_log(path: Path) -> list[np.ndarray]:
    """Blocks of a line with three integers and four lines with a 4x4 matrix, as Redwood and Open3D write them."""
    rows = read_numbers(path, EXPECTED)
    if len(rows) % 5 or any(len(row) != (3 if number % 5 == 0 else 4) for number, row in enumerate(rows)):
        raise SpatialBoostError(
            f"{path} does not consist of blocks of one line with 3 and four with 4 numbers; {EXPECTED}"
        )
    return [np.array(rows[start + 1 : start + 5]) for start in range(0, len(rows), 5)]
