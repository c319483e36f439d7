"""transformers: attention of DINOv2, DINOv3, SigLIP, SigLIP 2, CLIP and ViT, in the layouts of 4.57 and of 5.x."""

from __future__ import annotations

from torch import nn

from .family import Family, Slot, leaves, split_slots

LAYOUTS = (
    {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj"},
    {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "out_proj"},
    # 4.57: `DINOv2Attention(attention=SelfAttention(query, key, value), output=SelfOutput(dense))`
    {"q": "attention.query", "k": "attention.key", "v": "attention.value", "o": "output.dense"},
)


def find_layout(attention: nn.Module) -> dict[str, str] | None:
    """The first layout whose projections the module has."""
    return next((paths for paths in LAYOUTS if all(leaves(attention, path) for path in paths.values())), None)


class TransformersAttention(Family):
    """Vision attention of transformers: four projections, heads by `head_dim`, the kernel by `ALL_ATTENTION_FUNCTIONS`."""

    name = "transformers"
    classes = tuple(
        f"transformers.models.{model}.modeling_{model}.{cls}"
        for model, cls in {
            "dinov3_vit": "DINOv3ViTAttention",
            "dinov2": "Dinov2Attention",
            "dinov2_with_registers": "Dinov2WithRegistersAttention",
            "siglip": "SiglipAttention",
            "siglip2": "Siglip2Attention",
            "clip": "CLIPAttention",
            "vit": "ViTAttention",
        }.items()
    )

    def slots(self, attention: nn.Module) -> dict[str, Slot]:
        """See `Family.slots`."""
        return split_slots(attention, **(find_layout(attention) or {}), q_norm="q_norm", k_norm="k_norm")

    def heads(self, attention: nn.Module) -> int | None:
        """See `Family.heads`."""
        return super().heads(attention) or super().heads(attention._modules.get("attention") or attention)


TRANSFORMERS = TransformersAttention()
