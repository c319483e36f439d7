"""What a task of the control probe is, the table of all tasks, and the check that its simulator can render."""

from __future__ import annotations

import importlib
import os
import sys
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from spatialboost.errors import SpatialBoostError, unknown

TASKS: dict[str, tuple[str, str]] = {
    "fetch-reach": ("spatialboost.probes.control.fetch:FetchReach", "FetchReach-v4"),
    "button-press": ("spatialboost.probes.control.meta_world:MetaWorld", "button-press-topdown-v3"),
    "drawer-open": ("spatialboost.probes.control.meta_world:MetaWorld", "drawer-open-v3"),
    "hammer": ("spatialboost.probes.control.meta_world:MetaWorld", "hammer-v3"),
    "reach": ("spatialboost.probes.control.meta_world:MetaWorld", "reach-v3"),
}
"""Class of the simulator of each task, and the name that the simulator has for it; imported when it is needed."""

NEEDS = (
    "a simulator without a screen needs EGL or OSMesa: on Debian `apt install libegl1 libgl1-mesa-dri libosmesa6`, "
    "then set MUJOCO_GL to egl or osmesa"
)


class Simulator(ABC):
    """One task in a simulator, with an expert that solves it from the simulator's own state.

    Args:
        name: the simulator's name for the task.
        size: side in pixels of the frames.
    """

    def __init__(self, name: str, size: int) -> None:
        self.name, self.size = name, size

    @property
    @abstractmethod
    def horizon(self) -> int:
        """Most steps of an episode."""

    @abstractmethod
    def reset(self, seed: int) -> None:
        """Begin the episode that belongs to a seed."""

    @abstractmethod
    def frame(self) -> np.ndarray:
        """What the camera sees now: uint8 ``(size, size, 3)``."""

    @abstractmethod
    def proprioception(self) -> np.ndarray:
        """The robot's own state, without that of objects and goals."""

    @abstractmethod
    def expert(self) -> np.ndarray:
        """The action of the expert now."""

    @abstractmethod
    def step(self, action: np.ndarray) -> bool:
        """Take a step; returns whether the task is solved after it."""

    def close(self) -> None:  # noqa: B027  # a simulator without a renderer has nothing to free
        """Free the renderer."""


def open_task(task: str, size: int) -> Simulator:
    """The simulator of a task, after a first frame has been rendered.

    Args:
        task: a name in `TASKS`.
        size: side in pixels of the frames.

    Raises:
        SpatialBoostError: there is no such task, or its simulator cannot render here.
        ModuleNotFoundError: the simulator is not installed (``pip install "spatialboost[control]"``).
    """
    if task not in TASKS:
        raise unknown("task", task, TASKS)
    target, name = TASKS[task]
    module, _, attribute = target.partition(":")
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")  # read when mujoco is imported
    # Software OpenGL and torch's compiler each bring LLVM. If OpenGL loads its own first, the process crashes when the
    # compiler is imported, which model libraries do
    importlib.import_module("torch._dynamo")
    made: Any = getattr(importlib.import_module(module), attribute)
    try:
        simulator = made(name, size)
        simulator.reset(0)
        frame_HW3 = simulator.frame()
    except (ModuleNotFoundError, SpatialBoostError):
        raise
    except Exception as error:  # drivers and loaders of OpenGL raise many kinds of errors
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise SpatialBoostError(
            f"task {task}: no frame can be rendered with MUJOCO_GL={os.environ.get('MUJOCO_GL')} ({reason}); {NEEDS}"
        ) from error
    if frame_HW3.shape != (size, size, 3) or frame_HW3.min() == frame_HW3.max():
        raise SpatialBoostError(
            f"task {task}: the frame is {frame_HW3.shape} with values from {frame_HW3.min()} to {frame_HW3.max()}; "
            f"expected a picture of {size} x {size} pixels; {NEEDS}"
        )
    return simulator
