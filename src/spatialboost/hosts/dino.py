"""DINOv2 and DINOv3 as torch.hub gives them; read by structure, nothing of their code is used."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from spatialboost.boosting.fused import fused_attention
from spatialboost.boosting.kernels import Call
from spatialboost.hosts.protocol import Family, Slot, both_projections, class_path, has_hooks, packed_slots, split_slots


class DinoHubAttention(Family):
    """`Attention`, `MemEffAttention` (DINOv2) and `SelfAttention` (DINOv3): one packed `qkv`, one `proj`."""

    name = "dino_hub"
    classes = (
        "dinov2.layers.attention.Attention",
        "dinov2.layers.attention.MemEffAttention",
        "dinov3.layers.attention.SelfAttention",
    )

    def reads(self, module: nn.Module) -> bool:
        """Whether a class under another path (a copy of the repository) is laid out and called like theirs."""
        host_class = getattr(type(module), "host_class", type(module))
        alike = isinstance(module._modules.get("qkv"), nn.Linear) and isinstance(module._modules.get("proj"), nn.Linear)
        return alike and "attn_bias" in inspect.signature(host_class.forward).parameters

    def slots(self, attention: nn.Module) -> dict[str, Slot]:
        """See `Family.slots`."""
        return packed_slots(attention, "qkv") | split_slots(attention, o="proj")

    def fused_forward(self, attention: Any, channel: Any) -> Callable[..., Tensor] | None:
        """See `Family.fused_forward`; DINOv3's `qkv` is a linear layer that masks its bias."""
        if class_path(attention.host_class) not in self.classes:
            return None
        linears = [attention._modules.get(name) for name in ("qkv", "proj")]
        bare = all(isinstance(m, nn.Linear) and not has_hooks(m) for m in linears)
        drops = [getattr(drop, "p", drop) for drop in (attention.attn_drop, attention.proj_drop)]
        return self._fused if bare and not (attention.training and any(drops)) else None

    def _fused(self, attention: Any, channel: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args or set(kwargs) - {"attn_bias", "rope"} or x.dim() != 3:
            return attention.reference(channel, x, *args, **kwargs)
        rope, mask = kwargs.get("rope"), kwargs.get("attn_bias")
        sides = both_projections(attention, channel)
        if (bias_mask := attention.qkv._buffers.get("bias_mask")) is not None:
            base, plus = (replace(s, qkv_bias=(s.qkv_bias[0] * bias_mask,)) for s in sides)  # type: ignore[operator]
            sides = (base, plus)
        call = Call(
            heads=attention.num_heads,
            scale=(sides[0].out.shape[1] // attention.num_heads) ** -0.5,
            kernel=channel.kernel,
            mask=mask,
        )

        def rotate(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
            return attention.apply_rope(q, k, rope)

        return fused_attention(x, *sides, channel.gate, call, None if rope is None else rotate)


DINO_HUB = DinoHubAttention()
