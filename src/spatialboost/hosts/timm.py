"""timm: `Attention`, `AttentionRope`, `EvaAttention`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from spatialboost.boosting.joint import Projections, Rotate, joint_attention
from spatialboost.boosting.kernels import Call
from spatialboost.hosts.layers import are_identities, are_plain_linears, class_path, leaves, resize_linear
from spatialboost.hosts.protocol import BoostedModule, Channel, Family, Slot
from spatialboost.hosts.slots import both_projections, packed_slots, split_slots


class TimmAttention(Family):
    """`timm.layers.Attention`, the plain one of ViT, DeiT, DINOv2, SigLIP and most others."""

    name = "timm"
    classes: tuple[str, ...] = ("timm.layers.attention.Attention", "timm.models.vision_transformer.Attention")

    def slots(self, attention: nn.Module) -> dict[str, Slot]:
        """The slots of a packed `qkv` or of separate projections, and of the norms."""
        slots = packed_slots(attention, "qkv") if leaves(attention, "qkv") else {}
        names = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "proj"}
        slots |= split_slots(attention, **names, q_norm="q_norm", k_norm="k_norm", norm="norm")
        for name in "qv":  # EVA has separate biases for q and v, and none for k
            if attention._parameters.get(f"{name}_bias") is not None:
                slots[f"{name}.bias"] = Slot(f"{name}_bias")
        return slots

    def plain_formula(self, attention: Any) -> bool:
        """Whether timm's `fused_attn` is off."""
        return not attention.fused_attn

    def joint_forward(self, attention: BoostedModule, channel: Channel) -> Callable[..., Any] | None:
        """The joint forward; None for a subclass, which may compute differently, and with output dropout in training.

        In the reference forward each channel draws its own dropout, which is impossible after the sum.
        """
        own = class_path(attention.host_class) in self.classes
        inputs = ("qkv",) if attention.qkv is not None else ("q_proj", "k_proj", "v_proj")
        grouped = getattr(attention, "num_kv_heads", attention.num_heads) != attention.num_heads
        dropped = attention.training and attention.proj_drop.p > 0
        plain = are_plain_linears(attention, *inputs, "proj")
        return self._joint if own and plain and not grouped and not dropped else None

    def _joint(
        self,
        attention: BoostedModule,
        channel: Channel,
        x: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        rotate: Rotate | None = None,
    ) -> Tensor:
        call = Call(
            heads=attention.num_heads,
            scale=attention.scale,
            kernel=channel.kernel,
            plain_formula=not attention.fused_attn,
            mask=attn_mask,
            causal=is_causal,
            dropout=attention.attn_drop.p if attention.training else 0.0,
        )
        return joint_attention(x, *self._both(attention, channel), channel.gate, call, rotate)

    def _both(self, attention: BoostedModule, channel: Channel) -> tuple[Projections, Projections]:
        """The weights and norms of each channel, and the steps between attention and output projection."""
        view = attention.view_class(attention, channel)
        has_norms = not are_identities(attention, "q_norm", "k_norm")
        has_inner = not are_identities(attention, "norm", "gate")

        def complete(weights: Projections, owner: Any) -> Projections:
            def inner(out: Tensor, x: Tensor) -> Tensor:
                out = owner.norm(out)
                return out if getattr(owner, "gate", None) is None else out * owner.gate(x).sigmoid()

            norms = {"q_norm": owner.q_norm, "k_norm": owner.k_norm} if has_norms else {}
            return replace(weights, **norms, inner=inner if has_inner else None)

        base, plus = both_projections(attention, channel)
        return complete(base, attention), complete(plus, view)

    def with_heads(self, attention: Any, heads: int) -> nn.Module | None:
        """A copy with another number of heads; None for grouped heads, inner steps or an old timm."""
        grouped = getattr(attention, "num_kv_heads", attention.num_heads) != attention.num_heads
        if not hasattr(attention, "attn_dim") or grouped or not are_identities(attention, "norm", "gate"):
            return None  # before timm 1.0.23 all heads together are always as wide as the input
        host = copy.deepcopy(attention)
        host.num_heads, host.attn_dim = heads, heads * attention.head_dim
        if hasattr(attention, "num_kv_heads"):
            host.num_kv_heads, host.kv_dim = heads, host.attn_dim
        for name in ("qkv", "q_proj", "k_proj", "v_proj"):
            if getattr(attention, name, None) is not None:
                resize_linear(host, name, rows=heads / attention.num_heads)
        resize_linear(host, "proj", columns=heads / attention.num_heads)
        return host


class TimmAttentionRope(TimmAttention):
    """`timm.layers.AttentionRope`: rotary position embeddings are an argument of the forward."""

    name = "timm_rope"
    classes = ("timm.layers.attention.AttentionRope",)

    def joint_forward(self, attention: BoostedModule, channel: Channel) -> Callable[..., Any] | None:
        """The joint forward with rotary positions, under the conditions of `TimmAttention`."""
        return self._joint_rope if super().joint_forward(attention, channel) is not None else None

    def _joint_rope(
        self,
        attention: BoostedModule,
        channel: Channel,
        x: Tensor,
        rope: Tensor | None = None,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        from timm.layers import apply_rot_embed_cat

        prefix, half = attention.num_prefix_tokens, getattr(attention, "rotate_half", False)

        def rotated(t: Tensor) -> Tensor:  # (B, heads, T, C); class and register tokens have no position
            assert rope is not None
            return torch.cat([t[:, :, :prefix], apply_rot_embed_cat(t[:, :, prefix:], rope, half=half)], dim=2)

        def rotate(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
            return rotated(q), rotated(k)

        return self._joint(attention, channel, x, attn_mask, is_causal, None if rope is None else rotate)


class TimmEvaAttention(TimmAttentionRope):
    """`timm.models.eva.EvaAttention`: EVA, EVA-02 and timm's DINOv3."""

    name = "timm_eva"
    classes = ("timm.models.eva.EvaAttention",)
    variant_with_biases = "of timm's DINOv3, the one whose name ends in _qkvb"

    def with_heads(self, attention: Any, heads: int) -> nn.Module | None:
        """An `AttentionRope`, because in EVA's own class all heads together are always as wide as the input."""
        if not are_identities(attention, "norm", "gate"):
            return None
        from timm.layers import AttentionRope

        weight = attention.proj.weight
        host = AttentionRope(
            weight.shape[0],
            num_heads=heads,
            qkv_bias=True,
            qkv_fused=True,
            num_prefix_tokens=attention.num_prefix_tokens,
            attn_drop=attention.attn_drop.p,
            proj_drop=attention.proj_drop.p,
            attn_head_dim=attention.head_dim,
            rotate_half=getattr(attention, "rotate_half", False),
            proj_bias=attention.proj.bias is not None,
            device=weight.device,
            dtype=weight.dtype,
        )
        host.q_norm, host.k_norm = copy.deepcopy(attention.q_norm), copy.deepcopy(attention.k_norm)
        setattr(host, "fused_attn", attention.fused_attn)  # noqa: B010 - `Final`, for TorchScript
        return host
