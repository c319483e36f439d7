"""The fingerprint of a base: a small sample of its attention weights, used to check whether a delta belongs to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from spatialboost.boosting.canonical import base_tensors
from spatialboost.boosting.find import Found

SAMPLES = 16  # values kept of each weight
Reorder = Callable[[str, Tensor], Tensor]  # canonical name and weight -> the weight with its rows in another order


def fingerprint(layers: Mapping[int, Found], reorder: Reorder | None = None) -> dict[str, list[float]]:
    """Evenly spaced values of each weight matrix of the first, the middle and the last attention layer.

    Values are stored, not a hash, so that a base in half precision is recognised as the same base.

    Args:
        layers: The attention layers of the base, by block index.
        reorder: Applied to each weight before it is sampled.
    """
    indices = sorted(layers)
    values: dict[str, list[float]] = {}
    for index in sorted({indices[0], indices[len(indices) // 2], indices[-1]}):
        for name, tensor in base_tensors(layers[index].module, layers[index].family).items():
            if tensor.ndim > 1 and not tensor.is_meta:
                tensor = reorder(name, tensor) if reorder else tensor
                at = torch.linspace(0, tensor.numel() - 1, SAMPLES, dtype=torch.float64).long().to(tensor.device)
                rows, columns = at // tensor[0].numel(), at % tensor[0].numel()
                sample = tensor.flatten(1)[rows, columns]
                values[f"layers.{index}.{name}"] = [float(f"{v:.6g}") for v in sample.float().tolist()]
    return values


def same_base(saved: Mapping[str, Sequence[float]], own: Mapping[str, Sequence[float]]) -> str | None:
    """The first weight in which two fingerprints differ by more than rounding to bfloat16; None if there is none."""
    for name, values in own.items():
        other = saved.get(name)
        if not isinstance(other, list) or len(other) != len(values):
            return name
        tolerance = 1e-3 * math.sqrt(sum(v * v for v in values) / len(values))
        try:
            if not all(abs(v - o) <= tolerance + 2**-7 * abs(o) for v, o in zip(values, other, strict=True)):
                return name
        except (TypeError, OverflowError):  # not a number, or too large for a float
            return name
    return None


def rotary_orders(heads: int | None, rows: int) -> dict[str, Reorder]:
    """Functions that change the rows of q and k from one convention of rotary position embeddings to the other.

    Rotary embeddings rotate the features of a head in pairs. In some libraries a pair is two neighbouring features
    ("interleaved": EVA, RoFormer); in others the two features lie half a head apart ("halves": DINOv3, LLaMA). A
    library that copies an encoder into the other convention has to reorder the rows of q and k within each head, and
    their biases and norms. The encoder is still the same one.

    Args:
        heads: Heads of q.
        rows: Rows of q's weight.

    Returns:
        For "halves" and "interleaved", a function that puts weights into that order; empty if the features of a head
        cannot be paired.
    """
    size = rows // heads if heads else 0
    if size < 4 or size % 2 or rows % size:
        return {}
    to_halves = torch.cat([torch.arange(0, size, 2), torch.arange(1, size, 2)])

    def reorder_by(order: Tensor) -> Reorder:
        def reorder(name: str, tensor: Tensor) -> Tensor:
            if name.split(".")[0] not in ("q", "k", "q_norm", "k_norm") or tensor.shape[0] % size:
                return tensor
            return tensor.unflatten(0, (-1, size))[:, order.to(tensor.device)].flatten(0, 1)

        return reorder

    return {"halves": reorder_by(to_halves), "interleaved": reorder_by(to_halves.argsort())}
