"""`nn.MultiheadAttention`: torchvision's ViT, open_clip's image towers, `nn.TransformerEncoderLayer`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .family import Family, Slot, split_slots


class _SequenceFirst:
    """The module (or a view of it) as if it were built with `batch_first=False`, which is what bars its fast path."""

    batch_first = False

    def __init__(self, attention: Any) -> None:
        self._attention = attention

    def __getattr__(self, name: str) -> Any:
        return getattr(self._attention, name)


class MultiheadAttention(Family):
    """`nn.MultiheadAttention` called on one sequence; its output projection is never called, only its weights are read."""

    name = "mha"
    classes = ("torch.nn.modules.activation.MultiheadAttention",)
    blocks_fast_path = True

    def slots(self, attention: nn.Module) -> dict[str, Slot]:
        """See `Family.slots`."""
        slots = {f"{name}.weight": Slot("in_proj_weight", part, 3) for part, name in enumerate("qkv")}
        if attention._parameters.get("in_proj_bias") is not None:
            slots |= {f"{name}.bias": Slot("in_proj_bias", part, 3) for part, name in enumerate("qkv")}
        return slots | split_slots(attention, o="out_proj")

    def refusal(self, attention: nn.Module) -> str | None:
        """See `Family.refusal`."""
        if not attention._qkv_same_embed_dim:
            return "cross-attention: its keys or values have another width than its queries"
        return None

    def runner(self, host_class: type[nn.Module]) -> Callable[..., Any]:
        """See `Family.runner`.

        In eval mode the module takes a fused kernel if no weight requires grad. After `boost` that would be so for the frozen channel
        and not for Attn+, and the two would differ by rounding. So with gradients on both take the differentiable path, on
        contiguous input: `F.linear` on a transposed one rounds in another way when its weight is frozen.
        """

        def run(attention: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
            if not (torch.is_grad_enabled() and attention.batch_first and query.dim() == 3):
                return host_class.forward(attention, query, key, value, *args, **kwargs)
            query_first = query.transpose(0, 1).contiguous()
            # one tensor stays one tensor: the host asks with `is` whether this is self-attention
            key_first = query_first if key is query else key.transpose(0, 1).contiguous()
            value_first = key_first if value is key else value.transpose(0, 1).contiguous()
            out, weights = host_class.forward(
                _SequenceFirst(attention), query_first, key_first, value_first, *args, **kwargs
            )
            return out.transpose(0, 1), weights

        return run


MHA = MultiheadAttention()
