"""Load onto an encoder what a stage of training has learnt: a delta, a LoRA in peft's format, or all weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from spatialboost.encoders.build import load_weights
from spatialboost.errors import SpatialBoostError

ADAPTER, WHOLE = "adapter_config.json", "encoder.safetensors"  # files by which a folder is recognised
# Folders in which a stage leaves what it has learnt, by its `method`.
FOLDERS = {"attn+": "delta", "lora": "adapter", "full": "encoder"}

Encoder = TypeVar("Encoder", bound=nn.Module)


def load_learnt(encoder: Encoder, folder: str | os.PathLike[str]) -> Encoder:
    """Load the result of a stage that boosts onto a new copy of its encoder, in place.

    Example:
        >>> encoder = load_learnt(encoder, "runs/one/stage3/adapter")  # doctest: +SKIP

    Args:
        encoder: The encoder with the weights that it had before the stage.
        folder: ``delta`` of the method ``attn+``, or the id of a delta on the Hub; ``adapter`` of ``lora``, which
            ``peft.PeftModel.from_pretrained`` reads too; ``encoder`` of ``full``, whose file is also what
            ``encoder.weights`` takes in a run's file.

    Raises:
        SpatialBoostError: The folder has none of these, or it does not fit the encoder.
    """
    here = Path(folder)
    if (here / WHOLE).is_file():
        load_weights(encoder, here / WHOLE, type(encoder).__name__)
    elif (here / ADAPTER).is_file():
        _load_adapter(encoder, here)
    else:
        from spatialboost.weights.pretrained import load_pretrained

        load_pretrained(encoder, folder)
    return encoder


def _load_adapter(encoder: nn.Module, folder: Path) -> None:
    from peft import LoraConfig, PeftConfig, inject_adapter_in_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    config = PeftConfig.from_pretrained(str(folder))
    if not isinstance(config, LoraConfig):
        raise SpatialBoostError(f"{folder} is an adapter of the type {config.peft_type}; expected LoRA")
    own = {name for name, _ in encoder.named_modules()}
    missing = sorted(set(config.target_modules or ()) - own)
    if missing:
        raise SpatialBoostError(
            f"{folder} adapts {missing[0]}, which {type(encoder).__name__} does not have: load it onto the encoder "
            "that it was trained on"
        )
    state = load_file(folder / "adapter_model.safetensors")
    inject_adapter_in_model(config, encoder)
    keep_precision(encoder)
    found: Any = set_peft_model_state_dict(encoder, {k.removeprefix(PREFIX): v for k, v in state.items()})
    if found.unexpected_keys or any("lora_" in name for name in found.missing_keys):
        raise SpatialBoostError(f"the weights in {folder} do not fit its {ADAPTER}: save it again")


PREFIX = "base_model.model."  # of the names in the files of peft's `PeftModel.save_pretrained`


def keep_precision(encoder: nn.Module) -> None:
    """Keep the weights of a LoRA in float32 also beside a base in half precision, as Attn+ is kept."""
    for name, parameter in encoder.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
