"""The query projection of an encoder's attention layers, and the queries and keys that they compute for images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spatialboost.boosting.attach import BoostedAttention
from spatialboost.boosting.canonical import plus_tensors
from spatialboost.boosting.channel import CHANNEL, channel_parameters, full_value
from spatialboost.boosting.find import Found, tower
from spatialboost.encoders import read_tokens
from spatialboost.errors import SpatialBoostError
from spatialboost.hosts.adapters import effective_weight

# Shape legend: B images, N patches, T tokens of a sequence, D width of tokens, H heads, C width of a head.

_INPUT = ("hidden_states", "query", "x")  # names under which hosts get their tokens, if not as the first argument
Projection = tuple[Tensor, Tensor | None]  # weight and bias


def query_weight(encoder: nn.Module, layer: int) -> Tensor:
    """The weight of a layer's own query projection ``(H * C, D)``, without that of Attn+.

    Example:
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> encoder = VisionTransformer(img_size=32, embed_dim=48, depth=2, num_heads=2)
        >>> query_weight(encoder, 1).shape
        torch.Size([48, 48])

    Raises:
        SpatialBoostError: The layer has no query projection that is known.
    """
    return _base(_found(encoder, layer), "q")[0]


@torch.no_grad()
def queries_and_keys(
    encoder: nn.Module, pixel_values: Tensor, layers: Sequence[int]
) -> tuple[dict[int, tuple[Tensor, Tensor]], tuple[int, int]]:
    """Queries and keys of the patches in some layers: layer -> two tensors ``(B, N, H, C)``; and the patch grid.

    Example:
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> encoder = VisionTransformer(img_size=32, patch_size=16, embed_dim=48, depth=2, num_heads=2).eval()
        >>> found, grid = queries_and_keys(encoder, torch.zeros(1, 3, 32, 32), [0])
        >>> found[0][0].shape, grid
        (torch.Size([1, 4, 2, 24]), (2, 2))

    They are the outputs of the projections, before norms of queries and keys and before rotary positions. A boosted
    layer is one attention with twice the heads, those of Attn and those of Attn+, so it gives both; within
    `spatialboost.disabled` it gives those of Attn. Class and register tokens stand before the patches, and are left
    out. A key that several heads share is repeated for each.

    Args:
        encoder: The encoder, boosted or not.
        pixel_values: Images ``(B, 3, H, W)``.
        layers: Indices of blocks.

    Raises:
        SpatialBoostError: The projections of a layer are not known, or its tokens are no sequence.
    """
    if any(name.endswith("detection_tokens") for name, _ in encoder.named_parameters()):
        raise SpatialBoostError(f"{type(encoder).__name__} has tokens after its patches, which is not supported here")
    chosen = {layer: _found(encoder, layer) for layer in layers}
    inputs: dict[int, Tensor] = {}
    handles = [
        found.module.register_forward_pre_hook(_keeper(inputs, layer), with_kwargs=True)
        for layer, found in chosen.items()
    ]
    try:
        tokens = read_tokens(encoder, pixel_values, layer=max(layers))
    finally:
        for handle in handles:
            handle.remove()
    count = tokens.grid[0] * tokens.grid[1]
    found = {}
    for layer, each in chosen.items():
        x_BTD = inputs[layer]
        if not getattr(each.module, "batch_first", True):
            x_BTD = x_BTD.transpose(0, 1)
        if x_BTD.ndim != 3 or x_BTD.shape[0] != len(pixel_values) or x_BTD.shape[1] < count:
            raise SpatialBoostError(
                f"{each.name} gets tokens {tuple(x_BTD.shape)} for {len(pixel_values)} images of {count} patches: its "
                "queries cannot be placed on the grid. Expected an encoder in which each layer sees all patches"
            )
        found[layer] = _heads_of(each, x_BTD[:, -count:])
    return found, tokens.grid


def _keeper(inputs: dict[int, Tensor], layer: int) -> Callable[..., None]:
    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        value = args[0] if args else next((kwargs[name] for name in _INPUT if name in kwargs), None)
        if not isinstance(value, Tensor):
            raise SpatialBoostError(
                f"{type(module).__name__} is not called with one tensor of tokens, so its queries are not known"
            )
        inputs[layer] = value.detach()

    return keep


def _heads_of(found: Found, x_BND: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys of both channels ``(B, N, H, C)`` each."""
    heads = found.family.heads(found.module)
    if heads is None:
        raise SpatialBoostError(f"{found.name} does not say how many heads it has, so its queries cannot be separated")
    pairs: dict[str, list[Tensor]] = {"q": [], "k": []}
    for role, parts in pairs.items():
        projections = [_base(found, role)]
        if isinstance(found.module, BoostedAttention):
            projections.append(_plus(found, role))
        for weight, bias in projections:
            bias = None if bias is None else bias.to(x_BND.dtype)
            parts.append(nn.functional.linear(x_BND, weight.to(x_BND.dtype), bias))
    width = pairs["q"][0].shape[-1] // heads
    queries, keys = (torch.cat([p.unflatten(-1, (-1, width)) for p in parts], 2) for parts in pairs.values())
    return queries, keys.repeat_interleave(queries.shape[2] // keys.shape[2], 2)


def _found(encoder: nn.Module, layer: int) -> Found:
    layers = tower(encoder)
    if layer not in layers:
        raise SpatialBoostError(f"{type(encoder).__name__} has no attention layer {layer}; it has {sorted(layers)}")
    return layers[layer]


def _base(found: Found, role: str) -> Projection:
    """Weight and bias of a projection of the host, with its adapters."""
    slots, parts = found.family.slots(found.module), {}
    owners = {name: (owner, leaf) for name, owner, leaf, _ in channel_parameters(found.module, found.family)}
    for leaf in ("weight", "bias"):
        slot = slots.get(f"{role}.{leaf}")
        if slot is not None:
            value = full_value(effective_weight(found.module, slot.parameter, *owners[slot.parameter]))
            parts[leaf] = slot.read({slot.parameter: value})
    if "weight" not in parts:
        raise SpatialBoostError(
            f"{found.name} ({type(found.module).__name__}) has no {role} projection that this library knows: take an "
            "encoder of timm, transformers, open_clip, torchvision or DINO's own, in its plain form"
        )
    return parts["weight"], parts.get("bias")


def _plus(found: Found, role: str) -> Projection:
    """Weight and bias of a projection of Attn+."""
    tensors = plus_tensors(found.module, found.module._modules[CHANNEL])  # type: ignore[arg-type]
    bias = tensors.get(f"{role}.bias")
    return tensors[f"{role}.weight"].detach(), None if bias is None else bias.detach()
