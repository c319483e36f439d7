"""Run the host's own forward over both channels at once: `self` is a view with both projections and twice the heads.

For hosts that call attention through the interface of transformers. All steps between the projections (rotary
positions, masks, packed sequences) are the host's own code and are not repeated here. If a host uses the number of
heads for more than shaping its tensors, torch raises an error about shapes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from spatialboost.boosting.joint import GatedOutput, Projections, match_dtypes, project_input, runs_base_without_graph
from spatialboost.boosting.kernels import Call, attend
from spatialboost.errors import SpatialBoostError

INTERFACE = "spatialboost"  # our name in transformers' table of attention functions
PACKED_INTERFACE = "spatialboost_flash"  # if the name contains "flash", hosts do not split packed sequences
GROW_WITH_HEADS = ("num_heads", "num_attention_heads", "num_key_value_heads", "all_head_size", "embed_dim")
UNSUPPORTED = ("softcap", "position_bias", "cache")  # arguments of the interface that would change the result


class ChannelLayers:
    """The projections and norms of one or both channels; they replace the host's during one call.

    Attributes:
        channels: The weights of one channel or of both.
        g: Gate (D) or (1); used only with both channels.
        roles: Path in the host -> "q", "k", "v", "qkv" or "o".
        norms: Path in the host -> each channel's norm over q or k.
        heads: Number of heads of one channel.
        kernel: The kernel that `set_kernel` chose.
        interface: Name under which transformers finds `attention_interface`.
    """

    def __init__(
        self,
        channels: Sequence[Projections],
        g: Tensor | None,
        *,
        roles: Mapping[str, str],
        norms: Mapping[str, Sequence[Any]],
        heads: int,
        kernel: str,
        interface: str,
    ) -> None:
        self.channels, self.g, self.roles, self.norms = channels, g, roles, norms
        self.heads, self.kernel, self.interface = heads, kernel, interface
        self.source: Tensor | None = None
        self.projected: Any = None

    def project(self, role: str, x: Tensor) -> Tensor:
        """q, k or v of the channels, side by side; the first call with `x` computes all three."""
        if self.source is not x:
            self.source = x
            self.projected = project_input(self.channels, x.to(self.channels[0].out.dtype), packed=role == "qkv")
        return self.projected if role == "qkv" else self.projected["qkv".index(role)]

    def output(self, out: Tensor) -> Tensor:
        """The output projection; with both channels it is gated."""
        first, *rest = self.channels
        if not rest:
            return F.linear(out, first.out, first.out_bias)
        (plus,) = rest
        return GatedOutput.apply(out, self.g, first.out, first.out_bias, plus.out, plus.out_bias)

    def norm(self, path: str, t: Tensor) -> Tensor:
        """Each channel's norm of its part of q or k: (..., nA), or (..., nH, C) in any order of the dimensions."""
        norms, width, inner = self.norms[path], t.shape[-1], self.channels[0].out.shape[1]
        dim = -1
        if width != len(norms) * inner:
            heads = len(norms) * self.heads
            # there may be as many tokens as heads; the strides show which dimension has the heads
            dim = next(d for d in range(-2, -t.dim() - 1, -1) if t.shape[d] == heads and t.stride(d) == width)
        parts = [norm(part) for norm, part in zip(norms, t.chunk(len(norms), dim), strict=True)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


class JointView:
    """Replaces `self` in the host's own methods; children are views, too."""

    def __init__(self, host: nn.Module, layers: ChannelLayers, prefix: str = "") -> None:
        self._host = host
        self._layers = layers
        self._prefix = prefix

    def __getattr__(self, name: str) -> Any:
        host, layers = self._host, self._layers
        path = self._prefix + name
        if path in layers.norms:
            return partial(layers.norm, path)
        if (role := layers.roles.get(path)) is not None:
            return layers.output if role == "o" else partial(layers.project, role)
        if name in host._modules:
            child = host._modules[name]
            return None if child is None else JointView(child, layers, f"{path}.")
        attribute = getattr(type(host), name, None)
        if isinstance(attribute, property):
            return attribute.fget(self)  # type: ignore[misc]
        if isinstance(attribute, FunctionType):
            return partial(attribute, self)
        value = getattr(host, name)
        if name in GROW_WITH_HEADS:
            return value * len(layers.channels)
        return ConfigView(value, layers.interface) if name == "config" else value

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: D102
        return type(self._host).forward(self, *args, **kwargs)


class ConfigView:
    """The host's config, with our name for its attention function."""

    def __init__(self, config: Any, interface: str) -> None:
        self._config = config
        self._attn_implementation = interface

    def __getattr__(self, name: str) -> Any:
        return getattr(self._config, name)


def attention_interface(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    cu_seq_lens_q: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function for transformers: (B, heads, T, C) -> (B, T, heads, C), without attention maps."""
    for name in UNSUPPORTED:
        if kwargs.get(name) is not None:
            raise SpatialBoostError(
                f"the host's attention uses `{name}`, which no joint kernel supports. Call set_kernel(model, 'host')."
            )
    if (groups := getattr(module, "num_key_value_groups", 1)) > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    layers: ChannelLayers = module._layers
    call = Call(
        heads=layers.heads,
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        kernel=layers.kernel,
        mask=attention_mask,
        lengths=None if cu_seq_lens_q is None else tuple(cu_seq_lens_q.diff().tolist()),
        causal=causal and attention_mask is None and query.shape[2] > 1,
        dropout=dropout,
    )
    return attend(query, key, value, call).transpose(1, 2), None


def forward_of_both(
    attention: Any,
    both: tuple[Projections, Projections],
    gate: Tensor,
    norms: Mapping[str, tuple[Any, Any]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    **shared: Any,
) -> Any:
    """The host's forward, run once for both channels.

    Args:
        attention: The boosted module.
        both: The weights of Attn and of Attn+.
        gate: The gate's values before the sigmoid, (D) or (1).
        norms: Path -> norm of Attn and of Attn+.
        args: Positional arguments of the call.
        kwargs: Keyword arguments of the call.
        shared: Other arguments of `ChannelLayers`.
    """
    x = args[0] if args else next(v for v in kwargs.values() if isinstance(v, Tensor))
    base, plus, g = match_dtypes(x, *both, gate)

    def over(channels: Sequence[Projections], *which: int) -> Any:
        own = {path: [pair[i] for i in which] for path, pair in norms.items()}
        return attention.host_class.forward(
            JointView(attention, ChannelLayers(channels, g, norms=own, **shared)), *args, **kwargs
        )

    if not runs_base_without_graph(x, base):
        return over([base, plus], 0, 1)
    with torch.no_grad():
        base_out = over([base], 0)
    plus_out = over([plus], 1)
    if isinstance(plus_out, Tensor):
        return torch.lerp(plus_out, base_out, g)
    return (torch.lerp(plus_out[0], base_out[0], g), *base_out[1:])
