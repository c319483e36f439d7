"""Attention weights in the layout that all libraries share: q, k, v and o apart, by block index."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from spatialboost.boosting.canonical import base_tensors, outlines, plus_tensors
from spatialboost.boosting.find import Found

__all__ = ["BIASES", "Reorder", "base_tensors", "fingerprint", "outlines", "plus_tensors", "rotary_orders", "same_base"]

BIASES = frozenset(f"{name}.bias" for name in "qkvo")
SAMPLES = 16  # values that the fingerprint keeps of each tensor


Reorder = Callable[[str, Tensor], Tensor]


def rotary_orders(heads: int | None, rows: int) -> dict[str, Reorder]:
    """Ways to reorder the rows of q and k between the two conventions of rotary position embeddings.

    Features are turned in pairs, which are neighbours in some libraries ("interleaved": EVA, RoFormer) and half a head
    apart in others ("halves": DINOv3, LLaMA). A library that changes the convention of an encoder has to reorder
    the rows of q and k within each head, and their biases and norms; the encoder is then the same one.

    Args:
        heads: Heads of q.
        rows: Rows of q's weight.
    """
    size = rows // heads if heads else 0
    if size < 4 or size % 2 or rows % size:
        return {}
    to_halves = torch.cat([torch.arange(0, size, 2), torch.arange(1, size, 2)])

    def by(order: Tensor) -> Reorder:
        def reorder(name: str, tensor: Tensor) -> Tensor:
            if name.split(".")[0] not in ("q", "k", "q_norm", "k_norm") or tensor.shape[0] % size:
                return tensor
            return tensor.unflatten(0, (-1, size))[:, order.to(tensor.device)].flatten(0, 1)

        return reorder

    return {"halves": by(to_halves), "interleaved": by(to_halves.argsort())}


def fingerprint(layers: Mapping[int, Found], reorder: Reorder | None = None) -> dict[str, list[float]]:
    """A fixed sample of the base: evenly spaced values of each weight of the first, the middle and the last layer.

    Values and not a hash, so that a base in half precision is still known for the same one.
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
    """The first tensor in which two fingerprints differ by more than rounding to bfloat16 explains, or None."""
    for name, values in own.items():
        other = saved.get(name)
        if not isinstance(other, list) or len(other) != len(values):
            return name
        tolerance = 1e-3 * math.sqrt(sum(v * v for v in values) / len(values))
        try:
            if not all(abs(v - o) <= tolerance + 2**-7 * abs(o) for v, o in zip(values, other, strict=True)):
                return name
        except (TypeError, OverflowError):  # no numbers, or none that a float can hold
            return name
    return None
