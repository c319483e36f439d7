"""DINOv2 and DINOv3 from torch.hub. They are recognised by their structure; none of their code is used."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from spatialboost.boosting.joint import joint_attention
from spatialboost.boosting.kernels import Call
from spatialboost.hosts.layers import class_path, has_hooks
from spatialboost.hosts.protocol import BoostedModule, Channel, Family, Slot
from spatialboost.hosts.slots import both_projections, packed_slots, split_slots


class DinoHubAttention(Family):
    """`Attention`, `MemEffAttention` (DINOv2) and `SelfAttention` (DINOv3): one packed `qkv`, one `proj`."""

    name = "dino_hub"
    classes = (
        "dinov2.layers.attention.Attention",
        "dinov2.layers.attention.MemEffAttention",
        "dinov3.layers.attention.SelfAttention",
    )

    def reads(self, module: nn.Module) -> bool:
        """Whether the module has their layers, though its class has another path (as in a copy of the repository)."""
        host_class = getattr(type(module), "host_class", type(module))
        same_layers = isinstance(module._modules.get("qkv"), nn.Linear) and isinstance(
            module._modules.get("proj"), nn.Linear
        )
        return same_layers and "attn_bias" in inspect.signature(host_class.forward).parameters

    def slots(self, attention: nn.Module) -> dict[str, Slot]:
        """The slots of the packed `qkv` and of `proj`."""
        return packed_slots(attention, "qkv") | split_slots(attention, o="proj")

    def masked_biases(self, attention: nn.Module) -> list[str]:
        """The bias of k in DINOv3: its mask is zero.

        https://github.com/facebookresearch/dinov3/blob/main/dinov3/layers/attention.py
        """
        packed = attention._modules.get("qkv")
        mask = packed._buffers.get("bias_mask") if packed is not None else None
        if mask is None or mask.is_meta:
            return []
        return [f"{name}.bias" for name, chunk in zip("qkv", mask.chunk(3), strict=True) if not chunk.any()]

    def other_forwards(self, host_class: type[nn.Module]) -> dict[str, Callable[..., Any]]:
        """`forward_list`, which DINOv3's blocks call in training."""
        if not hasattr(host_class, "forward_list"):
            return {}

        def forward_list(attention: Any, x_list: list[Tensor], *args: Any, **kwargs: Any) -> list[Tensor]:
            """Run several batches with images of different sizes, with one call of each projection."""
            channel = attention.spatial_channel
            view = attention.view_class(attention, channel)
            base = host_class.forward_list(attention, x_list, *args, **kwargs)  # type: ignore[attr-defined]
            plus = host_class.forward_list(view, x_list, *args, **kwargs)  # type: ignore[attr-defined]
            return [channel.merge(b, p) for b, p in zip(base, plus, strict=True)]

        return {"forward_list": forward_list}

    def joint_forward(self, attention: BoostedModule, channel: Channel) -> Callable[..., Any] | None:
        """The joint forward; None for other classes, for layers with hooks, and with dropout in training."""
        if class_path(attention.host_class) not in self.classes:
            return None
        linears = [attention._modules.get(name) for name in ("qkv", "proj")]
        bare = all(isinstance(m, nn.Linear) and not has_hooks(m) for m in linears)
        drops = [getattr(drop, "p", drop) for drop in (attention.attn_drop, attention.proj_drop)]
        return self._joint if bare and not (attention.training and any(drops)) else None

    def _joint(self, attention: BoostedModule, channel: Channel, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args or set(kwargs) - {"attn_bias", "rope"} or x.dim() != 3:
            return attention.reference(channel, x, *args, **kwargs)
        rope, mask = kwargs.get("rope"), kwargs.get("attn_bias")
        base, plus = both_projections(attention, channel)
        if (bias_mask := attention.qkv._buffers.get("bias_mask")) is not None:
            base, plus = (replace(each, qkv_bias=(each.qkv_bias[0] * bias_mask,)) for each in (base, plus))
        call = Call(
            heads=attention.num_heads,
            scale=(base.out.shape[1] // attention.num_heads) ** -0.5,
            kernel=channel.kernel,
            mask=mask,
        )

        def rotate(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
            return attention.apply_rope(q, k, rope)

        return joint_attention(x, base, plus, channel.gate, call, None if rope is None else rotate)
