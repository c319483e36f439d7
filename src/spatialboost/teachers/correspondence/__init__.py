"""The teacher ``correspondence`` (GASP, arXiv 2605.30231): find the same point of a place again in another view.

- `teacher`: its one stage, what it saves, its scores. Open it first.
- `config`: its options, and the settings of the stage.
- `sequences`: from the views of a row to points and where each view sees them; `epipolar`: negatives by geometry.
- `heads`: a small network for each supervised layer, started from its query projection; dropped after training.
- `losses`: contrast between points, and agreement in depth. Like `heads`, they do not know where tokens are from, so
  that the layers of a language model can be taught in the same way.
- `objective`: encoder, heads and losses together.
- `attention`: queries and keys of an encoder's layers; `measures`: how well they match points.
"""

from __future__ import annotations

from spatialboost.teachers.correspondence.config import CorrespondenceOptions
from spatialboost.teachers.correspondence.measures import AttentionMatches, attention_matches
from spatialboost.teachers.correspondence.objective import CorrespondenceObjective

__all__ = ["AttentionMatches", "CorrespondenceObjective", "CorrespondenceOptions", "attention_matches"]
