"""Linear layers with quantised weights: what they compute with, as a float tensor from which Attn+ can start.

bitsandbytes keeps packed integers under the name of the weight, and computes with them in its own forward. torchao
keeps a tensor of its own class, with which `F.linear` computes.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

PACKED = {f"bitsandbytes.nn.modules.Linear{kind}" for kind in ("4bit", "FP4", "NF4", "8bitLt")}


def is_packed(layer: nn.Module) -> bool:
    """Whether the layer's own forward reads packed weights, so that Attn+ needs a plain linear layer in its place."""
    return any(f"{cls.__module__}.{cls.__qualname__}" in PACKED for cls in type(layer).__mro__)


def host_value(owner: nn.Module, leaf: str) -> Tensor:
    """The parameter `leaf` of a layer, in floating point if it is quantised and this library can read it."""
    parameter: Any = owner.get_parameter(leaf)
    if leaf == "weight" and is_packed(owner):
        return _unpacked(owner, parameter)
    if type(parameter) not in (Tensor, nn.Parameter) and type(parameter).__module__.startswith("torchao."):
        inner = getattr(parameter, "original_weight_tensor", parameter)  # inside one that also quantises the input
        with suppress(NotImplementedError):  # of a kind that cannot be read: `boost` refuses it
            return inner.dequantize().detach()
    return parameter


def _unpacked(layer: Any, weight: Any) -> Tensor:
    if weight.is_floating_point():  # not quantised yet: that happens when the layer is moved to its device
        return weight
    if (state := getattr(weight, "quant_state", None)) is not None:
        functional = import_module("bitsandbytes.functional")  # there, since the layer is of this package
        return functional.dequantize_4bit(weight.data, state).view(layer.out_features, layer.in_features).detach()
    scales = weight.SCB if getattr(weight, "SCB", None) is not None else layer.state.SCB
    return weight.data * (scales.to(weight.device, torch.float32) / 127)[:, None]
