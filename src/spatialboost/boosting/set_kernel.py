"""Choose how the boosted layers are computed, and say what runs."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from spatialboost.boosting.channel import SpatialChannel, require_boosted
from spatialboost.boosting.find import uncompiled
from spatialboost.boosting.kernels import KERNELS, choose_kernel
from spatialboost.boosting.xformers_kernel import load_xformers
from spatialboost.errors import SpatialBoostError, unknown
from spatialboost.hosts.registry import family_named

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
        kernel: "host" (the default): the host's own forward for each channel, exact at start. "auto": both channels at
            once by torch SDPA, or by what has been measured to be faster on the device; equal up to rounding; layers
            where that is not exact stay with "host". "xformers", "sdpa", "math": both at once by that kernel and no
            other.

    Raises:
        SpatialBoostError: An unknown kernel, one that cannot run here, or a layer that cannot run both channels at
            once.
    """
    layers = require_boosted(uncompiled(model))
    if kernel not in KERNELS:
        raise unknown("kernel", kernel, KERNELS)
    if kernel not in ("host", "auto"):
        for name, attention, channel in layers:
            if family_named(channel.family).joint_forward(attention, channel) is None:  # type: ignore[arg-type]
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
    """The kernel that would run this layer on inputs of its own weights' device and dtype, without a mask."""
    family = family_named(channel.family)
    if channel.kernel == "host" or family.joint_forward(attention, channel) is None:  # type: ignore[arg-type]
        return "host"
    weight = next(attention.parameters())
    heads = family.heads(attention) or 1
    sample = weight.new_empty((1, 2 * heads, 8, channel.gate.numel() // heads or 8))
    return choose_kernel(channel.kernel, sample, plain_formula=family.plain_formula(attention))
