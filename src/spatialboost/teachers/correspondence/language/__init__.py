"""The teacher ``language-correspondence``: GASP as in its paper, with heads in the layers of a language model.

- `teacher`: its stages (projector; LoRA and heads; Attn+), what it saves, its scores. Open it first.
- `config`: its options, and the settings of the stages.
- `examples`: a sequence of views and the conversations beside it, as tokens.
- `objective`: the loss of the language model and those of the heads, of one batch.
- `matches`: how well the language model's attention matches points.
"""

from __future__ import annotations

from spatialboost.teachers.correspondence.language.config import LanguageCorrespondenceOptions
from spatialboost.teachers.correspondence.language.matches import language_matches
from spatialboost.teachers.correspondence.language.objective import LanguageCorrespondenceObjective

__all__ = ["LanguageCorrespondenceObjective", "LanguageCorrespondenceOptions", "language_matches"]
