"""DeepSpeed's ZeRO: its engine as the model, and its steps as the optimiser of the Trainer."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from spatialboost.boosting.channel import full_value
from spatialboost.errors import SpatialBoostError, everywhere
from spatialboost.training.config import StageConfig
from spatialboost.training.processes import world_size
from spatialboost.training.strategy import StrategyConfig


class ZeroSteps(Optimizer):
    """An optimiser whose step is a step of a DeepSpeed engine.

    Args:
        optimizer: The optimiser that the engine was made with; its groups are shared.
        engine: The engine.
    """

    def __init__(self, optimizer: Optimizer, engine: Any) -> None:
        self.engine, self.inner = engine, optimizer
        super().__init__([{"params": [nn.Parameter(torch.zeros(()))]}], {})
        self.param_groups = optimizer.param_groups

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take one step."""
        self.engine.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing: the engine does it."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the engine writes its own checkpoint."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing: the engine reads its own checkpoint."""


def start_zero(
    objective: nn.Module, optimizer: Optimizer, strategy: StrategyConfig, stage: StageConfig, device: torch.device
) -> ZeroSteps:
    """Divide an objective and its optimiser by ZeRO.

    Raises:
        SpatialBoostError: DeepSpeed's file has settings that the run's file has, or the stage uses Muon.
    """
    if len({id(each) for each in getattr(optimizer, "parts", ())}) > 1:
        raise everywhere(SpatialBoostError("matrix_lr needs whole matrices, which deepspeed does not give: use fsdp2"))
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "warning")
    import deepspeed

    engine, *_ = deepspeed.initialize(
        model=objective, optimizer=optimizer, config=zero_settings(strategy, stage), dist_init_required=False
    )
    return ZeroSteps(optimizer, engine)


def zero_settings(strategy: StrategyConfig, stage: StageConfig) -> dict[str, Any]:
    """DeepSpeed's settings: those of its own file, or of the strategy, with the batch size and clipping of the stage.

    Example:
        >>> zero_settings(StrategyConfig(kind="deepspeed"), StageConfig(clip=0.5))["zero_optimization"]
        {'stage': 2}
    """
    if strategy.file is None:
        zero: dict[str, Any] = {"stage": 2}
        if strategy.offload:
            zero |= {"offload_optimizer": {"device": "cpu"}}
        given: dict[str, Any] = {"zero_optimization": zero}
    else:
        given = _read(strategy.file)
    own = {
        "train_micro_batch_size_per_gpu": stage.batch_size,
        "gradient_accumulation_steps": 1,  # the Trainer says which backward pass is the last before a step
        "train_batch_size": stage.batch_size * world_size(),
        "gradient_clipping": stage.clip,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "torch_autocast": {"enabled": stage.bf16, "dtype": "bfloat16"},
    }
    return _without_auto(given) | own


def full_weight(parameter: Tensor) -> Tensor:
    """The values of a parameter that ZeRO or FSDP2 has divided; all processes have to call this."""
    if not hasattr(parameter, "_hp_mapping"):
        return full_value(parameter)
    from deepspeed.utils import safe_get_full_fp32_param

    return safe_get_full_fp32_param(parameter)


def load_zero(engine: Any, folder: Path, tag: str) -> None:
    """Load the engine's own part of a checkpoint.

    Raises:
        SpatialBoostError: The checkpoint was made by another number of processes.
    """
    files = len(list((folder / tag).glob("*_optim_states.pt")))
    if files != world_size():
        raise everywhere(
            SpatialBoostError(
                f"{folder} was made by {files} processes, and deepspeed can go on with the same number only; found "
                f"{world_size()}: start {files}, or use `strategy: fsdp2` from the beginning"
            )
        )
    engine.load_checkpoint(str(folder), tag=tag, load_module_strict=False, load_lr_scheduler_states=False)


def _read(file: Path) -> dict[str, Any]:
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise everywhere(SpatialBoostError(f"strategy.file: {file}: {error.strerror}")) from None
    except ValueError as error:
        raise everywhere(SpatialBoostError(f"strategy.file: {file} is not JSON ({error})")) from None
    wrong = [key for key in ("optimizer", "scheduler", "fp16", "bf16") if key in given]
    if wrong:
        raise everywhere(
            SpatialBoostError(
                f"strategy.file: {file} has the section {wrong[0]!r}, which the stages of the run's file decide: "
                "leave it out"
            )
        )
    stage = given.get("zero_optimization", {}).get("stage", 0)
    if stage not in (1, 2):
        raise everywhere(
            SpatialBoostError(
                f"strategy.file: {file} asks for ZeRO of stage {stage}; expected 1 or 2, or `strategy: fsdp2`, which "
                "divides the weights, too"
            )
        )
    return given


def _without_auto(given: Any) -> Any:
    """Settings without those that are "auto", for which DeepSpeed's own defaults are taken."""
    if not isinstance(given, dict):
        return given
    return {key: _without_auto(value) for key, value in given.items() if value != "auto"}
