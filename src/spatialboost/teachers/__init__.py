"""The teachers: losses that train the spatial channel.

- `protocol`: the base class of a teacher (its stages, loss, columns, scores). Open it first.
- `registry`: the names for `teacher: {kind: ...}` in a run's file. Add one line there for a new teacher.
- `language`: the paper's method. A language model has to answer questions about the image.
- `pixel`: linear heads for depth and segmentation, the paper's Table 6.
- `correspondence`: GASP's losses on the encoder's own blocks. Find the same point again in another view.

A teacher has no code for optimisers, checkpoints or processes: `spatialboost.training` does that for all teachers.
"""

from __future__ import annotations

from spatialboost.teachers.registry import TEACHERS, teacher_class

__all__ = ["TEACHERS", "teacher_class"]
