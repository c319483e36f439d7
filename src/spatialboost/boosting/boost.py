"""Give a vision encoder a spatial channel, take it off again, look at it: `boost`, `unboost`, `disabled`, `status`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from spatialboost.boosting import freeze as frozen
from spatialboost.boosting.channel import CHANNEL, GATES, SpatialChannel, attach, boosted_layers, detach, switch, whole
from spatialboost.boosting.find import Layers, find_attention, select, uncompiled
from spatialboost.boosting.kernels import KERNELS, choose_kernel, xformers_ops
from spatialboost.boosting.refuse import check_model
from spatialboost.errors import SpatialBoostError
from spatialboost.hosts import family_named

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
        raise SpatialBoostError(f"gate={gate!r} is not known; expected one of {', '.join(map(repr, GATES))}.")
    if dtype is not None and not dtype.is_floating_point:
        raise SpatialBoostError(f"dtype={dtype} cannot be trained; expected a floating-point dtype.")
    check_model(root)
    if taken := boosted_layers(root):
        raise SpatialBoostError(
            f"{type(root).__name__} is boosted already ({len(taken)} layers). Go on with it as it is, or call "
            "unboost(model) first."
        )
    chosen = select(find_attention(root), layers, root)

    frozen.clear_caches(root)
    if freeze:
        frozen.freeze(root)
    for found in chosen:
        frozen.hold_statistics(found.module)  # shared by both channels, so they must not move
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
    frozen.thaw(root)
    return model


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Within this context the model is the original encoder, bit for bit.

    The host classes are swapped back for its length, so that compiled graphs notice (one recompilation) and no flag is
    read in a forward. Not for use while another thread runs the model.

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


def named_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters of Attn+ and the gates, named as in `model.named_parameters()`.

    Example:
        >>> import timm, spatialboost as sb
        >>> encoder = sb.boost(timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=0))
        >>> [name for name, _ in sb.named_parameters(encoder)][-1]
        'blocks.0.attn.spatial_channel.gate'

    Raises:
        SpatialBoostError: The model is not boosted.
    """
    for name, _, channel in require_boosted(uncompiled(model)):
        for leaf, parameter in channel.named_parameters():
            yield ".".join(filter(None, (name, CHANNEL, leaf))), parameter


def param_groups(model: nn.Module, lr: float, weight_decay: float = 0.0) -> list[dict[str, object]]:
    """Groups for a torch optimiser: weights of Attn+, and apart from them what must not decay (gates, biases, norms).

    Decay would pull `a` to 0 and with it each gate to one half.

    Example:
        >>> import timm, torch, spatialboost as sb
        >>> encoder = sb.boost(timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=0))
        >>> optimizer = torch.optim.AdamW(sb.param_groups(encoder, lr=1e-4, weight_decay=0.05))

    Raises:
        SpatialBoostError: The model is not boosted.
    """
    parameters = [parameter for _, parameter in named_parameters(model)]
    groups: list[dict[str, object]] = [
        {"params": [p for p in parameters if p.ndim > 1], "lr": lr, "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "lr": lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def set_kernel(model: Model, kernel: str) -> Model:
    """Choose how the boosted layers are computed, in place; returns the same object.

    Example:
        >>> import timm, spatialboost as sb
        >>> encoder = sb.boost(timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=0))
        >>> print(sb.status(sb.set_kernel(encoder, "auto")).layers[0].kernel)
        sdpa

    Args:
        model: A boosted model.
        kernel: "host" (the default): the host's own forward for each channel, exact at start. "auto": both channels at
            once by the best kernel there is for each call, equal up to rounding; layers where this is not exact stay
            with "host". "xformers", "sdpa", "math": both at once by that kernel and no other.

    Raises:
        SpatialBoostError: An unknown kernel, one that cannot run here, or a layer that cannot run both channels at
            once.
    """
    layers = require_boosted(uncompiled(model))
    if kernel not in KERNELS:
        raise SpatialBoostError(f"kernel={kernel!r} is not known; expected one of {', '.join(map(repr, KERNELS))}.")
    if kernel not in ("host", "auto"):
        for name, attention, channel in layers:
            if family_named(channel.family).fused_forward(attention, channel) is None:
                raise SpatialBoostError(
                    f"kernel={kernel!r} runs both channels at once, which {name} ({channel.family}) cannot. Use "
                    "'auto' or 'host'."
                )
    if kernel == "xformers" and (xformers_ops() is None or not layers[0][2].gate.is_cuda):
        why = (
            "it is not installed or does not load"
            if xformers_ops() is None
            else f"the model is on {layers[0][2].gate.device}"
        )
        raise SpatialBoostError(f"kernel='xformers' has no operator here: {why}. Use 'auto' or 'sdpa'.")
    for _, _, channel in layers:
        channel.kernel = kernel
    return model


def kernel_of(attention: nn.Module, channel: SpatialChannel) -> str:
    """The kernel that would run this layer on inputs of its own weights' device and dtype, without a mask."""
    family = family_named(channel.family)
    if channel.kernel == "host" or family.fused_forward(attention, channel) is None:
        return "host"
    weight = next(attention.parameters())
    heads = family.heads(attention) or 1
    sample = weight.new_empty((1, 2 * heads, 8, channel.gate.numel() // heads or 8))
    return choose_kernel(channel.kernel, sample, fused=getattr(attention, "fused_attn", True))


@dataclass(frozen=True)
class LayerStatus:
    """One boosted layer: where it is, what reads it, what runs it, what trains, how far its gate has moved."""

    index: int
    name: str
    family: str
    kernel: str
    trainable: int
    mean_gate: float


@dataclass(frozen=True)
class Status:
    """What `boost` has taken of a model, and what it has passed over (name, class, reason). Prints as a table."""

    layers: tuple[LayerStatus, ...]
    passed_over: tuple[tuple[str, str, str], ...]

    def __str__(self) -> str:
        head = ("layer", "name", "family", "kernel", "trainable", "mean gate")
        rows = [
            (str(s.index), s.name, s.family, s.kernel, f"{s.trainable:,}", f"{s.mean_gate:.4f}") for s in self.layers
        ]
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
        right = (0, 4, 5)
        lines = [
            "  ".join(
                cell.rjust(w) if i in right else cell.ljust(w)
                for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in [head, *rows]
        ]
        lines += [f"{len(rows)} layers boosted, {sum(s.trainable for s in self.layers):,} trainable parameters"]
        alike: dict[tuple[str, str], list[str]] = {}
        for name, cls, reason in self.passed_over:
            alike.setdefault((cls, reason), []).append(name)
        for (cls, reason), names in alike.items():
            shown = ", ".join(names if len(names) < 4 else [names[0], "...", names[-1]])
            lines += [f"passed over: {shown} ({len(names)} {cls}): {reason}"]
        return "\n".join(line.rstrip() for line in lines)


def status(model: nn.Module) -> Status:
    """What is boosted (layer, family, kernel, trainable parameters, mean gate), and what was passed over, and why.

    Example:
        >>> import timm, spatialboost as sb
        >>> encoder = sb.boost(timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=0))
        >>> print(sb.status(encoder))
        layer  name           family  kernel  trainable  mean gate
            0  blocks.0.attn  timm    host      148,416     0.5000
        1 layers boosted, 148,416 trainable parameters
    """
    root = uncompiled(model)
    layers = tuple(
        LayerStatus(
            index=channel.index,
            name=name,
            family=channel.family,
            kernel=kernel_of(attention, channel),
            trainable=sum(p.numel() for p in channel.parameters() if p.requires_grad),
            mean_gate=float("nan") if channel.gate.is_meta else torch.sigmoid(whole(channel.gate)).mean().item(),
        )
        for name, attention, channel in boosted_layers(root)
    )
    taken = {layer.name for layer in layers}
    passed = [(f.name, type(f.module), f.reason) for f in find_attention(root) if f.name not in taken]
    left = "not among `layers=`" if layers else "not boosted yet"
    return Status(layers, tuple((name, cls.__name__, reason or left) for name, cls, reason in passed))


def require_boosted(model: nn.Module) -> list[tuple[str, nn.Module, SpatialChannel]]:
    """The boosted layers, of which there is at least one."""
    if not (layers := boosted_layers(model)):
        raise SpatialBoostError(
            f"{type(model).__name__} is not boosted: call boost(model) or load_pretrained(model, ...) first."
        )
    return layers
