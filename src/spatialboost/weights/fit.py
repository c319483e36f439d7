"""Whether a delta fits a model: its layers, keys, shapes and base, checked before anything is changed."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import nn

from spatialboost.boosting.boost import boost
from spatialboost.boosting.channel import boosted_layers, host_parameters, is_sharded
from spatialboost.boosting.find import Found, tower
from spatialboost.errors import SpatialBoostError
from spatialboost.weights.layout import (
    BIASES,
    Reorder,
    base_tensors,
    fingerprint,
    outlines,
    rotary_orders,
    same_base,
)
from spatialboost.weights.read import Delta

logger = logging.getLogger(__name__)


def check_fits(model: nn.Module, delta: Delta, device: torch.device | str | None = None) -> Reorder | None:
    """Raise unless the delta's layers, keys, shapes and base are those of the model.

    Args:
        model: Not compiled.
        delta: Of `read_delta`.
        device: Where Attn+ is to be if the model is on the meta device, whose base cannot be checked.

    Returns:
        How the rows of q and k have to be reordered, where the two copies of the base differ in that.
    """
    layers = tower(model)
    if not layers:
        boost(model)  # raises, and says what was found instead of attention
    blank = any(host_device(found.module).type == "meta" for found in layers.values())
    if blank and device is None:
        raise SpatialBoostError(
            "the model is on the meta device: load the base's weights into it before the delta, or give `device` to "
            "have Attn+ there and the base unchecked."
        )
    if not blank and device is not None:
        raise SpatialBoostError(
            f"device={str(device)!r} is for a model on the meta device; of this one Attn+ goes to where the attention "
            "is. Leave `device` out, and move the model with model.to(...)."
        )
    _check_state(model, layers, delta)
    _check_sizes(model, layers, delta)
    if blank:
        logger.warning("the model is on the meta device: whether the delta is of this base cannot be checked")
        return None
    return _check_base(layers, delta)


def host_device(attention: nn.Module) -> torch.device:
    """Where the host's own weights are."""
    _, owner, leaf = next(host_parameters(attention))
    return owner.get_parameter(leaf).device


def _check_state(model: nn.Module, layers: Mapping[int, Found], delta: Delta) -> None:
    if any(is_sharded(parameter) for found in layers.values() for parameter in found.module.parameters()):
        raise SpatialBoostError("the model is sharded already: load the delta first, then shard it.")
    if taken := boosted_layers(model):
        own = ([channel.index for _, _, channel in taken], taken[0][2].gate_kind)
        if own != (delta.layers, delta.config["gate"]):
            raise SpatialBoostError(
                f"the model is boosted at layers {own[0]} with gate={own[1]!r}, the delta at {delta.layers} with "
                f"gate={delta.config['gate']!r}. Call unboost(model) first."
            )


def _check_sizes(model: nn.Module, layers: Mapping[int, Found], delta: Delta) -> None:
    config, name = delta.config, type(model).__name__
    if len(layers) != config["depth"] or any(i not in layers for i in delta.layers):
        raise SpatialBoostError(
            f"the delta is of {delta.base_name} with {config['depth']} attention layers; {name} has {len(layers)}."
        )
    expected: dict[str, tuple[int, ...]] = {}
    for index in delta.layers:
        found = layers[index]
        width = found.family.width(found.module)
        if width != config["width"] and index == delta.layers[0]:
            raise SpatialBoostError(
                f"the delta is of {delta.base_name} of width {config['width']}; {name} has width {width}. Load it onto "
                "the encoder that it was trained on."
            )
        shapes = {key: tuple(tensor.shape) for key, tensor in outlines(found.module, found.family).items()}
        for key in found.family.masked_biases(found.module):
            shapes.pop(key, None)
        shapes["gate"] = (width if config["gate"] == "channel" else 1,)
        expected |= {f"layers.{index}.{key}": shape for key, shape in shapes.items()}
    problems = {
        "missing": sorted(key for key in expected.keys() - delta.shapes.keys() if not _is_zero_in(layers, key)),
        "not expected": _values_without_place(delta, sorted(delta.shapes.keys() - expected.keys())),
        "of another shape": [
            f"{key} {delta.shapes[key]} for {expected[key]}"
            for key in sorted(expected.keys() & delta.shapes)
            if delta.shapes[key] != expected[key]
        ],
    }
    if any(problems.values()):
        said = "; ".join(f"{what}: {', '.join(keys[:6])} ({len(keys)})" for what, keys in problems.items() if keys)
        advice = f"Its base is {delta.base_name}."
        if all(key.endswith(".bias") for keys in problems.values() for key in keys):
            variant = next((f.family.variant_with_biases for f in layers.values() if f.family.variant_with_biases), "")
            advice += (
                " The copy of the encoder that it was trained on has biases where this one has none: build the variant "
                f"with them{variant and f' ({variant})'}."
            )
        raise SpatialBoostError(f"{delta.files[0]} does not fit {name}: {said}. {advice}")


def _is_zero_in(layers: Mapping[int, Found], key: str) -> bool:
    """Whether a weight that the delta has not got is a bias that the base has, and has at zero.

    Copies of one encoder differ in that: of DINOv3, timm leaves biases out that are zero, transformers keeps them.
    """
    _, index, name = key.split(".", 2)
    found = layers[int(index)]
    return name in BIASES and not base_tensors(found.module, found.family)[name].any()


def _values_without_place(delta: Delta, keys: list[str]) -> list[str]:
    """Of the delta's weights that the model has not got, those that are no biases of zeros."""
    biases = [key for key in keys if key.split(".", 2)[2:] and key.split(".", 2)[2] in BIASES]
    with delta.open() as file:
        return [key for key in keys if key not in biases or file.get(key).any()]


def _check_base(layers: Mapping[int, Found], delta: Delta) -> Reorder | None:
    saved = delta.config["fingerprint"]
    name = same_base(saved, fingerprint(layers))
    if name is None:
        return None
    first = layers[delta.layers[0]]
    own = outlines(first.module, first.family).get("q.weight")
    if own is not None:
        orders = rotary_orders(first.family.heads(first.module), own.shape[0])
        for order, there in (("halves", "interleaved"), ("interleaved", "halves")):
            if order in orders and same_base(saved, fingerprint(layers, orders[order])) is None:
                return orders[there]
    raise SpatialBoostError(
        f"the delta was trained on other weights than these: {name} differs. Its base is {delta.base_name}; load that "
        "one's weights into the model first."
    )
