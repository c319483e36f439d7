"""transformers: attention of DINOv2, DINOv3, SigLIP, SigLIP 2, CLIP and ViT, in the layouts of 4.57 and of 5.x."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..attention import fused_attention
from ..kernels import Call
from .family import (
    Family,
    Slot,
    both_projections,
    class_path,
    identities,
    leaves,
    plain,
    resize_linear,
    split_slots,
    submodule,
)

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
    """Vision attention of transformers: four projections, heads viewed by `head_dim`."""

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

    def fused_forward(self, attention: Any, channel: Any) -> Callable[..., Any] | None:
        """See `Family.fused_forward`: none for the `eager` setting, which is there to return attention maps."""
        own = class_path(attention.host_class) in self.classes
        paths = find_layout(attention) or {}
        bare = plain(attention, *paths.values()) and bool(paths) and identities(attention, "q_norm", "k_norm")
        return self._fused if own and bare and attention.config._attn_implementation == "sdpa" else None

    def _fused(
        self,
        attention: Any,
        channel: Any,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        rotate = None
        if position_embeddings is not None:
            host = sys.modules[attention.host_class.__module__]
            cos, sin = position_embeddings

            def rotate(t: Tensor) -> Tensor:  # the host's function turns q and k together, each by itself
                return host.apply_rotary_pos_emb(t, t, cos, sin)[0]

        def first(*names: str) -> Any:
            return next(getattr(attention, name) for name in names if hasattr(attention, name))

        call = Call(
            heads=first("num_heads", "num_attention_heads"),
            scale=first("scaling", "scale"),
            kernel=channel.kernel,
            mask=attention_mask,
            dropout=first("dropout", "attention_dropout") if attention.training else 0.0,
        )
        sides = both_projections(self, attention, channel)
        return fused_attention(hidden_states, *sides, channel.gate, call, rotate), None

    def widen(self, attention: Any, heads: int) -> nn.Module | None:
        """See `Family.widen`: transformers views heads by `head_dim`, so that only the projections' sizes change."""
        paths, own = find_layout(attention), self.heads(attention)
        if paths is None or own is None:
            return None
        if "embed_dim" in type(attention).forward.__code__.co_varnames:
            return None  # 4.57's CLIP and SigLIP give the heads' output the width of the input
        wide, times = copy.deepcopy(attention), heads / own
        for name, path in paths.items():
            parent, _, leaf = path.rpartition(".")
            owner = submodule(wide, parent) if parent else wide
            resize_linear(owner, leaf, columns=times) if name == "o" else resize_linear(owner, leaf, rows=times)
        for module in wide.modules():
            for attribute in ("num_heads", "num_attention_heads", "all_head_size"):
                if attribute in vars(module):
                    setattr(module, attribute, int(getattr(module, attribute) * times))
        return wide


TRANSFORMERS = TransformersAttention()
