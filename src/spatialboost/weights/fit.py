"""Check whether a delta fits a model: layers, keys, shapes and base, before the model is changed."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping

import torch
from torch import nn

from spatialboost.boosting.boost import boost
from spatialboost.boosting.canonical import base_tensors, meta_tensors
from spatialboost.boosting.channel import boosted_layers, host_parameters, is_sharded
from spatialboost.boosting.find import Found, tower
from spatialboost.errors import SpatialBoostError
from spatialboost.weights.fingerprint import Reorder, fingerprint, rotary_orders, same_base
from spatialboost.weights.read import Delta

logger = logging.getLogger(__name__)

BIASES = frozenset(f"{name}.bias" for name in "qkvo")


def check_fits(
    model: nn.Module, delta: Delta, device: torch.device | str | None = None, *, partial: bool = False
) -> Reorder | None:
    """Raise unless the delta's layers, keys, shapes and base are those of the model.

    Args:
        model: Not compiled.
        delta: From `read_delta`.
        device: Where to put Attn+ if the model is on the meta device. Its base then has no values and is not checked.
        partial: Whether the model may have another number of layers than the delta's base.

    Returns:
        A function that reorders the rows of q and k, if this copy of the base uses the other convention of rotary
        embeddings; else None.
    """
    layers = tower(model)
    if not layers:
        boost(model)  # raises an error that describes what the model has instead of attention
    on_meta = any(host_device(found.module).type == "meta" for found in layers.values())
    if on_meta and device is None:
        raise SpatialBoostError(
            "the model is on the meta device: load the base's weights into it before the delta; or give `device`, and "
            "Attn+ is put there without a check of the base."
        )
    if not on_meta and device is not None:
        raise SpatialBoostError(
            f"device={str(device)!r} is for a model on the meta device; here Attn+ is put where the attention is. "
            "Leave `device` out, and move the model with model.to(...)."
        )
    _check_state(model, layers, delta)
    _check_sizes(model, layers, delta, partial)
    if on_meta:
        logger.warning("the model is on the meta device: whether the delta belongs to this base cannot be checked")
        return None
    return _check_base(layers, delta)


def host_device(attention: nn.Module) -> torch.device:
    """The device of the host's own weights."""
    _, owner, leaf = next(host_parameters(attention))
    return owner.get_parameter(leaf).device


def _check_state(model: nn.Module, layers: Mapping[int, Found], delta: Delta) -> None:
    if any(is_sharded(parameter) for found in layers.values() for parameter in found.module.parameters()):
        raise SpatialBoostError("the model is already sharded: load the delta first, then shard the model.")
    if taken := boosted_layers(model):
        own = ([channel.index for _, _, channel in taken], taken[0][2].gate_kind)
        if own != (delta.layers, delta.config["gate"]):
            raise SpatialBoostError(
                f"the model is boosted at layers {own[0]} with gate={own[1]!r}; the delta is for layers {delta.layers} "
                f"with gate={delta.config['gate']!r}. Call unboost(model) first."
            )


def _check_sizes(model: nn.Module, layers: Mapping[int, Found], delta: Delta, partial: bool) -> None:
    config, name = delta.config, type(model).__name__
    if (len(layers) != config["depth"] and not partial) or any(i not in layers for i in delta.layers):
        raise SpatialBoostError(
            f"the delta is for {delta.base_name} with {config['depth']} attention layers; {name} has {len(layers)}. "
            "Load it onto the encoder that it was trained on; or, if this is a part of that encoder, give `layers`, "
            f"the indices of those to load. The delta has the layers {delta.layers}, the model {sorted(layers)}."
        )
    expected: dict[str, tuple[int, ...]] = {}
    for index in delta.layers:
        found = layers[index]
        width = found.family.width(found.module)
        if width != config["width"] and index == delta.layers[0]:
            raise SpatialBoostError(
                f"the delta is for {delta.base_name} of width {config['width']}; {name} has width {width}. Load it "
                "onto the encoder that it was trained on."
            )
        shapes = {key: tuple(tensor.shape) for key, tensor in meta_tensors(found.module, found.family).items()}
        for key in found.family.masked_biases(found.module):
            shapes.pop(key, None)
        shapes["gate"] = (width if config["gate"] == "channel" else 1,)
        expected |= {f"layers.{index}.{key}": shape for key, shape in shapes.items()}
    problems = {
        "missing": sorted(key for key in expected.keys() - delta.shapes.keys() if not _is_zero_bias(layers, key)),
        "not expected": _without_place(delta, sorted(delta.shapes.keys() - expected.keys())),
        "of another shape": [
            f"{key} {delta.shapes[key]} for {expected[key]}"
            for key in sorted(expected.keys() & delta.shapes)
            if delta.shapes[key] != expected[key]
        ],
    }
    if any(problems.values()):
        listed = "; ".join(f"{what}: {', '.join(keys[:6])} ({len(keys)})" for what, keys in problems.items() if keys)
        advice = f"Its base is {delta.base_name}."
        if all(key.endswith(".bias") for keys in problems.values() for key in keys):
            variant = next((f.family.variant_with_biases for f in layers.values() if f.family.variant_with_biases), "")
            advice += (
                " The copy of the encoder that it was trained on has biases where this one has none: build the variant "
                f"with biases{variant and f' ({variant})'}."
            )
        raise SpatialBoostError(f"{delta.files[0]} does not fit {name}: {listed}. {advice}")


def _is_zero_bias(layers: Mapping[int, Found], key: str) -> bool:
    """Whether a weight is a bias whose values in the base are all zero; the delta need not contain it.

    Copies of one encoder differ in this: timm's DINOv3 has no biases where they would be zero; transformers keeps them.
    """
    _, index, name = key.split(".", 2)
    found = layers[int(index)]
    return name in BIASES and not base_tensors(found.module, found.family)[name].any()


def _without_place(delta: Delta, keys: list[str]) -> list[str]:
    """The keys of the delta for which the model has no place, without biases whose values are all zero."""
    biases = [key for key in keys if key.split(".", 2)[2:] and key.split(".", 2)[2] in BIASES]
    with delta.open() as file:
        return [key for key in keys if key not in biases or file.get(key).any()]


def _check_base(layers: Mapping[int, Found], delta: Delta) -> Reorder | None:
    saved = delta.config["fingerprint"]
    # first, middle and last layer of the base; a model with fewer layers is compared in those of them that it has
    recorded = {int(found[1]) for name in saved if (found := re.match(r"layers\.(\d{1,9})\.", name))}
    common = recorded & set(layers)
    if recorded and not common:
        raise SpatialBoostError(
            f"the delta's base cannot be recognised: the layers {sorted(recorded)} of it are recorded, and the model "
            f"has {sorted(layers)}. Load the delta onto that encoder, then take the layers from it."
        )
    compared = {index: layers[index] for index in common} if common else layers
    name = same_base(saved, fingerprint(compared))
    if name is None:
        return None
    first = layers[delta.layers[0]]
    own = meta_tensors(first.module, first.family).get("q.weight")
    if own is not None:
        orders = rotary_orders(first.family.heads(first.module), own.shape[0])
        for saved_order, own_order in (("halves", "interleaved"), ("interleaved", "halves")):
            if saved_order in orders and same_base(saved, fingerprint(compared, orders[saved_order])) is None:
                return orders[own_order]
    raise SpatialBoostError(
        f"the delta was trained on other weights than these: {name} differs. Its base is {delta.base_name}: load the "
        "weights of that model first."
    )
