"""Train a spatial channel through a language model: three stages on `transformers.Trainer`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spatialboost.training.accuracy import answer_accuracy
    from spatialboost.training.config import TrainConfig, load_config
    from spatialboost.training.data import ChatDataset, ImageStore
    from spatialboost.training.engine import fit
    from spatialboost.training.run import train
    from spatialboost.training.stages import align, boost_encoder, instruct

# The command line imports this package for every command, so what needs transformers is imported when it is asked for.
_HOMES = {
    "ChatDataset": "data",
    "ImageStore": "data",
    "TrainConfig": "config",
    "align": "stages",
    "answer_accuracy": "accuracy",
    "boost_encoder": "stages",
    "fit": "engine",
    "instruct": "stages",
    "load_config": "config",
    "train": "run",
}

__all__ = [
    "ChatDataset",
    "ImageStore",
    "TrainConfig",
    "align",
    "answer_accuracy",
    "boost_encoder",
    "fit",
    "instruct",
    "load_config",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
