"""xformers' `memory_efficient_attention`: whether it is installed, whether it supports a call, and its masks.

xformers is optional everywhere. Some builds import without error but contain no attention (0.0.36 has moved it to
another package). So xformers counts as installed only if everything that is used here is present.
"""

from __future__ import annotations

from functools import cache, lru_cache
from itertools import pairwise
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from spatialboost.errors import SpatialBoostError

WITHOUT_OPERATOR = ("cpu",)  # devices that xformers does not support: known without importing it, which takes a second
USED = (
    "memory_efficient_attention",
    "fmha.Inputs",
    "fmha.ALL_FW_OPS",
    "fmha.ALL_BW_OPS",
    "fmha.attn_bias.BlockDiagonalMask",
    "fmha.attn_bias.LowerTriangularMask",
)


@cache
def load_xformers() -> tuple[Any, str]:
    """`xformers.ops` and "", or None and the reason why it cannot be used."""
    try:
        import xformers.ops as ops
    except Exception as error:  # a build for another torch may raise anything
        if isinstance(error, ModuleNotFoundError) and error.name == "xformers":
            return None, "it is not installed"
        return None, f"it does not load with torch {torch.__version__} ({type(error).__name__}: {error})"
    missing = [name for name in USED if not _has(ops, name)]
    if not missing and not ops.fmha.ALL_FW_OPS:
        missing = ["any operator in fmha.ALL_FW_OPS"]
    if missing:
        return None, f"this build of it is incomplete: xformers.ops lacks {', '.join(missing)}"
    return ops, ""


def _has(ops: Any, name: str) -> bool:
    try:
        return attrgetter(name)(ops) is not None
    except Exception:  # the missing attribute may be a module that fails when it is imported
        return False


def xformers_ops() -> Any:
    """`xformers.ops`, or None where it is missing, fails to load or is incomplete: see `load_xformers`."""
    return load_xformers()[0]


def why_not_xformers(q: Tensor, bias: Any = None, dropout: float = 0.0) -> str | None:
    """Why xformers has no operator for this call (and for its backward, if needed); None if it has one."""
    if torch.compiler.is_compiling():
        return "torch.compile does not trace through it"
    if q.device.type in WITHOUT_OPERATOR:
        return f"it has none for the {q.device.type.upper()}"
    ops, why = load_xformers()
    if ops is None:
        return why
    sample = q.transpose(1, 2)
    inputs = ops.fmha.Inputs(query=sample, key=sample, value=sample, attn_bias=bias, p=dropout)
    kinds = {"forward": ops.fmha.ALL_FW_OPS} | ({"backward": ops.fmha.ALL_BW_OPS} if q.requires_grad else {})
    for kind, candidates in kinds.items():
        reasons = {op.NAME: op.not_supported_reasons(inputs) for op in candidates}
        if all(reasons.values()):
            listed = "; ".join(f"{name}: {', '.join(own)}" for name, own in reasons.items())
            return f"no {kind} ({listed})"
    return None


def xformers_bias(q: Tensor, mask: Any, lengths: tuple[int, ...] | None) -> Any:
    """The bias that xformers takes for a mask, for packed lengths or, without these, for causal attention."""
    if mask is not None:
        return aligned_bias(q, mask) if isinstance(mask, Tensor) else mask
    if lengths is not None:
        return _block_diagonal(lengths, q.device)
    return xformers_ops().fmha.attn_bias.LowerTriangularMask()


def aligned_bias(q: Tensor, mask: Tensor) -> Tensor:
    """A mask as additive bias (B, 2H, T, T): one copy for all heads and images; rows start at multiples of 8."""
    keys = mask.shape[-1]
    rows = q.new_zeros(*mask.shape[:-1], -(-keys // 8) * 8)[..., :keys]
    if mask.dtype == torch.bool:
        rows.masked_fill_(~mask, float("-inf"))
    else:
        rows = rows + mask if mask.requires_grad else rows.copy_(mask)
    return rows.expand(*q.shape[:3], keys)


@lru_cache(maxsize=8)
def _block_diagonal(lengths: tuple[int, ...], device: torch.device) -> Any:
    return xformers_ops().fmha.attn_bias.BlockDiagonalMask.from_seqlens(list(lengths), device=device)


def from_xformers(bias: Any, q: Tensor) -> tuple[Tensor | None, tuple[int, ...] | None]:
    """The `(mask, lengths)` that a bias object of xformers means; one of the two is None."""
    if type(bias).__name__ == "BlockDiagonalMask":
        starts = bias.q_seqinfo.seqstart_py
        return None, tuple(stop - start for start, stop in pairwise(starts))
    if not hasattr(bias, "materialize"):
        raise SpatialBoostError(
            f"the attention mask is a {type(bias).__name__}; expected a tensor or a bias of xformers that materializes."
        )
    return bias.materialize((*q.shape[:3], q.shape[2]), dtype=q.dtype, device=q.device), None
