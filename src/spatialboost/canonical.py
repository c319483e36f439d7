"""Attention weights in the layout that all libraries share: q, k, v and o apart, by block index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .channel import SpatialChannel, host_parameters, whole
from .families import Family, family_named
from .finding import Found

SAMPLES = 16  # values that the fingerprint keeps of each tensor


def canonical(attention: nn.Module, family: Family, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Views of one attention's parameters (given by host name) under their canonical names."""
    slots = family.slots(attention)
    covered = {slot.parameter for slot in slots.values()}
    tensors = {name: slot.read(parameters) for name, slot in slots.items()}
    return tensors | {f"generic.{name}": p for name, p in parameters.items() if name not in covered}


def base_tensors(attention: nn.Module, family: Family) -> dict[str, Tensor]:
    """The host's own weights, canonical."""
    own = {name: whole(owner.get_parameter(leaf)) for name, owner, leaf in host_parameters(attention)}
    return canonical(attention, family, own)


def plus_tensors(attention: nn.Module, channel: SpatialChannel) -> dict[str, Tensor]:
    """Attn+ and the gate of a layer, canonical: views, so that reading saves and writing loads."""
    own = {name: whole(channel.plus(name)) for name, _, _ in host_parameters(attention)}
    return canonical(attention, family_named(channel.family), own) | {"gate": whole(channel.gate)}


def fingerprint(layers: Mapping[int, Found]) -> dict[str, list[float]]:
    """A fixed sample of the base: evenly spaced values of each weight of the first, the middle and the last layer.

    Values and not a hash, so that a base in half precision is still known for the same one.
    """
    indices = sorted(layers)
    values: dict[str, list[float]] = {}
    for index in sorted({indices[0], indices[len(indices) // 2], indices[-1]}):
        for name, tensor in base_tensors(layers[index].module, layers[index].family).items():
            if tensor.ndim > 1 and not tensor.is_meta:
                at = torch.linspace(0, tensor.numel() - 1, SAMPLES, dtype=torch.float64).long().to(tensor.device)
                rows, columns = at // tensor[0].numel(), at % tensor[0].numel()
                sample = tensor.flatten(1)[rows, columns]
                values[f"layers.{index}.{name}"] = [float(f"{v:.6g}") for v in sample.float().tolist()]
    return values


def same_base(saved: Mapping[str, Sequence[float]], own: Mapping[str, Sequence[float]]) -> str | None:
    """The first tensor in which two fingerprints differ by more than rounding to bfloat16 explains, or None."""
    for name, values in own.items():
        other = saved.get(name)
        if (
            not isinstance(other, list)
            or len(other) != len(values)
            or not all(isinstance(v, int | float) for v in other)
        ):
            return name
        a, b = torch.tensor(values, dtype=torch.float64), torch.tensor(other, dtype=torch.float64)
        if not torch.allclose(a, b, rtol=2**-7, atol=1e-3 * a.square().mean().sqrt().item()):
            return name
    return None
