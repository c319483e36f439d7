"""Give a vision encoder a spatial channel and remove it again: `boost`, `unboost`, `disabled`."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from spatialboost.boosting.attach import DISABLED, BoostedAttention, attach, boosted_class, detach, not_run, switch
from spatialboost.boosting.channel import CHANNEL, GATES, SpatialChannel, boosted_layers, is_sharded, require_boosted
from spatialboost.boosting.find import find_attention, uncompiled
from spatialboost.boosting.freeze import clear_caches, freeze_base, freeze_statistics, is_frozen, unfreeze_base
from spatialboost.boosting.refuse import check_model
from spatialboost.boosting.select import Layers, select
from spatialboost.errors import SpatialBoostError, unknown

logger = logging.getLogger(__name__)

Model = TypeVar("Model", bound=nn.Module)


def boost(
    model: Model,
    *,
    layers: Layers = None,
    gate: str = "channel",
    dtype: torch.dtype | None = None,
    freeze: bool = True,
) -> Model:
    """Give the self-attention layers of a vision encoder a second, trainable channel, in place.

    The output stays the same, bit for bit, until Attn+ is trained: both channels start with equal weights, and merging
    two equal values gives exactly that value.

    Example:
        >>> import timm, torch, spatialboost as sb
        >>> encoder = timm.create_model("vit_tiny_patch16_224", depth=2, img_size=32, num_classes=0).eval()
        >>> images = torch.rand(1, 3, 32, 32)
        >>> before = encoder(images)
        >>> torch.equal(sb.boost(encoder)(images), before)
        True

    Args:
        model: An encoder of timm, transformers, torchvision, torch.hub or your own, or a model that contains an image
            tower.
        layers: None for every self-attention layer of the image tower. Else the index of a block (negative ones count
            from the end), a slice or a range of indices, the name of an attention layer as `status` shows it or of a
            module that contains it (`"blocks.3"`), a pattern (`"blocks.*.attn"`, or a compiled regular expression), a
            list of any of these, or a predicate `(name, module) -> bool`.
        gate: "channel" for one gate per feature, as in the paper; "scalar" for one gate per layer.
        dtype: Dtype of the new weights. None takes the base's dtype, except for a base in half precision: then the new
            weights are float32 and are cast when they are used. The gate is always float32.
        freeze: Leave only Attn+ and the gates trainable, and keep the statistics of batch normalisation unchanged.

    Raises:
        SpatialBoostError: The model is boosted already, or a selected layer does not exist or cannot be boosted. The
            model is then left unchanged.

    Source: SpatialBoost (arXiv 2603.22057), section 3.1 and equation 1.
    """
    root = uncompiled(model)
    if gate not in GATES:
        raise unknown("gate", gate, GATES)
    if dtype is not None and not dtype.is_floating_point:
        raise SpatialBoostError(f"dtype={dtype} cannot be trained; expected a floating-point dtype.")
    check_model(root)
    if taken := boosted_layers(root):
        dead = not_run(root)
        raise SpatialBoostError(
            f"{type(root).__name__} is boosted already ({len(taken)} layers"
            f"{f', of which {len(dead)} do not run Attn+: {dead[0]}' if dead else ''}). "
            f"{'Call' if dead else 'Use it as it is, or call'} unboost(model) first."
        )
    chosen = select(find_attention(root), layers, root)

    # what can fail (memory, a class that cannot be derived) comes before the first change
    channels = [SpatialChannel(found.module, found.family, found.index, gate, dtype) for found in chosen]
    for found in chosen:
        boosted_class(type(found.module), found.family)  # type: ignore[arg-type]
    was_frozen = is_frozen(root)
    try:
        clear_caches(root)
        if freeze:
            freeze_base(root)
        for found, channel in zip(chosen, channels, strict=True):
            freeze_statistics(found.module)  # both channels share these parameters, so they must not change
            attach(found.module, channel)
    except BaseException:
        for _, attention, _ in boosted_layers(root):
            detach(attention)
        if not was_frozen:
            unfreeze_base(root)
        raise
    logger.info("boosted %d attention layers of %s", len(chosen), type(root).__name__)
    return model


def unboost(model: Model) -> Model:
    """Remove Attn+ and the gates, in place: classes, keys, hooks and `requires_grad` are as before `boost`.

    Example:
        >>> import timm, spatialboost as sb
        >>> encoder = timm.create_model("vit_tiny_patch16_224", depth=2, img_size=32, num_classes=0)
        >>> list(sb.unboost(sb.boost(encoder)).state_dict()) == list(encoder.state_dict())
        True

    Raises:
        SpatialBoostError: The model is not boosted.
    """
    root = uncompiled(model)
    if not boosted_layers(root) and is_frozen(root):  # `unboost` was called on the encoder inside it
        unfreeze_base(root)
        return model
    layers = require_boosted(root)
    if any(attention in DISABLED for _, attention, _ in layers):
        raise SpatialBoostError("unboost is called within `disabled`, which still needs the layers. Leave it first.")
    on = [isinstance(attention, BoostedAttention) for _, attention, _ in layers]
    try:
        for _, attention, _ in layers:
            detach(attention)
    except BaseException:
        for (_, attention, channel), was_on in zip(layers, on, strict=True):
            attention.add_module(CHANNEL, channel)
            switch(attention, on=was_on)
        raise
    unfreeze_base(root)
    return model


def reset(model: Model) -> Model:
    """Let Attn+ start again: copy the base's weights into it, and set the gates to zero, in place.

    Call it if weights of the base were loaded after `boost`: Attn+ is then still a copy of the weights before.

    Example:
        >>> import timm, torch, spatialboost as sb
        >>> encoder = sb.boost(timm.create_model("vit_tiny_patch16_224", depth=2, img_size=32, num_classes=0))
        >>> loaded = encoder.load_state_dict(torch.nn.Module.state_dict(encoder), strict=False)
        >>> encoder = sb.reset(encoder)

    Raises:
        SpatialBoostError: The model is not boosted, or its base has no values (meta device) or is sharded.
    """
    layers = require_boosted(uncompiled(model))
    for name, attention, _ in layers:
        if any(parameter.is_meta or is_sharded(parameter) for parameter in attention.parameters()):
            raise SpatialBoostError(
                f"{name} is on the meta device or sharded, so its values cannot be copied. Load the base's weights "
                "first, and shard the model afterwards."
            )
    for _, attention, channel in layers:
        channel.reset(attention)
    return model


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Within this context the model is the original encoder, bit for bit.

    The modules have their host classes again until the context ends. Compiled graphs notice that (one recompilation),
    and no forward has to read a flag. Do not use it while another thread runs the model.

    Example:
        >>> import timm, torch, spatialboost as sb
        >>> encoder = sb.boost(timm.create_model("vit_tiny_patch16_224", depth=2, img_size=32, num_classes=0)).eval()
        >>> with sb.disabled(encoder):
        ...     features = encoder(torch.rand(1, 3, 32, 32))

    Raises:
        SpatialBoostError: The model is not boosted.
    """
    root = uncompiled(model)
    require_boosted(root)
    if dead := not_run(root):
        warnings.warn(f"Attn+ was not run in this model even before `disabled`: {'; '.join(dead[:3])}", stacklevel=3)
    layers = [attention for _, attention, _ in boosted_layers(root) if isinstance(attention, BoostedAttention)]
    for attention in layers:
        switch(attention, on=False)
        DISABLED.add(attention)
    try:
        yield
    finally:
        for attention in layers:
            DISABLED.discard(attention)
            switch(attention, on=True)
