"""A task of the control probe, as somebody else would write it: a red point moves to a green one on a black canvas."""

from __future__ import annotations

import numpy as np

from spatialboost.probes.control.simulator import Simulator


class PointTask(Simulator):
    horizon = 20

    def reset(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.goal = rng.uniform(0.1, 0.9, 2)
        self.place = rng.uniform(0.1, 0.9, 2)
        while np.linalg.norm(self.place - self.goal) < 0.3:
            self.place = rng.uniform(0.1, 0.9, 2)

    def frame(self) -> np.ndarray:
        y, x = (np.mgrid[: self.size, : self.size] + 0.5) / self.size
        image = np.zeros((self.size, self.size, 3), np.uint8)
        for channel, (u, v) in ((0, self.place), (1, self.goal)):
            image[..., channel] = 255 * np.exp(-((x - u) ** 2 + (y - v) ** 2) / 0.01)
        return image

    def proprioception(self) -> np.ndarray:
        return self.place

    def expert(self) -> np.ndarray:
        return np.clip(10 * (self.goal - self.place), -1, 1)

    def step(self, action: np.ndarray) -> bool:
        self.place = np.clip(self.place + 0.1 * np.clip(action, -1, 1), 0, 1)
        return bool(np.linalg.norm(self.place - self.goal) < 0.08)


class HardTask(PointTask):
    """Its expert goes the wrong way."""

    def expert(self) -> np.ndarray:
        return -super().expert()


class BlankTask(PointTask):
    """Its driver draws nothing."""

    def frame(self) -> np.ndarray:
        return np.zeros((self.size, self.size, 3), np.uint8)


class BrokenTask(PointTask):
    """Its driver is missing."""

    def frame(self) -> np.ndarray:
        raise AttributeError("'NoneType' object has no attribute 'eglQueryString'")
