"""timm: `Attention`, `AttentionRope`, `EvaAttention`."""

from __future__ import annotations

from torch import nn

from .family import Family, Slot, leaves, packed_slots, split_slots


class _Timm(Family):
    def slots(self, attention: nn.Module) -> dict[str, Slot]:
        slots = packed_slots(attention, "qkv") if leaves(attention, "qkv") else {}
        slots |= split_slots(
            attention, q="q_proj", k="k_proj", v="v_proj", o="proj", q_norm="q_norm", k_norm="k_norm", norm="norm"
        )
        for name in "qv":  # EVA keeps the biases of a packed projection apart, and has none for k
            if attention._parameters.get(f"{name}_bias") is not None:
                slots[f"{name}.bias"] = Slot(f"{name}_bias")
        return slots


class TimmAttention(_Timm):
    """`timm.layers.Attention`, the plain one of ViT, DeiT, DINOv2, SigLIP and most others."""

    name = "timm"
    classes = ("timm.layers.attention.Attention", "timm.models.vision_transformer.Attention")


class TimmAttentionRope(_Timm):
    """`timm.layers.AttentionRope`: rotary position embeddings are an argument of the forward."""

    name = "timm_rope"
    classes = ("timm.layers.attention.AttentionRope",)


class TimmEvaAttention(_Timm):
    """`timm.models.eva.EvaAttention`: EVA, EVA-02 and timm's DINOv3."""

    name = "timm_eva"
    classes = ("timm.models.eva.EvaAttention",)


TIMM = TimmAttention()
TIMM_ROPE = TimmAttentionRope()
TIMM_EVA = TimmEvaAttention()
