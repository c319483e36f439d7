"""Give a vision encoder a spatial channel and take it off again: `boost`, `unboost`, `disabled`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from spatialboost.boosting.attach import attach, detach, switch
from spatialboost.boosting.channel import GATES, boosted_layers, require_boosted
from spatialboost.boosting.find import find_attention, uncompiled
from spatialboost.boosting.freeze import clear_caches, freeze_base, hold_statistics, unfreeze_base
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

    The output stays what it was, bit for bit, until Attn+ is trained: both channels begin equal, and equal values
    merge exactly.

    Example:
        >>> import timm, torch, spatialboost as sb
        >>> encoder = timm.create_model("vit_tiny_patch16_224", depth=2, img_size=32, num_classes=0).eval()
        >>> images = torch.rand(1, 3, 32, 32)
        >>> before = encoder(images)
        >>> torch.equal(sb.boost(encoder)(images), before)
        True

    Args:
        model: Encoder of timm, transformers, torchvision, torch.hub or one's own; or a model that holds an image tower.
        layers: None for every self-attention layer of the image tower. Else an index of a block (negative ones count
            from the end), a slice or a range of them, a name as `status` shows it or of what holds it (`"blocks.3"`), a
            pattern (`"blocks.*.attn"`, or a compiled regular expression), a list of any of these, or a predicate
            `(name, module) -> bool`.
        gate: "channel" for one gate a feature, as in the paper; "scalar" for one a layer.
        dtype: Of the new weights. None: the base's, but float32 for a half-precision base, cast at use. The gate is
            float32 always.
        freeze: Leave only Attn+ and the gates trainable, and hold the statistics of batch normalisation.

    Raises:
        SpatialBoostError: The model is boosted already, has no such layer, or has one that cannot be boosted. It is
            unchanged then.

    Source: SpatialBoost (arXiv 2603.22057), section 3.1 and equation 1.
    """
    root = uncompiled(model)
    if gate not in GATES:
        raise unknown("gate", gate, GATES)
    if dtype is not None and not dtype.is_floating_point:
        raise SpatialBoostError(f"dtype={dtype} cannot be trained; expected a floating-point dtype.")
    check_model(root)
    if taken := boosted_layers(root):
        raise SpatialBoostError(
            f"{type(root).__name__} is boosted already ({len(taken)} layers). Go on with it as it is, or call "
            "unboost(model) first."
        )
    chosen = select(find_attention(root), layers, root)

    clear_caches(root)
    if freeze:
        freeze_base(root)
    for found in chosen:
        hold_statistics(found.module)  # shared by both channels, so they must not move
        attach(found.module, found.family, found.index, gate, dtype)
    logger.info("boosted %d attention layers of %s", len(chosen), type(root).__name__)
    return model


def unboost(model: Model) -> Model:
    """Take Attn+ and the gates off, in place: classes, keys, hooks and `requires_grad` are as before `boost`.

    Example:
        >>> import timm, spatialboost as sb
        >>> encoder = timm.create_model("vit_tiny_patch16_224", depth=2, img_size=32, num_classes=0)
        >>> list(sb.unboost(sb.boost(encoder)).state_dict()) == list(encoder.state_dict())
        True

    Raises:
        SpatialBoostError: The model is not boosted.
    """
    root = uncompiled(model)
    for _, attention, _ in require_boosted(root):
        detach(attention)
    unfreeze_base(root)
    return model


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Within this context the model is the original encoder, bit for bit.

    The modules get their host classes back until it ends. Compiled graphs notice that (one recompilation), and no
    forward has to read a flag. Not for use while another thread runs the model.

    Example:
        >>> import timm, torch, spatialboost as sb
        >>> encoder = sb.boost(timm.create_model("vit_tiny_patch16_224", depth=2, img_size=32, num_classes=0)).eval()
        >>> with sb.disabled(encoder):
        ...     features = encoder(torch.rand(1, 3, 32, 32))

    Raises:
        SpatialBoostError: The model is not boosted.
    """
    layers = [attention for _, attention, _ in require_boosted(uncompiled(model)) if hasattr(attention, "host_class")]
    for attention in layers:
        switch(attention, on=False)
    try:
        yield
    finally:
        for attention in layers:
            switch(attention, on=True)
