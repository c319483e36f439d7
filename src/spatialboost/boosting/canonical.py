"""Attention weights in one layout for all libraries (the canonical one): q, k, v and o as separate tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from spatialboost.boosting.channel import SpatialChannel, channel_parameters, full_value
from spatialboost.hosts.protocol import Family
from spatialboost.hosts.quantised import host_value
from spatialboost.hosts.registry import family_named


def canonical(attention: nn.Module, family: Family, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Views of one attention's parameters (given by host name) under their canonical names."""
    slots = family.slots(attention)
    covered = {slot.parameter for slot in slots.values()}
    tensors = {name: slot.read(parameters) for name, slot in slots.items()}
    return tensors | {f"generic.{name}": p for name, p in parameters.items() if name not in covered}


def base_tensors(attention: nn.Module, family: Family) -> dict[str, Tensor]:
    """The host's own weights under their canonical names."""
    parameters = channel_parameters(attention, family)
    own = {name: share.of(full_value(host_value(owner, leaf))) for name, owner, leaf, share in parameters}
    return canonical(attention, family, own)


def meta_tensors(attention: nn.Module, family: Family, channel: SpatialChannel | None = None) -> dict[str, Tensor]:
    """Empty tensors on the meta device with the shapes and dtypes of the host's own weights, or of those of Attn+.

    Their keys are canonical names. Nothing is gathered or copied.
    """
    own = {}
    for name, owner, leaf, share in channel_parameters(attention, family):
        parameter = host_value(owner, leaf) if channel is None else channel.plus(name)
        empty = torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")
        own[name] = share.of(empty) if channel is None else empty
    return canonical(attention, family, own)


def plus_tensors(attention: nn.Module, channel: SpatialChannel) -> dict[str, Tensor]:
    """Attn+ and the gate of a layer under canonical names. They are views: writing to them changes the layer."""
    family = family_named(channel.family)
    own = {name: full_value(channel.plus(name)) for name, *_ in channel_parameters(attention, family)}
    return {"gate": full_value(channel.gate)} | canonical(attention, family, own)
