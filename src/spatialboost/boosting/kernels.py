"""softmax(q k^T * scale + mask) v over the heads of both channels: xformers, torch SDPA or the plain formula.

Shapes: B batch, T tokens, H heads of one channel, C features of a head; q, k, v are (B, 2H, T, C) with any strides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from einops import rearrange
from torch import Tensor

from spatialboost.boosting.xformers_kernel import from_xformers, why_not_xformers, xformers_bias, xformers_ops
from spatialboost.errors import SpatialBoostError

KERNELS = ("host", "auto", "xformers", "sdpa", "math")
# Device types for which "auto" takes xformers, because it was measured to be faster than SDPA there. None so far.
XFORMERS_IS_FASTER: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Call:
    """How attention is computed in one call of the host's forward.

    Attributes:
        heads: Number of heads of one channel.
        scale: Factor of the scores.
        kernel: The kernel that `set_kernel` chose: one of `KERNELS` except "host".
        plain_formula: Whether the host is set to compute the plain formula; the kernel "auto" then does so, too.
        mask: Allowed pairs (bool) or numbers to add to the scores, broadcastable to (B, H, T, T); or a bias object of
            xformers that the host was called with.
        lengths: Lengths of the sequences that are packed into one row (B = 1); none attends to another.
        causal: Whether a token sees only itself and those before it.
        dropout: Probability of dropping a weight.
    """

    heads: int
    scale: float
    kernel: str
    plain_formula: bool = False
    mask: Any = None
    lengths: tuple[int, ...] | None = None
    causal: bool = False
    dropout: float = 0.0


def attend(q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
    """softmax(q k^T * scale + mask) v, by the kernel that `choose_kernel` returns, over all heads of q."""
    mask, lengths = call.mask, call.lengths
    if isinstance(mask, Tensor) and mask.dim() > 2 and q.shape[1] > mask.shape[-3] == call.heads > 1:
        mask = torch.cat([mask, mask], dim=-3)  # a bias for each head of one channel applies to both channels
    biased = mask is not None or lengths is not None or call.causal
    bias = None
    # making the bias takes time, so it is made only if xformers would be taken without one
    if biased and choose_kernel(call.kernel, q, plain_formula=call.plain_formula) == "xformers":
        bias = xformers_bias(q, mask, lengths)
    kernel = choose_kernel(call.kernel, q, bias=bias, dropout=call.dropout, plain_formula=call.plain_formula)
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
    """Call `run` for each sequence packed into one row; neighbours of equal length form one batch, without a copy."""
    outs, start = [], 0
    for length, group in groupby([n for n in lengths if n]):  # a list: torch 2.10 compiles no groupby of a generator
        count = len(list(group))
        stop = start + count * length
        batch = (rearrange(t[0, :, start:stop], "h (b t) c -> b h t c", b=count) for t in (q, k, v))
        outs.append(rearrange(run(*batch), "b h t c -> h (b t) c"))
        start = stop
    if start != q.shape[2]:
        raise SpatialBoostError(
            f"packed sequences have {start} tokens in total; expected {q.shape[2]} as in the input."
        )
    return (outs[0] if len(outs) == 1 else torch.cat(outs, dim=1))[None]


def choose_kernel(
    kernel: str, q: Tensor, *, bias: Any = None, dropout: float = 0.0, plain_formula: bool = False
) -> str:
    """ "xformers", "sdpa" or "math" for these tensors.

    Args:
        kernel: The kernel that `set_kernel` chose; "sdpa" and "math" run everywhere.
        q: Queries of both channels (B, 2H, T, C).
        bias: The mask in the form that xformers takes: see `xformers_bias`.
        dropout: Probability of dropping a weight.
        plain_formula: Whether the host is set to compute the plain formula.

    Raises:
        SpatialBoostError: `kernel` is "xformers", and xformers has no operator for these tensors.
    """
    if kernel in ("sdpa", "math"):
        return kernel
    if kernel == "auto" and (plain_formula or q.device.type not in XFORMERS_IS_FASTER):
        return "math" if plain_formula else "sdpa"
    why = why_not_xformers(q, bias, dropout)
    if kernel == "xformers" and why is not None:
        with_bias = "" if bias is None else f" with a bias ({type(bias).__name__})"
        raise SpatialBoostError(
            f"xformers has no operator for {tuple(q.shape)} {q.dtype} on {q.device.type}{with_bias}: {why}. "
            "Set the kernel to 'auto' or 'sdpa'."
        )
    return "sdpa" if why is not None else "xformers"


def sdpa_backend(q: Tensor) -> str:
    """Name of the implementation that torch's SDPA picks for these tensors, without a mask; q is (B, 2H, T, C)."""
    from torch.nn.attention import SDPBackend

    return SDPBackend(torch._fused_sdp_choice(q, q, q)).name.lower()
