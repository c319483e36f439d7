"""Attention weights under canonical names, the same for every library: q, k, v and o as separate tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from spatialboost.boosting.channel import SpatialChannel, channel_parameters, whole
from spatialboost.hosts import Family, family_named


def canonical(attention: nn.Module, family: Family, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Views of the parameters of one attention layer under canonical names.

    Args:
        attention: The attention module.
        family: How this host's attention is read.
        parameters: The values, by the host's own names.
    """
    slots = family.slots(attention)
    covered = {slot.parameter for slot in slots.values()}
    tensors = {name: slot.read(parameters) for name, slot in slots.items()}
    return tensors | {f"generic.{name}": p for name, p in parameters.items() if name not in covered}


def base_tensors(attention: nn.Module, family: Family) -> dict[str, Tensor]:
    """The host's own weights under canonical names."""
    parameters = channel_parameters(attention, family)
    own = {name: part.of(whole(owner.get_parameter(leaf))) for name, owner, leaf, part in parameters}
    return canonical(attention, family, own)


def outlines(attention: nn.Module, family: Family, channel: SpatialChannel | None = None) -> dict[str, Tensor]:
    """Shapes and dtypes of the host's own weights, or of Attn+'s, as tensors on the meta device under canonical names.

    No weight is gathered or copied for this.
    """
    own = {}
    for name, owner, leaf, part in channel_parameters(attention, family):
        parameter = owner.get_parameter(leaf) if channel is None else channel.plus(name)
        outline = torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")
        own[name] = part.of(outline) if channel is None else outline
    return canonical(attention, family, own)


def plus_tensors(attention: nn.Module, channel: SpatialChannel) -> dict[str, Tensor]:
    """Attn+ and the gate of a layer under canonical names: views, which are read to save and written to load."""
    family = family_named(channel.family)
    own = {name: whole(channel.plus(name)) for name, *_ in channel_parameters(attention, family)}
    return {"gate": whole(channel.gate)} | canonical(attention, family, own)


def masked_biases(attention: nn.Module) -> list[str]:
    """Biases that the host holds and takes out by a mask as it computes: those of k in torch.hub's DINOv3.

    https://github.com/facebookresearch/dinov3/blob/main/dinov3/layers/attention.py
    """
    packed = attention._modules.get("qkv")
    mask = packed._buffers.get("bias_mask") if packed is not None else None
    if mask is None or mask.is_meta:
        return []
    return [f"{name}.bias" for name, part in zip("qkv", mask.chunk(3), strict=True) if not part.any()]
