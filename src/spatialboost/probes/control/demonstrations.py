"""Demonstrations: frames and actions of an expert, recorded once and kept in the user's cache."""

from __future__ import annotations

import io
import json
import logging
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.probes.cache_folder import cache_folder
from spatialboost.probes.control.simulator import TASKS, open_task
from spatialboost.scenes.dataset.files import replace_file
from spatialboost.weights.tensor_file import digest

logger = logging.getLogger(__name__)

# Shape legend: n frames, A numbers of an action, P numbers of the robot's own state.

AFTER = 5  # steps that are recorded after a task is solved, so that a policy learns to stay
_VERSION = 1  # change it when older recordings must not be used any more
_PACKAGES = ("mujoco", "gymnasium", "gymnasium-robotics", "metaworld")


@dataclass(frozen=True)
class Frame:
    """One frame of a demonstration, with what the expert did.

    Attributes:
        image_HW3: uint8 ``(H, W, 3)``.
        action: the expert's action, float32.
        proprioception: the robot's own state, float32.
        task: name of the task.
        demo: number of the demonstration.
        step: number of the frame in it.
    """

    image_HW3: np.ndarray
    action: np.ndarray
    proprioception: np.ndarray
    task: str
    demo: int
    step: int


@dataclass(frozen=True)
class Demonstrations(Sequence[Frame]):
    """Frames of demonstrations, in order.

    Attributes:
        frames: the frames of all demonstrations of all tasks.
        size: side of the frames in pixels.
        name: tasks and number of demonstrations.
        left_out: episodes that the expert did not solve.
    """

    frames: Sequence[Frame]
    size: int
    name: str
    left_out: Sequence[str] = ()

    @property
    def tasks(self) -> list[str]:
        """The tasks, in order."""
        return list(dict.fromkeys(frame.task for frame in self.frames))

    @property
    def names(self) -> list[str]:
        """Names of the frames, for reports."""
        return [f"{frame.task}, demonstration {frame.demo}, step {frame.step}" for frame in self.frames]

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: Any) -> Any:
        return self.frames[index]


def record_demonstrations(
    tasks: Sequence[str], *, demos: int = 25, held_out: int = 5, size: int = 128
) -> tuple[Demonstrations, Demonstrations]:
    """Record the experts of some tasks: demonstrations to imitate, and others to measure the imitation on.

    Example:
        >>> train, test = record_demonstrations(["fetch-reach"], demos=2, held_out=1)  # doctest: +SKIP

    Episodes are those of the seeds 0, 1, 2, ...; one that the expert does not solve is left out and named. A recording
    ends a few steps after the task is solved. Recordings are kept in the user's cache for each task, size, number, and
    version of the simulator.

    Args:
        tasks: names in `spatialboost.probes.control.simulator.TASKS`.
        demos: demonstrations of each task to imitate.
        held_out: further demonstrations of each task.
        size: side of the frames in pixels.

    Raises:
        SpatialBoostError: an unknown task, a number out of its range, a simulator that cannot render, or an expert that
            fails too often.
    """
    if not tasks or demos < 1 or held_out < 1 or not 16 <= size <= 1024:
        raise SpatialBoostError(
            f"tasks are {list(tasks)}, demos {demos}, held_out {held_out} and frame_size {size}; expected at least one "
            "of each, and 16 to 1024 pixels"
        )
    parts: dict[bool, list[Frame]] = {False: [], True: []}
    left_out: list[str] = []
    for task in dict.fromkeys(tasks):
        arrays, failed = _recorded(task, demos + held_out, size)
        left_out += failed
        for place, demo in enumerate(arrays["demo"].tolist()):
            image_HW3, action, state = (arrays[key][place] for key in ("images", "actions", "states"))
            frame = Frame(image_HW3, action, state, task, demo, int(arrays["step"][place]))
            parts[demo >= demos].append(frame)
    name = ", ".join(dict.fromkeys(tasks))
    return (
        Demonstrations(parts[False], size, f"{demos} demonstrations of {name}", left_out),
        Demonstrations(parts[True], size, f"{held_out} demonstrations of {name}"),
    )


def _recorded(task: str, num: int, size: int) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays of a recording, from the cache or recorded now, and the episodes that failed."""
    identity = [_VERSION, task, TASKS.get(task), num, size, AFTER, [_version(package) for package in _PACKAGES]]
    file = cache_folder("demonstrations") / f"{task}-{digest(json.dumps(identity).encode())}.npz"
    if file.is_file():
        try:
            with np.load(file, allow_pickle=False) as opened:
                arrays = {key: opened[key] for key in opened.files}
            failed = json.loads(bytes(arrays.pop("failed")))
            return arrays, failed
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            logger.warning("%s cannot be read (%s); it is recorded again", file, type(error).__name__)
    arrays, failed = _record(task, num, size)
    stream = io.BytesIO()
    stored: dict[str, Any] = {**arrays, "failed": np.frombuffer(json.dumps(failed).encode(), np.uint8)}
    np.savez_compressed(stream, **stored)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, stream.getvalue())
    except OSError as error:
        logger.warning("the demonstrations are not kept for the next time: %s", error)
    return arrays, failed


def _record(task: str, num: int, size: int) -> tuple[dict[str, np.ndarray], list[str]]:
    simulator = open_task(task, size)
    logger.info("%s: recording %d demonstrations ...", task, num)
    found: dict[str, list[Any]] = {key: [] for key in ("images", "actions", "states", "demo", "step")}
    failed: list[str] = []
    seed = demo = 0
    while demo < num:
        if len(failed) > num:
            raise SpatialBoostError(
                f"task {task}: the expert failed in {len(failed)} of {seed} episodes; expected fewer failures"
            )
        episode = {key: [] for key in found}  # type: dict[str, list[Any]]
        simulator.reset(seed)
        left: int | None = None  # steps until the recording ends, once the task is solved
        for step in range(simulator.horizon):
            action = np.asarray(simulator.expert(), np.float32)
            for key, value in (
                ("images", simulator.frame()),
                ("actions", action),
                ("states", np.asarray(simulator.proprioception(), np.float32)),
                ("demo", demo),
                ("step", step),
            ):
                episode[key].append(value)
            solved = simulator.step(action)
            left = AFTER if solved and left is None else None if left is None else left - 1
            if left == 0:
                break
        seed += 1
        if left is None:
            failed.append(f"{task}, seed {seed - 1}: the expert did not solve it in {simulator.horizon} steps")
            continue
        demo += 1
        for key, values in episode.items():
            found[key] += values
    simulator.close()
    return {key: np.stack([np.asarray(value) for value in values]) for key, values in found.items()}, failed


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
