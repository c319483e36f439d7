"""Fuse both channels into one plain attention with twice the heads, for export."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from spatialboost.boosting.attach import detach
from spatialboost.boosting.canonical import base_tensors, plus_tensors
from spatialboost.boosting.channel import SpatialChannel, require_boosted
from spatialboost.boosting.find import uncompiled
from spatialboost.boosting.freeze import RECORD, unfreeze_statistics
from spatialboost.errors import SpatialBoostError
from spatialboost.hosts.adapters import is_adapter
from spatialboost.hosts.registry import family_named, family_of

Model = TypeVar("Model", bound=nn.Module)


def fuse(model: Model) -> Model:
    """A copy of the model whose boosted layers are plain attention of the host's library with 2H heads, for export.

    The copy needs nothing of this library. Its output equals that of the boosted model up to rounding. Do not train it:
    the frozen channel is no longer separate.

    Example:
        >>> import timm, spatialboost as sb
        >>> encoder = sb.boost(timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=0))
        >>> sb.fuse(encoder).blocks[0].attn.num_heads
        6

    Raises:
        SpatialBoostError: The model is not boosted, or one of its layers cannot be one attention: it is an
            `nn.MultiheadAttention` (all its heads together are always as wide as its input), its q/k norms differ
            between the channels after training, it is of the generic family, or it has adapters that are not merged.
    """
    plain = copy.deepcopy(uncompiled(model))
    for name, attention, channel in require_boosted(plain):
        parent, _, leaf = name.rpartition(".")
        if not name:
            raise SpatialBoostError("the model is itself one attention layer: fuse the model that contains it.")
        plain.get_submodule(parent)._modules[leaf] = fuse_layer(name, attention, channel)
    for module in plain.modules():
        module.__dict__.pop(RECORD, None)
    unfreeze_statistics(plain)
    return plain  # type: ignore[return-value]


@torch.no_grad()
def fuse_layer(name: str, attention: nn.Module, channel: SpatialChannel) -> nn.Module:
    """A plain host module that computes what the boosted `attention` does; the channel of `attention` is removed."""
    family = family_named(channel.family)
    if any(is_adapter(module) for module in attention.modules()):
        raise SpatialBoostError(f"{name} carries adapters that are not merged. Merge or remove them first.")
    base = base_tensors(attention, family)
    plus = {key: value.to(base[key].dtype) for key, value in plus_tensors(attention, channel).items() if key in base}
    tensors = {key: torch.cat([base[key], plus[key]]) for key in base if key.partition(".")[0] in ("q", "k", "v")}
    shared = [key for key in base if key not in tensors and not key.startswith("o.")]
    if differing := [
        key for key in sorted(shared) if key.startswith("generic.") or not torch.equal(base[key], plus[key])
    ]:
        raise _cannot_fuse(name, attention, f"its channels differ in {', '.join(differing)}")
    gate = torch.sigmoid(channel.gate)
    weight, bias = fuse_output(base["o.weight"], base.get("o.bias"), plus["o.weight"], plus.get("o.bias"), gate)
    tensors |= {key: base[key] for key in shared} | {"o.weight": weight} | ({} if bias is None else {"o.bias": bias})

    heads = family.heads(attention)
    detach(attention)
    host = None if heads is None else family.with_heads(attention, 2 * heads)
    if host is None:
        raise _cannot_fuse(name, attention, "in its class the heads are always as wide as the input")
    own = dict(host.named_parameters())
    slots = family_of(host).slots(host)  # type: ignore[union-attr]
    if lost := sorted(set(tensors) - set(slots)):
        raise _cannot_fuse(name, attention, f"{type(host).__name__} has no place for {', '.join(lost)}")
    for key, slot in slots.items():
        target = slot.read(own)
        # EVA's own class has no bias for k; the class that replaces it has one for q, k and v
        target.copy_(tensors[key]) if key in tensors else target.zero_()
    return host


def fuse_output(
    base: Tensor, base_bias: Tensor | None, plus: Tensor, plus_bias: Tensor | None, g: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Output projection of both channels: `[g * W_o | (1 - g) * W_o+]` (D, 2A), and the gated bias (D); g (D) or (1).

    Computed in float32 or a wider dtype.
    """
    weight = torch.cat([g[:, None] * base, (1 - g)[:, None] * plus], dim=1)
    if base_bias is None or plus_bias is None:
        return weight, None
    return weight, torch.lerp(plus_bias.to(weight.dtype), base_bias.to(weight.dtype), g.to(weight.dtype))


def _cannot_fuse(name: str, attention: nn.Module, why: str) -> SpatialBoostError:
    return SpatialBoostError(
        f"{name} ({type(attention).__name__}) cannot be one attention with twice the heads: {why}. Export the boosted "
        "model as it is instead: a program of torch.export also runs without spatialboost."
    )
