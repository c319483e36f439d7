"""The Fetch robot of gymnasium-robotics: the gripper has to reach a red point that the camera sees."""

from __future__ import annotations

from typing import Any

import numpy as np

from spatialboost.probes.control.simulator import Simulator

# Nearer than the simulator's own camera, from which the point is two pixels wide
CAMERA = {"distance": 1.0, "azimuth": 132.0, "elevation": -25.0, "lookat": np.array([1.35, 0.75, 0.5])}
HOLD = 5  # steps in a row; a gripper that only passes by has not reached the point
_GAIN = 10.0  # of the expert: shares of full speed for a metre of distance


class FetchReach(Simulator):
    """Move the gripper to the red point. The expert is a proportional controller on their difference."""

    horizon = 50

    def __init__(self, name: str, size: int) -> None:
        super().__init__(name, size)
        import gymnasium
        import gymnasium_robotics

        gymnasium.register_envs(gymnasium_robotics)
        look: dict[str, Any] = {"width": size, "height": size, "default_camera_config": CAMERA}
        self._env: Any = gymnasium.make(name, render_mode="rgb_array", **look)
        self._seen: dict[str, np.ndarray] = {}
        self._held = 0

    def reset(self, seed: int) -> None:
        """Begin the episode that belongs to a seed."""
        self._seen, _ = self._env.reset(seed=seed)
        self._held = 0

    def frame(self) -> np.ndarray:
        """What the camera sees now."""
        return np.asarray(self._env.render())

    def proprioception(self) -> np.ndarray:
        """Position and speed of the gripper and its fingers."""
        return self._seen["observation"]

    def expert(self) -> np.ndarray:
        """Towards the point, with the fingers as they are."""
        move = _GAIN * (self._seen["desired_goal"] - self._seen["achieved_goal"])
        return np.append(np.clip(move, -1, 1), 0.0)

    def step(self, action: np.ndarray) -> bool:
        """Take a step; solved after `HOLD` steps in a row within 5 cm of the point, as the environment counts it."""
        self._seen, _, _, _, info = self._env.step(np.clip(action, -1, 1))
        self._held = self._held + 1 if info["is_success"] else 0
        return self._held >= HOLD

    def close(self) -> None:
        """Free the renderer."""
        self._env.close()
