"""Find, inspect and replace the layers inside a host's attention."""

from __future__ import annotations

import re
from types import FunctionType
from typing import Any

from torch import Tensor, nn

from spatialboost.hosts.adapters import unwrap_adapter

IS_LINEAR = re.compile(r"^Linear|Linear$|^Conv1D$")  # the last is the linear layer of GPT-2 and others


def class_path(cls: type) -> str:
    """The path of a class, `module.QualName`, as in `Family.classes`."""
    return f"{cls.__module__}.{cls.__qualname__}"


def submodule(module: nn.Module, path: str) -> nn.Module | None:
    """The child at a dotted path, also inside adapters; None if there is none."""
    for name in filter(None, path.split(".")):
        child = module._modules.get(name)
        if child is None:
            return None
        module = unwrap_adapter(child)
    return module


def leaves(attention: Any, path: str) -> dict[str, Tensor]:
    """The parameters that belong to the child at `path` and not to its children; an empty path is the module."""
    child = submodule(attention, path)
    return {} if child is None else {k: p for k, p in child._parameters.items() if p is not None}


def tensor_at(attention: Any, name: str) -> Tensor:
    """The weight with this name, as if there were no adapters, or the tensor that a tool has put in its place."""
    path, _, leaf = name.rpartition(".")
    return getattr(submodule(attention, path), leaf)


def is_linear(module: nn.Module) -> bool:
    """Whether the module is a linear layer of torch or of another library, such as a quantised one."""
    return isinstance(module, nn.Linear) or (
        IS_LINEAR.search(type(module).__name__) is not None and not module._modules
    )


def has_hooks(module: nn.Module) -> bool:
    """Whether the module has forward hooks, so that a call does more than its forward."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def are_plain_linears(attention: Any, *paths: str) -> bool:
    """Whether all these children are plain `nn.Linear` layers, without adapters and without hooks."""
    children = [attention._modules.get(path) for path in paths]
    return all(type(child) is nn.Linear and not has_hooks(child) for child in children)


def are_identities(attention: Any, *paths: str) -> bool:
    """Whether all these children are missing or `nn.Identity`."""
    return all(isinstance(attention._modules.get(path), nn.Identity | None) for path in paths)


def resize_linear(module: Any, name: str, *, rows: float = 1, columns: float = 1) -> None:
    """Replace a linear layer by a new one with `rows` times its rows and `columns` times its columns."""
    old = module._modules[name]
    new = nn.Linear(
        int(old.in_features * columns),
        int(old.out_features * rows),
        bias=old.bias is not None,
        device=old.weight.device,
        dtype=old.weight.dtype,
    )
    module._modules[name] = new.train(old.training)


def calls_super(host_class: type[nn.Module]) -> bool:
    """Whether a method of the class reads `__class__`, as `super()` without arguments does."""
    bases = host_class.__mro__[: host_class.__mro__.index(nn.Module)]
    not_in_a_forward = {"train", "extra_repr", "reset_parameters", "_apply", "_load_from_state_dict"}
    methods = [
        f
        for c in bases
        for name, f in vars(c).items()
        if isinstance(f, FunctionType) and not name.startswith("__") and name not in not_in_a_forward
    ]
    return any("__class__" in f.__code__.co_freevars for f in methods)
