"""What teaches the spatial channel.

- `protocol`: what a teacher gives the trainer (its stages, loss, columns, score). Open it first.
- `registry`: the names that `teacher: {kind: ...}` in a run's file may have. A new teacher is one line there.
- `language`: SpatialBoost itself. A language model has to answer questions on the image.
- `pixel`: linear heads for depth and segmentation, the paper's Table 6.

A teacher knows nothing of optimisers, checkpoints or processes: `spatialboost.training` runs any of them.
"""

from __future__ import annotations

from spatialboost.teachers.registry import TEACHERS, teacher_class

__all__ = ["TEACHERS", "teacher_class"]
