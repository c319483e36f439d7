"""Find the layers inside adapters of peft (LoRA and others), which keep the layer that they wrap as `base_layer`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spatialboost.errors import SpatialBoostError

# Names under which peft, `torch.compile` and torch's checkpoint wrapper keep the layer that they wrap.
WRAPPED = ("base_layer", "_orig_mod", "_checkpoint_wrapped_module")


def is_adapter(module: nn.Module) -> bool:
    """Whether the module wraps another one as its base layer."""
    return "base_layer" in module._modules


def unwrap_adapter(module: nn.Module) -> nn.Module:
    """The layer inside adapters and wrappers; the module itself if there are none."""
    while (name := next((name for name in WRAPPED if name in module._modules), None)) is not None:
        module = module._modules[name]  # type: ignore[assignment]
    return module


@torch.no_grad()
def effective_weight(attention: nn.Module, name: str, owner: nn.Module, leaf: str) -> Tensor:
    """The value that the host computes with: its parameter, and what adapters that are not merged make of it.

    A linear layer in its adapters is called with the unit vectors: so this holds for every adapter that is linear in
    its input, whatever its formula (LoRA, DoRA, IA3, OFT, ...).

    Args:
        attention: The module that holds the parameter.
        name: Name of the parameter in `attention`, as if there were no adapters: `q_proj.weight`.
        owner: The module that the parameter belongs to.
        leaf: Name of the parameter in `owner`.

    Raises:
        SpatialBoostError: The adapters cannot be expressed as one weight and one bias.
    """
    value = owner._parameters[leaf].detach()  # type: ignore[union-attr]
    outer: nn.Module = attention
    for child in name.split(".")[:-1]:
        outer = unwrap_adapter(outer)._modules[child]  # type: ignore[assignment]
    if outer is owner or not any(is_adapter(module) for module in outer.modules()) or value.is_meta:
        return value
    if not isinstance(owner, nn.Linear) or leaf not in ("weight", "bias"):
        raise _inexpressible(name, outer, f"they wrap a {type(owner).__name__}")
    modes = {module: module.training for module in outer.modules()}
    outer.eval()  # without dropout
    try:
        units = torch.eye(owner.in_features, dtype=value.dtype, device=value.device)
        bias, sample = outer(torch.zeros_like(units[:1])), torch.randn_like(units[:1])
        weight = (outer(units) - bias).t()
        expected, error = outer(sample), 1e-5 if value.dtype == torch.float32 else 0.05
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not torch.allclose(sample @ weight.t() + bias, expected, rtol=error, atol=error * float(expected.abs().max())):
        raise _inexpressible(name, outer, "their output is not linear in their input")
    if owner.bias is None and bool(bias.any()):
        raise _inexpressible(name, outer, "they add a bias to a layer that has none")
    return weight if leaf == "weight" else bias[0]


def _inexpressible(name: str, adapter: nn.Module, why: str) -> SpatialBoostError:
    return SpatialBoostError(
        f"{name} has adapters ({type(adapter).__name__}) that Attn+ cannot start from: {why}. Boost the model before "
        "the adapters are added, or merge them first."
    )
