"""Facts that identify an encoder: its name, samples and checksums of its weights, and those of its Attn+."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from spatialboost.boosting.attach import DISABLED
from spatialboost.boosting.canonical import plus_tensors
from spatialboost.boosting.channel import SpatialChannel, boosted_layers
from spatialboost.boosting.find import tower, uncompiled
from spatialboost.weights.base import describe_base
from spatialboost.weights.fingerprint import fingerprint
from spatialboost.weights.tensor_file import checksum, digest


def encoder_facts(encoder: nn.Module) -> dict[str, Any]:
    """What is needed to know an encoder again; JSON-able.

    Example:
        >>> import timm
        >>> facts = encoder_facts(timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=0))
        >>> facts["name"], facts["boosted"]
        ('vit_tiny_patch16_224.augreg_in21k_ft_in1k', [])

    Returns:
        ``library``, ``name``, ``class``, ``revision`` and ``license`` as a delta's config has them; ``dtype`` and
        ``device``; ``weights``, a
        checksum of the base's weights and buffers; ``fingerprint``, the samples of them by which a delta knows its
        base; ``boosted``, the blocks whose Attn+ is run, and ``delta``, a checksum of their Attn+ and gates.
        Checksums depend on the dtype of the weights.
    """
    encoder = uncompiled(encoder)
    channels = [module for module in encoder.modules() if isinstance(module, SpatialChannel)]
    inside = {id(tensor) for channel in channels for tensor in channel.parameters()}
    stored = encoder.state_dict(keep_vars=True)
    base = {name: each for name, each in stored.items() if isinstance(each, Tensor) and id(each) not in inside}
    layers = tower(encoder)
    on = [(channel, attention) for _, attention, channel in boosted_layers(encoder) if attention not in DISABLED]
    weight = next(encoder.parameters())
    facts = {
        **describe_base(encoder),
        "dtype": str(weight.dtype).removeprefix("torch."),
        "device": str(weight.device),
        "weights": _checksum(base),
        "fingerprint": fingerprint(layers) if layers else {},
        "boosted": [channel.index for channel, _ in on],
    }
    if on:
        plus = {
            f"layers.{channel.index}.{name}": tensor
            for channel, attention in on
            for name, tensor in plus_tensors(attention, channel).items()
        }
        facts["delta"] = _checksum(plus)
    return facts


def _checksum(tensors: dict[str, Tensor]) -> str | None:
    """16 hexadecimal digits over names and values; None for quantised weights, which are no plain tensors."""
    try:
        parts = [f"{name} {checksum(tensor.detach().cpu().contiguous())}" for name, tensor in sorted(tensors.items())]
    except (RuntimeError, NotImplementedError, TypeError):
        return None
    return digest("\n".join(parts).encode())
