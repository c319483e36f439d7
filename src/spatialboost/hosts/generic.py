"""The generic family: any attention that takes a tensor and returns a tensor, or a tuple that begins with one."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd as _Conv

from spatialboost.hosts.layers import class_path, is_linear, leaves, submodule
from spatialboost.hosts.protocol import Slot
from spatialboost.hosts.slots import packed_slots, split_slots
from spatialboost.hosts.towers import SECOND_INPUTS
from spatialboost.hosts.transformers import InterfaceFamily, find_layout

IS_ATTENTION = re.compile(r"att(entio)?n|mhsa|^(XCA|GPSA|SHSA|SHMA|LiteMLA|LambdaLayer)$", re.IGNORECASE)
IS_OTHER = re.compile(
    r"(?<!attn)(?<!attention)block|masking|bias|norm|mlp|rotary|drop|embed|layer(?!scale)|(en|de)coder$|processor|projection|map$",
    re.IGNORECASE,
)
IS_MLP = re.compile(r"^(mlp|ffn|feed_?forward)$", re.IGNORECASE)  # a module with such a child is a block, not attention
INPUTS = re.compile(r"(^|_)(q|k|v|kv|qk|qkv|query|queries|key|value)s?(_|$)")
OUTPUTS = ("proj", "out_proj", "o_proj", "output.dense", "to_out", "out", "projection", "output.proj", "wo")

# Classes whose output projection has no usual name: the path of the layer that has the output width, or a function of
# the module that returns the width.
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
# Classes whose output is an image (B, D, H, W), although their output projection is not a convolution.
IMAGES = {"timm.models.fastvit.Attention", *WIDTHS}
# Classes with attention in their name in which tokens do not attend to each other.
REFUSED = {"timm.models.csatv2.SpatialAttention": "a gate of one channel over the pixels, no self-attention of tokens"}


def known(table: Any, module: nn.Module) -> str | None:
    """The class path of the module's class, or of a base class, that is in `table`; None if there is none."""
    return next((path for cls in type(module).__mro__ if (path := class_path(cls)) in table), None)


def looks_like_attention(module: nn.Module) -> bool:
    """Whether the module is attention by its class name and has an output projection."""
    if known(WIDTHS, module):
        return True
    name = getattr(type(module), "host_class", type(module)).__name__  # a boosted module: its class before `boost`
    if not IS_ATTENTION.search(name) or IS_OTHER.search(name):
        return False
    is_block = "block" in name.lower() and any(map(IS_MLP.search, module._modules))
    return not is_block and _output_projection(module) is not None


def is_complete(module: nn.Module) -> bool:
    """Whether the module is attention and its output projection is not one for queries, keys or values."""
    if not looks_like_attention(module):
        return False
    output = _output_projection(module)
    path = next((name for name, child in module.named_modules() if child is output), "")
    return bool(known(WIDTHS, module)) or not any(INPUTS.search(name) for name in path.split("."))


def _output_projection(attention: nn.Module) -> nn.Module | None:
    """The output projection: the layer with a usual name, else the last linear layer.

    A convolution counts only if the queries, keys or values come from convolutions, too. In other hosts it is a gate
    or makes the grid of keys coarser.
    """
    within = next((child for path in OUTPUTS if (child := submodule(attention, path)) is not None), attention)
    inputs = [m for name, child in attention._modules.items() if INPUTS.search(name) and child for m in child.modules()]
    of_images = any(isinstance(m, _Conv) for m in inputs) and not any(is_linear(m) for m in inputs)
    for module in reversed(list(within.modules())):
        if is_linear(module) or (of_images and isinstance(module, _Conv)):
            return module
    return None if within is attention else next((m for m in reversed(list(attention.modules())) if is_linear(m)), None)


class GenericAttention(InterfaceFamily):
    """Any other attention: the host's own forward runs; only weights with usual names have a canonical layout."""

    def slots(self, attention: nn.Module) -> dict[str, Slot]:
        """The slots of a usual layout: separate projections, or a packed `qkv`; {} for other layouts."""
        if (paths := find_layout(attention)) is not None:
            return split_slots(attention, **paths, q_norm="q_norm", k_norm="k_norm")
        qkv, proj = (leaves(attention, path).get("weight") for path in ("qkv", "proj"))
        if qkv is not None and proj is not None and qkv.shape[0] == 3 * proj.shape[1]:
            return packed_slots(attention, "qkv") | split_slots(attention, o="proj", q_norm="q_norm", k_norm="k_norm")
        return {}

    def width(self, attention: nn.Module) -> int:
        """Features of the output, from `WIDTHS` or from the output projection."""
        width = WIDTHS[path] if (path := known(WIDTHS, attention)) else None
        if callable(width):
            return width(attention)
        layers: list[Any] = [_output_projection(attention)]
        if isinstance(width, str):
            layers = [m for m in attention.get_submodule(width).modules() if isinstance(m, nn.Linear | _Conv)]
        return next(getattr(layers[-1], n) for n in ("out_features", "out_channels", "nf") if hasattr(layers[-1], n))

    def axis(self, attention: nn.Module) -> int:
        """1 if the output is an image (B, D, H, W), else -1."""
        is_image = known(IMAGES, attention) or isinstance(_output_projection(attention), _Conv)
        return 1 if is_image else -1

    def heads(self, attention: nn.Module) -> int | None:
        """Number of heads of the module, or of the first module inside it that has one."""
        own = super().heads
        return next((heads for module in attention.modules() if (heads := own(module)) is not None), None)

    def refusal(self, attention: nn.Module) -> str | None:
        """Why the module is not self-attention: its class or its forward shows that; else None."""
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
