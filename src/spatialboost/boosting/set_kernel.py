"""Choose the kernel that computes the boosted layers."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from spatialboost.boosting.attach import BoostedAttention
from spatialboost.boosting.channel import SpatialChannel, require_boosted
from spatialboost.boosting.find import uncompiled
from spatialboost.boosting.kernels import KERNELS, choose_kernel
from spatialboost.boosting.xformers_kernel import load_xformers
from spatialboost.errors import SpatialBoostError, unknown
from spatialboost.hosts.registry import family_named
from spatialboost.hosts.slots import have_plain_weights

Model = TypeVar("Model", bound=nn.Module)


def set_kernel(model: Model, kernel: str) -> Model:
    """Choose how the boosted layers are computed, in place; returns the same object.

    Example:
        >>> import timm, spatialboost as sb
        >>> encoder = sb.boost(timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=0))
        >>> print(sb.status(sb.set_kernel(encoder, "auto")).layers[0].kernel)
        sdpa

    Args:
        model: A boosted model.
        kernel: "host" (the default) runs the host's own forward once for each channel; before training the output is
            exactly that of the base. "auto" runs both channels at once, with torch SDPA or a kernel that was measured
            to be faster on the device. Its output is equal up to rounding; layers that cannot run both channels at once
            stay with "host". "xformers", "sdpa" and "math" run both channels at once with that kernel only.

    Raises:
        SpatialBoostError: The kernel is unknown or cannot run here, or a layer cannot run both channels at once.
    """
    layers = require_boosted(uncompiled(model))
    if kernel not in KERNELS:
        raise unknown("kernel", kernel, KERNELS)
    if kernel not in ("host", "auto"):
        for name, attention, channel in layers:
            joins = isinstance(attention, BoostedAttention) and family_named(channel.family).joint_forward
            if not joins or joins(attention, channel) is None:  # type: ignore[arg-type]
                raise SpatialBoostError(
                    f"kernel={kernel!r} runs both channels at once, which {name} ({channel.family}) cannot. Use "
                    "'auto' or 'host'."
                )
    if kernel == "xformers":
        device = layers[0][2].gate.device
        why = load_xformers()[1] or ("" if device.type == "cuda" else f"the model is on {device}")
        if why:
            raise SpatialBoostError(f"kernel='xformers' has no operator here: {why}. Use 'auto' or 'sdpa'.")
    for _, _, channel in layers:
        channel.kernel = kernel
    return model


def kernel_of(attention: nn.Module, channel: SpatialChannel) -> str:
    """The kernel that would run this layer on inputs with the device and dtype of its weights, without a mask."""
    family = family_named(channel.family)
    runs = isinstance(attention, BoostedAttention) and have_plain_weights(attention, channel)
    if channel.kernel == "host" or not runs or family.joint_forward(attention, channel) is None:  # type: ignore[arg-type]
        return "host"
    weight = next(attention.parameters())
    heads = family.heads(attention) or 1
    sample = weight.new_empty((1, 2 * heads, 8, channel.gate.numel() // heads or 8))
    return choose_kernel(channel.kernel, sample, plain_formula=family.plain_formula(attention))
