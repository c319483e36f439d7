"""Train a spatial channel by any teacher.

- `run`: a whole run, from a configuration to a saved delta. Open it first.
- `config`: what a run's YAML file may say; checked before anything is loaded.
- `stage`: one stage of a teacher: freeze, boost, choose what is trained.
- `fit`: the loop itself, `transformers.Trainer` with our optimiser, checks and checkpoints.
- `data` and `features`: rows read when they are needed; what a frozen encoder gives for them, computed once.
- `optimizers`, `movement`, `report`: Muon beside AdamW; the check of the first step; what a run leaves to look at.

The teachers are in `spatialboost.teachers`; nothing here knows one by name.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spatialboost.training.config import StageConfig, TrainConfig, load_config
    from spatialboost.training.data import RowDataset, RowImages
    from spatialboost.training.run import train
    from spatialboost.training.stage import train_stage

# The command line imports this package for every command, so what needs transformers is imported when it is asked for.
_HOMES = {
    "RowDataset": "data",
    "RowImages": "data",
    "StageConfig": "config",
    "TrainConfig": "config",
    "load_config": "config",
    "train": "run",
    "train_stage": "stage",
}

__all__ = ["RowDataset", "RowImages", "StageConfig", "TrainConfig", "load_config", "train", "train_stage"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
