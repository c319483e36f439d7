"""Train a spatial channel with any teacher.

- `run`: a whole run, from a configuration to a saved delta. Open it first.
- `config`: the keys of a run's YAML file. The file is checked before anything is loaded.
- `stage`: one stage of a teacher: freeze, boost, choose what is trained.
- `fit`: the training loop: `transformers.Trainer` with our optimiser, checks and checkpoints.
- `data` and `features`: rows, read when they are needed; features of a frozen encoder, computed once.
- `optimizers`, `movement`: Muon and AdamW; the check of the first steps.
- `parts`, `pace`, `trackers`: what a stage trains; what the log tells beside the loss; where else the log goes.
- `report`, `report_page`, `charts`, `pictures`: ``report.json``; ``report.html`` and what is drawn on it.

The teachers are in `spatialboost.teachers`. The code in this package does not depend on a particular teacher.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spatialboost.training.config import StageConfig, TrainConfig, load_config
    from spatialboost.training.data import RowDataset, RowImages
    from spatialboost.training.run import train
    from spatialboost.training.stage import train_stage

# The command line imports this package for every command. Modules that need transformers are imported on first use.
_MODULES = {
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
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
