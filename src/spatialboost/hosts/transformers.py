"""transformers: attention of DINOv2, DINOv3, SigLIP, SigLIP 2, CLIP and ViT, in the layouts of 4.57 and of 5.x."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from types import MethodType
from typing import Any

from torch import nn

from spatialboost.hosts.adapters import is_adapter
from spatialboost.hosts.layers import has_hooks, leaves, resize_linear, submodule
from spatialboost.hosts.protocol import BoostedModule, Channel, Family, Slot
from spatialboost.hosts.slots import both_projections, split_slots
from spatialboost.hosts.transformers_forward import (
    GROW_WITH_HEADS,
    INTERFACE,
    PACKED_INTERFACE,
    attention_interface,
    forward_of_both,
)

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


def attends_by_interface(classes: tuple[type[nn.Module], ...]) -> bool:
    """Whether these classes of a host use the attention interface of transformers and allow any number of heads.

    A forward that uses `embed_dim` does not allow it: there `embed_dim` is the width of the input and also of all heads
    together.
    """
    codes = [cls.forward.__code__ for cls in classes]
    names = {name for code in codes for name in code.co_names}
    return "ALL_ATTENTION_FUNCTIONS" in names and not any("embed_dim" in code.co_varnames for code in codes)


def register_interface() -> None:
    """Register our attention function in transformers, if transformers is imported.

    Called when a class is boosted and not in the forward, because torch.compile would have to trace it.
    """
    if "transformers" not in sys.modules:
        return
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    for name in (INTERFACE, PACKED_INTERFACE):
        ALL_ATTENTION_FUNCTIONS.register(name, attention_interface)


def restored_forward(module: nn.Module) -> bool:
    """Whether the module has its class's own forward as an instance attribute.

    transformers 4.57 sets it when it has recorded attention maps:
    https://github.com/huggingface/transformers/blob/v4.57.6/src/transformers/utils/generic.py
    """
    forward = vars(module).get("forward")
    return isinstance(forward, MethodType) and forward.__self__ is module and forward.__func__ is type(module).forward


def checkpoints_reentrantly(module: nn.Module) -> bool:
    """Whether the module uses gradient checkpointing with `use_reentrant=True`."""
    return bool(getattr(vars(module).get("_gradient_checkpointing_func"), "keywords", {}).get("use_reentrant"))


def is_cache_of_keys(value: Any) -> bool:
    """Whether an argument of a forward is a cache of keys and values."""
    return hasattr(value, "get_seq_length")


class InterfaceFamily(Family):
    """Attention of any library that may use the attention interface of transformers."""

    def prepare(self, host_class: type[nn.Module]) -> None:
        """Register our attention function in transformers."""
        register_interface()

    def joint_forward(self, attention: BoostedModule, channel: Channel) -> Callable[..., Any] | None:
        """The host's own forward over both channels, if the role of each of its weights is known.

        None also for the setting `eager`, because users choose it to get attention maps.
        """
        slots = channel.slots
        modules = [m for m in attention.modules() if m is not channel]
        known = len(channel._parameters) == len({slot.parameter for slot in slots.values()}) + 1  # and the gate
        settings = {m.config._attn_implementation for m in modules if hasattr(m, "config")}  # type: ignore[union-attr]
        if not (known and settings == {"sdpa"} and "o.weight" in slots):
            return None
        if not attends_by_interface((attention.host_class, *(type(m) for m in modules[1:]))):
            return None
        if any(has_hooks(m) or is_adapter(m) for m in modules[1:]):
            return None
        if attention.training and any(isinstance(m, nn.Dropout) and m.p > 0 for m in modules):
            return None  # each channel draws its own dropout, which is impossible after the sum
        return self._joint

    def _joint(self, attention: BoostedModule, channel: Channel, *args: Any, **kwargs: Any) -> Any:
        roles, norms = {}, {}
        view = attention.view_class(attention, channel)
        for name, slot in channel.slots.items():
            path, role = slot.parameter.rpartition(".")[0], name.partition(".")[0]
            if role in ("q_norm", "k_norm"):
                norms[path] = (getattr(attention, path), getattr(view, path))
            else:
                roles[path] = "qkv" if slot.chunks > 1 else role
        packed = "cu_seqlens" in attention.host_class.forward.__code__.co_varnames
        return forward_of_both(
            attention,
            both_projections(attention, channel),
            channel.gate,
            norms,
            args,
            kwargs,
            roles=roles,
            heads=self.heads(attention),  # type: ignore[arg-type]
            kernel=channel.kernel,
            interface=PACKED_INTERFACE if packed else INTERFACE,
        )

    def with_heads(self, attention: Any, heads: int) -> nn.Module | None:
        """A copy with larger projections: the host reshapes by `head_dim`, so nothing else changes."""
        slots, own = self.slots(attention), self.heads(attention)
        if "o.weight" not in slots or own is None or not attends_by_interface(tuple(map(type, attention.modules()))):
            return (
                None  # for example CLIP and SigLIP of 4.57, which reshape the heads' output to the width of the input
            )
        norm = leaves(attention, "q_norm").get("weight")
        if norm is not None and len(norm) != attention.head_dim:
            return None  # a norm over all heads of one channel cannot become a norm over the heads of both
        host, times = copy.deepcopy(attention), heads / own
        for path, role in {(slot.parameter.rpartition(".")[0], name.partition(".")[0]) for name, slot in slots.items()}:
            parent, _, leaf = path.rpartition(".")
            owner = submodule(host, parent)
            if role == "o":
                resize_linear(owner, leaf, columns=times)
            elif role in "qkv" and slots[f"{role}.weight"].chunk == 0:
                resize_linear(owner, leaf, rows=times)
        for module in host.modules():
            for attribute in set(GROW_WITH_HEADS) & set(vars(module)):
                setattr(module, attribute, int(getattr(module, attribute) * times))
        return host


class TransformersAttention(InterfaceFamily):
    """Vision attention of transformers, with four projections."""

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
        """The slots of the first layout in `LAYOUTS` that fits, and of the norms of q and k."""
        return split_slots(attention, **(find_layout(attention) or {}), q_norm="q_norm", k_norm="k_norm")

    def heads(self, attention: nn.Module) -> int | None:
        """Number of heads, of the module or of its child `attention`."""
        return super().heads(attention) or super().heads(attention._modules.get("attention") or attention)
