"""The parameters that train: their names, and their groups for an optimiser."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from spatialboost.boosting.channel import CHANNEL, require_boosted
from spatialboost.boosting.find import uncompiled


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
    """Groups for a torch optimiser: the weights of Attn+, and the parameters without decay (gates, biases, norms).

    Weight decay would move `a` to 0, and so each gate to one half.

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
