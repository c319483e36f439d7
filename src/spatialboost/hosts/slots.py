"""Slots of the usual layouts, and the weights of both channels read through them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from spatialboost.boosting.joint import Projections
from spatialboost.hosts.layers import leaves
from spatialboost.hosts.protocol import PROJECTIONS, BoostedModule, Channel, Slot


def split_slots(attention: nn.Module, **paths: str) -> dict[str, Slot]:
    """Slots of projections and norms that are modules of their own: `q="q_proj"` gives `q.weight` and `q.bias`."""
    return {
        f"{name}.{leaf}": Slot(f"{path}.{leaf}")
        for name, path in paths.items()
        for leaf in leaves(attention, path)
        if name not in PROJECTIONS or leaf in ("weight", "bias")
    }


def packed_slots(attention: nn.Module, path: str) -> dict[str, Slot]:
    """Slots of one projection that holds q, k and v one below the other."""
    return {
        f"{name}.{leaf}": Slot(f"{path}.{leaf}", chunk, 3)
        for leaf in leaves(attention, path)
        for chunk, name in enumerate("qkv")
    }


def both_projections(attention: BoostedModule, channel: Channel) -> tuple[Projections, Projections]:
    """The weights of Attn and of Attn+, by role."""
    slots = channel.slots

    def read(parameter: Callable[[str], Tensor]) -> Projections:
        def of(*names: str) -> tuple[Any, ...]:
            found = [slots.get(name) for name in names]
            if found[0] is not None and found[0].chunks > 1:
                return (parameter(found[0].parameter),)  # packed, in the order of the names
            return tuple(None if slot is None else parameter(slot.parameter) for slot in found)

        weights, biases = of("q.weight", "k.weight", "v.weight"), of("q.bias", "k.bias", "v.bias")
        return Projections(weights, biases, *of("o.weight"), *of("o.bias"))

    return read(attention.get_parameter), read(channel.plus)
