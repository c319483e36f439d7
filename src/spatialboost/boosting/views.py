"""The view of a host's attention for Attn+: it replaces `self` in the host's own methods.

It has every attribute of the host, but its parameters come from the channel. So each flag, mask, position encoding and
kernel choice of the host applies to both channels, and no second instance of the host's class exists (transformers
records attention maps by class). The call changes nothing in the model, so threads may share a boosted model.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from spatialboost.boosting.channel import SpatialChannel
from spatialboost.boosting.freeze import is_cache
from spatialboost.errors import SpatialBoostError
from spatialboost.hosts.adapters import unwrap_adapter
from spatialboost.hosts.protocol import Share
from spatialboost.hosts.registry import family_named


class PlusView:
    """Replaces `self` in the host's own methods: its parameters are those of Attn+, all else is the host's.

    Children are views, too, and are called without their hooks, which belong to the base channel.
    """

    def __init__(
        self,
        host: nn.Module,
        channel: SpatialChannel,
        prefix: str = "",
        root: nn.Module | None = None,
        buffers: dict[str, Tensor] | None = None,
    ) -> None:
        self._host = host
        self._root = root or host
        self._channel = channel
        self._prefix = prefix
        self._copies = buffers  # of the host's buffers, by name

    def __getattr__(self, name: str) -> Any:
        host = self._host
        if (plus := self._channel.find(self._prefix + name)) is not None:
            return self._match_host(name, plus)
        if (own := host._parameters.get(name)) is not None and self._prefix + name not in self._channel.shared:
            raise SpatialBoostError(
                f"layer {self._channel.index}: the parameter {self._prefix + name} is new since boost, so Attn+ has no "
                "parameter for it. Call unboost(model), change the layer, and boost the model again."
            )
        if name in host._parameters:
            return own
        if name in host._modules:
            return self._child(name)
        if self._copies and name in host._buffers and self._prefix + name in self._copies:
            return self._copies[self._prefix + name]
        attribute = getattr(type(host), name, None)
        if isinstance(attribute, property):
            return attribute.fget(self)  # type: ignore[misc]
        if isinstance(attribute, FunctionType):
            return partial(attribute, self)  # bound in this way, because Dynamo can trace it
        value = getattr(host, name)
        if is_cache(name, value):
            # computed from the host's own weights, so wrong for Attn+: Attn+ computes its own, once per forward
            value = self.__dict__[name] = {}
        return value

    def _match_host(self, name: str, plus: Tensor) -> Tensor:
        """The parameter of Attn+ with the dtype and shape of the host's parameter, or of a replacement by a tool."""
        own = self._host._parameters.get(name)
        if own is None:  # pruning and similar tools rename the parameter and keep the base's value here as an attribute
            own = vars(self._host).get(name)
        if not torch.is_grad_enabled():
            # torch.matmul picks its kernel by `requires_grad`, and on some CPUs the kernels round differently: both
            # channels need the same one
            plus = plus.detach()
        if not isinstance(own, Tensor):
            return plus
        if own.is_floating_point() and plus.dtype != own.dtype:
            plus = plus.to(own.dtype)
        if plus.shape == own.shape:
            return plus
        path = self._prefix + name
        share = family_named(self._channel.family).share(self._root, path)  # type: ignore[union-attr]
        if share is None or share == Share() or share.of(own).shape != plus.shape:
            raise SpatialBoostError(
                f"layer {self._channel.index}: {path} has shape {tuple(own.shape)} now, and Attn+ was made for "
                f"{tuple(plus.shape)}. Call unboost(model), change the layer, and boost the model again."
            )
        return share.put(own, plus)

    def _child(self, name: str) -> PlusView | None:
        child = self._host._modules[name]
        if child is None:
            return None
        view_class = TypedPlusView if self._prefix + name in self._channel.super_layers else PlusView
        return view_class(unwrap_adapter(child), self._channel, f"{self._prefix}{name}.", self._root, self._copies)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: D102
        return type(self._host).forward(self, *args, **kwargs)

    def __iter__(self) -> Iterator[PlusView | None]:
        return (self._child(name) for name in self._host._modules)

    def __len__(self) -> int:
        return len(self._host._modules)

    def __bool__(self) -> bool:
        return True  # else `bool` calls `__len__`, in Dynamo of torch 2.10 before the view has a host

    def __getitem__(self, index: int | str) -> PlusView | None:
        return self._child(index if isinstance(index, str) else list(self._host._modules)[index])


class TypedPlusView(PlusView):
    """A view that is an instance of the host's class to `isinstance`, for hosts whose methods call `super()`.

    A class of its own, because Dynamo recurses without end on an object whose `__class__` is a property.
    """

    @property  # type: ignore[misc]
    def __class__(self) -> type:  # type: ignore[override, misc]
        return type(self._host)
