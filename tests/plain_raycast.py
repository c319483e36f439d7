"""The first hit of rays in a procedural room, from its description alone: float64, one thing after another.

It shares no code with `spatialboost.scenes.rooms.raycast`, so that it can judge what the renderer's depth maps say.
"""

from __future__ import annotations

import numpy as np

# Shape legend: R rays.


def first_hits(room, origin_3: np.ndarray, directions_R3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ray parameter of the first hit ``(R,)``, and which thing it is: its number, or -1 for a side of the room."""
    width, height, depth = room.size
    low, high = np.array([-width / 2, -height, -depth / 2]), np.array([width / 2, 0.0, depth / 2])
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = (np.where(directions_R3 > 0, high, low) - origin_3) / directions_R3
        best, which = np.nanmin(np.where(directions_R3 == 0, np.inf, reach), 1), np.full(len(directions_R3), -1)
        for number, thing in enumerate(room.things):
            hit = _hit(thing, origin_3 - np.array(thing.centre), directions_R3)
            nearer = (hit > 1e-9) & (hit < best)
            best[nearer], which[nearer] = hit[nearer], number
    return best, which


def _hit(thing, away_3: np.ndarray, rays_R3: np.ndarray) -> np.ndarray:
    """Where rays enter a thing; infinite where they miss it. `away_3` is the origin seen from its centre."""
    if thing.shape in ("box", "panel"):
        turn = np.array(
            [[np.cos(thing.yaw), 0, -np.sin(thing.yaw)], [0, 1, 0], [np.sin(thing.yaw), 0, np.cos(thing.yaw)]]
        )
        origin, rays = turn @ away_3, rays_R3 @ turn.T
        one, two = ((side * np.array(thing.half) - origin) / rays for side in (-1, 1))
        enter, leave = np.minimum(one, two).max(1), np.maximum(one, two).min(1)
        return np.where(enter < leave, enter, np.inf)
    if thing.shape == "sphere":
        return _quadratic((rays_R3**2).sum(1), rays_R3 @ away_3, away_3 @ away_3 - thing.half[0] ** 2)[0]
    flat = rays_R3[:, [0, 2]]
    enter, leave = _quadratic(
        (flat**2).sum(1), flat @ away_3[[0, 2]], away_3[[0, 2]] @ away_3[[0, 2]] - thing.half[0] ** 2
    )
    ends = [(side * thing.half[1] - away_3[1]) / rays_R3[:, 1] for side in (-1, 1)]
    enter, leave = np.maximum(enter, np.minimum(*ends)), np.minimum(leave, np.maximum(*ends))
    return np.where(enter < leave, enter, np.inf)


def _quadratic(a: np.ndarray, half_b: np.ndarray, c: float) -> tuple[np.ndarray, np.ndarray]:
    root = half_b**2 - a * c
    reach = np.sqrt(np.maximum(root, 0))
    missed = root <= 0
    return np.where(missed, np.inf, (-half_b - reach) / a), np.where(missed, -np.inf, (-half_b + reach) / a)
