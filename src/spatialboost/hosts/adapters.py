"""Find the layers inside adapters of peft (LoRA and others), which keep the layer that they wrap as `base_layer`."""

from __future__ import annotations

from torch import Tensor, nn

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


def effective_weight(attention: nn.Module, name: str, owner: nn.Module, leaf: str) -> Tensor:
    """The value that the host computes with: its parameter plus the change by active adapters that are not merged.

    Args:
        attention: The module that holds the parameter.
        name: Name of the parameter in `attention`, as if there were no adapters: `q_proj.weight`.
        owner: The module that the parameter belongs to.
        leaf: Name of the parameter in `owner`.
    """
    value = owner._parameters[leaf].detach()  # type: ignore[union-attr]
    if leaf != "weight":
        return value
    outer: nn.Module = attention
    for child in name.split(".")[:-1]:
        outer = unwrap_adapter(outer)._modules[child]  # type: ignore[assignment]
    while outer is not owner:
        if not getattr(outer, "merged", False) and not getattr(outer, "disable_adapters", False):
            for adapter in getattr(outer, "active_adapters", ()):
                value = value + outer.get_delta_weight(adapter).detach().to(value)  # type: ignore[operator]
        outer = outer._modules["base_layer"]  # type: ignore[assignment]
    return value
