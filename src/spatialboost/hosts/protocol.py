"""What the library asks of a kind of attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spatialboost.boosting.fused import Projections


@dataclass(frozen=True)
class Slot:
    """Where a canonical tensor (`q.weight`) lies in a host: chunk `part` of `parts` along the rows of `parameter`."""

    parameter: str
    part: int = 0
    parts: int = 1

    def read(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """A view of this slot's rows."""
        return parameters[self.parameter].chunk(self.parts)[self.part]


class Part(NamedTuple):
    """The slice of a parameter that is the attention's, where the module is more than attention."""

    dim: int = 0
    start: int = 0
    stop: int | None = None

    def of(self, parameter: Tensor) -> Tensor:
        """A view of the slice, or the parameter where the slice is all of it."""
        if self.start == 0 and self.stop is None:
            return parameter
        return parameter.narrow(self.dim, self.start, (self.stop or parameter.shape[self.dim]) - self.start)

    def put(self, parameter: Tensor, value: Tensor) -> Tensor:
        """The parameter with `value` in the place of the slice, as a new tensor."""
        pieces = [parameter.narrow(self.dim, 0, self.start), value]
        if self.stop is not None:
            pieces.append(parameter.narrow(self.dim, self.stop, parameter.shape[self.dim] - self.stop))
        return torch.cat(pieces, self.dim)


def class_path(cls: type) -> str:
    """`module.QualName`, as families name the classes that they read."""
    return f"{cls.__module__}.{cls.__qualname__}"


def submodule(module: nn.Module, path: str) -> nn.Module | None:
    """The child at a dotted path, under adapters too; None where there is none."""
    for part in path.split("."):
        child = module._modules.get(part)
        while child is not None and "base_layer" in child._modules:  # peft's wrappers
            child = child._modules["base_layer"]
        if child is None:
            return None
        module = child
    return module


def leaves(attention: nn.Module, path: str) -> dict[str, Tensor]:
    """The parameters that the child at `path` owns itself."""
    child = submodule(attention, path)
    return {} if child is None else {k: p for k, p in child._parameters.items() if p is not None}


def split_slots(attention: nn.Module, **paths: str) -> dict[str, Slot]:
    """Slots of projections and norms that are modules of their own: `q="q_proj"` gives `q.weight` and `q.bias`."""
    return {
        f"{name}.{leaf}": Slot(f"{path}.{leaf}") for name, path in paths.items() for leaf in leaves(attention, path)
    }


def packed_slots(attention: nn.Module, path: str) -> dict[str, Slot]:
    """Slots of one projection that holds q, k and v one below the other."""
    return {
        f"{name}.{leaf}": Slot(f"{path}.{leaf}", part, 3)
        for leaf in leaves(attention, path)
        for part, name in enumerate("qkv")
    }


class Family:
    """A kind of attention: how its weights read in the canonical layout, and what may be done with it.

    The base class is what holds for any module that maps a tensor to a tensor of tokens.
    """

    name = "generic"
    classes: tuple[str, ...] = ()
    blocks_fast_path = False

    def slots(self, attention: nn.Module) -> dict[str, Slot]:
        """Canonical name (`q.weight`, `k_norm.bias`) -> place in the host; {} where the host has no such layout."""
        return {}

    def width(self, attention: nn.Module) -> int:
        """Features of the output, which is the length of the gate."""
        slot = self.slots(attention)["o.weight"]
        path, _, leaf = slot.parameter.rpartition(".")
        return leaves(attention, path)[leaf].shape[0]

    def axis(self, attention: nn.Module) -> int:
        """Dimension of the features in the output: -1 for tokens (B, N, D), 1 for images (B, D, H, W)."""
        return -1

    def heads(self, attention: nn.Module) -> int | None:
        """Number of heads."""
        value = getattr(attention, "num_heads", None) or getattr(attention, "num_attention_heads", None)
        return int(value) if value is not None else None

    def refusal(self, attention: nn.Module) -> str | None:
        """Why this module is not self-attention over tokens (and is passed over), or None."""
        return None

    def part(self, attention: nn.Module, parameter: str) -> Part | None:
        """What of a parameter of the module is the attention's; None where nothing is, and both channels share it."""
        return Part()

    def finish(self, attention: Any, merged: Tensor, *args: Any) -> Tensor:
        """What the module does to its merged output, if `runner` stops short of it."""
        return merged

    def runner(self, host_class: type[nn.Module]) -> Callable[..., Any]:
        """The host's forward as a function whose first argument may be the module or a view of it."""
        return host_class.forward

    def fused_forward(self, attention: Any, channel: Any) -> Callable[..., Tensor] | None:
        """A forward `(attention, channel, *args, **kwargs)` over both channels, or None where that is not exact."""
        return None

    def widen(self, attention: nn.Module, heads: int) -> nn.Module | None:
        """An empty plain host module like `attention` with `heads` heads; None where the host cannot express it."""
        return None


def plain(attention: Any, *paths: str) -> bool:
    """Whether the children at `paths` are bare `nn.Linear`s: no adapters, no hooks that a fused forward would skip."""
    children = [attention._modules.get(path) for path in paths]
    return all(type(child) is nn.Linear and not has_hooks(child) for child in children)


def has_hooks(module: nn.Module) -> bool:
    """Whether calling the module does more than its forward."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def identities(attention: Any, *paths: str) -> bool:
    """Whether the children at `paths` are absent or do nothing."""
    return all(isinstance(attention._modules.get(path), nn.Identity | None) for path in paths)


def both_projections(attention: Any, channel: Any) -> tuple[Projections, Projections]:
    """The weights of Attn and of Attn+, by role."""
    slots: Mapping[str, Slot] = channel.slots

    def read(parameter: Callable[[str], Tensor]) -> Projections:
        def of(*roles: str) -> tuple[Tensor | None, ...]:
            found = [slots.get(role) for role in roles]
            if found[0] is not None and found[0].parts > 1:
                return (parameter(found[0].parameter),)  # packed, in the order of the roles
            return tuple(None if slot is None else parameter(slot.parameter) for slot in found)

        weights, biases = of("q.weight", "k.weight", "v.weight"), of("q.bias", "k.bias", "v.bias")
        return Projections(weights, biases, *of("o.weight"), *of("o.bias"))  # type: ignore[arg-type]

    return read(attention.get_parameter), read(channel.plus)


def resize_linear(module: Any, name: str, *, rows: float = 1, columns: float = 1) -> None:
    """Put an empty linear layer of so many times the rows or columns in the place of one."""
    old = module._modules[name]
    new = nn.Linear(
        int(old.in_features * columns),
        int(old.out_features * rows),
        bias=old.bias is not None,
        device=old.weight.device,
        dtype=old.weight.dtype,
    )
    module._modules[name] = new.train(old.training)
