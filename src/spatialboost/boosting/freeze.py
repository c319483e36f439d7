"""Keep the base as it is while Attn+ trains: its parameters get no gradient, its batch statistics do not change.

Freezing a layer's weights is not enough. Batch normalisation in training mode would normalise with the batch and
update its running statistics. So these layers stay in eval mode until `unboost`, even after `model.train()`. And in
eval mode hosts such as LeViT keep tensors that they have computed from their parameters. These tensors keep the
autograd graph of weights that were trainable before `boost`, so they are deleted and the host computes them again.
"""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

RECORD = "_spatialboost_trainable"  # attribute of a module: names of its own parameters that `freeze_base` froze
_INTERNAL = frozenset(vars(nn.Module()))
MODE = "_spatialboost_mode"  # attribute of a frozen layer: the mode that was asked for last


def freeze_base(root: nn.Module) -> None:
    """Let no parameter of the model get a gradient, and keep its batch statistics unchanged.

    Each module remembers its own parameters, so that `unfreeze_base` may be called on another module of the model.
    """
    for module in root.modules():
        if names := [name for name, p in module._parameters.items() if p is not None and p.requires_grad]:
            vars(module).setdefault(RECORD, []).extend(names)
            for name in names:
                module._parameters[name].requires_grad_(False)  # type: ignore[union-attr]
    freeze_statistics(root)


def unfreeze_base(root: nn.Module) -> None:
    """Undo `freeze_base` in this module and all modules inside it."""
    for module in root.modules():
        for name in vars(module).pop(RECORD, ()):
            if (parameter := module._parameters.get(name)) is not None:
                parameter.requires_grad_(True)
    unfreeze_statistics(root)


def is_frozen(root: nn.Module) -> bool:
    """Whether `freeze_base` has frozen a parameter of this module or of one inside it."""
    return any(RECORD in vars(module) for module in root.modules())


def freeze_statistics(root: nn.Module) -> None:
    """Keep every layer that tracks statistics of its inputs or weights in eval mode."""
    for module in root.modules():
        _freeze_layer(module)
        hooked = _freeze_children in module._forward_pre_hooks.values()
        if not hooked and any(map(tracks_statistics, module.children())):
            module.register_forward_pre_hook(_freeze_children)


def unfreeze_statistics(root: nn.Module) -> None:
    """Undo `freeze_statistics`."""
    for module in root.modules():
        if isinstance(module, FrozenStatistics):
            module.training = module.__dict__.pop(MODE)
            module.__class__ = module.host_class  # type: ignore[assignment]
        for key in [key for key, hook in module._forward_pre_hooks.items() if hook is _freeze_children]:
            del module._forward_pre_hooks[key]


def _freeze_layer(module: nn.Module) -> None:
    if tracks_statistics(module) and not isinstance(module, FrozenStatistics):
        setattr(module, MODE, module.training)
        module.__class__ = frozen_class(type(module))  # type: ignore[arg-type]
        module.training = False


def _freeze_children(module: nn.Module, args: Any) -> None:
    """A hook on the parent of frozen layers: a tool that replaces them (`SyncBatchNorm`) makes layers that train."""
    for child in module._modules.values():
        if child is not None:
            _freeze_layer(child)


def tracks_statistics(module: nn.Module) -> bool:
    """Whether a forward in training mode changes the layer's buffers: batch normalisation, spectral normalisation."""
    if any(module._buffers.get(name) is not None for name in ("running_mean", "running_var")):
        return True
    hooked = any(isinstance(hook, SpectralNorm) for hook in module._forward_pre_hooks.values())
    return hooked or isinstance(module, _SpectralNorm)


def clear_caches(root: nn.Module) -> None:
    """Delete the tensors that modules have computed from their weights and kept."""
    for module in root.modules():
        for name, value in vars(module).items():
            if is_cache(name, value):
                value.clear()


def is_cache(name: str, value: Any) -> bool:
    """Whether an attribute of a module is a dictionary of tensors, or an empty one for tensors."""
    return type(value) is dict and name not in _INTERNAL and all(isinstance(v, Tensor) for v in value.values())


class FrozenStatistics:
    """The methods that the class of a layer with frozen statistics adds to its own class: see `frozen_class`."""

    host_class: ClassVar[type[nn.Module]]
    training: bool

    def train(self, mode: bool = True) -> FrozenStatistics:
        """Stay in eval mode, and record the mode that was asked for: `unboost` restores it."""
        super().train(mode)  # type: ignore[misc]
        self.__dict__[MODE] = mode
        self.training = False
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        # pickled as the host's class, for the same reason as in `BoostedAttention`
        return _rebuild, (type(self).host_class,), object.__reduce_ex__(self, 2)[2]


def _rebuild(host_class: type[nn.Module]) -> nn.Module:
    cls = frozen_class(host_class)  # type: ignore[arg-type]
    return cls.__new__(cls)


@cache
def frozen_class(host_class: type[nn.Module]) -> type[nn.Module]:
    """The subclass of `host_class` that stays in eval mode; one per host class, for the life of the process."""
    name = f"Frozen{host_class.__name__}"
    members = {"__module__": __name__, "__qualname__": name, "__doc__": frozen_class.__doc__, "host_class": host_class}
    return type(name, (FrozenStatistics, host_class), members)
