"""DINOv2 and DINOv3 as torch.hub gives them; read by structure, nothing of their code is used."""

from __future__ import annotations

from torch import nn

from .family import Family, Slot, packed_slots, split_slots


class DinoHubAttention(Family):
    """`Attention`, `MemEffAttention` (DINOv2) and `SelfAttention` (DINOv3): one packed `qkv`, one `proj`."""

    name = "dino_hub"
    classes = (
        "dinov2.layers.attention.Attention",
        "dinov2.layers.attention.MemEffAttention",
        "dinov3.layers.attention.SelfAttention",
    )

    def slots(self, attention: nn.Module) -> dict[str, Slot]:
        """See `Family.slots`."""
        return packed_slots(attention, "qkv") | split_slots(attention, o="proj")


DINO_HUB = DinoHubAttention()
