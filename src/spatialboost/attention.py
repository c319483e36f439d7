"""The fused forward over both channels, and the choice of kernel.

Two attentions with H heads and a gate equal one attention with 2H heads: q|k|v side by side, `[g*W_o | (1-g)*W_o+]` as
one output projection. So one input GEMM, one attention call and, for inference, one output GEMM with the gate folded
in. It equals the reference forward up to rounding, not bit for bit: `channel.SpatialChannel.kernel` says which of the
two runs.

Shapes: B batch, N tokens, D width, H heads of one channel, C features of a head, A = H * C.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from .errors import SpatialBoostError

KERNELS = ("host", "auto", "xformers", "sdpa", "math")


@dataclass(frozen=True)
class Projections:
    """One channel's weights: q, k and v (A, D) each with bias (A) or None; output (D, A) with bias (D) or None."""

    qkv: tuple[Tensor, Tensor, Tensor]
    qkv_bias: tuple[Tensor | None, Tensor | None, Tensor | None]
    out: Tensor
    out_bias: Tensor | None


@dataclass(frozen=True)
class Call:
    """What one call of the host's forward asks for, besides the weights."""

    heads: int
    scale: float
    kernel: str  # as set
    host_fused: bool = True  # the host's own flag: False asks for the plain formula
    mask: Tensor | None = None
    causal: bool = False
    dropout: float = 0.0
    rotate: Callable[[Tensor], Tensor] | None = None  # position encoding of q and k (B, heads, N, C)
    drop_out: Callable[[Tensor], Tensor] | None = None  # the host's dropout after the output projection


class PairedLinear(torch.autograd.Function):
    """q, k and v of both channels in one GEMM: x (B, N, D) -> (B, N, 6A), columns q q+ k k+ v v+.

    Backward is one GEMM for x; weights that are frozen get no gradient, where autograd's own concatenation would
    compute it.
    """

    @staticmethod
    def forward(x: Tensor, bias: Tensor | None, *weights: Tensor) -> Tensor:
        """`weights`: those of Attn (q, k, v), then those of Attn+."""
        return F.linear(x, interleave(weights), bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep x and the weights as they are; their concatenation is made again in backward."""
        x, _, *weights = inputs
        ctx.save_for_backward(x, *weights)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients of x, the bias and those weights that train."""
        x, *weights = ctx.saved_tensors
        need_x, need_bias, *need_weights = ctx.needs_input_grad
        rows, x_rows = grad.flatten(0, -2), x.flatten(0, -2)
        parts = rows.chunk(6, dim=-1)
        # the grad of weight i (q k v q+ k+ v+) lies in column block 2i of Attn, 2i + 1 of Attn+
        columns = [parts[2 * (i % 3) + i // 3] for i in range(6)]
        return (
            grad @ interleave(weights) if need_x else None,
            rows.sum(0) if need_bias else None,
            *(c.t() @ x_rows if need else None for c, need in zip(columns, need_weights, strict=True)),
        )


def interleave(weights: Any) -> Tensor:
    """q k v q+ k+ v+ -> rows of q q+ k k+ v v+: heads of both channels then lie side by side without a copy."""
    return torch.cat([weights[i] for i in (0, 3, 1, 4, 2, 5)])


def paired_bias(base: Projections, plus: Projections) -> Tensor | None:
    """Biases in the order of `interleave`; a host without some (EVA has none for k) gets zeros there."""
    biases = (*base.qkv_bias, *plus.qkv_bias)
    if all(b is None for b in biases):
        return None
    weights = (*base.qkv, *plus.qkv)
    return interleave([w.new_zeros(len(w)) if b is None else b for b, w in zip(biases, weights, strict=True)])


def fused_attention(x_BND: Tensor, base: Projections, plus: Projections, gate: Tensor, call: Call) -> Tensor:
    """Both channels at once: `g * Attn(x) + (1 - g) * Attn+(x)` for `g = sigmoid(gate)`."""
    if torch.is_autocast_enabled(x_BND.device.type):
        # here, for the backward of PairedLinear runs outside of autocast
        half = torch.get_autocast_dtype(x_BND.device.type)
        x_BND, base, plus = x_BND.to(half), _cast(base, half), _cast(plus, half)
    plus = _cast(plus, base.out.dtype)
    weights = (*base.qkv, *plus.qkv)
    bias = paired_bias(base, plus)
    trains = torch.is_grad_enabled() and any(t.requires_grad for t in (x_BND, gate, base.out, plus.out, *weights))
    if trains:
        qkv = PairedLinear.apply(x_BND, bias, *weights)
    else:
        qkv = F.linear(x_BND, interleave(weights), bias)
    B, N, _ = x_BND.shape
    q, k, v = qkv.view(B, N, 3, 2 * call.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)  # (B, 2H, N, C), views
    if call.rotate is not None:
        q, k = call.rotate(q).to(v.dtype), call.rotate(k).to(v.dtype)
    out_BNA = attend(q, k, v, call).transpose(1, 2).reshape(B, N, -1)
    return merge_outputs(out_BNA, base, plus, gate, trains, call.drop_out)


def merge_outputs(
    out_BNA: Tensor,
    base: Projections,
    plus: Projections,
    gate: Tensor,
    trains: bool,
    drop_out: Callable[[Tensor], Tensor] | None,
) -> Tensor:
    """Output projections and gate: two and a lerp to train, one with the gate folded in otherwise."""
    g = torch.sigmoid(gate)
    if trains:
        # folded, the gate's gradient would need the frozen half's weight gradient: a GEMM for nothing
        half = out_BNA.chunk(2, dim=-1)
        outs = [F.linear(o, p.out, p.out_bias) for o, p in zip(half, (base, plus), strict=True)]
        if drop_out is not None:
            outs = [drop_out(o) for o in outs]
        return torch.lerp(outs[1], outs[0], g.to(outs[0].dtype))
    weight, bias = fold(base.out, base.out_bias, plus.out, plus.out_bias, g)
    out = F.linear(out_BNA, weight.to(out_BNA.dtype), None if bias is None else bias.to(out_BNA.dtype))
    return out if drop_out is None else drop_out(out)


def fold(
    base: Tensor, base_bias: Tensor | None, plus: Tensor, plus_bias: Tensor | None, g: Tensor
) -> tuple[Tensor, Tensor | None]:
    """`[g * W_o | (1 - g) * W_o+]` (D, 2A) and the bias between both (D), in float32 or wider; g (D) or (1)."""
    weight = torch.cat([g[:, None] * base, (1 - g)[:, None] * plus], dim=1)
    if base_bias is None or plus_bias is None:
        return weight, None
    return weight, torch.lerp(plus_bias.to(weight.dtype), base_bias.to(weight.dtype), g.to(weight.dtype))


def _cast(p: Projections, dtype: torch.dtype) -> Projections:
    def cast(t: Tensor | None) -> Any:
        return t if t is None or t.dtype == dtype else t.to(dtype)

    q, k, v = p.qkv
    qb, kb, vb = p.qkv_bias
    return Projections((cast(q), cast(k), cast(v)), (cast(qb), cast(kb), cast(vb)), cast(p.out), cast(p.out_bias))


# --- kernels


def attend(q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
    """softmax(q k^T * scale + mask) v over (B, 2H, N, C), by the kernel that `choose_kernel` names."""
    mask = call.mask
    if mask is not None and mask.dim() == 4 and mask.shape[1] == call.heads > 1:
        mask = torch.cat([mask, mask], dim=1)  # a bias per head holds for both channels' heads
    kernel = choose_kernel(call.kernel, q, mask=mask, causal=call.causal, dropout=call.dropout, fused=call.host_fused)
    if kernel == "xformers":
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # (B, N, 2H, C)
        return xformers_ops().memory_efficient_attention(q, k, v, p=call.dropout, scale=call.scale).transpose(1, 2)
    if kernel == "sdpa":
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=call.dropout, is_causal=call.causal, scale=call.scale
        )
    scores = (q * call.scale) @ k.transpose(-2, -1)
    if call.causal:
        scores = scores + scores.new_full(scores.shape[-2:], float("-inf")).triu_(1)
    elif mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    return F.dropout(scores.softmax(dim=-1), call.dropout) @ v


def choose_kernel(
    kernel: str,
    q: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    dropout: float = 0.0,
    fused: bool = True,
) -> str:
    """ "xformers", "sdpa" or "math" for these tensors; `fused=False` is a host that asks for the plain formula.

    Raises:
        SpatialBoostError: xformers is forced and has no operator for them.
    """
    if kernel in ("sdpa", "math"):
        return kernel
    able = mask is None and not causal and xformers_runs(q, dropout)
    if kernel == "xformers" and not able:
        raise SpatialBoostError(
            f"xformers has no operator for {tuple(q.shape)} {q.dtype} on {q.device.type}"
            f"{', with a mask' if mask is not None or causal else ''}. Set the kernel to 'auto' or 'sdpa'."
        )
    if not fused:
        return "math"
    return "xformers" if able else "sdpa"


@cache
def xformers_ops() -> Any:
    """`xformers.ops`, or None where it is not installed or does not load with this torch."""
    try:
        import xformers.ops
    except (ImportError, OSError, RuntimeError):
        return None
    return xformers.ops


def xformers_runs(q: Tensor, dropout: float) -> bool:
    """Whether xformers has an operator for q (B, 2H, N, C), backward included where that is called for."""
    if q.device.type != "cuda" or torch.compiler.is_compiling() or (ops := xformers_ops()) is None:
        return False  # it has no CPU operator, and Dynamo does not trace through it
    fmha = ops.fmha
    sample = q.transpose(1, 2)
    inputs = fmha.Inputs(query=sample, key=sample, value=sample, attn_bias=None, p=dropout)
    forward = any(op.supports(inputs) for op in fmha.ALL_FW_OPS)
    return forward and (not q.requires_grad or any(op.supports(inputs) for op in fmha.ALL_BW_OPS))
