"""The slots of usual layouts, and the weights of both channels by their slots."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from spatialboost.boosting.joint import Projections
from spatialboost.hosts.layers import leaves, tensor_at
from spatialboost.hosts.protocol import PROJECTIONS, BoostedModule, Channel, Slot


def split_slots(attention: nn.Module, **paths: str) -> dict[str, Slot]:
    """Slots of projections and norms that are separate modules: `q="q_proj"` gives `q.weight` and `q.bias`."""
    return {
        f"{name}.{leaf}": Slot(f"{path}.{leaf}")
        for name, path in paths.items()
        for leaf in leaves(attention, path)
        if name not in PROJECTIONS or leaf in ("weight", "bias")
    }


def packed_slots(attention: nn.Module, path: str) -> dict[str, Slot]:
    """Slots of one projection whose rows are q, then k, then v."""
    return {
        f"{name}.{leaf}": Slot(f"{path}.{leaf}", chunk, 3)
        for leaf in leaves(attention, path)
        if leaf in ("weight", "bias")
        for chunk, name in enumerate("qkv")
    }


def both_projections(attention: BoostedModule, channel: Channel) -> tuple[Projections, Projections]:
    """The weights of Attn and of Attn+; q, k and v are one packed tensor if the host packs them in this order."""
    slots = channel.slots

    def read(parameter: Callable[[str], Tensor]) -> Projections:
        def of(*names: str) -> tuple[Any, ...]:
            found = [slots.get(name) for name in names]
            if [slot and slot.chunk for slot in found] == [0, 1, 2]:
                return (parameter(found[0].parameter),)  # type: ignore[union-attr]
            return tuple(None if slot is None else rows(slot) for slot in found)

        def rows(slot: Slot) -> Tensor:
            packed = parameter(slot.parameter)
            return packed if slot.chunks == 1 else packed.chunk(slot.chunks)[slot.chunk]

        weights, biases = of("q.weight", "k.weight", "v.weight"), of("q.bias", "k.bias", "v.bias")
        return Projections(weights, biases, *of("o.weight"), *of("o.bias"))

    return read(partial(tensor_at, attention)), read(channel.plus)


def have_plain_weights(attention: Any, channel: Channel) -> bool:
    """Whether the host's weights can be read without calling its layers, and are dense tensors.

    Weights of torchao and sharded weights support only a few operations; accelerate loads offloaded weights only when
    their layer is called.
    """
    for name in dict.fromkeys(slot.parameter for slot in channel.slots.values()):
        weight = tensor_at(attention, name)
        if type(weight) not in (Tensor, nn.Parameter) or weight.is_meta:
            return False
    return True
