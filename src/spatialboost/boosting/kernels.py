"""softmax(q k^T * scale + mask) v over the heads of both channels: xformers, torch SDPA or the plain formula.

Shapes: B batch, T tokens, H heads of one channel, C features of a head; q, k and v are (B, 2H, T, C), strides at will.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import groupby, pairwise
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from spatialboost.errors import SpatialBoostError

KERNELS = ("host", "auto", "xformers", "sdpa", "math")
CPU_ONLY = ("cpu",)  # devices for which xformers has nothing: known without its import, which takes a second


@dataclass(frozen=True)
class Call:
    """What one call of the host's forward asks of the attention.

    Attributes:
        heads: Of one channel.
        scale: Of the scores.
        kernel: As set: one of `KERNELS`, "host" excepted.
        host_fused: The host's own flag; False asks for the plain formula.
        mask: Allowed pairs (bool) or what is added to the scores, broadcastable to (B, H, T, T); or a bias object of
            xformers, which the host was given.
        lengths: Of the sequences that are packed into one row (B = 1); none attends to another.
        causal: Whether a token sees only itself and those before it.
        dropout: Probability of dropping a weight.
    """

    heads: int
    scale: float
    kernel: str
    host_fused: bool = True
    mask: Any = None
    lengths: tuple[int, ...] | None = None
    causal: bool = False
    dropout: float = 0.0


def attend(q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
    """softmax(q k^T * scale + mask) v, by the kernel that `choose_kernel` names; as many heads as q has."""
    mask, lengths = call.mask, call.lengths
    if isinstance(mask, Tensor) and mask.dim() > 2 and q.shape[1] > mask.shape[-3] == call.heads > 1:
        mask = torch.cat([mask, mask], dim=-3)  # a bias per head holds for both channels' heads
    biased = mask is not None or lengths is not None or call.causal
    asked = call.kernel == "xformers" or (call.kernel == "auto" and call.host_fused)
    bias = None
    if biased and asked and why_not_xformers(q) is None:  # else spare the making of it
        bias = xformers_bias(q, mask, lengths)
    kernel = choose_kernel(call.kernel, q, bias=bias, dropout=call.dropout, fused=call.host_fused)
    if kernel == "xformers":
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        out = xformers_ops().memory_efficient_attention(q, k, v, bias, p=call.dropout, scale=call.scale)
        return out.transpose(1, 2)

    if mask is not None and not isinstance(mask, Tensor):
        mask, lengths = from_xformers(mask, q)

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if kernel == "sdpa":
            return F.scaled_dot_product_attention(q, k, v, mask, call.dropout, call.causal, scale=call.scale)
        return plain_attention(q, k, v, mask, call)

    return run(q, k, v) if lengths is None else by_sequence(q, k, v, lengths, run)


def plain_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, call: Call) -> Tensor:
    """The formula, step by step."""
    scores = (q * call.scale) @ k.transpose(-2, -1)
    if call.causal:
        scores = scores + scores.new_full(scores.shape[-2:], float("-inf")).triu_(1)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    return F.dropout(scores.softmax(dim=-1), call.dropout) @ v


def by_sequence(
    q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], run: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Tensor:
    """`run` within each of the sequences packed into one row; neighbours of equal length go as one batch, as views."""
    outs, start = [], 0
    for length, group in groupby(n for n in lengths if n):
        count = len(list(group))
        stop = start + count * length
        batch = (t[0, :, start:stop].unflatten(1, (count, length)).transpose(0, 1) for t in (q, k, v))
        outs.append(run(*batch).transpose(0, 1).flatten(1, 2))
        start = stop
    if start != q.shape[2]:
        raise SpatialBoostError(f"packed sequences have {start} tokens in sum, expected {q.shape[2]} as in the input.")
    return (outs[0] if len(outs) == 1 else torch.cat(outs, dim=1))[None]


def choose_kernel(kernel: str, q: Tensor, *, bias: Any = None, dropout: float = 0.0, fused: bool = True) -> str:
    """ "xformers", "sdpa" or "math" for these tensors.

    Args:
        kernel: As set; "sdpa" and "math" run everywhere.
        q: (B, 2H, T, C).
        bias: As xformers takes it: see `xformers_bias`.
        dropout: Probability.
        fused: False for a host that asks for the plain formula.

    Raises:
        SpatialBoostError: xformers is forced and has no operator for them.
    """
    if kernel in ("sdpa", "math"):
        return kernel
    if kernel == "auto" and not fused:
        return "math"
    why = why_not_xformers(q, bias, dropout)
    if kernel == "xformers" and why is not None:
        with_bias = "" if bias is None else f" with a bias ({type(bias).__name__})"
        raise SpatialBoostError(
            f"xformers has no operator for {tuple(q.shape)} {q.dtype} on {q.device.type}{with_bias}: {why}. "
            "Set the kernel to 'auto' or 'sdpa'."
        )
    return "sdpa" if why is not None else "xformers"


# --- xformers


@cache
def xformers_ops() -> Any:
    """`xformers.ops`, or None where it is not installed or does not load with this torch."""
    try:
        import xformers.ops
    except (ImportError, OSError, RuntimeError):
        return None
    return xformers.ops


def why_not_xformers(q: Tensor, bias: Any = None, dropout: float = 0.0) -> str | None:
    """Why xformers has no operator for this call, backward included where that is called for; None where it has."""
    if torch.compiler.is_compiling():
        return "torch.compile does not trace through it"
    if q.device.type in CPU_ONLY:
        return "it has none for the CPU"
    if (ops := xformers_ops()) is None:
        return "it is not installed or does not load with this torch"
    sample = q.transpose(1, 2)
    inputs = ops.fmha.Inputs(query=sample, key=sample, value=sample, attn_bias=bias, p=dropout)
    kinds = {"forward": ops.fmha.ALL_FW_OPS} | ({"backward": ops.fmha.ALL_BW_OPS} if q.requires_grad else {})
    for kind, candidates in kinds.items():
        reasons = {op.NAME: op.not_supported_reasons(inputs) for op in candidates}
        if all(reasons.values()):
            told = "; ".join(f"{name}: {', '.join(why)}" for name, why in reasons.items())
            return f"no {kind} ({told})"
    return None


def xformers_bias(q: Tensor, mask: Any, lengths: tuple[int, ...] | None) -> Any:
    """A mask, packed lengths or, with neither, causality, as xformers takes it."""
    if mask is not None:
        return aligned_bias(q, mask) if isinstance(mask, Tensor) else mask
    if lengths is not None:
        return _block_diagonal(lengths, q.device)
    return xformers_ops().fmha.attn_bias.LowerTriangularMask()


def aligned_bias(q: Tensor, mask: Tensor) -> Tensor:
    """A mask as additive bias (B, 2H, T, T), not a copy per head or image, with rows that begin at multiples of 8."""
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
    """`(mask, lengths)` of a bias object of xformers, one of them None."""
    if type(bias).__name__ == "BlockDiagonalMask":
        starts = bias.q_seqinfo.seqstart_py
        return None, tuple(stop - start for start, stop in pairwise(starts))
    if not hasattr(bias, "materialize"):
        raise SpatialBoostError(
            f"the attention mask is a {type(bias).__name__}; expected a tensor or a bias of xformers that materializes."
        )
    return bias.materialize((*q.shape[:3], q.shape[2]), dtype=q.dtype, device=q.device), None
