"""The spatial channel: the weights of Attn+, the gate, and the reference forward of the pair.

    out = g * Attn(x) + (1 - g) * Attn+(x),   g = sigmoid(a)            (SpatialBoost, arXiv 2603.22057, eq. 1)

How a host attention module is given a second channel:

* The module's class is swapped for a subclass of its own class (`boosted_class`), so that `isinstance`, the base's
  keys and its hooks stay as they are, and one child, `SpatialChannel`, is added. It holds Attn+ as a flat list of
  parameters: clones of the host attention's own, under names that no LoRA target matches.
* Attn+ runs the *host's own forward*, called with a `PlusView` in the place of `self`: it answers every attribute as
  the host does, save that parameters come from the channel. So each flag, mask, position encoding and kernel choice of
  the host holds for both channels, whatever the host, and no second instance of the host's class exists (transformers
  records attention maps by class). Nothing is swapped in place, so threads may share a boosted model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from types import FunctionType, MethodType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from spatialboost.boosting.freeze import is_cache
from spatialboost.errors import SpatialBoostError
from spatialboost.hosts import Family, Part, family_named

CHANNEL = "spatial_channel"  # name of the child that a boosted attention module gains
GATES = ("channel", "scalar")


def unwrap_adapter(module: nn.Module) -> nn.Module:
    """The layer under adapters such as peft's LoRA, which Attn+ leaves to the base channel."""
    while "base_layer" in module._modules:
        module = module._modules["base_layer"]  # type: ignore[assignment]
    return module


def host_parameters(attention: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """`(name, owner, leaf)` of each parameter of the host attention itself, named as if there were no adapters."""

    def walk(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module, str]]:
        for leaf, parameter in module._parameters.items():
            if parameter is not None:
                yield prefix + leaf, module, leaf
        for name, child in module._modules.items():
            if child is not None and not isinstance(child, SpatialChannel):
                yield from walk(unwrap_adapter(child), f"{prefix}{name}.")

    return walk(attention, "")


def channel_parameters(attention: nn.Module, family: Family) -> Iterator[tuple[str, nn.Module, str, Part]]:
    """`(name, owner, leaf, part)` of what Attn+ has of its own: all of the host, unless the family says less."""
    for name, owner, leaf in host_parameters(attention):
        if (part := family.part(attention, name)) is not None:
            yield name, owner, leaf, part


def whole(parameter: Tensor) -> Tensor:
    """The values of a parameter, without its history: itself, or gathered from its shards (FSDP2; on all ranks)."""
    value = parameter.detach()
    return value.full_tensor() if is_sharded(value) else value  # type: ignore[attr-defined]


def is_sharded(parameter: Tensor) -> bool:
    """Whether it is one of FSDP2's."""
    return hasattr(parameter, "full_tensor")


def escape(name: str) -> str:
    """Name in the channel of the host parameter `name`: `qkv.weight` -> `plus_qkv__weight`.

    Neither a module nor a dotted leaf is left that a suffix such as `qkv` or `q_proj` would match.
    """
    return "plus_" + name.replace(".", "__")


_WITHOUT_VALUES: ContextVar[bool] = ContextVar("without_values", default=False)


@contextmanager
def without_values() -> Iterator[None]:
    """Within this context new channels are left empty, for weights that are about to be loaded: nothing is cloned."""
    token = _WITHOUT_VALUES.set(True)
    try:
        yield
    finally:
        _WITHOUT_VALUES.reset(token)


class SpatialChannel(nn.Module):
    """Attn+ and its gate, as parameters only: `plus_*` (clones of the host's own) and `gate` (`a`, float32, zeros).

    Attributes:
        family: Name of the host's family.
        index: Index of the block in the tower.
        axis: Dimension of the output that the gate's values belong to: -1, or 1 for images (B, D, H, W).
        kernel: How the pair is computed: see `spatialboost.boosting.boost.set_kernel`.
        slots: Of the host: see `Family.slots`.
    """

    def __init__(self, attention: nn.Module, family: Family, index: int, gate: str, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.family = family.name
        self.index = index
        self.gate_kind = gate
        self.kernel = "host"
        self.axis = family.axis(attention)
        device = None
        for name, owner, leaf, part in channel_parameters(attention, family):
            value = part.of(owner.get_parameter(leaf))
            device, own = value.device, dtype or torch.promote_types(value.dtype, torch.float32)
            if _WITHOUT_VALUES.get():
                plus = torch.empty_like(value, dtype=own, memory_format=torch.contiguous_format)
            else:  # clones, never aliases: safetensors refuses tensors that share memory
                value = effective_weight(attention, name, owner, leaf)
                plus = part.of(value).to(own, copy=True).contiguous()
            self.register_parameter(escape(name), nn.Parameter(plus))
        size = family.width(attention) if gate == "channel" else 1  # never 0-d: FSDP refuses such parameters
        self.gate = nn.Parameter(torch.zeros(size, device=device, dtype=torch.float32))
        self.slots = family.slots(attention)  # read in each fused forward

    def plus(self, name: str) -> nn.Parameter:
        """The parameter of Attn+ that stands for the host's parameter `name`."""
        return self._parameters[escape(name)]  # type: ignore[return-value]

    def merge(self, base: Tensor, plus: Tensor) -> Tensor:
        """`g * base + (1 - g) * plus` as a lerp: exactly `base` where both agree, which the sum of two terms is not."""
        if base.is_nested:  # nn.TransformerEncoder packs padded batches in eval mode; nested tensors have no lerp
            pairs = zip(base.unbind(), plus.unbind(), strict=True)
            return torch.nested.as_nested_tensor([self.merge(b, p) for b, p in pairs])
        if len(self.gate) not in (1, base.shape[self.axis]):
            raise SpatialBoostError(
                f"layer {self.index} gives {tuple(base.shape)}, where its projection promised {len(self.gate)} "
                f"features in dimension {self.axis}. Leave it out with `layers=`, or boost with gate='scalar'."
            )
        g = torch.sigmoid(self.gate).to(base.dtype)
        if self.axis >= 0:
            g = g.view(-1, *[1] * (base.dim() - 1 - self.axis))
        return torch.lerp(plus, base, g)

    def _replicate_for_data_parallel(self) -> Any:
        raise SpatialBoostError(
            "nn.DataParallel takes a replica's parameters out of its modules, so that Attn+ would not be found. Use "
            "DistributedDataParallel."
        )

    def extra_repr(self) -> str:
        """Shown by `print(model)`."""
        return f"index={self.index}, family={self.family!r}, kernel={self.kernel!r}, gate={tuple(self.gate.shape)}"


def effective_weight(attention: nn.Module, name: str, owner: nn.Module, leaf: str) -> Tensor:
    """What the host computes with: its parameter, plus what active, unmerged LoRA adapters add to it."""
    value = owner._parameters[leaf].detach()  # type: ignore[union-attr]
    if leaf != "weight":
        return value
    outer: nn.Module = attention
    for part in name.split(".")[:-1]:
        outer = unwrap_adapter(outer)._modules[part]  # type: ignore[assignment]
    while outer is not owner:
        if not getattr(outer, "merged", False) and not getattr(outer, "disable_adapters", False):
            for adapter in getattr(outer, "active_adapters", ()):
                value = value + outer.get_delta_weight(adapter).detach().to(value)  # type: ignore[operator]
        outer = outer._modules["base_layer"]  # type: ignore[assignment]
    return value


class PlusView:
    """The host attention as Attn+ sees it: the host in everything, with parameters from the channel.

    It stands in for `self` in the host's own methods. Children are seen through views as well and are called without
    their hooks, which belong to the base channel.
    """

    def __init__(
        self, host: nn.Module, channel: SpatialChannel, prefix: str = "", root: nn.Module | None = None
    ) -> None:
        self._host = host
        self._root = root or host
        self._channel = channel
        self._prefix = prefix

    def __getattr__(self, name: str) -> Any:
        host = self._host
        if name in host._parameters:
            own = host._parameters[name]
            if own is None:
                return None
            plus: Tensor | None = self._channel._parameters.get(escape(self._prefix + name))
            if plus is None:
                return own
            if not torch.is_grad_enabled():
                plus = plus.detach()  # torch.matmul goes by `requires_grad`: both channels have to take the same kernel
            if plus.dtype != own.dtype:
                plus = plus.to(own.dtype)
            if plus.shape == own.shape:
                return plus
            path = self._prefix + name  # attention has a part of this projection; the rest is the base's for both
            return family_named(self._channel.family).part(self._root, path).put(own, plus)  # type: ignore[union-attr]
        if name in host._modules:
            return self._child(name)
        attribute = getattr(type(host), name, None)
        if isinstance(attribute, property):
            return attribute.fget(self)  # type: ignore[misc]
        if isinstance(attribute, FunctionType):
            return partial(attribute, self)  # a bound method, as Dynamo can trace it
        value = getattr(host, name)
        if is_cache(name, value):
            # what the host has computed from its own weights is not for Attn+, which keeps its own for one forward
            value = self.__dict__[name] = {}
        return value

    def _child(self, name: str) -> PlusView | None:
        child = self._host._modules[name]
        if child is None:
            return None
        return type(self)(unwrap_adapter(child), self._channel, f"{self._prefix}{name}.", self._root)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: D102
        return type(self._host).forward(self, *args, **kwargs)

    def __iter__(self) -> Iterator[PlusView | None]:
        return (self._child(name) for name in self._host._modules)

    def __len__(self) -> int:
        return len(self._host._modules)

    def __bool__(self) -> bool:
        return True  # else `__len__` is asked, by Dynamo of torch 2.10 of a view that has no host yet

    def __getitem__(self, index: int | str) -> PlusView | None:
        return self._child(index if isinstance(index, str) else list(self._host._modules)[index])


class TypedPlusView(PlusView):
    """A view that passes for an instance of the host's class, for hosts whose methods call `super()`.

    Apart from `PlusView` because Dynamo recurses without end on an object that answers `__class__` with a property.
    """

    @property  # type: ignore[misc]
    def __class__(self) -> type:  # type: ignore[override, misc]
        return type(self._host)


class BoostedAttention:
    """What the class of a boosted attention module adds to the host's class: see `boosted_class`."""

    host_class: ClassVar[type[nn.Module]]
    view_class: ClassVar[type[PlusView]]
    run: ClassVar[Callable[..., Any]]  # the host's forward with `self` open: the module for Attn, a view for Attn+

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Both channels on the same input, merged after their own output projections."""
        channel: SpatialChannel = self._modules[CHANNEL]  # type: ignore[attr-defined]
        if channel.kernel != "host":
            fused = family_named(channel.family).fused_forward(self, channel)  # type: ignore[arg-type]
            if fused is not None:
                return fused(self, channel, *args, **kwargs)
        return self.reference(channel, *args, **kwargs)

    def reference(self, channel: SpatialChannel, *args: Any, **kwargs: Any) -> Any:
        """The host's own forward once for each channel, and their merge: exact where both channels agree."""
        for value in (*args, *kwargs.values()):  # no `any` over a generator, which Dynamo of torch 2.10 cannot inline
            if hasattr(value, "get_seq_length"):
                raise SpatialBoostError(
                    f"layer {channel.index} is called with a cache of keys and values, which both channels would fill. "
                    "Call the model with use_cache=False."
                )
        run = type(self).run
        base = run(self, *args, **kwargs)
        plus = run(type(self).view_class(self, channel), *args, **kwargs)  # type: ignore[arg-type]
        if isinstance(base, Tensor):
            return family_named(channel.family).finish(self, channel.merge(base, plus), *args)  # type: ignore[arg-type]
        if isinstance(base, tuple) and base and isinstance(base[0], Tensor):
            # attention maps, caches and the like are the base channel's
            return (channel.merge(base[0], plus[0]), *base[1:])
        raise SpatialBoostError(
            f"{type(self).host_class.__name__} returned {type(base).__name__}; the spatial channel expects a tensor "
            "or a tuple that "
            "begins with one. Leave this layer out with `layers=`."
        )

    def __reduce_ex__(self, protocol: Any) -> Any:
        # by the host's class: the boosted class is made on the fly and cannot be found by name in another process
        state = object.__reduce_ex__(self, 2)[2]
        return _rebuild, (type(self).host_class, self._modules[CHANNEL].family), state  # type: ignore[attr-defined]


def _rebuild(host_class: type[nn.Module], family: str) -> nn.Module:
    cls = boosted_class(host_class, family_named(family))
    return cls.__new__(cls)


_BOOSTED: dict[tuple[type[nn.Module], str], type[nn.Module]] = {}


def boosted_class(host_class: type[nn.Module], family: Family) -> type[nn.Module]:
    """The subclass of `host_class` that runs both channels; one per host class, for the life of the process."""
    key = (host_class, family.name)
    if key not in _BOOSTED:
        name = f"Boosted{host_class.__name__}"
        members = {
            "__module__": __name__,
            "__qualname__": name,
            "__doc__": f"`{host_class.__name__}` with a spatial channel.",
            "host_class": host_class,
            "view_class": TypedPlusView if _calls_super(host_class) else PlusView,
            "run": staticmethod(family.runner(host_class)),
        }
        if hasattr(host_class, "forward_list"):
            members["forward_list"] = _forward_list
        _BOOSTED[key] = type(name, (BoostedAttention, host_class), members)
    return _BOOSTED[key]


def _forward_list(self: Any, x_list: list[Tensor], *args: Any, **kwargs: Any) -> list[Tensor]:
    """DINOv3's second door: several batches of images of different sizes through one call of each projection."""
    run, channel = type(self).host_class.forward_list, self._modules[CHANNEL]
    base = run(self, x_list, *args, **kwargs)
    plus = run(type(self).view_class(self, channel), x_list, *args, **kwargs)
    return [channel.merge(b, p) for b, p in zip(base, plus, strict=True)]


def _calls_super(host_class: type[nn.Module]) -> bool:
    """Whether a method of the class reads `__class__`, as `super()` without arguments does."""
    bases = host_class.__mro__[: host_class.__mro__.index(nn.Module)]
    aside = {"train", "extra_repr", "reset_parameters", "_apply", "_load_from_state_dict"}  # no forward calls them
    methods = [
        f
        for c in bases
        for name, f in vars(c).items()
        if isinstance(f, FunctionType) and not name.startswith("__") and name not in aside
    ]
    return any("__class__" in f.__code__.co_freevars for f in methods)


def boosted_layers(model: nn.Module) -> list[tuple[str, nn.Module, SpatialChannel]]:
    """`(name, attention, channel)` of each boosted attention layer, in the order of the model."""
    return [
        (name, module, module._modules[CHANNEL])  # type: ignore[misc]
        for name, module in model.named_modules()
        if isinstance(module._modules.get(CHANNEL), SpatialChannel)
    ]


def attach(attention: nn.Module, family: Family, index: int, gate: str, dtype: torch.dtype | None) -> SpatialChannel:
    """Give `attention` a spatial channel, in place."""
    channel = SpatialChannel(attention, family, index, gate, dtype)
    channel.train(attention.training)
    attention.add_module(CHANNEL, channel)
    switch(attention, on=True)
    return channel


def detach(attention: nn.Module) -> None:
    """Take the channel off again: class and children are what they were."""
    switch(attention, on=False)
    del attention._modules[CHANNEL]


def switch(attention: nn.Module, *, on: bool) -> None:
    """Let the channel take part or not, by the module's class: compiled graphs guard on it, on a flag they need not."""
    channel: SpatialChannel = attention._modules[CHANNEL]  # type: ignore[assignment]
    family = family_named(channel.family)
    if restored_forward(attention):
        del attention.forward  # it is the class's own, and would outlive the class
    if on:
        attention.__class__ = boosted_class(type(attention), family)
        if family.blocks_fast_path:
            # nn.TransformerEncoderLayer in eval runs one kernel over its weights and never calls `self_attn`, unless
            # a module in it has a hook; the channel is never called itself, so this one does nothing else.
            channel.register_forward_pre_hook(_no_op)
    else:
        attention.__class__ = attention.host_class  # type: ignore[assignment]
        channel._forward_pre_hooks.clear()


def restored_forward(module: nn.Module) -> bool:
    """Whether the module carries its class's own forward as an attribute.

    transformers 4.57 leaves that behind when it has recorded attention maps:
    https://github.com/huggingface/transformers/blob/v4.57.6/src/transformers/utils/generic.py
    """
    forward = vars(module).get("forward")
    return isinstance(forward, MethodType) and forward.__self__ is module and forward.__func__ is type(module).forward


def _no_op(module: nn.Module, args: Any) -> None:
    """A hook that does nothing (a function of the module, so that it pickles)."""
