"""The teacher ``pixel``: linear heads for depth and segmentation (the paper's Table 6, "+ linear").

- `teacher`: its stages (first the heads alone, then heads, Attn+ and gates), options and score. Open it first.
- `objective`: encoder, heads and loss.
- `targets`: targets for the loss, made from the depth maps and label maps of rows.
"""

from __future__ import annotations

from spatialboost.teachers.pixel.objective import PixelObjective
from spatialboost.teachers.pixel.targets import patch_log_depth

__all__ = ["PixelObjective", "patch_log_depth"]
