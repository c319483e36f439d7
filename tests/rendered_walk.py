"""A walk through a rendered room, whose frames tests write in the layouts of data sets, and the comparison with it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from spatialboost.scenes.camera import project, unproject
from spatialboost.scenes.cues import Cues
from spatialboost.scenes.rooms.render import look, render_views, sample_room

NUM = 6
UP = np.array([0.0, -1.0, 0.0])  # in the room, y is down
# From the room to a world with z up, as many sets have it, turned and moved: right-handed, and not symmetric
TO_Z_UP = np.array([[0.6, 0, -0.8, 3.0], [0.8, 0, 0.6, -1.0], [0, -1.0, 0, 0.2], [0, 0, 0, 1.0]])


@cache
def views() -> list[Cues]:
    """Wide views in high resolution, from which the frames are sampled."""
    poses = [look((0.12 * step - 0.4, -1.4, -1.0), yaw=0.05 * step, pitch=0.2, roll=0.02) for step in range(NUM)]
    return render_views(replace(sample_room(3), fov=95.0), poses, size=(240, 320))


def pose(index: int, world_44: np.ndarray = TO_Z_UP) -> np.ndarray:
    """Camera to world of a frame, in another world than the room's."""
    return world_44 @ views()[index].pose_44


def matrix(fx: float, fy: float, cx: float, cy: float) -> np.ndarray:
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])


def shot(index: int, matrix_33: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Image and depth in metres of a frame, as a camera with this matrix at the same place sees them."""
    view = views()[index]
    rays = unproject(np.ones(size), matrix_33)
    columns, rows = np.moveaxis(np.rint(project(rays, view.intrinsics_33)).astype(int), -1, 0)
    assert rows.min() >= 0 and columns.min() >= 0 and rows.max() < 240 and columns.max() < 320, "beyond the wide view"
    return view.image_HW3[rows, columns], view.depth_HW[rows, columns].astype(np.float64)


def thing_masks(index: int, matrix_33: np.ndarray, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """The mask of each object of a frame by its description."""
    view = views()[index]
    columns, rows = np.moveaxis(
        np.rint(project(unproject(np.ones(size), matrix_33), view.intrinsics_33)).astype(int), -1, 0
    )
    masks = {thing.description: thing.mask_HW[rows, columns] for thing in view.objects}
    return {name: mask for name, mask in masks.items() if mask.sum() > 8}


def assert_frame(cues: Cues, index: int, *, world_44: np.ndarray | None = TO_Z_UP, share: float = 0.9) -> None:
    """Each reading is where the room has a surface, and nearly all pixels have one; the pose is the true one."""
    view = views()[index]
    points = unproject(cues.depth_HW, cues.intrinsics_33)[cues.valid_HW]
    assert cues.valid_HW.mean() >= share
    if world_44 is None:
        assert cues.pose_44 is None
    else:
        np.testing.assert_allclose(cues.pose_44, world_44 @ view.pose_44, atol=2e-5)
    columns, rows = np.rint(project(points, view.intrinsics_33)).astype(int).T
    error = np.abs(view.depth_HW[rows, columns] / points[:, 2] - 1)
    assert np.median(error) < 0.004 and (error > 0.05).mean() < 0.06, (np.median(error), (error > 0.05).mean())
    rows, columns = np.nonzero(cues.valid_HW)
    across, down = np.rint(project(points, view.intrinsics_33)).astype(int).T
    colours = np.abs(cues.image_HW3[rows, columns].astype(int) - view.image_HW3[down, across]).mean(-1)
    assert np.median(colours) < 8, np.median(colours)


def assert_up(up_3: np.ndarray | None, index: int) -> None:
    np.testing.assert_allclose(up_3, views()[index].pose_44[:3, :3].T @ UP, atol=1e-4)
