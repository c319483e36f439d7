"""What teaches the spatial channel.

An objective is an ``nn.Module`` that holds the encoder as ``encoder`` and whose ``forward(**batch)`` returns a
dictionary with a scalar ``loss``; the training engine asks for nothing else.
"""

from __future__ import annotations

from spatialboost.teachers.language import LanguageObjective
from spatialboost.teachers.pixel import PixelObjective

__all__ = ["LanguageObjective", "PixelObjective"]
