"""The teacher ``field`` (Spa3R, arXiv 2602.21186): render the features of a view from other views of the same place.

- `teacher`: its two stages, what it saves, its scores. Open it first.
- `config`: its options, and the settings of the stages.
- `views`: from the views of a row to context views, target views and their cameras.
- `geometry`: what a frozen geometry model says, and the geometry that the rows know; `vggt`: VGGT as such a model.
- `network`: the field itself: views become latents, latents and a camera become features. `transformer` is its
  transformer, `positions` and `cameras` say how it knows places and cameras.
- `objective`: encoder, geometry and field together, with the loss.
- `latents`: what a trained field knows of a scene, for a vision-language model.
- `measures`: rendered features beside the truth, the nearest view and the mean.
"""

from __future__ import annotations

from spatialboost.teachers.field.config import FieldOptions
from spatialboost.teachers.field.latents import FieldLatents
from spatialboost.teachers.field.measures import RenderedViews, feature_maps, measure_rendering
from spatialboost.teachers.field.objective import FieldObjective
from spatialboost.teachers.field.teacher import FieldTeacher

__all__ = [
    "FieldLatents",
    "FieldObjective",
    "FieldOptions",
    "FieldTeacher",
    "RenderedViews",
    "feature_maps",
    "measure_rendering",
]
