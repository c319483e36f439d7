"""Tasks of Meta-World: a Sawyer arm with things on a table, and the scripted policies that come with them."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any

import numpy as np

from spatialboost.probes.control.simulator import Simulator


class MetaWorld(Simulator):
    """A task of Meta-World, such as ``drawer-open-v3``; the expert is its scripted policy."""

    horizon = 200  # the experts need 60 to 100

    def __init__(self, name: str, size: int) -> None:
        super().__init__(name, size)
        from metaworld.policies import ENV_POLICY_MAP

        made: Any = _tasks(name, 0).train_classes[name]
        self._env: Any = made(render_mode="rgb_array", camera_name="corner2", width=size, height=size)
        self._expert: Any = ENV_POLICY_MAP[name]()
        self._seen = np.empty(0)

    def reset(self, seed: int) -> None:
        """Begin the episode of a seed; Meta-World makes 50 at a time."""
        block, number = divmod(seed, 50)
        self._env.set_task(_tasks(self.name, block).train_tasks[number])
        self._seen, _ = self._env.reset()

    def frame(self) -> np.ndarray:
        """What the camera sees now; this camera of Meta-World is upside down."""
        return np.ascontiguousarray(self._env.render()[::-1, ::-1])

    def proprioception(self) -> np.ndarray:
        """Position of the hand, and how far it is open."""
        return self._seen[:4]

    def expert(self) -> np.ndarray:
        """The action of the scripted policy."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns that its actions are clipped
            return np.clip(self._expert.get_action(self._seen), -1, 1)

    def step(self, action: np.ndarray) -> bool:
        """Take a step; solved as the task counts it."""
        self._seen, _, _, _, info = self._env.step(np.clip(action, -1, 1))
        return bool(info["success"])

    def close(self) -> None:
        """Free the renderer."""
        self._env.close()


@lru_cache(maxsize=16)
def _tasks(name: str, seed: int) -> Any:
    """The 50 episodes of a task that belong to a seed."""
    import metaworld

    return metaworld.MT1(name, seed=seed)
