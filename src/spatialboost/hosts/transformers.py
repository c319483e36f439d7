"""transformers: attention of DINOv2, DINOv3, SigLIP, SigLIP 2, CLIP and ViT, in the layouts of 4.57 and of 5.x."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from spatialboost.hosts.protocol import (
    Family,
    Slot,
    both_projections,
    has_hooks,
    leaves,
    resize_linear,
    split_slots,
    submodule,
)
from spatialboost.hosts.transformers_forward import INTERFACE, PACKED_INTERFACE, WIDE, attention_interface, wide_forward

LAYOUTS = (
    {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj"},
    {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "out_proj"},
    # 4.57: `DINOv2Attention(attention=SelfAttention(query, key, value), output=SelfOutput(dense))`
    {"q": "attention.query", "k": "attention.key", "v": "attention.value", "o": "output.dense"},
    {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "projection_layer"},  # InternVL
    {"q": "q", "k": "k", "v": "v", "o": "proj"},  # Qwen2.5-Omni
    {"q": "query", "k": "key", "v": "value", "o": "proj"},  # V-JEPA 2
)


def find_layout(attention: nn.Module) -> dict[str, str] | None:
    """The first layout whose projections the module has."""
    return next((paths for paths in LAYOUTS if all(leaves(attention, path) for path in paths.values())), None)


def by_interface(classes: tuple[type[nn.Module], ...]) -> bool:
    """Whether the host, by its class and those inside of it, attends through the interface of transformers.

    And takes the width of its heads as it comes: what calls it `embed_dim` takes it for that of the input.
    """
    codes = [cls.forward.__code__ for cls in classes]
    names = {name for code in codes for name in code.co_names}
    return "ALL_ATTENTION_FUNCTIONS" in names and not any("embed_dim" in code.co_varnames for code in codes)


@torch.compiler.assume_constant_result  # Dynamo runs it, and does not trace it
def register_interface() -> None:
    """Let hosts find our attention function."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    for name in (INTERFACE, PACKED_INTERFACE):
        ALL_ATTENTION_FUNCTIONS.register(name, attention_interface)


def hosts_own_forward(family: Family, attention: Any, channel: Any) -> Callable[..., Any] | None:
    """The host's own forward over both channels, where all that it asks of them is known; else None.

    None too for the `eager` setting, which is there to return attention maps.
    """
    slots = channel.slots
    modules = [m for m in attention.modules() if m is not channel]
    known = len(channel._parameters) == len({slot.parameter for slot in slots.values()}) + 1
    sdpa = {m.config._attn_implementation for m in modules if hasattr(m, "config")} == {"sdpa"}
    if not (known and sdpa and "o.weight" in slots):
        return None
    if not by_interface((attention.host_class, *(type(m) for m in modules[1:]))):
        return None
    if any(has_hooks(m) or "base_layer" in m._modules for m in modules[1:]):
        return None
    if attention.training and any(isinstance(m, nn.Dropout) and m.p > 0 for m in modules):
        return None  # each channel draws its own dropout of its output, which one sum of both cannot have
    return partial(_run, family)


def _run(family: Family, attention: Any, channel: Any, *args: Any, **kwargs: Any) -> Any:
    register_interface()
    host, roles, norms = attention.host_class, {}, {}
    view = attention.view_class(attention, channel)
    for name, slot in channel.slots.items():
        path, role = slot.parameter.rpartition(".")[0], name.partition(".")[0]
        if role in ("q_norm", "k_norm"):
            norms[path] = (getattr(attention, path), getattr(view, path))
        else:
            roles[path] = "qkv" if slot.parts > 1 else role
    return wide_forward(
        attention,
        host.forward,
        both_projections(attention, channel),
        channel.gate,
        norms,
        args,
        kwargs,
        roles=roles,
        heads=family.heads(attention),
        kernel=channel.kernel,
        interface=PACKED_INTERFACE if "cu_seqlens" in host.forward.__code__.co_varnames else INTERFACE,
    )


def widened(family: Family, attention: Any, heads: int) -> nn.Module | None:
    """A copy with so many heads: transformers views them by `head_dim`, so that only the projections' sizes change."""
    slots, own = family.slots(attention), family.heads(attention)
    if "o.weight" not in slots or own is None or not by_interface(tuple(map(type, attention.modules()))):
        return None  # 4.57's CLIP and SigLIP, for one, give the heads' output the width of the input
    norm = leaves(attention, "q_norm").get("weight")
    if norm is not None and len(norm) != attention.head_dim:
        return None  # a norm over all heads is not one over twice as many
    wide, times = copy.deepcopy(attention), heads / own
    for path, role in {(slot.parameter.rpartition(".")[0], name.partition(".")[0]) for name, slot in slots.items()}:
        parent, _, leaf = path.rpartition(".")
        owner = submodule(wide, parent) if parent else wide
        if role == "o":
            resize_linear(owner, leaf, columns=times)
        elif role in "qkv" and slots[f"{role}.weight"].part == 0:
            resize_linear(owner, leaf, rows=times)
    for module in wide.modules():
        for attribute in set(WIDE) & set(vars(module)):
            setattr(module, attribute, int(getattr(module, attribute) * times))
    return wide


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
        """See `Family.fused_forward`."""
        return hosts_own_forward(self, attention, channel)

    def widen(self, attention: Any, heads: int) -> nn.Module | None:
        """See `Family.widen`."""
        return widened(self, attention, heads)


TRANSFORMERS = TransformersAttention()
