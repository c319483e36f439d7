"""LoRA in the linear layers of a language model's blocks, by peft."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from spatialboost.encoders.build import seeded
from spatialboost.encoders.learnt import keep_precision
from spatialboost.errors import SpatialBoostError
from spatialboost.vlm.blocks import llm_blocks

Where = Literal["all", "attention"]


def add_lora(
    llm: Any, rank: int, *, alpha: float | None = None, dropout: float = 0.0, where: Where = "all", seed: int = 0
) -> list[nn.Parameter]:
    """Put a LoRA beside linear layers, in place; returns its parameters. At the start it changes nothing.

    Example:
        >>> from spatialboost.vlm.llms import build_small_llm
        >>> llm, _ = build_small_llm([], kind="llama", width=32, layers=3, heads=2)
        >>> len(add_lora(llm, 4)), len(add_lora(build_small_llm([], width=32, layers=3, heads=2)[0], 4))
        (42, 24)

    Args:
        llm: The language model.
        rank: Rank.
        alpha: The update is multiplied by alpha / rank; None is the rank, so by 1.
        dropout: Dropout before the update.
        where: ``all`` linear layers of the blocks, or those of the ``attention``.
        seed: Seed of the new weights.

    Raises:
        SpatialBoostError: The blocks have no linear layers, or the extra ``lora`` is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise SpatialBoostError('LoRA needs the package peft: pip install "spatialboost[lora]"') from None
    names = _linear_layers(llm, where)
    if not names:
        raise SpatialBoostError(f"no linear layer is known in the blocks of {type(llm).__name__}, so LoRA has no place")
    fan_in = {"fan_in_fan_out": True} if _is_conv(llm.get_submodule(names[0])) else {}
    options: Any = {"lora_alpha": rank if alpha is None else alpha, "lora_dropout": dropout, **fan_in}
    with seeded(seed), next(llm.parameters()).device:
        inject_adapter_in_model(LoraConfig(r=rank, target_modules=names, **options), llm)
    keep_precision(llm)
    return lora_parameters(llm)


def lora_parameters(llm: nn.Module) -> list[nn.Parameter]:
    """The parameters of a LoRA; none if there is no LoRA."""
    return [p for name, p in llm.named_parameters() if ".lora_" in name]


@torch.no_grad()
def merge_lora(llm: Any) -> dict[str, Tensor]:
    """Add a LoRA to the weights beside it and set it to zero, in place; returns the plain weights by their own names.

    The model computes the same as before, apart from rounding in the type of the weights.
    """
    for layer in llm.modules():
        if hasattr(layer, "get_delta_weight") and hasattr(layer, "lora_B"):
            for adapter, last in layer.lora_B.items():
                weight = layer.get_base_layer().weight
                weight += layer.get_delta_weight(adapter).to(weight)
                last.weight.zero_()
    return {n.replace(".base_layer.", "."): v for n, v in llm.state_dict().items() if ".lora_" not in n}


def _linear_layers(llm: Any, where: Where) -> list[str]:
    blocks = {id(block) for block in llm_blocks(llm)}
    prefixes = [f"{name}." for name, part in llm.named_modules() if id(part) in blocks]
    return [
        name
        for name, part in llm.named_modules()
        if (isinstance(part, nn.Linear) or _is_conv(part))
        and any(name.startswith(each) for each in prefixes)
        and (where == "all" or "attn" in name or "attention" in name)
    ]


def _is_conv(part: nn.Module) -> bool:
    return type(part).__name__ == "Conv1D"  # GPT-2's linear layer
