"""Patch tokens that know where in the world their patch is: the most that an encoder could tell."""

from __future__ import annotations

import numpy as np
import torch

from spatialboost.probes.features import Features
from spatialboost.scenes.camera import unproject


def place_tokens(view, grid: int, waves: int = 256, frequency: float = 3.0) -> torch.Tensor:
    """For each patch centre of a square view its place as many waves, so that the cosine falls with the distance."""
    side = view.size[0]
    world = unproject(view.depth_HW, view.intrinsics_33) @ view.pose_44[:3, :3].T + view.pose_44[:3, 3]
    step = side // grid
    centres = np.arange(step // 2, side, step)
    points = torch.from_numpy(world[np.ix_(centres, centres)].reshape(-1, 3)).float()
    phases = points @ (torch.randn(3, waves, generator=torch.Generator().manual_seed(0)) * frequency)
    return torch.cat([phases.sin(), phases.cos()], -1)


def features_of(scenes, make, grid: int, side: int) -> Features:
    """The features of all views of some scenes."""
    tokens = torch.stack([make(view) for scene in scenes for view in scene.views])
    return Features(tokens, None, (grid, grid), (side, side), 0, "none")
