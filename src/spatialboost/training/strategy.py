"""How several processes share the work: the key `strategy` of a run's file, or accelerate's own configuration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from spatialboost.errors import SpatialBoostError


class StrategyConfig(BaseModel):
    """The key `strategy` of a run's file: a name such as ``fsdp2``, or a section.

    Example:
        >>> StrategyConfig(kind="fsdp2", offload=True).shards
        True

    A run with one process does not use it. Keys that a kind does not have are refused.

    Attributes:
        kind: ``ddp``: each process has the whole model. ``fsdp2``: weights, gradients and the optimiser's state are
            divided among the processes. ``deepspeed``: gradients and the optimiser's state are divided by DeepSpeed's
            ZeRO of stage 2; needs the extra ``deepspeed``.
        reshard: For fsdp2: free the gathered weights of a block after its forward pass. False is faster and needs
            memory for the whole model.
        offload: For fsdp2 and deepspeed: keep what is divided in main memory.
        file: For deepspeed: a JSON file of DeepSpeed, which is used in place of `offload`.
    """

    model_config = ConfigDict(extra="forbid")

    kind: Literal["ddp", "fsdp2", "deepspeed"] = "ddp"
    reshard: bool = True
    offload: bool = False
    file: Path | None = Field(default=None)

    @model_validator(mode="after")
    def _own_keys(self) -> StrategyConfig:
        known = {"ddp": set(), "fsdp2": {"reshard", "offload"}, "deepspeed": {"offload", "file"}}[self.kind]
        wrong = sorted(self.model_fields_set - {"kind"} - known)
        if wrong:
            raise ValueError(
                f"strategy {self.kind} has no key {wrong[0]!r}; it has {', '.join(sorted(known)) or 'none'}"
            )
        if self.file is not None and "offload" in self.model_fields_set:
            raise ValueError("strategy.file has the settings of DeepSpeed, so leave out offload")
        return self

    @property
    def shards(self) -> bool:
        """Whether no process has the whole model on its device."""
        return self.kind == "fsdp2"


def _from_name(section: Any) -> Any:
    """Read ``strategy: fsdp2``, the short form of a section."""
    return {"kind": section} if isinstance(section, str) else section


Strategy = Annotated[StrategyConfig, BeforeValidator(_from_name)]


def chosen_strategy(given: StrategyConfig | None) -> StrategyConfig:
    """The strategy of a run's file, or without one the strategy of `accelerate launch`.

    What accelerate's file says on FSDP is taken out of the environment, as the model is sharded by this library: in the
    same way on GPUs and on CPUs, and block by block for any encoder and language model.

    Raises:
        SpatialBoostError: Both name a strategy and differ, or accelerate's file asks for FSDP of version 1.
    """
    asked = {
        kind: os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true"
        for kind, name in (("fsdp2", "FSDP"), ("deepspeed", "DEEPSPEED"), ("megatron", "MEGATRON_LM"))
    }
    theirs = next((kind for kind, wanted in asked.items() if wanted), None)
    if theirs is None:
        return given or StrategyConfig()
    if given is not None and given.kind != theirs:
        raise SpatialBoostError(
            f"the run's file has `strategy: {given.kind}`, and accelerate's configuration asks for {theirs}: leave one "
            "of them out"
        )
    if theirs == "megatron":
        raise SpatialBoostError("accelerate's configuration asks for Megatron-LM; expected DDP, FSDP or DeepSpeed")
    if theirs == "deepspeed":
        os.environ["ACCELERATE_USE_DEEPSPEED"] = "false"
        file, stage, place = (
            os.environ.get(f"ACCELERATE_DEEPSPEED_{name}", "none")
            for name in ("CONFIG_FILE", "ZERO_STAGE", "OFFLOAD_OPTIMIZER_DEVICE")
        )
        if file != "none":
            return given or StrategyConfig(kind="deepspeed", file=Path(file))
        if stage == "3":
            raise SpatialBoostError(
                "accelerate's configuration asks for DeepSpeed's ZeRO of stage 3; expected stage 2, or "
                "`strategy: fsdp2` in the run's file, which divides the weights, too"
            )
        return given or StrategyConfig(kind="deepspeed", offload=place == "cpu")
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise SpatialBoostError(
            "accelerate's configuration asks for FSDP of version 1, which cannot mix frozen and trained weights: set "
            "`fsdp_version: 2` in its section fsdp_config"
        )
    os.environ["ACCELERATE_USE_FSDP"] = "false"
    reshard = os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() == "true"
    offload = os.environ.get("FSDP_OFFLOAD_PARAMS", "false").lower() == "true"
    return given or StrategyConfig(kind="fsdp2", reshard=reshard, offload=offload)
