"""Teaching by pixels: linear heads for depth and segmentation (the paper's Table 6, "+ linear").

- `teacher`: its stages (the heads alone, then the boost), options and score. Open it first.
- `objective`: encoder, heads and loss.
- `targets`: depth maps and label maps of rows, as the loss wants them.
"""

from __future__ import annotations

from spatialboost.teachers.pixel.objective import PixelObjective
from spatialboost.teachers.pixel.targets import patch_log_depth

__all__ = ["PixelObjective", "patch_log_depth"]
