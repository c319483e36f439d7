"""Attach a spatial channel to a host's attention module, by exchanging the module's class.

The new class is a subclass of the module's own (`boosted_class`), so that `isinstance`, the base's keys and its hooks
stay as they are, and the module gains one child, the `SpatialChannel`. The forward of the new class runs both channels
and merges them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any, ClassVar
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch._C._functorch import peek_interpreter_stack
from torch.autograd import forward_ad
from torch.fx import Proxy
from torch.utils.checkpoint import CheckpointFunction

from spatialboost.boosting.channel import CHANNEL, SpatialChannel, boosted_layers, host_buffers
from spatialboost.boosting.views import PlusView, TypedPlusView
from spatialboost.errors import SpatialBoostError
from spatialboost.hosts.layers import calls_super
from spatialboost.hosts.protocol import Family
from spatialboost.hosts.registry import family_named
from spatialboost.hosts.slots import have_plain_weights
from spatialboost.hosts.transformers import is_cache_of_keys, restored_forward

DISABLED: WeakSet[nn.Module] = WeakSet()  # the attention modules that `disabled` has switched off


class BoostedAttention:
    """The attributes and methods that a boosted class adds to the host's class: see `boosted_class`."""

    host_class: ClassVar[type[nn.Module]]
    view_class: ClassVar[type[PlusView]]
    run: ClassVar[Callable[..., Any]]  # the host's forward: called with the module for Attn, with a view for Attn+

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Both channels on the same input, merged after their own output projections."""
        if not isinstance(self, BoostedAttention):  # a tool has kept this method and calls it while Attn+ is off
            return type(self).forward(self, *args, **kwargs)
        channel: SpatialChannel = self._modules[CHANNEL]  # type: ignore[attr-defined]
        channel.check_host(self)  # type: ignore[arg-type]
        if self.training and not torch.is_grad_enabled():  # type: ignore[attr-defined]
            refuse_reentrant_checkpoint(channel)
        if channel.without_values:
            channel.check_values(self)  # type: ignore[arg-type]
        if (hook := vars(channel).get("_hf_hook")) is not None:
            # accelerate loads offloaded weights when a module is called, but the channel is never called
            hook.pre_forward(channel)
            try:
                return self._both(channel, *args, **kwargs)
            finally:
                hook.post_forward(channel, None)
        return self._both(channel, *args, **kwargs)

    def _both(self, channel: SpatialChannel, *args: Any, **kwargs: Any) -> Any:
        if channel.kernel != "host" and not is_transformed() and have_plain_weights(self, channel):  # type: ignore[arg-type]
            joint = family_named(channel.family).joint_forward(self, channel)  # type: ignore[arg-type]
            if joint is not None:
                return joint(self, channel, *args, **kwargs)
        return self.reference(channel, *args, **kwargs)

    def reference(self, channel: SpatialChannel, *args: Any, **kwargs: Any) -> Any:
        """Run the host's own forward once for each channel and merge the outputs, exactly if both are equal."""
        for value in (*args, *kwargs.values()):  # no `any` over a generator: Dynamo of torch 2.10 cannot inline that
            if isinstance(value, Proxy):
                raise SpatialBoostError(
                    f"layer {channel.index} is traced by torch.fx, which cannot follow both channels. Use "
                    "torch.export, or a Tracer whose `is_leaf_module` is True for the attention layers."
                )
            if is_cache_of_keys(value):
                raise SpatialBoostError(
                    f"layer {channel.index} is called with a cache of keys and values, and both channels would write "
                    "to it. Call the model with use_cache=False."
                )
        run = type(self).run
        buffers = {}
        if self.training and not torch.compiler.is_compiling():  # type: ignore[attr-defined]
            # Attn+ reads copies: a host that writes into its buffers would otherwise do so twice
            buffers = {name: b.clone() for name, b in host_buffers(self) if b.is_floating_point()}  # type: ignore[arg-type]
        base = run(self, *args, **kwargs)
        view = type(self).view_class(self, channel, buffers=buffers)  # type: ignore[arg-type]
        plus = run(view, *args, **kwargs)
        if isinstance(base, Tensor):
            return family_named(channel.family).finish(self, channel.merge(base, plus), *args)  # type: ignore[arg-type]
        if isinstance(base, tuple) and base and isinstance(base[0], Tensor):
            # attention maps, caches and other outputs are taken from the base channel
            return (channel.merge(base[0], plus[0]), *base[1:])
        raise SpatialBoostError(
            f"{type(self).host_class.__name__} returned {type(base).__name__}; the spatial channel expects a tensor "
            "or a tuple that begins with one. Leave this layer out with `layers=`."
        )

    def __reduce_ex__(self, protocol: Any) -> Any:
        # pickled as the host's class: the boosted class is made at run time, so another process cannot import it
        state = object.__reduce_ex__(self, 2)[2]
        return _rebuild, (type(self).host_class, self._modules[CHANNEL].family), state  # type: ignore[attr-defined]


def refuse_reentrant_checkpoint(channel: SpatialChannel) -> None:
    """Raise if the layer runs in a checkpoint of the reentrant kind in which no weight can get a gradient.

    Such a checkpoint runs its layers again in the backward only if one of its inputs requires a gradient, and the
    layers before, which are frozen, give none that does. torch only warns.
    """
    if torch.compiler.is_compiling() or not channel.gate.requires_grad:
        return
    frame = sys._getframe()
    while frame is not None and frame.f_code is not CheckpointFunction.forward.__code__:
        frame = frame.f_back  # type: ignore[assignment]
    if frame is not None and not any(isinstance(a, Tensor) and a.requires_grad for a in frame.f_locals["args"]):
        raise SpatialBoostError(
            f"layer {channel.index} runs in gradient checkpointing with use_reentrant=True, and no input requires a "
            "gradient, so that Attn+ would get none. Set use_reentrant=False."
        )


def is_transformed() -> bool:
    """Whether torch.func or forward-mode differentiation is active, which the joint forward does not support."""
    if torch.compiler.is_compiling():
        return False
    return peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def _rebuild(host_class: type[nn.Module], family: str) -> nn.Module:
    cls = boosted_class(host_class, family_named(family))  # type: ignore[arg-type]
    return cls.__new__(cls)


@cache
def boosted_class(host_class: type[nn.Module], family: Family) -> type[nn.Module]:
    """The subclass of `host_class` that runs both channels; one per host class, for the life of the process."""
    family.prepare(host_class)
    name = f"Boosted{host_class.__name__}"
    members = {
        "__module__": __name__,
        "__qualname__": name,
        "__doc__": f"`{host_class.__name__}` with a spatial channel.",
        "host_class": host_class,
        "view_class": TypedPlusView if calls_super(host_class) else PlusView,
        "run": staticmethod(family.runner(host_class)),
        **family.other_forwards(host_class),
    }
    return type(name, (BoostedAttention, host_class), members)


def attach(attention: nn.Module, channel: SpatialChannel) -> None:
    """Give `attention` the channel that was made for it, in place."""
    channel.train(attention.training)
    attention.add_module(CHANNEL, channel)
    switch(attention, on=True)


def detach(attention: nn.Module) -> None:
    """Remove the channel: the module has its class and its children from before `attach` again."""
    switch(attention, on=False)
    del attention._modules[CHANNEL]


def switch(attention: nn.Module, *, on: bool) -> None:
    """Switch the channel on or off by exchanging the module's class: a compiled graph always notices that."""
    channel: SpatialChannel = attention._modules[CHANNEL]  # type: ignore[assignment]
    family = family_named(channel.family)
    if on == isinstance(attention, BoostedAttention):
        return
    if restored_forward(attention):
        del attention.forward  # it belongs to the class that is replaced below
    if on:
        attention.__class__ = boosted_class(type(attention), family)  # type: ignore[arg-type]
        if family.blocks_fast_path:
            # nn.TransformerEncoderLayer in eval mode runs one kernel over all its weights and never calls `self_attn`,
            # unless a module in it has a hook. The channel is never called, so this hook has no other effect.
            channel.register_forward_pre_hook(_no_op)
    else:
        attention.__class__ = attention.host_class  # type: ignore[assignment]
        channel._forward_pre_hooks.clear()


def why_not_run(attention: nn.Module) -> str | None:
    """The reason why a call of this module would not run Attn+; None if no reason is known."""
    if not isinstance(attention, BoostedAttention):
        where = "within `disabled`" if attention in DISABLED else "as in a copy that was made within `disabled`"
        return f"its class is {type(attention).__name__} without the second channel, {where}"
    forward = vars(attention).get("forward")
    if forward is None or restored_forward(attention) or _calls_boosted_forward(forward):
        return None
    return f"its forward is replaced by {getattr(forward, '__qualname__', None) or type(forward).__name__}"


def not_run(model: nn.Module) -> list[str]:
    """One line for each boosted layer whose Attn+ is not run, and is not switched off by `disabled`."""
    layers = [(name, attention) for name, attention, _ in boosted_layers(model) if attention not in DISABLED]
    return [f"{name}: {why}" for name, attention in layers if (why := why_not_run(attention)) is not None]


def _calls_boosted_forward(function: Any, depth: int = 3) -> bool:
    """Whether a replaced forward keeps the boosted one, so that it can call it, as accelerate's hooks do."""
    if getattr(function, "__func__", None) is BoostedAttention.forward:
        return True
    if depth == 0:
        return False
    held = [getattr(function, "__wrapped__", None), *getattr(function, "args", ()), getattr(function, "func", None)]
    for cell in getattr(function, "__closure__", None) or ():
        with suppress(ValueError):  # an empty cell
            held.append(cell.cell_contents)
    return any(_calls_boosted_forward(one, depth - 1) for one in held if callable(one))


def _no_op(module: nn.Module, args: Any) -> None:
    """A hook that does nothing (a function of the module, so that it pickles)."""
