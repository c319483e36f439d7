"""The joint forward: both channels at once, as one attention with 2H heads.

q, k and v of both channels come from one pass over the input, one attention call runs over 2H heads, and one pass over
its output gives the gated sum. Nothing is transposed or copied where a view with other strides is enough, and no weight
gradient is computed for the frozen channel. The result equals the reference forward up to rounding, not bit for bit;
`set_kernel` chooses between the two.

Shapes: B batch, T tokens, R = B * T rows, D width, H heads of one channel, C features of a head, A = H * C.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from spatialboost.boosting.kernels import Call, attend

PerHead = Callable[[Tensor], Tensor]
Rotate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Projections:
    """One channel: its weights, and the norms and other steps between its projections.

    Attributes:
        qkv: Input projection: one weight (3A, D) with the rows of q, k and v in this order, or three of (A, D).
        qkv_bias: Its bias: one (3A) or three of (A); None where there is none.
        out: Output projection (D, A).
        out_bias: Its bias (D) or None.
        q_norm: Function that is applied to q (B, T, H, C), or None.
        k_norm: Function that is applied to k (B, T, H, C), or None.
        inner: Function of the heads' output (B, T, A) and of the input (B, T, D) that is applied before the output
            projection, or None.
    """

    qkv: tuple[Tensor, ...]
    qkv_bias: tuple[Tensor | None, ...]
    out: Tensor
    out_bias: Tensor | None
    q_norm: PerHead | None = None
    k_norm: PerHead | None = None
    inner: Callable[[Tensor, Tensor], Tensor] | None = None

    def tensors(self) -> list[Tensor]:
        """All weights and biases that are not None."""
        return [t for t in (*self.qkv, *self.qkv_bias, self.out, self.out_bias) if t is not None]

    def to(self, dtype: torch.dtype) -> Projections:
        """The same in another dtype."""
        if all(t.dtype == dtype for t in self.tensors()):
            return self

        def cast(t: Any) -> Any:
            return tuple(map(cast, t)) if isinstance(t, tuple) else t.to(dtype) if isinstance(t, Tensor) else t

        return replace(self, **{f.name: cast(getattr(self, f.name)) for f in fields(self)})


def joint_attention(
    x_BTD: Tensor, base: Projections, plus: Projections, gate: Tensor, call: Call, rotate: Rotate | None = None
) -> Tensor:
    """`g * Attn(x) + (1 - g) * Attn+(x)` for `g = sigmoid(gate)`, both channels at once.

    Args:
        x_BTD: Input of both channels.
        base: The frozen channel.
        plus: Attn+.
        gate: The gate's values before the sigmoid, (D) or (1).
        call: Mask, kernel and other settings of this call.
        rotate: Function that applies the position encoding to q or k (B, heads, T, C), or None.
    """
    base, plus, g = match_dtypes(x_BTD, base, plus, gate)
    x_BTD = x_BTD.to(base.out.dtype)
    if runs_base_without_graph(x_BTD, base):
        with torch.no_grad():
            base_out = F.linear(attention_of([base], x_BTD, call, rotate), base.out, base.out_bias)
        plus_out = F.linear(attention_of([plus], x_BTD, call, rotate), plus.out, plus.out_bias)
        return torch.lerp(plus_out, base_out, g)
    out_BTA = attention_of([base, plus], x_BTD, call, rotate)
    return GatedOutput.apply(out_BTA, g, base.out, base.out_bias, plus.out, plus.out_bias)


def match_dtypes(
    x: Tensor, base: Projections, plus: Projections, gate: Tensor
) -> tuple[Projections, Projections, Tensor]:
    """Both channels and `sigmoid(gate)` in the dtype of the computation: the base's, or that of autocast.

    The cast is explicit, because the functions that follow compute their own gradients, where autocast has no effect.
    """
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else base.out.dtype
    return base.to(dtype), plus.to(dtype), torch.sigmoid(gate).to(dtype)


def runs_base_without_graph(x: Tensor, base: Projections) -> bool:
    """Whether the frozen channel needs no backward, so that it can run separately and without a graph.

    This holds in training where neither its input nor its weights need a gradient, as in the first boosted layer.
    """
    return torch.is_grad_enabled() and not x.requires_grad and not any(t.requires_grad for t in base.tensors())


def attention_of(channels: Sequence[Projections], x_BTD: Tensor, call: Call, rotate: Rotate | None) -> Tensor:
    """Heads' outputs of the channels, side by side: (B, T, A) for each."""
    heads = len(channels) * call.heads
    q, k, v = (t.unflatten(-1, (heads, -1)) for t in project_input(channels, x_BTD))
    if channels[0].q_norm is not None:
        q = _each(q, [c.q_norm for c in channels], dim=-2)
    if channels[0].k_norm is not None:
        k = _each(k, [c.k_norm for c in channels], dim=-2)
    q, k, v = (t.transpose(1, 2) for t in (q.to(v.dtype), k.to(v.dtype), v))
    if rotate is not None:
        q, k = (t.to(v.dtype) for t in rotate(q, k))
    out = attend(q, k, v, call).transpose(1, 2).flatten(2)
    if channels[0].inner is not None:
        out = _each(out, [lambda o, c=c: c.inner(o, x_BTD) for c in channels], dim=-1)  # type: ignore[misc]
    return out


def _each(t: Tensor, functions: Sequence[Any], dim: int) -> Tensor:
    """Apply each channel's function to the part of a tensor that belongs to the channel."""
    parts = [f(part) for f, part in zip(functions, t.chunk(len(functions), dim), strict=True)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def project_input(channels: Sequence[Projections], x: Tensor, *, packed: bool = False) -> Any:
    """q, k and v of each channel, side by side: x (..., D) -> three of (..., nA) for n channels.

    Args:
        channels: One or both.
        x: Their input.
        packed: Whether to return one tensor (..., 3nA) with q, k and v in this order.
    """
    layout = tuple((len(c.qkv), len(c.qkv_bias)) for c in channels)
    tensors = [t for c in channels for t in (*c.qkv, *c.qkv_bias)]
    return PairedInput.apply(x, layout, packed, *tensors)


class PairedInput(torch.autograd.Function):
    """Input projections of both channels: see `project_input`.

    On a CPU each projection is written to its columns of one buffer: there several small multiplications cost as much
    as a large one, and concatenating the weights would cost extra. On other devices each kernel launch costs time: so
    there, and in a compiled graph, it is one multiplication with the concatenated weights. Backward computes gradients
    only for the weights that are trained.
    """

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:
        """`args` are x, layout, packed, and the weights and biases of each channel, in numbers that `layout` gives.

        They have no names of their own, because Dynamo of torch 2.10 leaves out `ctx` when there are as many tensors as
        names.
        """
        x, layout, packed, *tensors = args
        weights, biases = _by_role(layout, tensors)
        ctx.layout, ctx.concatenated = layout, torch.compiler.is_compiling() or x.device.type != "cpu"
        ctx.save_for_backward(x, *tensors)
        rows = x.flatten(0, -2)
        sizes = [sum(map(len, role)) for role in weights]
        if ctx.concatenated:
            out = F.linear(rows, torch.cat(_flat(weights)), _concatenated_bias(weights, biases))
        else:
            out = rows.new_empty(len(rows), sum(sizes))
            pairs = list(zip(_flat(weights), _flat(biases), strict=True))
            for columns, (w, b) in zip(out.split([len(w) for w, _ in pairs], 1), pairs, strict=True):
                if b is None:
                    torch.mm(rows, w.t(), out=columns)
                else:
                    torch.addmm(b, rows, w.t(), out=columns)
        out = out.unflatten(0, x.shape[:-1])
        return out if packed else out.split(sizes, -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients of x and of the weights and biases that are trained."""
        x, *tensors = ctx.saved_tensors
        concatenated = ctx.concatenated or torch.is_grad_enabled()  # for second derivatives: `out=` has no gradient
        rows = x.flatten(0, -2)
        weights, _ = _by_role(ctx.layout, tensors)
        flat = [grad.reshape(len(rows), -1) for grad in grads]
        if len(flat) == 1:
            flat = list(flat[0].split([sum(map(len, role)) for role in weights], 1))
        by_role = [grad.split([len(w) for w in role], 1) for grad, role in zip(flat, weights, strict=True)]
        need_x, _, _, *need = ctx.needs_input_grad

        grad_x = None
        if need_x and concatenated:
            grad_x = torch.cat(flat, 1) @ torch.cat(_flat(weights))
        elif need_x:
            pairs = list(zip(_flat(by_role), _flat(weights), strict=True))
            grad_x = pairs[0][0] @ pairs[0][1]
            for grad, w in pairs[1:]:
                torch.addmm(grad_x, grad, w, out=grad_x)

        found: list[Tensor | None] = []
        for (num_weights, num_biases), own in zip(ctx.layout, zip(*by_role, strict=True), strict=True):
            flags = need[len(found) : len(found) + num_weights + num_biases]
            found += _weight_grads(own, rows, flags[:num_weights], concatenated)
            found += _bias_grads(own, flags[num_weights:])
        return (None if grad_x is None else grad_x.view_as(x), None, None, *found)


def _by_role(layout: Any, tensors: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Weights and biases by role (q, k, v), and within a role by channel."""
    weights, biases, at = [], [], 0
    for num_weights, num_biases in layout:
        weights.append(_split_qkv(tensors[at : at + num_weights]))
        biases.append(_split_qkv(tensors[at + num_weights : at + num_weights + num_biases]))
        at += num_weights + num_biases
    return list(zip(*weights, strict=True)), list(zip(*biases, strict=True))


def _split_qkv(tensors: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
    """q, k and v as three tensors, from one packed tensor or from three."""
    if len(tensors) == 3:
        return tensors
    return (None,) * 3 if tensors[0] is None else tensors[0].chunk(3)


def _flat(by_role: Sequence[Sequence[Any]]) -> list[Any]:
    """Weights in the order q q+ k k+ v v+: then heads of both channels lie side by side without a copy."""
    return [t for role in by_role for t in role]


def _concatenated_bias(weights: Any, biases: Any) -> Tensor | None:
    """All biases in one tensor, with zeros where the host has no bias (EVA has none for k)."""
    pairs = list(zip(_flat(biases), _flat(weights), strict=True))
    if all(b is None for b, _ in pairs):
        return None
    return torch.cat([w.new_zeros(len(w)) if b is None else b for b, w in pairs])


def _weight_grads(
    grads: Sequence[Tensor], rows: Tensor, need: Sequence[bool], concatenated: bool
) -> list[Tensor | None]:
    """Gradients of one channel's weights, from the gradients of its q, k and v."""
    if len(need) == 3:
        return [grad.t() @ rows if wanted else None for grad, wanted in zip(grads, need, strict=True)]
    if not need[0]:
        return [None]
    if concatenated:
        return [torch.cat([grad.t() @ rows for grad in grads])]
    packed = rows.new_empty(3 * grads[0].shape[1], rows.shape[1])
    for grad, out in zip(grads, packed.chunk(3), strict=True):
        torch.mm(grad.t(), rows, out=out)
    return [packed]


def _bias_grads(grads: Sequence[Tensor], need: Sequence[bool]) -> list[Tensor | None]:
    """Gradients of one channel's biases, from the gradients of its q, k and v."""
    if len(need) == 3:
        return [grad.sum(0) if wanted else None for grad, wanted in zip(grads, need, strict=True)]
    return [torch.cat([grad.sum(0) for grad in grads]) if need[0] else None]


class GatedOutput(torch.autograd.Function):
    """Output projections and gate: heads' outputs (B, T, 2A) -> `g * Attn + (1 - g) * Attn+` (B, T, D).

    Computed as `plus + g * (base - plus)`, which is exact where both are equal. Multiplying g into the weights would
    save a pass over the output but cost a pass over the weights, and the gate's gradient would then need the weight
    gradient of the frozen channel. Only the difference of the two outputs is kept for backward.
    """

    @staticmethod
    def forward(ctx: Any, out: Tensor, g: Tensor, base: Tensor, base_bias: Any, plus: Tensor, plus_bias: Any) -> Tensor:
        """The shapes are `g` (D) or (1), weights (D, A), biases (D) or None."""
        left, right = out.flatten(0, -2).chunk(2, 1)
        merged = F.linear(right, plus, plus_bias)
        difference = F.linear(left, base, base_bias).sub_(merged)
        ctx.save_for_backward(out, g, base, base_bias, plus, plus_bias, difference)
        return merged.addcmul_(difference, g).unflatten(0, out.shape[:-1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients of the heads' outputs, of the gate, and of the weights and biases that are trained."""
        out, g, base, base_bias, plus, plus_bias, difference = ctx.saved_tensors
        need_out, need_g, need_base, need_base_bias, need_plus, need_plus_bias = ctx.needs_input_grad
        grad = grad.reshape(-1, grad.shape[-1])
        to_base = grad * g
        to_plus = grad - to_base
        left, right = out.flatten(0, -2).chunk(2, 1)
        twice = torch.is_grad_enabled()  # second derivatives: everything has to be a function of the inputs
        if twice:
            difference = F.linear(left, base, base_bias) - F.linear(right, plus, plus_bias)
        grad_out = None
        if need_out and (twice or torch.compiler.is_compiling()):
            grad_out = torch.cat([to_base @ base, to_plus @ plus], 1)
        elif need_out:
            grad_out = grad.new_empty(len(grad), 2 * base.shape[1])
            for columns, of_output, weight in zip(grad_out.chunk(2, 1), (to_base, to_plus), (base, plus), strict=True):
                torch.mm(of_output, weight, out=columns)
        return (
            None if grad_out is None else grad_out.view_as(out),
            (grad * difference).sum_to_size(g.shape) if need_g else None,
            to_base.t() @ left if need_base else None,
            to_base.sum(0) if need_base_bias else None,
            to_plus.t() @ right if need_plus else None,
            to_plus.sum(0) if need_plus_bias else None,
        )
