"""A hand-made view and a hand-made scene: boxes in front of a wall, with exact pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from spatialboost.scenes.cues import Cues, SceneObject
from spatialboost.scenes.scene import Scene

# name: (top, bottom, left, right as fractions of the image, depth in metres)
BOXES = {
    "red box": (0.10, 0.35, 0.08, 0.30, 1.2),
    "blue ball": (0.55, 0.70, 0.40, 0.52, 2.0),
    "green cone": (0.30, 0.80, 0.65, 0.92, 3.1),
    "orange book": (0.72, 0.88, 0.12, 0.24, 0.4),
}


def tiny_cues(
    size: tuple[int, int] = (96, 128), *, noise: float = 0.0, boxes: dict | None = None, holes: bool = False
) -> Cues:
    height, width = size
    depth = np.full(size, 4.0, np.float32)
    depth += np.linspace(0.0, -1.0, height, dtype=np.float32)[:, None]
    image = np.full((*size, 3), 200, np.uint8)
    objects = []
    for number, (name, (top, bottom, left, right, metres)) in enumerate((BOXES if boxes is None else boxes).items()):
        rows, columns = slice(int(top * height), int(bottom * height)), slice(int(left * width), int(right * width))
        mask = np.zeros(size, bool)
        mask[rows, columns] = True
        depth[mask] = (metres + np.linspace(0, 0.05, width, dtype=np.float32)[None, :].repeat(height, 0))[mask]
        image[mask] = (40 * number, 255 - 50 * number, 90)
        objects.append(SceneObject(name, mask))
    if holes:
        depth[::7, ::5] = 0.0
        depth[: height // 6] = np.nan
    focal = float(width)
    intrinsics = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    return Cues(image, depth, intrinsics, "hand-made", objects, depth_noise=noise, up_3=np.array([0.0, -1.0, 0.0]))


def tiny_scene(count: int = 3) -> Scene:
    """Hand-made views with different sizes and objects. Each camera is 10 cm to the right of the one before."""
    sizes, views = [(96, 128), (90, 60), (64, 64)], []
    for number in range(count):
        names = list(BOXES)[: 4 - number % 3] if number else list(BOXES)
        view = tiny_cues(sizes[number % 3], boxes={name: BOXES[name] for name in names}, noise=0.01 * number)
        pose = np.array([[0, 0, 1, 5 + 0.1 * number], [1, 0, 0, 2], [0, 1, 0, 1], [0, 0, 0, 1.0]])
        views.append(replace(view, source=f"hand-made {number + 1}", pose_44=pose))
    return Scene(views)
