"""The generic route: attention that is called with a tensor and returns one, or a tuple that begins with one."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd as _Conv

from spatialboost.hosts.protocol import Family, Slot, class_path, leaves, packed_slots, split_slots, submodule
from spatialboost.hosts.transformers import find_layout, hosts_own_forward, widened

IS_ATTENTION = re.compile(r"att(entio)?n|mhsa|^(XCA|GPSA|SHSA|SHMA|LiteMLA|LambdaLayer)$", re.IGNORECASE)
IS_OTHER = re.compile(
    r"(?<!attn)(?<!attention)block|masking|bias|norm|mlp|rotary|drop|embed|layer(?!scale)|(en|de)coder$|processor|projection|map$",
    re.IGNORECASE,
)
IS_LINEAR = re.compile(r"^Linear|Linear$|^Conv1D$")  # the last is the linear layer of GPT-2 and its kin
IS_MLP = re.compile(r"^(mlp|ffn|feed_?forward)$", re.IGNORECASE)  # beside which it is a whole block, not attention
INPUTS = re.compile(r"(^|_)(q|k|v|kv|qk|qkv|query|queries|key|value)s?(_|$)")
OUTPUTS = ("proj", "out_proj", "o_proj", "output.dense", "to_out", "out", "projection", "output.proj", "wo")
SECOND_INPUTS = {"key", "kv", "context", "memory", "encoder_hidden_states", "key_value_states", "latents", "y"}
SECOND_INPUTS |= {"text_features"}  # Grounding DINO's attention between image and text, in both directions

# Where the width of the output is not that of a projection with a usual name: the path of the layer that has it, or
# what the module itself says.
WIDTHS: dict[str, str | Callable[[Any], int]] = {
    "timm.layers.attention2d.MultiQueryAttentionV2": lambda a: a.out_proj.shape[0],
    "timm.layers.bottleneck_attn.BottleneckAttn": lambda a: a.dim_out_v,
    "timm.layers.halo_attn.HaloAttn": lambda a: a.dim_out_v,
    "timm.layers.lambda_layer.LambdaLayer": lambda a: a.num_heads * a.dim_v,
    "timm.layers.non_local_attn.NonLocalAttn": "z",
    "timm.models.cpubone.ConvAttention": "conv_proj",
    "timm.models.lowformer.ConvAttention": "conv_proj",
    "timm.models.swiftformer.EfficientAdditiveAttention": "final",
}
# Attention whose output is an image (B, D, H, W) whatever its projection is.
IMAGES = {"timm.models.fastvit.Attention", *WIDTHS}
# Named attention, and none between tokens.
REFUSED = {"timm.models.csatv2.SpatialAttention": "a gate of one channel over the pixels, no self-attention of tokens"}


def known(table: Any, module: nn.Module) -> str | None:
    """The name in `table` of the module's class or of a base of it."""
    return next((path for cls in type(module).__mro__ if (path := class_path(cls)) in table), None)


def looks_like_attention(module: nn.Module) -> bool:
    """By its class name, and by owning projections."""
    if known(WIDTHS, module):
        return True
    name = getattr(type(module), "host_class", type(module)).__name__  # of a boosted one, what it was
    if not IS_ATTENTION.search(name) or IS_OTHER.search(name):
        return False
    is_block = "block" in name.lower() and any(map(IS_MLP.search, module._modules))
    return not is_block and _projection(module) is not None


def is_complete(module: nn.Module) -> bool:
    """Whether it is attention with an output projection, and not the first half of one in a module of its own."""
    if not looks_like_attention(module):
        return False
    last = _projection(module)
    path = next((name for name, child in module.named_modules() if child is last), "")
    return bool(known(WIDTHS, module)) or not any(INPUTS.search(part) for part in path.split("."))


def is_linear(module: nn.Module) -> bool:
    """A linear layer of torch, or of a library of quantised ones."""
    return isinstance(module, nn.Linear) or (
        IS_LINEAR.search(type(module).__name__) is not None and not module._modules
    )


def _projection(attention: nn.Module) -> nn.Module | None:
    """The layer that makes the output: under one of the usual names, else the last linear one.

    Convolutions are projections where queries, keys or values are made by one; elsewhere they are gates, or make a grid
    of keys coarser.
    """
    within = next((child for path in OUTPUTS if (child := submodule(attention, path)) is not None), attention)
    inputs = [m for name, child in attention._modules.items() if INPUTS.search(name) and child for m in child.modules()]
    of_images = any(isinstance(m, _Conv) for m in inputs) and not any(is_linear(m) for m in inputs)
    for module in reversed(list(within.modules())):
        if is_linear(module) or (of_images and isinstance(module, _Conv)):
            return module
    return None if within is attention else next((m for m in reversed(list(attention.modules())) if is_linear(m)), None)


class GenericAttention(Family):
    """Runs on the host's own forward alone; weights have a canonical layout where the usual names are found."""

    def slots(self, attention: nn.Module) -> dict[str, Slot]:
        """See `Family.slots`."""
        if (paths := find_layout(attention)) is not None:
            return split_slots(attention, **paths, q_norm="q_norm", k_norm="k_norm")
        qkv, proj = (leaves(attention, path).get("weight") for path in ("qkv", "proj"))
        if qkv is not None and proj is not None and qkv.shape[0] == 3 * proj.shape[1]:
            return packed_slots(attention, "qkv") | split_slots(attention, o="proj", q_norm="q_norm", k_norm="k_norm")
        return {}

    def width(self, attention: nn.Module) -> int:
        """See `Family.width`."""
        width = WIDTHS[path] if (path := known(WIDTHS, attention)) else None
        if callable(width):
            return width(attention)
        layers: list[Any] = [_projection(attention)]
        if isinstance(width, str):
            layers = [m for m in attention.get_submodule(width).modules() if isinstance(m, nn.Linear | _Conv)]
        return next(getattr(layers[-1], n) for n in ("out_features", "out_channels", "nf") if hasattr(layers[-1], n))

    def axis(self, attention: nn.Module) -> int:
        """See `Family.axis`."""
        is_image = known(IMAGES, attention) or isinstance(_projection(attention), _Conv)
        return 1 if is_image else -1

    def heads(self, attention: nn.Module) -> int | None:
        """See `Family.heads`: of the module itself or of one inside it."""
        own = super().heads
        return next((heads for module in attention.modules() if (heads := own(module)) is not None), None)

    def refusal(self, attention: nn.Module) -> str | None:
        """See `Family.refusal`."""
        if (path := known(REFUSED, attention)) is not None:
            return REFUSED[path]
        if "cross" in type(attention).__name__.lower().replace("crosscov", ""):
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

    def fused_forward(self, attention: Any, channel: Any) -> Callable[..., Any] | None:
        """See `Family.fused_forward`: those that attend through the interface of transformers."""
        return hosts_own_forward(self, attention, channel)

    def widen(self, attention: Any, heads: int) -> nn.Module | None:
        """See `Family.widen`."""
        return widened(self, attention, heads)


GENERIC = GenericAttention()
