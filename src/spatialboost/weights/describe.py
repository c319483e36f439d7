"""The config of a delta: its base model, how it was trained, and the results of probes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from spatialboost.boosting.channel import boosted_layers, full_value
from spatialboost.boosting.find import tower
from spatialboost.errors import SpatialBoostError
from spatialboost.hosts.adapters import is_adapter
from spatialboost.weights.base import describe_base, patch_size_of
from spatialboost.weights.fingerprint import fingerprint
from spatialboost.weights.format import FORMAT_VERSION
from spatialboost.weights.results import Results, read_results


def describe(
    model: nn.Module,
    *,
    base: str | None,
    training: Mapping[str, Any] | None,
    results: Results | Sequence[Results] | None,
    license: str | None,
    dtype: torch.dtype | None,
) -> dict[str, Any]:
    """The config of a boosted model. The checksum of the weights is added when they are written.

    The arguments are those of `save_pretrained`.
    """
    try:
        facts = json.loads(json.dumps(dict(training or {}), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise SpatialBoostError(
            f"`training` cannot be written as JSON: {error}. Give strings, finite numbers, lists and dicts."
        ) from error
    probes = read_results(results)
    layers, boosted = tower(model), boosted_layers(model)
    first = layers[boosted[0][2].index]
    plus = next(p for name, p in boosted[0][2].named_parameters() if name != "gate")
    adapters = sorted({type(m).__module__.rpartition(".")[0] for m in model.modules() if is_adapter(m)})
    return ({"adapters": adapters} if adapters else {}) | {
        "format_version": FORMAT_VERSION,
        "base_model": describe_base(model, name=base, license=license),
        "width": first.family.width(first.module),
        "num_heads": first.family.heads(first.module),
        "depth": len(layers),
        "patch_size": patch_size_of(model),
        "layers": [channel.index for _, _, channel in boosted],
        "generic_layers": [f.index for f in layers.values() if not f.family.slots(f.module)],
        "gate": boosted[0][2].gate_kind,
        "dtype": str(dtype or plus.dtype).removeprefix("torch."),
        "parameters": sum(p.numel() for _, _, channel in boosted for p in channel.parameters()),
        "mean_gates": [round(torch.sigmoid(full_value(channel.gate)).mean().item(), 4) for _, _, channel in boosted],
        "fingerprint": fingerprint(layers),
        "training": facts,
        "results": probes,
    }
