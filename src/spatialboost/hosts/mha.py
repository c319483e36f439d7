"""`nn.MultiheadAttention`: torchvision's ViT, open_clip's image towers, `nn.TransformerEncoderLayer`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from spatialboost.boosting.joint import joint_attention
from spatialboost.boosting.kernels import Call
from spatialboost.hosts.layers import class_path
from spatialboost.hosts.protocol import BoostedModule, Channel, Family, Slot
from spatialboost.hosts.slots import both_projections, split_slots


class _SequenceFirst:
    """The module (or a view of it) with `batch_first=False`: then its forward does not take the fast path."""

    batch_first = False

    def __init__(self, attention: Any) -> None:
        self._attention = attention

    def __getattr__(self, name: str) -> Any:
        return getattr(self._attention, name)


class MultiheadAttention(Family):
    """`nn.MultiheadAttention`; its output projection is never called, only its weights are read."""

    name = "mha"
    classes = ("torch.nn.modules.activation.MultiheadAttention",)
    blocks_fast_path = True

    def slots(self, attention: nn.Module) -> dict[str, Slot]:
        """The slots of `in_proj_weight`, `in_proj_bias` and `out_proj`."""
        slots = {f"{name}.weight": Slot("in_proj_weight", chunk, 3) for chunk, name in enumerate("qkv")}
        if attention._parameters.get("in_proj_bias") is not None:
            slots |= {f"{name}.bias": Slot("in_proj_bias", chunk, 3) for chunk, name in enumerate("qkv")}
        return slots | split_slots(attention, o="out_proj")

    def refusal(self, attention: nn.Module) -> str | None:
        """Why the module is not self-attention: its keys or values have another width."""
        if not attention._qkv_same_embed_dim:
            return "cross-attention: its keys or values have another width than its queries"
        return None

    def runner(self, host_class: type[nn.Module]) -> Callable[..., Any]:
        """The host's forward, made to round equally for both channels.

        In eval mode the module uses a special kernel if no weight requires a gradient. After `boost`, this would be the
        case for the frozen channel but not for Attn+, and the two would round differently. So when gradients are on,
        both channels take the differentiable path. Their input is made contiguous, because `F.linear` on a transposed
        input rounds differently when its weight is frozen.
        """

        def run(attention: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
            if not (torch.is_grad_enabled() and attention.batch_first and query.dim() == 3):
                return host_class.forward(attention, query, key, value, *args, **kwargs)
            query_first = query.transpose(0, 1).contiguous()
            # equal inputs stay the same object: the host tests with `is` whether this is self-attention
            key_first = query_first if key is query else key.transpose(0, 1).contiguous()
            value_first = key_first if value is key else value.transpose(0, 1).contiguous()
            out, weights = host_class.forward(
                _SequenceFirst(attention), query_first, key_first, value_first, *args, **kwargs
            )
            return out.transpose(0, 1), weights

        return run

    def joint_forward(self, attention: BoostedModule, channel: Channel) -> Callable[..., Any] | None:
        """The joint forward. A call that asks for attention maps or has other keys runs the reference forward."""
        own = class_path(attention.host_class) in self.classes
        return self._joint if own and attention.bias_k is None and not attention.add_zero_attn else None

    def _joint(
        self,
        attention: BoostedModule,
        channel: Channel,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> Any:
        same = key is query and value is query
        unmasked_causal = is_causal and attn_mask is None  # the host raises an error for this
        if need_weights or not same or query.is_nested or query.dim() != 3 or unmasked_causal:
            others = (key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal)
            return attention.reference(channel, query, key, value, *others)
        call = Call(
            heads=attention.num_heads,
            scale=attention.head_dim**-0.5,
            kernel=channel.kernel,
            mask=additive(attn_mask, key_padding_mask, attention.num_heads, query.dtype),
            dropout=attention.dropout if attention.training else 0.0,
        )
        x = query if attention.batch_first else query.transpose(0, 1)
        out = joint_attention(x, *both_projections(attention, channel), channel.gate, call)
        return (out if attention.batch_first else out.transpose(0, 1)), None


def additive(mask: Tensor | None, padding: Tensor | None, heads: int, dtype: torch.dtype) -> Tensor | None:
    """The sum of an attention mask (T, T) or (B * H, T, T) and a padding mask (B, T), to add to the scores.

    True in a bool mask becomes -inf.
    """
    if mask is not None and mask.dim() == 3:
        mask = mask.unflatten(0, (-1, heads))
    if padding is not None:
        padding = padding[:, None, None, :]
    added = [
        torch.zeros_like(m, dtype=dtype).masked_fill_(m, float("-inf")) if m.dtype == torch.bool else m
        for m in (mask, padding)
        if m is not None
    ]
    return added[0] + added[1] if len(added) == 2 else added[0] if added else None
