"""The teacher of the paper: a language model has to answer questions about the image (section 3.1).

- `teacher`: its three stages, what each trains and saves. Open it first.
- `config`: the keys of a run's file.
- `stages`: the three stages as functions, to call from a script.
- `chats`: conversations of rows: choice of turns, shuffled answers, tokens.
- `objective`: the loss, on the answers only.
- `accuracy`: scores for answers to held-out questions, with and without the image.

The model itself (encoder, projector, language model) is `spatialboost.vlm`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spatialboost.teachers.language.accuracy import answer_accuracy
    from spatialboost.teachers.language.chats import ChatDataset
    from spatialboost.teachers.language.config import AlignConfig, BoostConfig, InstructConfig
    from spatialboost.teachers.language.objective import LanguageObjective
    from spatialboost.teachers.language.stages import align, boost_encoder, instruct

# A run's file is checked without transformers. Modules that need transformers are imported on first use.
_MODULES = {
    "AlignConfig": "config",
    "BoostConfig": "config",
    "ChatDataset": "chats",
    "InstructConfig": "config",
    "LanguageObjective": "objective",
    "align": "stages",
    "answer_accuracy": "accuracy",
    "boost_encoder": "stages",
    "instruct": "stages",
}

__all__ = [
    "AlignConfig",
    "BoostConfig",
    "ChatDataset",
    "InstructConfig",
    "LanguageObjective",
    "align",
    "answer_accuracy",
    "boost_encoder",
    "instruct",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
