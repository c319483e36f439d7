"""The generic route: attention that is called with a tensor and returns one, or a tuple that begins with one."""

from __future__ import annotations

import inspect
import re

from torch import nn

from .family import Family, Slot, leaves, packed_slots, split_slots
from .transformers import find_layout

IS_ATTENTION = re.compile(r"att(entio)?n", re.IGNORECASE)
IS_OTHER = re.compile(
    r"block|mask|bias|norm|mlp|rope|drop|embed|layer(?!scale)|encoder|decoder|processor", re.IGNORECASE
)
SECOND_INPUTS = {"key", "kv", "context", "memory", "encoder_hidden_states", "key_value_states", "latents", "y"}


def looks_like_attention(module: nn.Module) -> bool:
    """By its class name, and by owning an output projection."""
    name = type(module).__name__
    return bool(IS_ATTENTION.search(name)) and not IS_OTHER.search(name) and _last_linear(module) is not None


def _last_linear(module: nn.Module) -> nn.Linear | None:
    return next((child for child in reversed(list(module.modules())) if isinstance(child, nn.Linear)), None)


class GenericAttention(Family):
    """Runs on the host's own forward alone; weights have a canonical layout where the usual names are found."""

    def slots(self, attention: nn.Module) -> dict[str, Slot]:
        """See `Family.slots`."""
        if (paths := find_layout(attention)) is not None:
            return split_slots(attention, **paths, q_norm="q_norm", k_norm="k_norm")
        qkv = leaves(attention, "qkv").get("weight")
        if qkv is not None and leaves(attention, "proj") and qkv.shape[0] == 3 * qkv.shape[1]:
            return packed_slots(attention, "qkv") | split_slots(attention, o="proj", q_norm="q_norm", k_norm="k_norm")
        return {}

    def width(self, attention: nn.Module) -> int:
        """See `Family.width`: of the output projection, or of the last linear layer where its name is unknown."""
        for path in ("proj", "out_proj", "o_proj", "output.dense", "to_out", "to_out.0", "out"):
            if "weight" in (found := leaves(attention, path)):
                return found["weight"].shape[0]
        return _last_linear(attention).out_features  # type: ignore[union-attr]

    def heads(self, attention: nn.Module) -> int | None:
        """See `Family.heads`: of the module itself or of one inside it."""
        own = super().heads
        return next((heads for module in attention.modules() if (heads := own(module)) is not None), None)

    def refusal(self, attention: nn.Module) -> str | None:
        """See `Family.refusal`."""
        if "cross" in type(attention).__name__.lower():
            return "cross-attention, by its class name"
        parameters = list(inspect.signature(type(attention).forward).parameters.values())[2:]
        required = {
            p.name
            for p in parameters
            if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        }
        if found := sorted(required & SECOND_INPUTS):
            return f"cross-attention: its forward asks for `{found[0]}`"
        return None


GENERIC = GenericAttention()
