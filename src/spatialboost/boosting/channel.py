"""The spatial channel: the weights of Attn+ and the gate.

    out = g * Attn(x) + (1 - g) * Attn+(x),   g = sigmoid(a)            (SpatialBoost, arXiv 2603.22057, eq. 1)

Attn+ is a flat list of parameters: clones of the host attention's parameters, under names that no LoRA target matches.
`views.py` runs it, and `attach.py` puts it into the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from spatialboost.errors import SpatialBoostError
from spatialboost.hosts.adapters import effective_weight, unwrap_adapter
from spatialboost.hosts.layers import calls_super, class_path, submodule
from spatialboost.hosts.protocol import Family, Share
from spatialboost.hosts.registry import family_named

CHANNEL = "spatial_channel"  # name of the child that a boosted attention module gains
GATES = ("channel", "scalar")


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


def channel_parameters(attention: nn.Module, family: Family) -> Iterator[tuple[str, nn.Module, str, Share]]:
    """`(name, owner, leaf, share)` of each parameter that Attn+ copies; `share` is the slice that it copies."""
    for name, owner, leaf in host_parameters(attention):
        if (share := family.share(attention, name)) is not None:
            yield name, owner, leaf, share


def host_layers(attention: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Path and module of each layer inside the host attention, named as if there were no adapters."""
    for name, child in attention._modules.items():
        if child is not None and not isinstance(child, SpatialChannel):
            layer = unwrap_adapter(child)
            yield name, layer
            yield from ((f"{name}.{path}", inner) for path, inner in host_layers(layer))


def host_buffers(attention: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Name and buffer of the host attention and of each layer inside it, named as if there were no adapters."""
    for path, layer in (("", attention), *host_layers(attention)):
        for leaf, buffer in layer._buffers.items():
            if buffer is not None:
                yield f"{path}.{leaf}".lstrip("."), buffer


def holds(path: str, parameters: Iterable[str]) -> bool:
    """Whether one of these parameters belongs to the layer at `path` or to a layer inside it."""
    return any(name.startswith(f"{path}.") for name in parameters)


def kind_of(cls: type) -> str:
    """The path of a layer's class; one for all classes that read the same parameters in the same way.

    This library, FSDP2 and torch's parametrisations derive classes of their own.
    """
    cls = getattr(cls, "host_class", cls)
    if issubclass(cls, _BatchNorm):
        return class_path(_BatchNorm)
    for base in cls.__bases__:
        if cls.__name__ in (f"FSDP{base.__name__}", f"Parametrized{base.__name__}"):
            return kind_of(base)
    return class_path(cls)


def full_value(parameter: Tensor) -> Tensor:
    """The values of a parameter, without a graph; a sharded one (FSDP2) is gathered, so all ranks have to call this."""
    value = parameter.detach()
    return value.full_tensor() if is_sharded(value) else value  # type: ignore[attr-defined]


def is_sharded(parameter: Tensor) -> bool:
    """Whether this process holds only a shard of the parameter (FSDP2)."""
    return hasattr(parameter, "full_tensor")


def escape(name: str) -> str:
    """Name in the channel of the host parameter `name`: `qkv.weight` -> `plus_qkv__weight`.

    The name has no dots, so no part of it is a name such as `qkv` or `q_proj` that LoRA would match.
    """
    return "plus_" + name.replace(".", "__")


_WITHOUT_VALUES: ContextVar[bool] = ContextVar("without_values", default=False)


@contextmanager
def without_values() -> Iterator[None]:
    """Within this context new channels get uninitialised weights: used when their weights are loaded afterwards."""
    token = _WITHOUT_VALUES.set(True)
    try:
        yield
    finally:
        _WITHOUT_VALUES.reset(token)


class SpatialChannel(nn.Module):
    """Attn+ and its gate, as parameters only: `plus_*` (clones of the host's) and `gate` (`a`, float32, zeros).

    Attributes:
        family: Name of the host's family.
        index: Index of the block in the tower.
        axis: Dimension of the output that holds the features: -1, or 1 for images (B, D, H, W).
        kernel: How both channels are computed: see `set_kernel`.
        slots: Where the host keeps its weights: see `Family.slots`.
        shared: Names of the host's parameters that both channels use.
        host_layers: Path and kind of each layer of the host whose weights Attn+ has a copy of: see `check_host`.
        without_values: Whether the channel was made on the meta device, and nothing is known to have filled it since.
        super_layers: Paths of the layers of the host whose methods call `super()`.
    """

    def __init__(self, attention: nn.Module, family: Family, index: int, gate: str, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.family = family.name
        self.index = index
        self.gate_kind = gate
        self.kernel = "host"
        self.axis = family.axis(attention)
        device = None
        for name, owner, leaf, share in channel_parameters(attention, family):
            value = share.of(owner.get_parameter(leaf))
            device, own = value.device, dtype or torch.promote_types(value.dtype, torch.float32)
            if _WITHOUT_VALUES.get():
                plus = torch.empty_like(value, dtype=own, memory_format=torch.contiguous_format)
            else:  # clones, never aliases: safetensors refuses tensors that share memory
                value = effective_weight(attention, name, owner, leaf)
                plus = share.of(value).to(own, copy=True).contiguous()
            self.register_parameter(escape(name), nn.Parameter(plus))
        size = family.width(attention) if gate == "channel" else 1  # never 0-dimensional: FSDP refuses that
        self.gate = nn.Parameter(torch.zeros(size, device=device, dtype=torch.float32))
        self.without_values = self.gate.is_meta
        self.slots = family.slots(attention)  # used in each joint forward
        copied = {name for name, *_ in channel_parameters(attention, family)}
        self.shared = frozenset(name for name, *_ in host_parameters(attention)) - copied
        layers = {path: type(layer) for path, layer in host_layers(attention)}
        self.host_layers = {path: kind_of(cls) for path, cls in layers.items() if holds(path, copied)}
        self.super_layers = frozenset(path for path, cls in layers.items() if calls_super(cls))

    def find(self, name: str) -> Tensor | None:
        """The parameter of Attn+ that is the copy of the host's parameter `name`, or None.

        FSDP1 removes parameters from `_parameters` and keeps tensors as attributes of the same names.
        """
        key = escape(name)
        found = self._parameters.get(key)
        return found if found is not None else vars(self).get(key)

    def check_host(self, attention: nn.Module) -> None:
        """Raise if another tool has replaced a layer of the host whose weights Attn+ has a copy of.

        Attn+ runs through the host's own code. A layer of another class may keep its weights elsewhere, and then both
        channels would compute with the base's weights.
        """
        for path, before in self.host_layers.items():
            layer = submodule(attention, path)
            now = "gone" if layer is None else kind_of(type(layer))
            if now != before:
                raise SpatialBoostError(
                    f"layer {self.index}: {path} was {before} when the model was boosted and is {now} now, so Attn+ "
                    "cannot run in it with its own weights. Undo the change; or call unboost(model), change the layer, "
                    "and boost the model again."
                )

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Move or cast the channel; the gate stays float32, because small steps would be lost in half precision."""
        before = self._parameters.get("gate")
        values = None if before is None else before.data
        super()._apply(fn, recurse)
        gate = self._parameters.get("gate")
        if values is not None and gate is not None and gate.dtype in (torch.float16, torch.bfloat16):
            gate.data = values.to(gate.device, torch.float32)
        return self

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.without_values &= f"{prefix}gate" not in state_dict

    @torch.no_grad()
    def reset(self, attention: nn.Module) -> None:
        """Copy the host's weights into Attn+ again, and set the gate to zero."""
        for name, owner, leaf, share in channel_parameters(attention, family_named(self.family)):
            self.plus(name).copy_(share.of(effective_weight(attention, name, owner, leaf)))
        self.gate.zero_()
        self.without_values = False

    def check_values(self, attention: nn.Module) -> None:
        """Start as the base, or raise, if the model was boosted on the meta device and Attn+ got no values since.

        So it is with a model of transformers that calls `boost` when it is built: `from_pretrained` builds it on the
        meta device, and leaves weights that the checkpoint does not have in uninitialised memory.
        """
        if self.gate.is_meta:
            return
        loaded = "_is_hf_initialized"  # transformers 5 sets it on each parameter that it has loaded
        if self.gate._version == 0 and not hasattr(self.gate, loaded):
            if any(hasattr(owner.get_parameter(leaf), loaded) for _, owner, leaf in host_parameters(attention)):
                return self.reset(attention)  # the checkpoint had weights for the host and none for Attn+
            raise SpatialBoostError(
                f"layer {self.index}: Attn+ was made on the meta device and has no values yet. Call "
                "spatialboost.reset(model) to start from the base's weights, or load_pretrained(model, ...)."
            )
        self.without_values = False

    def plus(self, name: str) -> nn.Parameter:
        """The parameter of Attn+ that is the copy of the host's parameter `name`."""
        return self.find(name)  # type: ignore[return-value]

    def merge(self, base: Tensor, plus: Tensor) -> Tensor:
        """`g * base + (1 - g) * plus`, by `lerp`: exact if both are equal, unlike the sum of two products."""
        if base.is_nested:  # nn.TransformerEncoder packs padded batches in eval mode; nested tensors have no lerp
            pairs = zip(base.unbind(), plus.unbind(), strict=True)
            return torch.nested.as_nested_tensor([self.merge(b, p) for b, p in pairs])
        if len(self.gate) not in (1, base.shape[self.axis]):
            raise SpatialBoostError(
                f"layer {self.index} gives an output of shape {tuple(base.shape)}; expected {len(self.gate)} features "
                f"in dimension {self.axis}, as its projection has. Leave it out with `layers=`, or boost with "
                "gate='scalar'."
            )
        g = torch.sigmoid(self.gate).to(base.dtype)
        if self.axis >= 0:
            g = g.view(-1, *[1] * (base.dim() - 1 - self.axis))
        return torch.lerp(plus, base, g)

    def _replicate_for_data_parallel(self) -> Any:
        raise SpatialBoostError(
            "nn.DataParallel makes replicas whose modules have no parameters, so Attn+ is not found in them. Use "
            "DistributedDataParallel."
        )

    def extra_repr(self) -> str:
        """Shown by `print(model)`."""
        return f"index={self.index}, family={self.family!r}, kernel={self.kernel!r}, gate={tuple(self.gate.shape)}"


def boosted_layers(model: nn.Module) -> list[tuple[str, nn.Module, SpatialChannel]]:
    """`(name, attention, channel)` of each boosted attention layer, in the order of the model."""
    return [
        (name, module, module._modules[CHANNEL])  # type: ignore[misc]
        for name, module in model.named_modules()
        if isinstance(module._modules.get(CHANNEL), SpatialChannel)
    ]


def require_boosted(model: nn.Module) -> list[tuple[str, nn.Module, SpatialChannel]]:
    """The boosted layers; an error if there is none."""
    if not (layers := boosted_layers(model)):
        raise SpatialBoostError(
            f"{type(model).__name__} is not boosted: call boost(model) or load_pretrained(model, ...) first."
        )
    return layers
